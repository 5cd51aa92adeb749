/**
 * State of a client in transaction mode that outlives its transactions: what follows it to another session, what keeps
 * it on its own one, and what is refused. Two sessions, and as many clients of the same tenant as it takes.
 */
import type { Client } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { SettingValues } from "../../../src/index.ts";
import { bytes, client as frontend } from "../../support/bytes.ts";
import { startPooledProxy, type PooledProxy } from "../../support/pooled-proxy.ts";
import { availableVersions } from "../../support/postgres.ts";
import type { RawClient } from "../../support/raw-client.ts";
import { errorOf, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));
const { bind, execute, parse, sync } = frontend;

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  let pooled: PooledProxy;
  const open: Client[] = [];

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((client) => client.end()));
    await expect.poll(() => pooled.proxy.sessionCount, { timeout: 10_000 }).toBe(0);
    await pooled.proxy.stop();
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  const start = async (settings: SettingValues = {}): Promise<void> => {
    pooled = await startPooledProxy(fixture, { pool_size: 1, ...settings });
  };
  const connect = async (tenant = "acme"): Promise<Client> => {
    const client = await pooled.connect(tenant);
    open.push(client);
    return client;
  };
  const show = async (client: Client, name: string): Promise<unknown> =>
    (await client.query<{ value: string }>("SELECT current_setting($1) AS value", [name])).rows[0]?.value;
  const statusesOf = (client: RawClient): string[] =>
    client.messages.filter(({ type }) => type === "S").map(({ body }) => body.toString().replaceAll("\0", " ").trim());

  describe("session_state = follow", () => {
    it.each([
      ["a setting that is tracked", "SET statement_timeout = '7s'", "statement_timeout", "7s"],
      ["one that PostgreSQL reports", "SET timezone = 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"],
      ["an alias of one", "SET TIME ZONE 'Asia/Tokyo'", "TimeZone", "Asia/Tokyo"],
      ["one that a function sets", "SELECT set_config('application_name', 'mine', false)", "application_name", "mine"],
      ["two in one text", "SET lock_timeout = '3s'; SET work_mem = '7MB'", "work_mem", "7MB"],
      ["a search_path", 'SET search_path = "odd, name", public', "search_path", '"odd, name", public'],
    ])("takes %s along, and gives it to nobody else", async (_, set, name, value) => {
      await start();
      const [client, twin, other] = [await connect(), await connect(), await connect("globex")];
      const before = await show(twin, name);
      await client.query(set);
      for (const _round of [1, 2]) {
        expect(await show(twin, name)).toBe(before);
        expect(await show(client, name)).toBe(value);
        expect(await show(other, name)).toBe(before);
        expect(await show(client, name)).toBe(value);
      }
      await client.query("RESET ALL");
      await show(other, name);
      expect(await show(client, name)).toBe(before);
      expect(await pooled.pins()).toEqual({});
    });

    it("keeps what a RESET was to take back that has failed, and gives it to nobody else", async () => {
      await start();
      const [client, twin] = [await connect(), await connect()];
      await client.query("SET statement_timeout = '7s'");
      await client.query("RESET ALL; SELECT 1 / 0").catch(() => {});
      expect(await show(twin, "statement_timeout")).toBe("0");
      expect(await show(client, "statement_timeout")).toBe("7s");
    });

    it("takes back what was set in a transaction that is rolled back, and keeps what was committed", async () => {
      await start({ pool_size: 2 });
      const [client, other] = [await connect(), await connect("globex")];
      await client.query("BEGIN; SET timezone = 'Asia/Tokyo'; ROLLBACK");
      await show(other, "timezone");
      const before = await show(other, "timezone");
      expect(await show(client, "timezone")).toBe(before);
      await client.query("BEGIN");
      await client.query("SET timezone = 'Asia/Tokyo'");
      await client.query("COMMIT");
      await show(other, "timezone");
      expect(await show(client, "timezone")).toBe("Asia/Tokyo");
    });

    it("keeps settings that are not tracked in the session that has them", async () => {
      await start({ pool_size: 2 });
      const [client, twin] = [await connect(), await connect()];
      await client.query("SET enable_seqscan = off");
      expect(await show(client, "enable_seqscan")).toBe("off");
      expect(await show(twin, "enable_seqscan")).toBe("on");
      expect(await pooled.pins()).toEqual({ set: 1 });
    });

    it("follows what track_extra_parameters names, and pins for what it leaves out", async () => {
      await start({ pool_size: 2, track_extra_parameters: "enable_seqscan, my.setting" });
      const [client, other] = [await connect(), await connect("globex")];
      await client.query("SET enable_seqscan = off");
      await client.query("SET my.setting TO 'it''s mine'");
      await Promise.all([show(other, "timezone"), show(client, "timezone")]);
      expect([await show(client, "enable_seqscan"), await show(client, "my.setting")]).toEqual(["off", "it's mine"]);
      expect(await pooled.pins()).toEqual({});
      await client.query("SET statement_timeout = '7s'");
      expect(await pooled.pins()).toEqual({ set: 1 });
    });

    it("tells a client of a parameter that its session reports differently, and of no other", async () => {
      await start();
      using client = await pooled.logIn("acme");
      using other = await pooled.logIn("globex", { application_name: "other", TimeZone: "Asia/Tokyo" });
      const told = client.messages.length;
      await client.query("SET DateStyle = 'German'");
      await other.query("SELECT 1");
      await client.query("SELECT 1");
      await other.query("SELECT 1");
      expect(
        statusesOf(client).slice(statusesOf(client).findIndex((text) => text.startsWith("DateStyle German"))),
      ).toEqual(["DateStyle German, DMY"]);
      expect(
        client.messages
          .slice(told)
          .map(({ type }) => type)
          .join(""),
      ).toBe("CSZTDCZ");
      const dateStyles = statusesOf(other).filter((text) => text.startsWith("DateStyle"));
      expect(dateStyles).toEqual(["DateStyle ISO, MDY"]);
      expect(statusesOf(other)).toContain("TimeZone Asia/Tokyo");
      expect(statusesOf(other)).toContain("application_name other");
    });
  });

  describe("what pins", () => {
    it("LISTEN: the client hears its NOTIFY, and others go on", async () => {
      await start({ pool_size: 2 });
      const [listener, twin, other] = [await connect(), await connect(), await connect("globex")];
      const heard = new Promise((resolve) => listener.once("notification", ({ payload }) => resolve(payload)));
      await listener.query("LISTEN channel");
      expect(await pooled.pins()).toEqual({ listen: 1 });
      await other.query("SELECT 1");
      await twin.query("NOTIFY channel, 'hello'");
      expect(await heard).toBe("hello");
      await listener.end();
      open.splice(open.indexOf(listener), 1);
      // Both sessions are there for others again, and nobody is listening any more.
      await Promise.all([twin.query("BEGIN"), other.query("BEGIN")]);
      for (const client of [twin, other]) {
        expect((await client.query("SELECT * FROM pg_listening_channels()")).rows).toEqual([]);
        await client.query("ROLLBACK");
      }
    });

    it.each([
      ["advisory_lock", "SELECT pg_advisory_lock(7)", "SELECT pg_advisory_unlock(7) AS found", true],
      ["temporary", "CREATE TEMP TABLE mine AS SELECT 1 AS found", "SELECT found = 1 AS found FROM mine", true],
      ["temporary", "SELECT 1 AS found INTO TEMPORARY mine", "SELECT found = 1 AS found FROM mine", true],
      ["cursor", "DECLARE kept CURSOR WITH HOLD FOR SELECT true AS found", "FETCH 1 FROM kept", true],
      ["prepare", "PREPARE mine AS SELECT true AS found", "EXECUTE mine", true],
      [
        "set",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SELECT current_setting('transaction_read_only')::bool AS found",
        true,
      ],
    ])("%s: %s", async (reason, statement, use, found) => {
      await start({ pool_size: 2 });
      const [client, twin, other] = [await connect(), await connect(), await connect("globex")];
      await client.query(statement);
      await Promise.all([twin.query("SELECT 1"), other.query("SELECT 1")]);
      expect((await client.query<{ found: boolean }>(use)).rows).toEqual([{ found }]);
      expect(await pooled.pins()).toEqual({ [reason]: 1 });
    });
  });

  it("session_state = pin keeps a client with its settings in its session", async () => {
    await start({ pool_size: 2, session_state: "pin" });
    const [client, other] = [await connect(), await connect("globex")];
    await client.query("SET statement_timeout = '7s'");
    await other.query("SELECT 1");
    expect(await show(client, "statement_timeout")).toBe("7s");
    expect(await pooled.pins()).toEqual({ set: 1 });
  });

  describe("session_state = refuse", () => {
    it.each([
      "LISTEN channel",
      "SET statement_timeout = '7s'",
      "SET enable_seqscan = off",
      "CREATE TEMPORARY TABLE mine (id int)",
      "SELECT pg_advisory_lock(7)",
      "PREPARE mine AS SELECT 1",
      "DECLARE kept CURSOR WITH HOLD FOR SELECT 1",
    ])("refuses %s, simple and prepared, and says what works", async (statement) => {
      await start({ session_state: "refuse" });
      const [client, other] = [await connect(), await connect("globex")];
      const values: unknown[] = [];
      for (const query of [statement, { text: statement, values }, { name: "named", text: statement, values }]) {
        const refused = await errorOf(client.query(query));
        expect(refused).toMatchObject({ code: "0A000", severity: "ERROR" });
        expect(refused.hint).toContain("session_state");
        await other.query("SELECT 1");
      }
      await client.query("BEGIN");
      await errorOf(client.query(statement));
      expect((await errorOf(client.query("SELECT 1"))).code).toBe("25P02");
      await client.query("ROLLBACK");
      await client.query("BEGIN; SET LOCAL statement_timeout = '7s'; COMMIT");
      expect(await pooled.pins()).toEqual({});
    });
  });

  describe("a prepared statement whose result changes", () => {
    it("fails once, for one of the clients that have it", async () => {
      await start();
      await fixture.asSuperuser(
        "DROP TABLE IF EXISTS changing; CREATE TABLE changing AS SELECT 1 AS a; GRANT ALL ON changing TO app_user",
      );
      const [one, twin] = [await connect("acme"), await connect("acme")];
      const named = { name: "all", text: "SELECT * FROM changing", values: [] };
      for (const client of [one, twin]) expect((await client.query(named)).rows).toEqual([{ a: 1 }]);
      await fixture.asSuperuser("ALTER TABLE changing ADD COLUMN b int DEFAULT 2");
      expect((await errorOf(one.query(named))).code).toBe("0A000");
      const newcomer = await connect("acme");
      for (const client of [one, twin, newcomer, one]) {
        expect((await client.query(named)).rows).toEqual([{ a: 1, b: 2 }]);
      }
    });

    it("is another one under another search_path", async () => {
      await start();
      await fixture.asSuperuser(`
        DROP SCHEMA IF EXISTS one, two CASCADE; CREATE SCHEMA one; CREATE SCHEMA two;
        CREATE VIEW one.place AS SELECT 'one' AS here; CREATE VIEW two.place AS SELECT 'two' AS here;
        GRANT USAGE ON SCHEMA one, two TO app_user; GRANT SELECT ON one.place, two.place TO app_user`);
      const [one, two] = [await connect(), await connect()];
      await one.query("SET search_path = one");
      await two.query("SET search_path = two");
      const named = { name: "here", text: "SELECT here FROM place", values: [] };
      for (const _round of [1, 2, 3]) {
        expect((await one.query(named)).rows).toEqual([{ here: "one" }]);
        expect((await two.query(named)).rows).toEqual([{ here: "two" }]);
      }
    });
  });

  it("keeps to max_prepared_statements, whatever clients prepare", async () => {
    await start({ max_prepared_statements: 3 });
    using client = await pooled.logIn("acme");
    const count = "SELECT count(*) <= 3 FROM pg_prepared_statements WHERE NOT from_sql";
    const names = Array.from({ length: 20 }, (_, index) => `s${index}`);
    client.send(bytes(...names.map((name) => parse(`SELECT '${name}'`, name)), sync));
    await client.readUntil("Z");
    for (const name of [...names, ...names.toReversed()]) {
      client.send(bytes(bind("", name), execute(), sync));
      const [, row] = await client.readUntil("Z");
      expect(row?.body.toString("latin1", 6)).toBe(name);
    }
    const [, row] = await client.query(count);
    expect(row?.body.toString("latin1", 6)).toBe("t");
    expect(await pooled.pins()).toEqual({});
  });

  it("pins a client whose statements take too much memory, which goes on", async () => {
    await start({ pool_size: 2 });
    const [client, other] = [await connect(), await connect("globex")];
    const long = (index: number): { name: string; text: string; values: unknown[] } => ({
      name: `long${index}`,
      text: `SELECT ${index} AS n -- ${"x".repeat(50_000)}`,
      values: [],
    });
    for (let index = 0; index < 30; index += 1) expect((await client.query(long(index))).rows).toEqual([{ n: index }]);
    await other.query("SELECT 1");
    for (let index = 0; index < 30; index += 1) expect((await client.query(long(index))).rows).toEqual([{ n: index }]);
    expect(await pooled.pins()).toEqual({ statement_memory: 1 });
  });
});
