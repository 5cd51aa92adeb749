/**
 * Everything at once, at random and by a seed: many tenants with several users each share few sessions, leave in any
 * state, and backends are terminated and cancelled under them. Every row that a client reads is its own tenant's and was
 * made for its own user's question, every write lands with the writer, and the pool ends with the sessions that it says.
 *
 * `PGVPD_TORTURE_SECONDS` says for how long (5 each by default), `PGVPD_TORTURE_SEED` which run.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend, errorFields, type ReadMessage } from "../support/bytes.ts";
import { availableVersions } from "../support/postgres.ts";
import { RawClient, sendCancel } from "../support/raw-client.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { modes, sizesOf, startPoolFixture, valuesOf, type PooledProxy, type PoolFixture } from "./pool-fixture.ts";

const SECONDS = Number(process.env["PGVPD_TORTURE_SECONDS"] ?? 5);
const SEED = Number(process.env["PGVPD_TORTURE_SEED"] ?? 20_260_107);
const TENANTS = 50;
const USERS = 4;
const CLIENTS = 200;
const POOL_SIZE = 12;

interface Player {
  readonly tenant: string;
  readonly user: string;
  readonly random: SeededRandom;
}

/** What went on; `foreign` is what must not be. */
interface Tally {
  readonly foreign: string[];
  readonly counts: Map<string, number>;
}

const versions = availableVersions().filter((version) => version === "18");

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: PoolFixture;
  beforeAll(async () => {
    fixture = await startPoolFixture({ version, settings: { max_connections: "60" } });
    await fixture.admin.query(`
      CREATE TABLE own (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL DEFAULT current_tenant_id(),
        user_id text NOT NULL DEFAULT current_setting('app.user_id'), owner text NOT NULL);
      SELECT pgvpd_protect('own', 'tenant_id');
      GRANT ALL ON own TO app_user; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app_user;
      CREATE TABLE copied (tenant_id text DEFAULT current_setting('app.current_tenant_id'),
        user_id text DEFAULT current_setting('app.user_id'), owner text NOT NULL);
      GRANT INSERT ON copied TO app_user;
      INSERT INTO own (tenant_id, user_id, owner)
        SELECT 't' || t, 'u' || u, 't' || t || '.u' || u
        FROM generate_series(0, ${TENANTS - 1}) t, generate_series(0, ${USERS - 1}) u, generate_series(1, 5)`);
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it.each(modes)(
    `%s pool: nobody gets what is another's in ${SECONDS} seconds`,
    async (mode) => {
      const pooled = await fixture.pool(mode, {
        pool_size: POOL_SIZE,
        pool_checkout_timeout: 60,
        tenant_pool_size: 4,
        context_variables: "app.current_tenant_id, app.user_id",
        value_separator: ".",
      });
      const tally: Tally = { foreign: [], counts: new Map() };
      const until = performance.now() + SECONDS * 1000;
      const isOver = (): boolean => performance.now() > until || tally.foreign.length > 20;
      await Promise.all([
        ...Array.from({ length: CLIENTS }, (_, index) => {
          const random = new SeededRandom(SEED + index);
          const tenant = `t${index % TENANTS}`;
          return play(pooled, { tenant, user: `u${random.below(USERS)}`, random }, tally, isOver);
        }),
        destroy(fixture, new SeededRandom(SEED - 1), tally, isOver),
      ]);
      if (process.env["PGVPD_TORTURE_SECONDS"] !== undefined)
        process.stdout.write(`${mode} ${JSON.stringify([...tally.counts])}\n`);
      expect(tally.foreign).toEqual([]);
      expect(tally.counts.get("statement")).toBeGreaterThan(50);
      expect(await misplaced(fixture)).toEqual([]);

      await expect.poll(() => pooled.proxy.sessionCount, { timeout: 20_000 }).toBe(0);
      const counted = async () => {
        const { total, idle, waiting } = await sizesOf(pooled.proxy);
        const { rows } = await fixture.admin.query<{ n: number }>(
          "SELECT count(*)::int AS n FROM pg_stat_activity WHERE usename = 'app_user'",
        );
        return { busy: total - idle, waiting, unknown: (rows[0]?.n ?? 0) - total, isTooMany: total > POOL_SIZE };
      };
      await expect
        .poll(counted, { timeout: 20_000, interval: 100 })
        .toEqual({ busy: 0, waiting: 0, unknown: 0, isTooMany: false });
      await pooled.proxy.stop();
    },
    SECONDS * 1000 + 90_000,
  );
});

/** Clients of one user behind each other, for as long as it lasts. */
async function play(pooled: PooledProxy, player: Player, tally: Tally, isOver: () => boolean): Promise<void> {
  const { random, tenant, user } = player;
  while (!isOver()) {
    let client: RawClient;
    try {
      client = await pooled.logIn(`${tenant}.${user}`);
    } catch (error) {
      count(tally, `no login: ${/"C":"(\w+)"/.exec(String(error))?.[1] ?? String(error).slice(0, 40)}`);
      continue;
    }
    count(tally, "login");
    try {
      for (let left = 1 + random.below(12); left > 0 && !isOver(); left -= 1) {
        await act(pooled, client, player, tally);
        count(tally, "statement");
      }
      leave(client, random);
    } catch (error) {
      // The backend was terminated, or the client has been told to go: the connection is over.
      count(tally, `lost: ${client.error["C"] ?? String(error).slice(0, 40)}`);
      client.socket.destroy();
    }
  }
}

type Action = (client: RawClient, player: Player, tally: Tally) => Promise<void>;

const own = ({ tenant, user }: Player): string => `${tenant}.${user}`;
const MINE = "SELECT owner, tenant_id, current_tenant_id(), current_setting('app.user_id') FROM own";

/** The tag makes every answer recognisable: it is its asker's. */
const ask = (player: Player): string =>
  `SELECT '${own(player)}:' || current_tenant_id() || '.' || current_setting('app.user_id')`;

function checkAsked(client: RawClient, player: Player, tally: Tally, messages: readonly ReadMessage[]): void {
  for (const value of valuesOf(messages)) {
    const isOwn = value === `${own(player)}:${own(player)}`;
    // It may poison itself, and where it has made its answers ambiguous RESET takes its context for good.
    const isItsFault = value === `${own(player)}:poison` || (value === null && ambiguous.has(client));
    if (!isOwn && !isItsFault) tally.foreign.push(`${own(player)} was told ${value}`);
  }
}

function checkRows(player: Player, tally: Tally, messages: readonly ReadMessage[]): void {
  const values = valuesOf(messages);
  for (let at = 0; at + 3 < values.length; at += 4) {
    const [owner = "", tenant, context, user] = values.slice(at, at + 4);
    const isOwn =
      owner?.startsWith(`${player.tenant}.`) === true &&
      tenant === player.tenant &&
      context === player.tenant &&
      user === player.user;
    if (!isOwn) tally.foreign.push(`${own(player)} has read ${values.slice(at, at + 4).join()}`);
  }
}

const extended = (sql: string, ...values: string[]): Buffer[] => [
  frontend.parse(sql),
  frontend.bind("", "", ...values),
  frontend.execute(),
];

/** A query of which nobody asks for more than that it is answered. */
const just =
  (...statements: ((player: Player) => string)[]): Action =>
  async (client, player) => {
    for (const statement of statements) await client.query(statement(player));
  };

const insert = (player: Player): string => `INSERT INTO own (owner) VALUES ('${own(player)}')`;

const actions: readonly Action[] = [
  async (client, player, tally) => checkAsked(client, player, tally, await client.query(ask(player))),
  async (client, player, tally) => checkRows(player, tally, await client.query(`${MINE} LIMIT 50`)),
  async (client, player, tally) => {
    client.send(...extended(`${MINE} ORDER BY id DESC LIMIT $1`, "20"), frontend.sync);
    checkRows(player, tally, await client.readUntil("Z"));
  },
  // The same text for all, and a name that all have: cached in every session, and each client's own.
  async (client, player, tally) => {
    client.send(
      frontend.closeStatement("s1"),
      frontend.parse(ask(player), "s1"),
      frontend.bind("", "s1"),
      frontend.execute(),
      frontend.sync,
    );
    checkAsked(client, player, tally, await client.readUntil("Z"));
    client.send(frontend.bind("", "s1"), frontend.execute(), frontend.sync);
    checkAsked(client, player, tally, await client.readUntil("Z"));
  },
  async (client, player, tally) => {
    client.send(
      frontend.closeStatement("s2"),
      frontend.parse(
        "INSERT INTO own (owner) VALUES (current_tenant_id() || '.' || current_setting('app.user_id')) RETURNING owner, tenant_id, current_tenant_id(), user_id",
        "s2",
      ),
      frontend.sync,
    );
    await client.readUntil("Z");
    client.send(frontend.bind("", "s2"), frontend.execute(), frontend.sync);
    checkRows(player, tally, await client.readUntil("Z"));
  },
  just(insert),
  just(
    () => "BEGIN",
    insert,
    insert,
    ({ random }) => random.pick(["COMMIT", "ROLLBACK"]),
  ),
  just(() => "BEGIN", insert),
  just(() => "SELECT 1 / 0"),
  just(
    () => "BEGIN",
    () => "SELECT 1 / 0",
  ),
  just(() => "ROLLBACK"),
  just(() => "CREATE TEMP TABLE IF NOT EXISTS own AS SELECT 0 AS id, 'nobody' AS tenant_id"),
  just(() => "BEGIN; DECLARE kept CURSOR WITH HOLD FOR SELECT * FROM own; COMMIT"),
  async (client, player, tally) => {
    await client.query("BEGIN");
    await client.query(`DECLARE c CURSOR FOR ${MINE}`);
    checkRows(player, tally, await client.query("FETCH 10 FROM c"));
    await client.query("ROLLBACK");
  },
  just(({ tenant }) => `LISTEN ${tenant}`),
  just(({ tenant }) => `NOTIFY ${tenant}, '${tenant}'`),
  just(({ tenant }) => `SET application_name = '${tenant}'`),
  async (client, player, tally) => {
    const wanted = `${player.tenant.slice(1)}7s`.replace(/^0/, "");
    const answer = await client.query(`SET statement_timeout = '${wanted}'`);
    const [value] = valuesOf(await client.query("SHOW statement_timeout"));
    if (answer.some(({ type }) => type === "E") || value === undefined) return;
    if (value !== wanted) tally.foreign.push(`${own(player)} has statement_timeout ${value}, not ${wanted}`);
  },
  just(() => "SELECT set_config('search_path', 'pg_catalog, public', false)"),
  just(() => "RESET ALL"),
  just(() => "DISCARD ALL"),
  just(() => "DEALLOCATE ALL"),
  just(() => "SELECT pg_try_advisory_lock(7)"),
  // A statement of the cache is replaced by one that a tenant has chosen, so that another one would run it.
  just((player) => poison(player)),
  async (client, player) => {
    client.send(frontend.query("COPY copied (owner) FROM STDIN"));
    if (!(await isCopying(client))) return;
    client.send(
      frontend.copyData(`${own(player)}\n`),
      player.random.oneIn(3) ? frontend.copyFail("no") : frontend.copyDone,
    );
    await client.readUntil("Z");
  },
  async (client, player) => {
    client.send(...extended("COPY copied (owner) FROM STDIN"), frontend.sync);
    ambiguous.add(client);
    if (!(await isCopying(client))) return;
    client.send(frontend.copyData("nobody\n"));
    if (player.random.oneIn(2)) throw new Error("left in COPY");
    client.send(frontend.copyFail("no"), frontend.sync);
    await client.readUntil("Z");
  },
  async (client, player, tally) => {
    client.send(frontend.query(`COPY (${ask(player)} FROM generate_series(1, 200)) TO STDOUT`));
    for (const { type, body } of await client.readUntil("Z")) {
      const isLost = body.toString() === "\\N\n" && ambiguous.has(client);
      if (type === "d" && !isLost && body.toString() !== `${own(player)}:${own(player)}\n`)
        tally.foreign.push(`${own(player)} has copied ${body.toString()}`);
    }
  },
  // Pipelines: answers come in the order of the questions, and are the asker's.
  async (client, player, tally) => {
    const length = 2 + player.random.below(8);
    for (let left = length; left > 0; left -= 1) {
      if (player.random.oneIn(2)) client.send(frontend.query(ask(player)));
      else client.send(...extended(ask(player)), frontend.sync);
    }
    for (let left = length; left > 0; left -= 1) checkAsked(client, player, tally, await client.readUntil("Z"));
  },
  async (client, player, tally) => {
    client.send(...extended(insert(player)), ...extended(ask(player)), frontend.flush, frontend.sync);
    checkAsked(client, player, tally, await client.readUntil("Z"));
  },
  just(() => "SELECT pg_sleep(0.005)"),
];

async function isCopying(client: RawClient): Promise<boolean> {
  for (;;) {
    const { type } = await client.readMessage();
    if (type === "G" || type === "Z") return type === "G";
  }
}

/** Tries the names that a session's statements have, without saying so in its text. */
function poison(player: Player): string {
  const evil = `SELECT ''${own(player)}:poison''`;
  return `DO $$ DECLARE s record; BEGIN FOR s IN SELECT name FROM pg_prepared_statements WHERE NOT from_sql LIMIT 20 LOOP
    EXECUTE format('DEALLOC' || 'ATE %I', s.name); EXECUTE format('PRE' || 'PARE %I AS ${evil}', s.name); END LOOP; END $$`;
}

/** Clients that have sent a Sync behind an Execute of COPY. */
const ambiguous = new WeakSet<RawClient>();

/** Clients that have sent a CancelRequest: it may come late, but never to another one. */
const cancelling = new WeakSet<RawClient>();

async function act(pooled: PooledProxy, client: RawClient, player: Player, tally: Tally): Promise<void> {
  const { random } = player;
  const { key } = client;
  let cancel: Promise<unknown> | undefined;
  if (key !== undefined && random.oneIn(8)) {
    cancelling.add(client);
    cancel = sendCancel(pooled.place, key).catch(() => {});
  }
  const before = client.messages.length;
  try {
    await random.pick(actions)(client, player, tally);
  } finally {
    for (const message of client.messages.slice(before)) checkUnasked(message, client, player, tally);
    await cancel;
  }
}

function checkUnasked({ type, body }: ReadMessage, client: RawClient, player: Player, tally: Tally): void {
  if (type === "A" && body.toString("utf8", 4).split("\0")[0] !== player.tenant)
    tally.foreign.push(`${own(player)} was notified: ${body.toString("utf8", 4)}`);
  if (type !== "E") return;
  const { S: severity, C: code = "", M: text = "" } = errorFields(body);
  count(tally, `error ${code}`);
  if (severity === "FATAL" && client.messages.at(-1)?.body !== body)
    tally.foreign.push(`${own(player)} went on after "${text}"`);
  if (code === "57014" && /user request/.test(text) && !cancelling.has(client))
    tally.foreign.push(`${own(player)} was cancelled`);
}

function leave(client: RawClient, random: SeededRandom): void {
  switch (random.below(5)) {
    case 0:
      client.send(frontend.query("BEGIN"), frontend.query("SELECT repeat('x', 1000) FROM generate_series(1, 2000)"));
      return void client.socket.resetAndDestroy();
    case 1:
      client.send(frontend.query("SELECT pg_sleep(0.02)").subarray(0, 9));
      return void client.socket.destroy();
    case 2:
      return void client.socket.destroy();
    case 3:
      client.send(...extended("INSERT INTO own (owner) VALUES ('nobody')"));
      return void client.socket.destroy();
    default:
      client.socket.end(frontend.terminate, () => client.socket.destroy());
  }
}

/** Terminates backends of the pool now and then. */
async function destroy(fixture: PoolFixture, random: SeededRandom, tally: Tally, isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    await new Promise((resolve) => {
      setTimeout(resolve, 50 + random.below(200));
    });
    await fixture.admin.query(
      `SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE usename = 'app_user' ORDER BY random() LIMIT 1) p`,
    );
    count(tally, "terminated");
  }
}

/** Rows that do not belong where they are. Without a context, COPY into a table without policies writes none. */
async function misplaced({ admin }: PoolFixture): Promise<unknown[]> {
  const { rows } = await admin.query(
    `SELECT * FROM (SELECT tenant_id, user_id, owner FROM own UNION ALL SELECT tenant_id, user_id, owner FROM copied) AS o
      WHERE tenant_id <> '' AND owner <> tenant_id || '.' || user_id OR owner = 'nobody' LIMIT 10`,
  );
  return rows;
}

function count({ counts }: Tally, what: string): void {
  counts.set(what, (counts.get(what) ?? 0) + 1);
}
