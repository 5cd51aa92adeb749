/** A resolvers.toml that is read again is put to use whole, or not at all. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { configFromSettings } from "../../../../src/config/load.ts";
import { createLogger } from "../../../../src/observe/logger.ts";
import { Metrics } from "../../../../src/observe/metrics.ts";
import { Resolvers } from "../../../../src/proxy/context/resolvers.ts";
import { identify } from "../../../../src/proxy/tenant/identify.ts";
import type { TenantIdentity } from "../../../../src/proxy/tenant/identity.ts";
import { createDial } from "../../../../src/proxy/upstream/dial.ts";
import { KeyCache } from "../../../../src/proxy/upstream/key-cache.ts";
import { FakeClock } from "../../../support/fake-clock.ts";

it("a file that is wrong changes nothing, and one that is right everything, for logins that begin then", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-reload-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, "resolvers.toml");
  const write = (variable: string, more = ""): void => {
    writeFileSync(file, `[[resolver]]\nname = "a"\nquery = "SELECT 1 AS x"\ninject = { "${variable}" = "x" }\n${more}`);
  };
  write("app.first");
  const config = configFromSettings({ resolvers: file });
  const resolvers = new Resolvers(config, [], {
    config,
    clock: new FakeClock(),
    dial: createDial(config, undefined),
    keyCache: new KeyCache(),
    log: createLogger({ level: "off", format: "json" }),
    metrics: new Metrics(),
  });
  const variables = (): readonly string[] => resolvers.traits.variables;

  write("app.second", 'on_change = "terminate"');
  expect(() => resolvers.prepareReload()).toThrow("on_change = terminate needs resolver_user");
  write("role");
  expect(() => resolvers.prepareReload()).toThrow('"role" cannot carry context');
  write("app.second");
  const take = resolvers.prepareReload();
  expect(variables()).toEqual(["app.first"]);
  const parameters = [
    { name: "user", value: Buffer.from("app_user.acme") },
    { name: "app.second", value: Buffer.from("mine") },
  ];
  const startup = { kind: "startup", minor: 0, parameters, packet: Buffer.alloc(0) } as const;
  const begun = identify(startup, config, resolvers.traits) as TenantIdentity;
  take();
  expect(variables()).toEqual(["app.second"]);
  // Its StartupMessage could still set what is a resolver's now.
  await expect(resolvers.resolve(begun, undefined, new AbortController().signal)).rejects.toMatchObject({
    detail: "the resolvers were changed by a reload during this login",
  });
  resolvers.close();
});
