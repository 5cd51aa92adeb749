/**
 * What a client of the transaction pool is told is what PostgreSQL itself tells it, byte by byte: every sequence of
 * messages runs on a connection of its own and through a pool of one session, alone, among clients of another tenant
 * that make the session forget everything, and among clients of the same tenant that have prepared the same statements.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Proxy } from "../../../src/index.ts";
import { bytes, client as frontend, cstring, int16, int32, message } from "../../support/bytes.ts";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient } from "../../support/raw-client.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));
const POOL_PASSWORD = "the password of the pool";

const { bind, closeStatement, copyData, copyDone, copyFail, describeStatement, execute, flush, parse, query, sync } =
  frontend;
const describePortal = (name = ""): Buffer => message("D", "P", cstring(name));
const closePortal = (name = ""): Buffer => message("C", "P", cstring(name));
const run = (name: string, ...values: string[]): Buffer => bytes(bind("", name, ...values), execute());
/** `Int32 oid  Int16 formats  Int16 count  { Int32 length  Bytes value }  Int16 format of the result` */
const call = (oid: number, value: string): Buffer =>
  message("F", int32(oid), int16(0), int16(1), int32(value.length), value, int16(0));

const SELECT = "SELECT $1::int + 1 AS next, current_tenant_id()";
const s1 = parse(SELECT, "s1");

/** Each step ends with a Sync, a Query or a FunctionCall, and is answered before the next one is sent. */
const sequences: Readonly<Record<string, readonly Buffer[]>> = {
  "prepares once and runs often": [
    bytes(s1, sync),
    bytes(run("s1", "1"), sync),
    bytes(run("s1", "2"), run("s1", "3"), sync),
  ],
  "prepares and runs in one go": [
    bytes(s1, describeStatement("s1"), run("s1", "1"), sync),
    bytes(run("s1", "2"), sync),
  ],
  "runs two statements in turn": [
    bytes(s1, parse("SELECT 'other'", "s2"), sync),
    bytes(run("s2"), run("s1", "1"), run("s2"), sync),
    bytes(describeStatement("s2"), describeStatement("s1"), sync),
  ],
  "prepares under a name that is taken": [bytes(s1, sync), bytes(s1, sync), bytes(run("s1", "1"), sync)],
  "prepares other text under a name that is taken": [
    bytes(s1, sync),
    bytes(parse("SELECT 'another'", "s1"), run("s1"), sync),
    bytes(run("s1", "1"), sync),
  ],
  "prepares twice in one go": [bytes(s1, s1, run("s1", "1"), sync), bytes(run("s1", "1"), sync)],
  "names a statement that it never had": [
    bytes(run("missing"), sync),
    bytes(describeStatement("missing"), sync),
    bytes(closeStatement("missing"), sync),
    query("DEALLOCATE missing"),
  ],
  "closes, and prepares again": [
    bytes(s1, sync),
    bytes(closeStatement("s1"), sync),
    bytes(run("s1", "1"), sync),
    bytes(parse("SELECT 'again'", "s1"), run("s1"), sync),
  ],
  "closes and prepares in one go": [
    bytes(s1, sync),
    bytes(closeStatement("s1"), s1, run("s1", "1"), closeStatement("s1"), sync),
    bytes(describeStatement("s1"), sync),
  ],
  "closes twice": [bytes(s1, closeStatement("s1"), closeStatement("s1"), sync)],
  "deallocates one of two": [
    bytes(s1, parse("SELECT 2", "s2"), sync),
    query("DEALLOCATE s1"),
    bytes(run("s1", "1"), sync),
    bytes(run("s2"), sync),
    query("DEALLOCATE s1"),
    bytes(s1, run("s1", "1"), sync),
  ],
  'deallocates a name in quotes, with PREPARE, and beside "all"': [
    bytes(parse("SELECT 1", "My Name"), parse("SELECT 2", "all"), sync),
    query('DEALLOCATE PREPARE "My Name"'),
    bytes(run("My Name"), sync),
    query('DEALLOCATE "all"'),
    bytes(run("all"), sync),
  ],
  "deallocates by the extended protocol": [
    bytes(s1, sync),
    bytes(parse("DEALLOCATE s1"), run(""), sync),
    bytes(run("s1", "1"), sync),
  ],
  "deallocates all": [
    bytes(s1, parse("SELECT 2", "s2"), sync),
    query("DEALLOCATE ALL"),
    bytes(run("s1", "1"), sync),
    bytes(run("s2"), sync),
    bytes(s1, run("s1", "1"), sync),
  ],
  "deallocates all by the extended protocol": [
    bytes(s1, sync),
    bytes(parse("DEALLOCATE ALL"), run(""), sync),
    bytes(run("s1", "1"), sync),
  ],
  "deallocates in a transaction that fails": [
    bytes(s1, sync),
    query("BEGIN"),
    query("SELECT 1/0"),
    query("DEALLOCATE s1"),
    query("ROLLBACK"),
    bytes(run("s1", "1"), sync),
  ],
  "discards all, and prepares the same again": [
    bytes(s1, sync),
    query("DISCARD ALL"),
    bytes(run("s1", "1"), sync),
    bytes(s1, run("s1", "1"), sync),
  ],
  "cannot discard all in a transaction": [
    bytes(s1, sync),
    query("BEGIN"),
    query("DISCARD ALL"),
    query("ROLLBACK"),
    bytes(run("s1", "1"), sync),
  ],
  "discards plans and sequences": [bytes(s1, sync), query("DISCARD PLANS"), bytes(run("s1", "1"), sync)],
  "prepares with an error in it": [
    bytes(parse("SELEC 1", "bad"), run("bad"), sync),
    bytes(run("bad"), sync),
    bytes(parse("SELECT 'good'", "bad"), run("bad"), sync),
  ],
  "prepares behind an error": [
    bytes(run("missing"), s1, run("s1", "1"), sync),
    bytes(run("s1", "1"), sync),
    bytes(s1, run("s1", "1"), sync),
  ],
  "closes behind an error": [
    bytes(s1, sync),
    bytes(run("missing"), closeStatement("s1"), sync),
    bytes(run("s1", "1"), sync),
  ],
  "fails while it runs": [
    bytes(parse("SELECT 1 / $1::int", "divide"), run("divide", "0"), run("divide", "1"), sync),
    bytes(run("divide", "1"), sync),
  ],
  "gives a value of the wrong type": [bytes(s1, run("s1", "one"), sync), bytes(run("s1", "1"), sync)],
  "prepares in a failed transaction": [
    bytes(parse("SELECT 'outside'", "outside"), sync),
    query("BEGIN"),
    query("SELECT 1/0"),
    bytes(s1, run("s1", "1"), sync),
    bytes(run("outside"), sync),
    query("ROLLBACK"),
    bytes(run("s1", "1"), sync),
    bytes(run("outside"), sync),
  ],
  "prepares what was known in a failed transaction": [
    bytes(s1, sync),
    bytes(closeStatement("s1"), sync),
    query("BEGIN"),
    bytes(parse("SELECT 1/0"), run(""), s1, sync),
    bytes(s1, sync),
    query("ROLLBACK"),
    bytes(run("s1", "1"), sync),
  ],
  "prepares in a transaction that is rolled back": [
    query("BEGIN"),
    bytes(s1, run("s1", "1"), sync),
    query("ROLLBACK"),
    bytes(run("s1", "1"), sync),
  ],
  "ends a transaction by prepared statements": [
    bytes(parse("BEGIN", "begin"), parse("ROLLBACK", "rollback"), parse("COMMIT", "commit"), sync),
    bytes(run("begin"), sync),
    bytes(parse("SELECT 1/0"), run(""), sync),
    bytes(run("commit"), sync),
    bytes(run("begin"), run("begin"), sync),
    bytes(run("rollback"), sync),
    bytes(run("rollback"), sync),
  ],
  "keeps savepoints": [
    query("BEGIN; SAVEPOINT a"),
    query("SELECT 1/0"),
    query("ROLLBACK TO a"),
    bytes(s1, run("s1", "1"), sync),
    query("RELEASE a"),
    query("COMMIT"),
  ],
  "uses the unnamed statement again": [
    bytes(parse(SELECT), sync),
    bytes(run("", "1"), sync),
    bytes(run("", "2"), sync),
    bytes(describeStatement(""), sync),
  ],
  "loses the unnamed statement to a simple query": [
    bytes(parse("SELECT 1"), sync),
    query("SELECT 2"),
    bytes(run(""), sync),
  ],
  "loses the unnamed statement to one that fails": [
    bytes(parse("SELECT 1"), sync),
    bytes(parse("SELEC 2"), sync),
    bytes(run(""), sync),
  ],
  "keeps the unnamed statement where the next one is not read": [
    bytes(parse("SELECT 'first'"), sync),
    bytes(run("missing"), parse("SELECT 'second'"), sync),
    bytes(run(""), sync),
  ],
  "has no unnamed statement": [
    bytes(run(""), sync),
    bytes(describeStatement(""), sync),
    bytes(closeStatement(""), sync),
  ],
  "closes the unnamed statement": [
    bytes(parse("SELECT 1"), sync),
    bytes(closeStatement(""), sync),
    bytes(run(""), sync),
  ],
  "reads a portal in parts": [
    query("BEGIN"),
    bytes(parse("SELECT generate_series(1, 5)", "rows"), bind("p", "rows"), execute("p", 2), sync),
    bytes(execute("p", 2), flush, execute("p", 2), sync),
    bytes(closePortal("p"), execute("p"), sync),
    query("ROLLBACK"),
  ],
  "loses a portal with its transaction": [
    bytes(parse("SELECT generate_series(1, 5)", "rows"), bind("p", "rows"), execute("p", 2), sync),
    bytes(execute("p", 2), sync),
    bytes(describePortal("p"), sync),
  ],
  "describes what returns nothing": [
    bytes(parse("DELETE FROM plain WHERE id = $1", "gone"), describeStatement("gone"), sync),
    bytes(bind("", "gone", "1"), describePortal(), execute(), sync),
  ],
  "runs what is empty": [
    query(""),
    query(";"),
    query("-- nothing"),
    bytes(parse("", "empty"), describeStatement("empty"), run("empty"), sync),
    bytes(run("empty"), sync),
    sync,
  ],
  "answers several statements of one text": [
    query("SELECT 1; SELECT 2"),
    query("SELECT 1; SELECT 1/0; SELECT 3"),
    query("BEGIN; SELECT 1; COMMIT; SELECT 2"),
    query("COMMIT"),
    bytes(parse("SELECT 1; SELECT 2"), sync),
  ],
  "answers many requests in their order": [
    bytes(
      s1,
      ...Array.from({ length: 50 }, (_, index) => bytes(run("s1", String(index)), sync)),
      query("SELECT 'end'"),
    ),
    query("SELECT 'the rest'"),
  ],
  "copies out, in, and not at all": [
    query("COPY (SELECT 1, current_tenant_id()) TO STDOUT"),
    query("BEGIN"),
    bytes(query("COPY plain FROM STDIN"), copyData("1\tone\n"), copyDone),
    bytes(query("COPY plain FROM STDIN"), copyData("x"), copyFail("no more")),
    query("ROLLBACK"),
    bytes(copyData("late"), copyDone, query("SELECT 'after'")),
  ],
  "raises notices": [
    query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$"),
    query("COMMIT"),
    query("ABORT"),
  ],
  "sets and shows what PostgreSQL reports": [
    query("SET timezone = 'Asia/Tokyo'"),
    query("SHOW timezone"),
    bytes(parse("SET DateStyle = 'German'"), run(""), sync),
    query("SELECT '2024-02-03'::date, '2024-02-03 00:00:00+00'::timestamptz"),
    query("SET application_name = 'a name with ''quotes'' and \\ in it'"),
    query("SHOW application_name"),
    query("RESET timezone"),
    query("SHOW timezone"),
    query("SHOW DateStyle"),
  ],
  "sets what is tracked": [
    query("SET statement_timeout = '7s'"),
    query("SHOW statement_timeout"),
    query("SET search_path TO public, \"$user\", 'other'"),
    query("SHOW search_path"),
    query("SET statement_timeout TO DEFAULT"),
    query("SHOW statement_timeout"),
    query("RESET search_path"),
    query("SHOW search_path"),
    query("SET lock_timeout = 'nonsense'"),
    query("SHOW lock_timeout"),
    query("SET SESSION extra_float_digits = 0"),
    query("SELECT 0.1::float8 + 0.2::float8"),
  ],
  "sets in a transaction": [
    query("BEGIN"),
    query("SET statement_timeout = '7s'"),
    query("SET LOCAL lock_timeout = '8s'"),
    query("SET timezone = 'Asia/Tokyo'"),
    query("ROLLBACK"),
    query("SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('timezone')"),
    query("BEGIN; SET statement_timeout = '9s'; SET timezone = 'Asia/Tokyo'; COMMIT"),
    query("SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('timezone')"),
  ],
  "resets all": [
    bytes(s1, sync),
    query("SET statement_timeout = '7s'; SET timezone = 'Asia/Tokyo'"),
    query("RESET ALL"),
    query("SELECT current_setting('statement_timeout'), current_setting('timezone'), current_tenant_id()"),
    bytes(run("s1", "1"), sync),
  ],
  "resets as asyncpg's pool does": [
    bytes(s1, sync),
    query("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"),
    bytes(run("s1", "1"), sync),
    query("SELECT count(*) FROM notes"),
  ],
  "resets as Npgsql does, in front of what comes next": [
    bytes(s1, sync),
    bytes(query("DISCARD ALL"), parse("SELECT count(*), current_tenant_id() FROM notes"), run(""), sync),
    bytes(sync),
    bytes(s1, run("s1", "1"), sync),
  ],
  "calls a function by its message": [call(1317, "seven"), call(1, "x"), query("SELECT 1")],
  "declares cursors in a transaction": [
    query("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 5)"),
    query("FETCH 2 FROM c"),
    query("COMMIT"),
    query("FETCH 2 FROM c"),
  ],
  "prepares in SQL": [
    query("PREPARE mine(int) AS SELECT $1 + 1"),
    query("EXECUTE mine(1)"),
    bytes(run("mine", "2"), sync),
    query("DEALLOCATE mine"),
    query("EXECUTE mine(1)"),
  ],
  "names a statement in letters that are not ASCII": [
    bytes(parse("SELECT 'é'", "naïve"), sync),
    bytes(run("naïve"), sync),
    query('DEALLOCATE "naïve"'),
    bytes(run("naïve"), sync),
  ],
};

/** What the clients of the same tenant have prepared already, under names of their own. */
const TEXTS = [
  SELECT,
  "SELECT 'other'",
  "SELECT 'outside'",
  "SELECT 1",
  "SELECT 2",
  "BEGIN",
  "SELECT generate_series(1, 5)",
];

/** Number of ReadyForQuery that answer a step. */
function readiesOf(step: Buffer): number {
  let readies = 0;
  for (let at = 0; at < step.length; at += 1 + step.readInt32BE(at + 1)) {
    if ("QSF".includes(String.fromCharCode(step[at] ?? 0))) readies += 1;
  }
  return readies;
}

/** In a failed transaction the place in PostgreSQL's source depends on whether a statement had to be prepared first. */
function textOf(body: Buffer): string {
  const text = body.toString("latin1");
  return text.includes("\0C25P02\0") ? text.replace(/\0F[^]*$/, "") : text;
}

/** Runs the steps and gives each answer as text that is easy to compare. */
async function answersTo(
  client: RawClient,
  steps: readonly Buffer[],
  disturb: () => Promise<void> = async () => {},
): Promise<string[][]> {
  const answers: string[][] = [];
  for (const step of steps) {
    client.send(step);
    const messages = [];
    for (let left = readiesOf(step); left > 0; left -= 1) messages.push(...(await client.readUntil("Z")));
    answers.push(messages.map(({ type, body }) => `${type} ${JSON.stringify(textOf(body))}`));
    if (messages.at(-1)?.body[0] === 0x49) await disturb();
  }
  return answers;
}

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  let proxy: Proxy;
  let port: number;
  const direct = (): Promise<RawClient> =>
    RawClient.logIn(fixture.server, {
      user: "app_user",
      password: PASSWORD,
      parameters: { database: "postgres", options: "-c app.current_tenant_id=acme" },
    });
  const pooled = (tenant = "acme"): Promise<RawClient> =>
    RawClient.logIn(
      { host: "127.0.0.1", port },
      { user: `app_user.${tenant}`, password: POOL_PASSWORD, parameters: { database: "postgres" } },
    );

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
    ({ proxy, port } = await fixture.proxyWith({
      pool_mode: "transaction",
      pool_password: POOL_PASSWORD,
      upstream_password: PASSWORD,
      pool_size: 1,
    }));
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(Object.entries(sequences))("a client that %s", (does, steps) => {
    let expected: string[][];
    beforeAll(async () => {
      using client = await direct();
      expected = await answersTo(client, steps);
    });

    it("is answered by a pool as by PostgreSQL", async () => {
      using client = await pooled();
      expect(await answersTo(client, steps)).toEqual(expected);
    });

    it("is answered so in spite of another tenant's queries", async () => {
      using client = await pooled();
      using other = await pooled("globex");
      const disturb = async (): Promise<void> => {
        await other.query("SELECT 'globex was here'");
      };
      // Where the session is kept, nobody else gets one.
      const isPinned = /^(?:prepares in SQL|sets in a transaction)$/.test(does);
      expect(await answersTo(client, steps, isPinned ? undefined : disturb)).toEqual(expected);
    });

    it("is answered so beside clients that have prepared the same", async () => {
      using twin = await pooled();
      await answersTo(twin, [bytes(...TEXTS.map((text, index) => parse(text, `twin${index}`)), sync)]);
      using client = await pooled();
      expect(await answersTo(client, steps)).toEqual(expected);
    });
  });

  it("leaves nobody behind", async () => {
    await expect.poll(() => proxy.sessionCount, { timeout: 10_000 }).toBe(0);
  });
});
