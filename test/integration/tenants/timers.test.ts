/** Timers and the kill switch on a real server, with every way that a tenant's session can have its upstream. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Client } from "pg";
import type { SettingValues } from "../../../src/index.ts";
import { POOL_PASSWORD } from "../../support/pooled-proxy.ts";
import { client as frontend } from "../../support/bytes.ts";
import { RawClient } from "../../support/raw-client.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const { bind, copyDone, execute, flush, parse, query, sync } = frontend;

let fixture: TenantFixture;
beforeAll(async () => {
  fixture = await startTenantFixture();
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
});

const pool = { pool_password: POOL_PASSWORD, upstream_password: PASSWORD };
const modes: readonly (readonly [string, SettingValues])[] = [
  ["passthrough", {}],
  ["session", { pool_mode: "session", ...pool }],
  ["transaction", { pool_mode: "transaction", ...pool }],
];

describe.each(modes)("in %s mode", (mode, settings) => {
  const password = mode === "passthrough" ? PASSWORD : POOL_PASSWORD;

  /** A proxy with these settings, a client of it, and how that client's connection ended. */
  async function open(more: SettingValues) {
    const { proxy, port } = await fixture.proxyWith({ ...settings, ...more });
    return { ...(await connect(port)), proxy, port };
  }

  async function connect(port: number, tenant = "acme") {
    const user = `app_user.${tenant}`;
    const client = new Client({ host: "127.0.0.1", port, user, password, database: "postgres" });
    const ended = new Promise<string | undefined>((resolve) => {
      client.on("error", (error: Error & { code?: string }) => {
        if (error.code !== undefined) resolve(error.code);
      });
      client.on("end", () => resolve(undefined));
    });
    await client.connect();
    return { client, ended };
  }

  it("query_timeout ends a slow query, and PostgreSQL stops to run it", async () => {
    const { client } = await open({ query_timeout: 0.5 });
    await client.query("select pg_sleep(0.2)");
    const { code, message } = await errorOf(client.query("select pg_sleep(60), 'slow one'"));
    expect([code, message]).toEqual(["57014", "canceling statement due to query_timeout: it has run for 0.5 s"]);
    const running = `select 1 from pg_stat_activity where query like '%slow one%' and state = 'active' and usename = 'app_user'`;
    await expect.poll(async () => (await fixture.asSuperuser(running)).length).toBe(0);
  });

  it("transaction_timeout ends a transaction that is long, though each query is short", async () => {
    const { client, ended } = await open({ transaction_timeout: 0.5 });
    for (let n = 0; n < 5; n += 1) await client.query("select pg_sleep(0.2)");
    await client.query("begin");
    const failed = await errorOf(
      (async () => {
        for (;;) await client.query("select pg_sleep(0.05)");
      })(),
    );
    // The driver gives it to the query that runs then, or else to the client.
    expect([failed.code, await ended]).toContain("25P04");
  });

  it("idle_transaction_timeout ends who keeps the server waiting, and rolls back", async () => {
    const { client, ended } = await open({ idle_transaction_timeout: 0.4 });
    await client.query("begin");
    await client.query("insert into notes (tenant_id, body) values ('acme', 'never committed')");
    expect(await ended).toBe("25P03");
    await expect
      .poll(
        async () => (await fixture.asSuperuser("select 1 from pg_stat_activity where state like 'idle in tr%'")).length,
      )
      .toBe(0);
    expect(await fixture.asSuperuser("select 1 from notes where body = 'never committed'")).toEqual([]);
  });

  it("client_idle_timeout ends who is idle", async () => {
    const { client, ended } = await open({ client_idle_timeout: 0.4 });
    await client.query("select pg_sleep(0.8)");
    expect(await ended).toBe("57P05");
  });

  it("tenant_query_timeout ends silence alone", async () => {
    const { client, ended, proxy } = await open({ tenant_query_timeout: 0.5 });
    for (let n = 0; n < 6; n += 1) await client.query("select pg_sleep(0.2)");
    expect(await ended).toBe("57P05");
    expect(await proxy.metrics.metrics()).toMatch(/^pgvpd_tenant_timeouts_total 1$/m);
  });

  it("a denied tenant's sessions end, whatever they do, and it comes no more", async () => {
    const { client, ended, proxy, port } = await open({});
    const busy = await connect(port);
    const other = await connect(port, "globex");
    const slow = errorOf(busy.client.query("select pg_sleep(60)"));
    await client.query("begin");
    proxy.denyTenant("ac*", "the bill is not paid");
    expect(await ended).toBe("57P01");
    expect((await slow).code).toBe("57P01");
    const refused = await errorOf(connect(port));
    expect([refused.code, refused.message]).toEqual(["28000", 'tenant "acme" may not connect: the bill is not paid']);
    await other.client.query("select 1");
    expect(proxy.allowTenant("ac*")).toBe(true);
    const again = await connect(port);
    await again.client.query("select 1");
    await Promise.all([other.client.end(), again.client.end()]);
  });

  it("what a denied tenant was doing ends with its session: nothing of it is committed later", async () => {
    const { proxy, port } = await fixture.proxyWith(settings);
    const login = { user: "app_user.acme", password, parameters: { database: "postgres" } };
    using client = await RawClient.logIn({ host: "127.0.0.1", port }, login);
    const insert = (seconds: number): Buffer =>
      query(`insert into notes (tenant_id, body) select 'acme', 'late ${mode}' from pg_sleep(${seconds})`);
    client.send(insert(3), ...Array.from({ length: 20 }, () => insert(0.01)));
    const running = `select 1 from pg_stat_activity where query like '%late ${mode}%' and usename = 'app_user' and state = 'active'`;
    const isRunning = async (): Promise<boolean> => (await fixture.asSuperuser(running)).length > 0;
    await expect.poll(isRunning).toBe(true);
    proxy.denyTenant("acme", "moved");
    await client.untilClosed();
    expect(client.error["C"]).toBe("57P01");
    await expect.poll(isRunning, { timeout: 20_000 }).toBe(false);
    expect(await fixture.asSuperuser(`select 1 from notes where body = 'late ${mode}'`)).toEqual([]);
  });

  const noisy = "do $$ begin for i in 1..100 loop raise notice 'on and on'; perform pg_sleep(0.1); end loop; end $$";
  const slow = "select pg_sleep(30)";
  it.each<[string, string, SettingValues, Buffer[]]>([
    ["57014", "a Flush behind a query that says something", { query_timeout: 0.5 }, [query(noisy), flush]],
    ["57014", "an Execute that says something", { query_timeout: 0.5 }, [parse(noisy), bind(), execute(), flush]],
    ["57014", "an Execute without a Flush", { query_timeout: 0.5 }, [parse(slow), bind(), execute()]],
    [
      "57014",
      "a query behind a COPY that is sent as a whole",
      { query_timeout: 0.5 },
      [query("copy plain from stdin"), copyDone, query(slow)],
    ],
    [
      "25P03",
      "a Flush without anything to answer",
      { idle_transaction_timeout: 0.5 },
      [query("begin"), query("lock table plain in access share mode"), flush],
    ],
    [
      "25P03",
      "a Parse behind a Flush",
      { idle_transaction_timeout: 0.5 },
      [parse("begin"), bind(), execute(), flush, parse("select 1", "x")],
    ],
    [
      "25P03",
      "a query that the server drops",
      { idle_transaction_timeout: 0.5 },
      [query("begin"), parse("no SQL"), query("select 1"), sync],
    ],
  ])("%s is not put off by %s", async (sqlstate, _what, more, messages) => {
    const { port } = await fixture.proxyWith({ ...settings, ...more });
    const login = { user: "app_user.acme", password, parameters: { database: "postgres" } };
    using client = await RawClient.logIn({ host: "127.0.0.1", port }, login);
    client.send(...messages);
    await client.untilClosed();
    expect([client.error["S"], client.error["C"]]).toEqual(["FATAL", sqlstate]);
  });
});
