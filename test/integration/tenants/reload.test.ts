/** SIGHUP to the real program: tenants.toml and pgvpd.conf are read again, all of it or nothing. */
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect as connectTo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { SettingValues } from "../../../src/index.ts";
import { cancelRequest } from "../../support/bytes.ts";
import { startProxyProcess, type LogLine, type ProxyProcess } from "../../support/proxy-process.ts";
import { POOL_PASSWORD } from "../../support/pooled-proxy.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

let fixture: TenantFixture;
let folder: string;
beforeAll(async () => {
  fixture = await startTenantFixture();
  folder = await mkdtemp(path.join(tmpdir(), "tenants-"));
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

/** The program with a pgvpd.conf and a tenants.toml that the test rewrites. */
async function open(given: SettingValues, password: string, tenants = "") {
  const file = path.join(folder, "tenants.toml");
  await writeFile(file, tenants);
  const { host, port } = fixture.server;
  const settings = { ...given, upstream_host: host, upstream_port: port, tenants: file };
  const proxy = await startProxyProcess({ settings });
  onTestFinished(async () => void (await proxy.kill()));
  const logIn = async (tenant: string): Promise<Client> => {
    const client = new Client({ connectionString: proxy.url(`app_user.${tenant}`, password, "postgres") });
    client.on("error", () => {});
    await client.connect();
    onTestFinished(() => client.end());
    return client;
  };
  const reload = async (text: string, more: SettingValues = {}): Promise<LogLine> => {
    await writeFile(file, text);
    const lines = Object.entries({ listen_host: "127.0.0.1", port: 0, log_format: "json", ...settings, ...more });
    await writeFile(proxy.configFile, lines.map(([name, value]) => `${name} = ${value}\n`).join(""));
    return hangUp(proxy);
  };
  return { proxy, connect: logIn, file, reload };
}

async function hangUp(proxy: ProxyProcess): Promise<LogLine> {
  const before = proxy.log.length;
  process.kill(proxy.pid, "SIGHUP");
  const told = (line: LogLine): boolean =>
    proxy.log.indexOf(line) >= before && /^(reloaded|could not reload)/.test(String(line["msg"]));
  return proxy.waitForLog(told);
}

const pool = { pool_password: POOL_PASSWORD, upstream_password: PASSWORD };

describe.each<[string, SettingValues, string]>([
  ["none", {}, PASSWORD],
  ["session", { pool_mode: "session", ...pool }, POOL_PASSWORD],
  ["transaction", { pool_mode: "transaction", ...pool }, POOL_PASSWORD],
])("with pool_mode = %s", (_mode, settings, password) => {
  it("a tenant that is denied now loses its sessions, and a limit that is new holds for who is there", async () => {
    const { connect, reload, proxy } = await open(settings, password);
    const acme = await connect("acme");
    const globex = await connect("globex");
    const ended = new Promise<number>((resolve) => acme.on("end", () => resolve(performance.now())));
    const begun = performance.now();
    await reload(
      '[[tenant]]\nmatch = "ac*"\ndeny = "moved"\n[[tenant]]\nmatch = "globex"\nclient_idle_timeout = 0.2\n',
    );
    expect((await ended) - begun).toBeLessThan(1_000);
    const refused = await errorOf(connect("acme"));
    expect([refused.code, refused.message]).toEqual(["28000", 'tenant "acme" may not connect: moved']);
    await new Promise<void>((resolve) => globex.on("end", () => resolve()));
    const line = await proxy.waitForLog(({ code }) => code === "client_idle");
    expect(line["tenant"]).toBe("globex");
    await reload("");
    await (await connect("acme")).query("select 1");
  });
});

describe("a reload", () => {
  it("changes nothing where something is wrong, and says what", async () => {
    const { connect, reload, file } = await open({}, PASSWORD, '[[tenant]]\nmatch = "globex"\ndeny = true\n');
    const client = await connect("acme");
    const line = await reload('[[tenant]]\nmatch = "acme"\ndny = true\n', { tenant_max_connections: 1 });
    expect(line["msg"]).toBe(
      `could not reload, everything stays as it was: ${file}:1: there is no "dny": did you mean deny?`,
    );
    await client.query("select 1");
    await connect("acme");
    expect((await errorOf(connect("globex"))).code).toBe("28000");
    const second = await reload("", { tenant_max_connections: "many" });
    expect(second["msg"]).toMatch(/^could not reload, everything stays as it was: .*tenant_max_connections "many"/);
    expect((await errorOf(connect("globex"))).code).toBe("28000");
  });

  it("takes limits and log_level, and names what needs a restart", async () => {
    const { connect, reload, proxy } = await open({}, PASSWORD);
    const first = await connect("acme");
    await reload("", { tenant_max_connections: 1, max_client_conn: 1, drain_timeout: 7, log_level: "debug" });
    const named = await proxy.waitForLog(({ msg }) => /take effect with a restart/.test(String(msg)));
    expect(named["settings"]).toEqual(["drain_timeout"]);
    expect((await errorOf(connect("globex"))).message).toBe("too many clients: max_client_conn is 1");
    await reload("", { tenant_max_connections: 1 });
    expect((await errorOf(connect("acme"))).message).toContain("tenant_max_connections is 1");
    await first.end();
    await (await connect("acme")).query("select 1");
  });
});

describe("a tenant with a server of its own", () => {
  it.each<[string, SettingValues, string]>([
    ["none", {}, PASSWORD],
    ["transaction", { pool_mode: "transaction", ...pool }, POOL_PASSWORD],
  ])("is led there, beside the others, with pool_mode = %s", async (_mode, settings, password) => {
    await using own = await startTenantFixture();
    await own.asSuperuser("CREATE DATABASE of_acme");
    for (const file of ["setup.sql", "helpers.sql"]) {
      const sql = await readFile(new URL(`../../../sql/${file}`, import.meta.url), "utf8");
      await own.asSuperuser(sql, "of_acme");
    }
    await own.asSuperuser("GRANT CONNECT ON DATABASE of_acme TO app_user", "of_acme");
    const { connect: logIn } = await open(
      settings,
      password,
      `[[tenant]]\nmatch = "acme"\nupstream_port = ${own.server.port}\ndatabase = "of_acme"\n`,
    );
    const where = "select current_database() as database, inet_server_port() as port, current_tenant_id() as tenant";
    const [acme, globex] = await Promise.all([logIn("acme"), logIn("globex")]);
    expect((await acme.query(where)).rows).toEqual([{ database: "of_acme", port: own.server.port, tenant: "acme" }]);
    expect((await globex.query(where)).rows).toEqual([
      { database: "postgres", port: fixture.server.port, tenant: "globex" },
    ]);
    // A cancel finds the tenant's server.
    const slow = errorOf(acme.query("select pg_sleep(60)"));
    const { processID, secretKey } = acme as unknown as { processID: number; secretKey: number };
    await cancel(processID, secretKey, acme.port);
    expect((await slow).code).toBe("57014");
  });

  it("has the resolvers that everybody has: files that have changed since count when they are reloaded", async () => {
    const resolvers = path.join(folder, "resolvers.toml");
    const plan = (value: string): string =>
      `[[resolver]]\nname = "plan"\nquery = "select '${value}' as plan"\ninject = { "app.plan" = "plan" }\n`;
    await writeFile(resolvers, plan("old"));
    const tenants = `[[tenant]]\nmatch = "acme*"\nupstream_port = ${fixture.server.port}\n`;
    const { connect, reload } = await open({ resolvers, resolver_connection: "session" }, PASSWORD, tenants);
    const planOf = async (tenant: string): Promise<unknown> =>
      (await (await connect(tenant)).query("select current_setting('app.plan') as plan")).rows[0].plan;
    await writeFile(resolvers, plan("new"));
    expect([await planOf("globex"), await planOf("acme")]).toEqual(["old", "old"]);
    await writeFile(resolvers, "no TOML");
    expect((await reload(tenants))["msg"]).toMatch(/^could not reload, everything stays as it was/);
    // Another server, whose first client comes now.
    const others = `${tenants}[[tenant]]\nmatch = "initech"\nupstream_host = "localhost"\n`;
    await writeFile(resolvers, plan("new"));
    await reload(others);
    await writeFile(resolvers, "no TOML");
    expect([await planOf("globex"), await planOf("acme"), await planOf("initech")]).toEqual(["new", "new", "new"]);
  });
});

/** A CancelRequest as a driver sends it. */
async function cancel(processId: number, secret: number, port: number): Promise<void> {
  const key = Buffer.alloc(4);
  key.writeInt32BE(secret);
  const socket = connectTo(port, "127.0.0.1");
  socket.end(cancelRequest(processId, key)).resume();
  await once(socket, "close");
}
