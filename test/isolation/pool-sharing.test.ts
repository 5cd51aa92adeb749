/**
 * What clients of one pool can do to each other: nothing, by cancelling, failing to log in, poisoning what is cached in a
 * session, or asking for everything at once.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cancelRequest, client as frontend } from "../support/bytes.ts";
import { availableVersions } from "../support/postgres.ts";
import { RawClient, sendCancel, type Place } from "../support/raw-client.ts";
import { untilRunning } from "../support/server-side.ts";
import {
  look,
  modes,
  POOL_PASSWORD,
  sizesOf,
  startPoolFixture,
  untouched,
  valuesOf,
  type PoolFixture,
} from "./pool-fixture.ts";

const versions = availableVersions().filter((version) => version === "18");

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: PoolFixture;
  beforeAll(async () => {
    fixture = await startPoolFixture({ version });
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(modes)("a CancelRequest, %s pool", (mode) => {
    it("ends the query of its own client with 57014, and of nobody else", async () => {
      const { place, logIn } = await fixture.pool(mode, { pool_size: 2 });
      using client = await logIn("acme");
      using other = await logIn("acme");
      client.send(frontend.query("SELECT pg_sleep(60), 'mine'"));
      other.send(frontend.query("SELECT pg_sleep(60), 'theirs'"));
      await untilRunning(fixture, "mine");
      await untilRunning(fixture, "theirs");
      const key = keyOf(client);
      const wrong = Buffer.from(key.secret);
      wrong[0] = (wrong[0] ?? 0) ^ 1;
      expect(await sendCancel(place, { ...key, secret: wrong })).toHaveLength(0);
      expect(await sendCancel(place, key)).toHaveLength(0);
      await client.readUntil("Z");
      expect(client.error["C"]).toBe("57014");
      expect(other.types).not.toContain("E");
      expect((await look(client)).seen).toEqual(untouched("acme"));
      await sendCancel(place, keyOf(other));
      await other.readUntil("Z");
      expect(other.error["C"]).toBe("57014");
    });

    it("of a client that has left, or that has no session now, is met with silence", async () => {
      const { place, logIn } = await fixture.pool(mode);
      const gone = await logIn("acme");
      const key = keyOf(gone);
      if (mode === "session") {
        gone.send(frontend.terminate);
        await gone.untilClosed();
      } else await gone.query("SELECT 1");
      using next = await logIn("globex");
      next.send(frontend.query("SELECT pg_sleep(0.3), 'not cancelled'"));
      await untilRunning(fixture, "not cancelled");
      for (let left = 5; left > 0; left -= 1) expect(await sendCancel(place, key)).toHaveLength(0);
      await next.readUntil("Z");
      expect(next.types).not.toContain("E");
      gone.socket.destroy();
    });

    it.each([
      ["of 400 that race", sendCancel],
      ["of 400 without anybody who waits for them that race", sendCancelAndGo],
    ])("%s a hand-over none ends a query of the next client", async (_name, send) => {
      const { place, logIn } = await fixture.pool(mode);
      const failed: string[] = [];
      let cancelled = 0;
      const [first, second] = mode === "transaction" ? [await logIn("acme"), await logIn("globex")] : [];
      for (let round = 0; round < 400; round += 1) {
        const client = first ?? (await logIn("acme"));
        client.send(frontend.query(`SELECT pg_sleep(${(round % 8) / 2000})`));
        const cancel = send(place, keyOf(client));
        if (first === undefined) client.send(frontend.terminate);
        const next = second ?? (await logIn("globex"));
        const answers = await next.query("SELECT pg_sleep(0.001), current_tenant_id()");
        if (!valuesOf(answers).includes("globex")) failed.push(`${round}: ${JSON.stringify(next.error)}`);
        await cancel;
        if (first !== undefined) {
          const answer = await first.readUntil("Z");
          if (answer.some(({ type }) => type === "E")) cancelled += 1;
        } else {
          if (client.types.includes("E")) cancelled += 1;
          next.send(frontend.terminate);
          await next.untilClosed();
          client.socket.destroy();
        }
      }
      expect(failed).toEqual([]);
      if (first !== undefined) expect(cancelled).toBeGreaterThan(0);
      first?.socket.destroy();
      second?.socket.destroy();
    });
  });

  it("a client that waits and cancels gets 57014, and has a session when one is free", async () => {
    const { place, logIn, proxy } = await fixture.pool("transaction");
    using holder = await logIn("globex");
    await holder.query("SELECT 1");
    using client = await logIn("acme");
    await holder.query("BEGIN");
    for (const waits of [
      [frontend.query("SELECT 'waited'")],
      [frontend.parse("SELECT 'waited'"), frontend.bind(), frontend.execute(), frontend.sync],
    ]) {
      client.send(...waits);
      await expect.poll(async () => (await sizesOf(proxy)).waiting).toBe(1);
      expect(await sendCancel(place, keyOf(client))).toHaveLength(0);
      const answer = await client.readUntil("Z");
      expect(answer.map(({ type }) => type).join("")).toBe("EZ");
      expect(client.error["C"]).toBe("57014");
    }
    expect((await sizesOf(proxy)).waiting).toBe(0);
    client.send(frontend.query("SELECT current_tenant_id()"));
    await holder.query("COMMIT");
    expect(valuesOf(await client.readUntil("Z"))).toEqual(["acme"]);
  });

  it.each(modes)("who leaves while it waits leaves nothing behind, %s pool", async (mode) => {
    const { place, logIn, proxy } = await fixture.pool(mode);
    using holder = await logIn("globex");
    await holder.query("BEGIN");
    const waiters = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const waiter = await RawClient.open(place);
        void waiter
          .logIn({ user: "app_user.acme", password: POOL_PASSWORD, parameters: { database: "postgres" } })
          .catch(() => {});
        return { waiter, isAbrupt: index % 2 === 0 };
      }),
    );
    await expect.poll(async () => (await sizesOf(proxy)).waiting).toBe(20);
    for (const { waiter, isAbrupt } of waiters) {
      if (isAbrupt) waiter.socket.resetAndDestroy();
      else waiter.socket.destroy();
    }
    await expect.poll(async () => (await sizesOf(proxy)).waiting).toBe(0);
    await holder.query("COMMIT");
    holder.socket.end(frontend.terminate);
    using next = await logIn("acme");
    expect((await look(next)).seen).toEqual(untouched("acme"));
  });

  it.each(modes)("pool_checkout_timeout is 53300, and says what to do, %s pool", async (mode) => {
    const { logIn } = await fixture.pool(mode, { pool_checkout_timeout: 1 });
    using holder = await logIn("globex");
    await holder.query("BEGIN");
    const error = await logIn("acme").then(
      () => "a login",
      (failure: unknown) => String(failure),
    );
    expect(error).toContain('"C":"53300"');
    expect(error).toContain('"H":');
    await holder.query("COMMIT");
    holder.socket.end(frontend.terminate);
    using next = await logIn("acme");
    expect((await look(next)).seen).toEqual(untouched("acme"));
  });

  it.each(modes)("failed logins take no place in it, %s pool", async (mode) => {
    const { place, logIn, proxy } = await fixture.pool(mode, { pool_size: 3, login_throttle: 0 });
    const refused = await Promise.allSettled(
      Array.from({ length: 30 }, (_, index) =>
        RawClient.logIn(place, {
          user: "app_user.acme",
          password: index % 3 === 0 ? "wrong" : POOL_PASSWORD,
          parameters: index % 3 === 1 ? { database: `absent${index}` } : { database: "postgres", TimeZone: "Nope" },
        }),
      ),
    );
    expect(refused.filter(({ status }) => status === "fulfilled")).toEqual([]);
    await expect
      .poll(async () => {
        const { total, idle, waiting } = await sizesOf(proxy);
        return { busy: total - idle, waiting };
      })
      .toEqual({ busy: 0, waiting: 0 });
    const clients = await Promise.all(["acme", "globex", "acme"].map((tenant) => logIn(tenant)));
    const sights = await Promise.all(clients.map((client) => look(client)));
    expect(sights.map(({ seen }) => seen)).toEqual([untouched("acme"), untouched("globex"), untouched("acme")]);
    for (const client of clients) client.socket.destroy();
  });

  describe("a statement of the cache that a tenant has replaced", () => {
    const ASK = "SELECT current_tenant_id()";
    const evil = (tenant: string): string =>
      `DO $$ DECLARE s record; BEGIN
        FOR s IN SELECT name FROM pg_prepared_statements LOOP EXECUTE format('DEALLOC' || 'ATE %I', s.name); END LOOP;
        FOR i IN 1..50 LOOP EXECUTE format('PRE' || 'PARE %I AS SELECT ''poison of ${tenant}''', 'pgvpd_' || i); END LOOP; END $$`;

    it.each([
      ["in a DO block", (tenant: string) => evil(tenant)],
      ["in a function", (tenant: string) => `SELECT poison('${tenant}')`],
      ["with its transaction", (tenant: string) => `BEGIN; ${evil(tenant)}; COMMIT`],
    ])("%s never runs for another identity", async (_name, poison) => {
      await fixture.admin.query(
        `CREATE OR REPLACE FUNCTION poison(tenant text) RETURNS void LANGUAGE plpgsql AS $f$ BEGIN EXECUTE replace($p$${evil("NOBODY")}$p$, 'NOBODY', tenant); END $f$`,
      );
      const { logIn } = await fixture.pool("transaction");
      using acme = await logIn("acme");
      using globex = await logIn("globex");
      using late = await logIn("globex");
      const clients = [acme, globex];
      for (const client of clients) {
        client.send(frontend.parse(ASK, "s1"), frontend.sync);
        await client.readUntil("Z");
      }
      const run = async (client: RawClient): Promise<(string | null)[]> => {
        client.send(frontend.bind("", "s1"), frontend.execute(), frontend.sync);
        return valuesOf(await client.readUntil("Z"));
      };
      for (let round = 0; round < 3; round += 1) {
        await acme.query(poison("acme"));
        expect(await run(globex)).toEqual(["globex"]);
        await globex.query(poison("globex"));
        expect(await run(acme)).toEqual(["acme"]);
      }
      await acme.query(poison("acme"));
      expect(acme.types).not.toContain("E");
      late.send(frontend.parse(ASK, "s1"), frontend.bind("", "s1"), frontend.execute(), frontend.sync);
      expect(valuesOf(await late.readUntil("Z"))).toEqual(["globex"]);
    });
  });

  it("a tenant's flood does not starve another one", async () => {
    const { logIn, proxy } = await fixture.pool("transaction", { pool_size: 2 });
    const flood = await Promise.all(Array.from({ length: 30 }, () => logIn("acme")));
    using client = await logIn("globex");
    const order: string[] = [];
    // A pipeline of each, so that whoever is served asks again at once.
    const floods = flood.map(async (one) => {
      one.send(...Array.from({ length: 10 }, () => frontend.query("SELECT pg_sleep(0.002)")));
      for (let left = 10; left > 0; left -= 1) {
        await one.readUntil("Z");
        order.push("acme");
      }
    });
    await expect.poll(async () => (await sizesOf(proxy)).waiting).toBeGreaterThan(20);
    for (let left = 10; left > 0; left -= 1) {
      await client.query("SELECT current_tenant_id()");
      order.push("globex");
    }
    const before = order.filter((tenant) => tenant === "acme").length;
    await Promise.all(floods);
    // In turn: a few of the flood for each of the other's, and not all 300 of them.
    expect(before).toBeLessThan(150);
    expect(order).toHaveLength(310);
    for (const one of flood) one.socket.destroy();
  });

  it.each(modes)("tenant_pool_size leaves the rest to others, %s pool", async (mode) => {
    const { logIn } = await fixture.pool(mode, {
      pool_size: 3,
      tenant_pool_size: 2,
      pool_checkout_timeout: 1,
    });
    const held: RawClient[] = [];
    for (let left = 2; left > 0; left -= 1) {
      const client = await logIn("acme");
      await client.query("BEGIN");
      held.push(client);
    }
    await expect(logIn("acme")).rejects.toThrow("53300");
    using other = await logIn("globex");
    expect((await look(other)).seen).toEqual(untouched("globex"));
    await held[0]?.query("COMMIT");
    held[0]?.socket.end(frontend.terminate);
    using next = await logIn("acme");
    expect((await look(next)).seen).toEqual(untouched("acme"));
    for (const client of held) client.socket.destroy();
  });
});

/** A client that closes its connection as soon as the request is on its way. */
async function sendCancelAndGo(place: Place, key: NonNullable<RawClient["key"]>): Promise<void> {
  const { socket } = await RawClient.open(place);
  await new Promise<void>((resolve) => {
    socket.write(cancelRequest(key.processId, key.secret), () => resolve());
  });
  socket.destroy();
}

function keyOf({ key }: RawClient): NonNullable<RawClient["key"]> {
  if (key === undefined) throw new Error("no BackendKeyData");
  return key;
}
