/**
 * However a client leaves a pooled session, in whatever state, and whatever goes wrong on the way: the next clients of
 * the same session, of its own tenant and of another one, see nothing of it, and nothing was committed that it had not
 * committed.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend } from "../support/bytes.ts";
import { availableVersions } from "../support/postgres.ts";
import { sendCancel, type RawClient } from "../support/raw-client.ts";
import {
  expectBackends,
  look,
  modes,
  sizesOf,
  startPoolFixture,
  untouched,
  type PooledProxy,
  type PoolFixture,
} from "./pool-fixture.ts";

const versions = availableVersions().filter((version) => version === "18");

const INSERT = "INSERT INTO notes (tenant_id, body) VALUES ('acme', 'uncommitted')";
/** Not `notes`: COPY FROM is not there for tables with row security. */
const COPY_IN = "COPY plain (body) FROM STDIN";
const COPY_ROW = "uncommitted\n";
/** More than all buffers on the way hold. */
const MUCH = "SELECT repeat('acme', 1000) FROM generate_series(1, 4000)";
const run = (sql: string): Buffer[] => [frontend.parse(sql), frontend.bind(), frontend.execute()];

interface State {
  readonly name: string;
  /** Brings a client that is logged in there. */
  readonly reach: (client: RawClient) => Promise<unknown>;
}

const byQueries =
  (...statements: string[]): State["reach"] =>
  async (client) => {
    for (const sql of statements) await client.query(sql);
  };

/** Does not read what comes any more. */
function readNoMore(client: RawClient): void {
  client.socket.pause();
}

const states: readonly State[] = [
  { name: "at rest", reach: byQueries("SELECT 1") },
  {
    name: "in a result that it does not read",
    reach: async (client) => {
      client.send(frontend.query(MUCH));
      await client.readUntil("D");
      readNoMore(client);
    },
  },
  {
    name: "with statements behind a result that it does not read",
    reach: async (client) => {
      client.send(frontend.query("BEGIN"), frontend.query(MUCH), frontend.query(INSERT));
      await client.readUntil("D");
      readNoMore(client);
    },
  },
  {
    name: "in COPY FROM STDIN",
    reach: async (client) => {
      client.send(frontend.query(COPY_IN));
      await client.readUntil("G");
      client.send(frontend.copyData(COPY_ROW), frontend.copyData(COPY_ROW.slice(0, 7)));
    },
  },
  {
    name: "in COPY TO STDOUT",
    reach: async (client) => {
      client.send(frontend.query(`COPY (${MUCH}) TO STDOUT`));
      await client.readUntil("d");
      readNoMore(client);
    },
  },
  { name: "in a transaction", reach: byQueries("BEGIN", INSERT, "LOCK TABLE notes") },
  { name: "in a failed transaction", reach: byQueries("BEGIN", INSERT, "SELECT 1 / 0") },
  {
    name: "with unsynced statements",
    reach: async (client) => client.send(...run(INSERT)),
  },
  {
    name: "with an unsynced LOCK",
    reach: async (client) => {
      client.send(...run("BEGIN"), ...run(INSERT), ...run("LOCK TABLE plain"), frontend.flush);
      for (let left = 3; left > 0; left -= 1) await client.readUntil("C");
    },
  },
  {
    name: "with an unsynced error",
    reach: async (client) => {
      client.send(...run(INSERT), ...run("SELECT 1 / 0"), frontend.flush, ...run(INSERT));
      await client.readUntil("E");
    },
  },
  {
    name: "behind a Flush",
    reach: async (client) => {
      client.send(...run(INSERT), frontend.flush);
      await client.readUntil("C");
    },
  },
  {
    name: "with a portal that is not read to its end",
    reach: async (client) => {
      client.send(frontend.parse(MUCH), frontend.bind("p"), frontend.execute("p", 3), frontend.flush);
      await client.readUntil("s");
    },
  },
  {
    name: "with a Sync behind an Execute of COPY",
    reach: async (client) => {
      client.send(...run(COPY_IN), frontend.sync);
      await client.readUntil("G");
      client.send(frontend.copyData(COPY_ROW));
    },
  },
  {
    name: "with Flush and Sync within a COPY",
    reach: async (client) => {
      client.send(...run(COPY_IN), frontend.flush, frontend.sync, frontend.copyData(COPY_ROW), frontend.sync);
      await client.readUntil("G");
      client.send(frontend.copyData(COPY_ROW), frontend.sync, frontend.copyFail("no"), frontend.sync, ...run(INSERT));
    },
  },
  {
    name: "with queries that are not answered",
    reach: async (client) => {
      client.send(
        frontend.query("BEGIN"),
        frontend.query(`SELECT pg_sleep(0.05)`),
        ...Array.from({ length: 20 }, () => frontend.query(INSERT)),
        ...run(INSERT),
      );
    },
  },
];

interface Ending {
  readonly name: string;
  readonly leave: (client: RawClient) => void;
}

const PARTLY = Buffer.concat([frontend.query("SELECT 'half of a message'")]).subarray(0, 12);

const endings: readonly Ending[] = [
  { name: "Terminate", leave: (client) => client.socket.end(frontend.terminate) },
  { name: "FIN", leave: (client) => client.socket.end() },
  { name: "RST", leave: (client) => client.socket.resetAndDestroy() },
  { name: "half a message and FIN", leave: (client) => client.socket.end(PARTLY) },
  {
    name: "half a message and RST",
    leave: (client) => client.socket.write(PARTLY, () => client.socket.resetAndDestroy()),
  },
];

interface Failure {
  readonly name: string;
  /** Goes on while the client leaves. */
  readonly fail: (fixture: PoolFixture, pooled: PooledProxy, client: RawClient) => Promise<unknown>;
}

const failures: readonly Failure[] = [
  { name: "nothing fails", fail: async () => {} },
  {
    name: "its backend is terminated",
    fail: (fixture) =>
      fixture.admin.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app_user'"),
  },
  {
    name: "its backend is cancelled",
    fail: (fixture) =>
      fixture.admin.query("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'app_user'"),
  },
  {
    name: "it sends CancelRequests",
    fail: (_fixture, pooled, { key }) =>
      Promise.all(Array.from({ length: 3 }, async () => key === undefined || sendCancel(pooled.place, key))),
  },
];

interface Leftover {
  readonly name: string;
  readonly sql: string;
  /** No text says it, so that in a transaction pool a client of the same identity may find it. */
  readonly isHidden?: boolean;
}

const leftovers: readonly Leftover[] = [
  {
    name: "a temporary table",
    sql: "CREATE TEMP TABLE notes AS SELECT 1 AS id, 'acme' AS tenant_id, 'temporary' AS body",
  },
  { name: "a cursor WITH HOLD", sql: "BEGIN; DECLARE kept CURSOR WITH HOLD FOR SELECT * FROM notes; COMMIT" },
  { name: "LISTEN", sql: "LISTEN acme" },
  { name: "a prepared statement", sql: "PREPARE acme AS SELECT 'acme'" },
  { name: "an advisory lock", sql: "SELECT pg_advisory_lock(42)" },
  { name: "an advisory lock in quotes", sql: `SELECT "pg_catalog"."pg_try_advisory_lock"(42)` },
  { name: "SET of the context", sql: "SET app.current_tenant_id = 'acme2'" },
  { name: "set_config of the context", sql: "SELECT set_config('app.current_tenant_id', 'acme2', false)" },
  {
    name: "SET of the context in a DO block",
    sql: "DO $$ BEGIN EXECUTE 'S' || 'ET app.current_' || 'tenant_id = ''acme2'''; END $$",
  },
  { name: "RESET of the context", sql: "RESET app.current_tenant_id" },
  { name: "SET ROLE", sql: "SET ROLE worker" },
  { name: "set_config of the role", sql: "SELECT set_config('role', 'worker', false)" },
  { name: "SET search_path", sql: "SET search_path = evil, public" },
  { name: "set_config of search_path", sql: "SELECT set_config('search_path', 'evil, public', false)" },
  { name: "SET statement_timeout", sql: "SET statement_timeout = '1h'" },
  { name: "SET SESSION CHARACTERISTICS", sql: "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY" },
  { name: "LISTEN in a DO block", sql: "DO $$ BEGIN EXECUTE 'LIS' || 'TEN acme'; END $$" },
  {
    name: "a temporary table of a DO block",
    sql: "DO $$ BEGIN EXECUTE 'CREATE TE' || 'MP TABLE notes AS SELECT 1 AS id'; END $$",
  },
  { name: "SET in a function", sql: "SELECT hidden('SE' || 'T search_path = evil')", isHidden: true },
  {
    name: "SET of the context in a function",
    sql: "SELECT hidden('SET app.' || 'current_tenant_id = ''acme2''')",
    isHidden: true,
  },
  { name: "SET ROLE in a function", sql: "SELECT hidden('SET ROLE worker')", isHidden: true },
  {
    name: "a temporary table of a function",
    sql: "SELECT hidden('CREATE TE' || 'MP TABLE notes AS SELECT 1 AS id')",
    isHidden: true,
  },
  { name: "an advisory lock of a function", sql: "SELECT hidden('SELECT pg_advisory' || '_lock(42)')", isHidden: true },
  { name: "LISTEN in a function", sql: "SELECT hidden('LISTEN acme')", isHidden: true },
  {
    name: "a prepared statement of a function",
    sql: "SELECT hidden('PREPARE acme AS SELECT ''acme''')",
    isHidden: true,
  },
];

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: PoolFixture;

  beforeAll(async () => {
    fixture = await startPoolFixture({ version });
    await fixture.admin.query(`
      CREATE ROLE worker; GRANT worker TO app_user; GRANT ALL ON notes TO worker;
      CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO app_user;
      CREATE TABLE evil.notes AS SELECT 1 AS id, 'acme' AS tenant_id, 'evil' AS body; GRANT ALL ON evil.notes TO app_user;
      CREATE FUNCTION hidden(command text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE command; END $$`);
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(modes)("%s pool", (mode) => {
    let pooled: PooledProxy;
    beforeAll(async () => {
      pooled = await fixture.pool(mode);
    });
    afterAll(() => pooled?.proxy.stop());

    describe.each(states)("$name", ({ reach }) => {
      it.each(failures)("$name", async ({ fail }) => {
        for (const { name, leave } of endings) {
          using client = await retried(() => pooled.logIn("acme"));
          await reach(client);
          const failing = fail(fixture, pooled, client);
          leave(client);
          await failing;
          expect({ name, sights: await lookAsNext(pooled) }).toEqual({ name, sights: NOTHING_LEFT });
        }
        expect(await committed(fixture)).toBe(0);
      });
    });

    describe.each(leftovers)("with $name", ({ sql, isHidden = false }) => {
      it.each(endings.filter(({ name }) => ["Terminate", "RST"].includes(name)))(
        "left with $name",
        async ({ leave }) => {
          using client = await pooled.logIn("acme");
          await client.query(sql);
          expect(client.types).not.toContain("E");
          // A client of the other tenant has the session while this one is still there, unless it has pinned it.
          const arriving = mode === "transaction" ? pooled.logIn("globex") : undefined;
          if (!isHidden) leave(client);
          using other = await arriving;
          if (other !== undefined) expect((await look(other)).seen).toEqual(untouched("globex"));
          if (isHidden) leave(client);
          other?.socket.destroy();
          expect(await lookAsNext(pooled)).toEqual(NOTHING_LEFT);
        },
      );
    });

    it("does not lend a session that DISCARD ALL cannot clean", async () => {
      using client = await pooled.logIn("acme");
      for (let at = 0; at < 12; at += 1)
        await client.query(
          `DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TEMP TABLE acme_${at}_%s (id int)', i); END LOOP; END $$`,
        );
      expect(client.types).not.toContain("E");
      client.socket.end(frontend.terminate);
      expect(await lookAsNext(pooled)).toEqual(NOTHING_LEFT);
    });

    it("has as many sessions as it should have after all that", async () => {
      await expect.poll(() => sizesOf(pooled.proxy)).toEqual({ total: 1, idle: 1, waiting: 0 });
      await expectBackends(fixture, 1);
    });
  });
});

const NOTHING_LEFT = [untouched("acme"), untouched("globex"), untouched("acme")];

/** The session is the same one, since there is only one; whoever waits for it has it when it was cleaned. */
async function lookAsNext(pooled: PooledProxy): Promise<unknown> {
  const sights: unknown[] = [];
  for (const tenant of ["acme", "globex", "acme"]) {
    const { seen } = await retried(async () => {
      using next = await pooled.logIn(tenant);
      const sight = await look(next);
      next.socket.end(frontend.terminate);
      await next.untilClosed();
      return sight;
    });
    sights.push(seen);
  }
  return sights;
}

/** A backend that was terminated while it was idle may be lent before anybody has noticed: an error, and no more. */
async function retried<T>(work: () => Promise<T>): Promise<T> {
  for (let left = 5; ; left -= 1) {
    try {
      return await work();
    } catch (error) {
      if (left === 0 || !/57P01|57P0|08006|connection is closed/.test(String(error))) throw error;
    }
  }
}

async function committed({ admin }: PoolFixture): Promise<number> {
  const { rows } = await admin.query<{ n: number }>(
    `SELECT count(*)::int AS n FROM (SELECT body FROM notes UNION ALL SELECT body FROM plain) AS b WHERE body = 'uncommitted'`,
  );
  return rows[0]?.n ?? -1;
}
