/** What a reload takes, and what it names. */
import { describe, expect, it } from "vitest";
import { takeReloadable } from "../../../src/config/reloaded.ts";
import { load } from "./load-text.ts";

describe("takeReloadable", () => {
  it("takes what may change, and names what needs a restart", () => {
    const started = load({ file: "port = 6432\ntenant_deny = acme\nupstream_password = one" });
    const read = load({ file: "port = 7000\ntenant_deny = globex\nlog_level = debug" });
    const { config, effective, needRestart } = takeReloadable(started, read);
    expect(needRestart).toEqual(["port", "upstream_password"]);
    expect([config.port, config.tenantDeny, config.logLevel]).toEqual([6432, ["globex"], "debug"]);
    const shown = new Map(effective.map(({ name, value }) => [name, value]));
    expect(shown.size).toBe(started.effective.length);
    expect([shown.get("port"), shown.get("tenant_deny"), shown.get("log_level")]).toEqual(["6432", "globex", "debug"]);
    expect(takeReloadable(started, started).needRestart).toEqual([]);
  });

  it("replaces a password wherever the configuration is shared, and not before it is told to", () => {
    const started = load({ file: "upstream_password = one" });
    const copy = { ...started.config };
    const reloaded = takeReloadable(started, load({ file: "upstream_password = two" }));
    expect([reloaded.needRestart, copy.upstreamPassword?.reveal()]).toEqual([[], "one"]);
    reloaded.takeSecrets();
    expect(copy.upstreamPassword?.reveal()).toBe("two");
  });
});
