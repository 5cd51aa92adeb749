/** Timers and the kill switch on a real server, with every way that a tenant's session can have its upstream. */
import { setTimeout as pause } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Client } from "pg";
import type { SettingValues } from "../../../src/index.ts";
import { client as frontend } from "../../support/bytes.ts";
import { POOL_MODES } from "../../support/pool-modes.ts";
import { RawClient } from "../../support/raw-client.ts";
import { errorOf, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const { bind, copyDone, execute, flush, parse, query, sync } = frontend;

let fixture: TenantFixture;
beforeAll(async () => {
  fixture = await startTenantFixture();
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
});

describe.each(POOL_MODES)("in $mode mode", ({ mode, settings, password }) => {
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

  it("no timer ends what is in use: a cursor, a pipeline, a COPY in either direction, a LISTEN that hears", async () => {
    const limits = { idle_transaction_timeout: 0.6, tenant_query_timeout: 0.6, query_timeout: 0.6 };
    const { port } = await fixture.proxyWith({ ...settings, ...limits, pool_size: 8 });
    const raw = (): Promise<RawClient> => {
      const login = { user: "app_user.acme", password, parameters: { database: "postgres" } };
      return RawClient.logIn({ host: "127.0.0.1", port }, login);
    };
    // Each does something seven times, and rests in between for less than any limit, but longer in all.
    const sevenTimes = async (step: (n: number) => unknown): Promise<void> => {
      for (let n = 0; n < 7; n += 1) {
        await step(n);
        await pause(150);
      }
    };
    const cursor = async (): Promise<void> => {
      const { client } = await connect(port);
      await client.query("begin");
      await client.query("declare c cursor for select generate_series(1, 10) as n");
      await sevenTimes(async (n) => expect((await client.query("fetch 1 from c")).rows).toEqual([{ n: n + 1 }]));
      await client.query("commit");
      await client.end();
    };
    const pipeline = async (): Promise<void> => {
      using client = await raw();
      await sevenTimes(async () => {
        const step = [frontend.parse("select pg_sleep(0.02)"), frontend.bind(), frontend.execute(), frontend.sync];
        client.send(...step, ...step, ...step);
        for (let n = 0; n < 3; n += 1) await client.readUntil("Z");
      });
    };
    const copyIn = async (): Promise<void> => {
      using client = await raw();
      client.send(frontend.query("copy plain from stdin"));
      await client.readUntil("G");
      await sevenTimes((n) => client.send(frontend.copyData(`${n}\tcopied\n`)));
      client.send(frontend.copyDone);
      await client.readUntil("C");
      await client.readUntil("Z");
      await client.query("delete from plain");
    };
    const copyOut = async (): Promise<void> => {
      using client = await raw();
      await sevenTimes(async () => {
        client.send(frontend.query("copy (select repeat('x', 1000) from generate_series(1, 1000)) to stdout"));
        await client.readUntil("Z");
      });
    };
    const listen = async (): Promise<void> => {
      const { client } = await connect(port);
      let heard = 0;
      client.on("notification", () => (heard += 1));
      await client.query("listen news");
      await sevenTimes(() => fixture.asSuperuser("notify news"));
      await expect.poll(() => heard).toBe(7);
      await client.end();
    };
    // No byte comes or goes for far longer than any limit that is for those who do something.
    const listenInVain = async (): Promise<void> => {
      const { client } = await open({ idle_transaction_timeout: 0.2, query_timeout: 0.2, transaction_timeout: 0.2 });
      await client.query("listen silence");
      await pause(1_000);
      await client.query("select 1");
      await client.end();
    };
    await Promise.all([cursor(), pipeline(), copyIn(), copyOut(), listen(), listenInVain()]);
  });

  it("idle_transaction_timeout ends a COPY whose client has stopped, and nothing of it stays", async () => {
    const { port } = await fixture.proxyWith({ ...settings, idle_transaction_timeout: 0.4 });
    const login = { user: "app_user.acme", password, parameters: { database: "postgres" } };
    using client = await RawClient.logIn({ host: "127.0.0.1", port }, login);
    client.send(frontend.query("copy plain from stdin"));
    await client.readUntil("G");
    client.send(frontend.copyData("1\tnever committed\n"));
    await client.untilClosed();
    expect(client.error).toMatchObject({
      C: "25P03",
      M: "terminating connection due to idle-in-transaction timeout",
      H: "idle_transaction_timeout is 0.4 s: commit or roll back sooner.",
    });
    const writing =
      "select 1 from pg_stat_activity where usename = 'app_user' and query like 'copy plain%' and state = 'active'";
    await expect.poll(() => fixture.asSuperuser(writing)).toEqual([]);
    expect(await fixture.asSuperuser("select body from plain")).toEqual([]);
  });

  it.skipIf(mode === "passthrough").each([
    ["query_timeout", "57014", "select pg_sleep(60), 'of the first'"],
    ["idle_transaction_timeout", "25P03", "begin"],
    ["transaction_timeout", "25P04", "begin"],
    ["tenant_query_timeout", "57P05", "select pg_sleep(60), 'of the first'"],
  ])(
    "after %s the one connection of the pool serves the next tenant, and holds nothing of the first",
    async (setting, code, last) => {
      const { client, ended, port } = await open({ [setting]: 0.4, pool_size: 1 });
      const before = [
        "create temporary table notes (tenant_id text, body text)",
        "insert into notes values ('acme', 'of the first')",
        "set work_mem = '7MB'",
        "prepare mine as select 'of the first'",
        "listen news",
        "select pg_advisory_lock(8)",
        "declare mine cursor with hold for select 'of the first'",
      ];
      for (const sql of before) await client.query(sql);
      const failed = client.query(last).then(
        () => undefined,
        (error: Error & { code?: string }) => error.code,
      );
      expect([await failed, await ended]).toContain(code);
      const next = await connect(port, "globex");
      const found = await next.client.query(
        `select current_tenant_id() as tenant, current_setting('work_mem') as work_mem,
              (select count(*)::int from notes) as notes,
              (select count(*)::int from pg_prepared_statements where name = 'mine') as prepared,
              (select count(*)::int from pg_cursors where name = 'mine') as cursors,
              (select count(*)::int from pg_listening_channels()) as channels,
              (select count(*)::int from pg_locks where locktype = 'advisory') as locks`,
      );
      const none = { prepared: 0, cursors: 0, channels: 0, locks: 0 };
      expect(found.rows).toEqual([{ tenant: "globex", work_mem: "4MB", notes: 3, ...none }]);
      await next.client.end();
      const running =
        "select 1 from pg_stat_activity where strpos(query, 'of the first') > 0 and state = 'active' and pid <> pg_backend_pid()";
      expect(await fixture.asSuperuser(running)).toEqual([]);
    },
  );

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
