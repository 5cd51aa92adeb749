/** What a reload takes, and what it names. */
import { describe, expect, it } from "vitest";
import { configFromSettings } from "../../../src/config/load.ts";
import { takeReloadable } from "../../../src/config/reloaded.ts";

describe("takeReloadable", () => {
  it("takes what may change, and names what needs a restart, secrets too", () => {
    const started = configFromSettings({ port: 6432, tenant_deny: "acme", upstream_password: "one" });
    const read = configFromSettings({
      port: 7000,
      tenant_deny: "globex",
      upstream_password: "two",
      log_level: "debug",
    });
    const { config, needRestart } = takeReloadable(started, read);
    expect(needRestart).toEqual(["port", "upstream_password"]);
    expect([config.port, config.tenantDeny, config.logLevel]).toEqual([6432, ["globex"], "debug"]);
    expect(takeReloadable(started, started).needRestart).toEqual([]);
  });
});
