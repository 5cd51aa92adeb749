/**
 * PostgreSQL goes away under a pool, and comes back: who was idle does not notice, everybody else gets one error that says
 * what happened, and the pool is what it was. And backends that do not end when they are told to.
 */
import { once } from "node:events";
import { connect as dial, createServer, type AddressInfo, type Socket } from "node:net";
import type { Client } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { SettingValues } from "../../../src/index.ts";
import { cancelRequest, client as frontend, server } from "../../support/bytes.ts";
import { startPooledProxy, type PooledProxy } from "../../support/pooled-proxy.ts";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient } from "../../support/raw-client.ts";
import { countBackends, untilRunning } from "../../support/server-side.ts";
import { errorOf, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));
const tenants = ["acme", "globex"] as const;

/** What a client may be told when its session is lost: by PostgreSQL, or by the proxy where PostgreSQL said nothing. */
const LOST = new Set(["57P01", "57P02", "57P03", "08006"]);

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  let pooled: PooledProxy;
  const open: Client[] = [];

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((client) => client.end().catch(() => {})));
    await expect.poll(() => pooled.proxy.sessionCount, { timeout: 10_000 }).toBe(0);
    await pooled.proxy.stop();
    await expect.poll(() => countBackends(fixture), { timeout: 10_000 }).toBe(0);
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  const start = async (settings: SettingValues = {}): Promise<void> => {
    pooled = await startPooledProxy(fixture, settings);
  };
  const connect = async (tenant: string): Promise<Client> => {
    const client = await pooled.connect(tenant);
    open.push(client);
    return client;
  };
  const named = {
    name: "mine",
    text: "SELECT DISTINCT tenant_id, current_setting('timezone') AS zone FROM notes",
    values: [],
  };

  it("restarts: idle clients go on, who was inside of a transaction is told, who waits is served", async () => {
    await start();
    const idle = await Promise.all([...tenants, ...tenants].map(connect));
    for (const client of idle) await client.query("SET timezone = 'Asia/Tokyo'");
    for (const client of idle) await client.query(named);
    const [running, inside, waiting] = [await connect("acme"), await connect("globex"), await connect("acme")];
    await inside.query("BEGIN");
    await inside.query("INSERT INTO notes (tenant_id, body) VALUES ('globex', 'lost')");
    const lost = [running, inside].map(
      (client) => new Promise<Error & { code?: string }>((resolve) => client.once("error", resolve)),
    );
    const sleep = errorOf(running.query("SELECT pg_sleep(60), 'until the crash'"));
    await untilRunning(fixture, "until the crash");
    const wait = waiting.query(named);

    await fixture.server.crash();
    expect(LOST).toContain((await sleep).code);
    expect(LOST).toContain((await lost[1])?.code);
    await fixture.server.startAgain();

    expect((await wait).rows).toEqual([expect.objectContaining({ tenant_id: "acme" })]);
    for (const [index, client] of idle.entries()) {
      expect((await client.query(named)).rows).toEqual([{ tenant_id: tenants[index % 2], zone: "Asia/Tokyo" }]);
    }
    expect(await fixture.asSuperuser("SELECT body FROM notes WHERE body = 'lost'")).toEqual([]);
    expect(pooled.proxy.sessionCount).toBe(idle.length + 1);
    expect(await countBackends(fixture)).toBeLessThanOrEqual(2);
  });

  it("serves what idle clients ask while PostgreSQL is away, once it is back", async () => {
    await start();
    const clients = await Promise.all([...tenants, ...tenants, ...tenants].map(connect));
    for (const client of clients) await client.query(named);
    await fixture.server.crash();
    const asked = Promise.all(clients.map((client) => client.query(named)));
    await fixture.server.startAgain();
    expect((await asked).map(({ rows }) => (rows[0] as { tenant_id: string }).tenant_id)).toEqual([
      ...tenants,
      ...tenants,
      ...tenants,
    ]);
  });

  it("restarts under load: one error each, and everybody is back at work", async () => {
    await start({ pool_size: 3 });
    let isBack = false;
    const workers = Array.from({ length: 10 }, async (_, index) => {
      const tenant = tenants[index % 2] as string;
      const errors: string[] = [];
      let [before, after] = [0, 0];
      // Who has a session at rest hears of its end before the next query, which then says nothing more.
      const told: string[] = [];
      const begin = async (): Promise<Client> => {
        const client = await connect(tenant);
        client.on("error", (error: Error & { code?: string }) => told.push(error.code ?? error.message));
        return client;
      };
      let client = await begin();
      while (after < 20) {
        try {
          await client.query("BEGIN");
          const { rows } = await client.query<{ tenant_id: string }>(named);
          await client.query("ROLLBACK");
          if (rows.some((row) => row.tenant_id !== tenant)) throw new Error("a row of another tenant's");
          if (isBack) after += 1;
          else before += 1;
        } catch (error) {
          errors.push((error as { code?: string }).code ?? told.at(-1) ?? String(error));
          client = await begin();
        }
      }
      return { before, after, errors };
    });
    await expect.poll(() => countBackends(fixture)).toBe(3);
    await fixture.server.crash();
    await fixture.server.startAgain();
    isBack = true;
    const outcomes = await Promise.all(workers);
    for (const { after, errors } of outcomes) {
      expect(after).toBe(20);
      expect(errors.length).toBeLessThanOrEqual(1);
      for (const code of errors) expect(LOST).toContain(code);
    }
    expect(outcomes.flatMap(({ errors }) => errors).length).toBeLessThanOrEqual(3);
  });

  it("takes another session where a backend was ended while nobody used it", async () => {
    await start({ pool_size: 1 });
    const [client] = [await connect("acme"), await connect("globex")];
    for (const _round of [1, 2, 3]) {
      await client.query(named);
      await fixture.asSuperuser("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app_user'");
      await expect.poll(() => countBackends(fixture)).toBe(0);
      expect((await client.query(named)).rows).toEqual([expect.objectContaining({ tenant_id: "acme" })]);
    }
  });

  it("takes another session where the server says farewell in one piece with its answer", async () => {
    const farewell = server.error("57P01", "terminating connection due to administrator command");
    await using door = await openDoor(fixture, (bytes) =>
      bytes.includes("SET\0Z") ? Buffer.concat([bytes, farewell]) : bytes,
    );
    await start({ upstream_host: "127.0.0.1", upstream_port: door.port });
    using client = await pooled.logIn("acme");
    for (const _round of [1, 2]) {
      expect((await client.query("SET statement_timeout = '7s'")).map(({ type }) => type)).toEqual(["C", "Z"]);
      const shown = (await client.query("SHOW statement_timeout")).find(({ type }) => type === "D");
      expect(shown?.body.toString("utf8", 6)).toBe("7s");
      expect(client.types).not.toContain("E");
    }
    const inside = "BEGIN; SET statement_timeout = '8s'";
    expect((await client.query(inside)).map(({ type }) => type)).toEqual(["C", "C", "Z"]);
    await client.untilClosed();
    expect(client.error).toMatchObject({ C: "57P01" });
  });

  // The barrier gives such a backend five seconds: once is enough.
  it.runIf(version === versions.at(-1))("does not lose a session to a backend that ignores cancels", async () => {
    await start({ pool_size: 1 });
    using stubborn = await pooled.logIn("acme");
    const others = [await connect("globex"), await connect("acme")];
    stubborn.send(
      frontend.query(`DO $$ BEGIN LOOP
        BEGIN PERFORM pg_sleep(60), 'stubborn'; EXCEPTION WHEN query_canceled THEN NULL; END;
      END LOOP; END $$`),
    );
    await untilRunning(fixture, "stubborn");
    using canceller = await RawClient.open({ host: "127.0.0.1", port: pooled.port });
    if (stubborn.key === undefined) throw new Error("no key");
    canceller.send(cancelRequest(stubborn.key.processId, stubborn.key.secret));
    await canceller.untilClosed();
    stubborn.socket.destroy();
    for (const _round of [1, 2]) {
      for (const [index, client] of others.entries()) {
        expect((await client.query(named)).rows).toEqual([
          expect.objectContaining({ tenant_id: ["globex", "acme"][index] }),
        ]);
      }
    }
    await expect.poll(() => countBackends(fixture)).toBe(1);
  });
});

/** A way to the server on which `change` is made to what it answers. */
async function openDoor(
  { server: { host, port } }: TenantFixture,
  change: (bytes: Buffer) => Buffer,
): Promise<AsyncDisposable & { readonly port: number }> {
  const open = new Set<Socket>();
  const door = createServer((near) => {
    open.add(near);
    const far = host.startsWith("/") ? dial(`${host}/.s.PGSQL.${port}`) : dial(port, host);
    near.on("error", () => far.destroy()).pipe(far);
    far.on("error", () => near.destroy()).on("end", () => near.end());
    far.on("data", (bytes: Buffer) => {
      const changed = change(bytes);
      near.write(changed);
      if (changed !== bytes) far.end();
    });
  }).listen(0, "127.0.0.1");
  await once(door, "listening");
  return {
    port: (door.address() as AddressInfo).port,
    [Symbol.asyncDispose]: async () => {
      const closed = once(door.close(), "close");
      for (const near of open) near.destroy();
      await closed;
    },
  };
}
