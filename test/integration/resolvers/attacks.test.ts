/** What a tenant, or a resolver that goes wrong, can do to resolvers: in both places where they run. */
import { readFileSync } from "node:fs";
import { Client, DatabaseError } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { client as frontend } from "../../support/bytes.ts";
import { RawClient } from "../../support/raw-client.ts";
import { errorOf, PASSWORD } from "../../support/tenant-fixture.ts";
import {
  chain,
  org,
  single,
  startStage,
  user,
  type Place,
  type ProxyOptions,
  type ResolverProxy,
  type Stage,
} from "./stage.ts";

const versions = availableVersions().filter((version) => version === "15" || version === "18");

describe.each(versions)("PostgreSQL %s", (version) => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await startStage({ version, settings: { log_statement: "all" } });
  });
  afterAll(() => stage[Symbol.asyncDispose]());
  beforeEach(() => stage.reset());

  /** A proxy that ends with the test. */
  async function proxyOf(options: ProxyOptions): Promise<ResolverProxy> {
    const proxy = await stage.proxy(options);
    onTestFinished(() => proxy.stop());
    return proxy;
  }

  describe.each<Place>(["dedicated", "session"])("resolvers %s", (place) => {
    const proxyWith = (query: string, more = "", settings = {}): Promise<ResolverProxy> =>
      proxyOf({ place, toml: single(query, more), settings });

    /** What a client hears when a resolver ends its login, and what the log says. */
    async function refusal(proxy: ResolverProxy, value = user(1)): Promise<string> {
      const error = await errorOf(proxy.connect(value));
      expect(error).toBeInstanceOf(DatabaseError);
      const { code, message, severity } = error as DatabaseError;
      expect({ code, message, severity }).toEqual({
        code: "28000",
        message: "the session context could not be resolved",
        severity: "FATAL",
      });
      return String(proxy.log.findLast((line) => line["code"] === "resolver_failed")?.["detail"]);
    }

    it.each([
      "$1",
      "' OR 1=1 --",
      "\\'",
      "\\",
      '"',
      "%s",
      "x'); DROP TABLE cases; --",
      "$$",
      "é",
      "😀",
      "NULL",
      "{}",
      "a b",
    ])("takes %j as it stands", async (value) => {
      const proxy = await proxyWith("SELECT $1::text AS x, 'always' AS y");
      expect(await proxy.ask(value, "SELECT current_setting('app.x')")).toEqual([value]);
    });

    it.each([
      ["a NUL", Buffer.from("app_user.a\0b"), "08P01"],
      ["0xFF", Buffer.from([...Buffer.from("app_user."), 0xff]), "28000"],
      ["half a character", Buffer.from([...Buffer.from("app_user."), 0xc3]), "28000"],
    ])("refuses %s with %s", async (_what, name, code) => {
      const proxy = await proxyWith("SELECT $1::text AS x");
      using client = await RawClient.open({ host: "127.0.0.1", port: proxy.port });
      const pairs = Buffer.concat([Buffer.from("user\0"), name, Buffer.from("\0database\0plain\0\0")]);
      const head = Buffer.alloc(8);
      head.writeInt32BE(pairs.length + 8, 0);
      head.writeInt32BE(196_608, 4);
      client.send(head, pairs);
      await client.untilClosed();
      expect(client.error["C"]).toBe(code);
      expect(await proxy.metric("pgvpd_resolver_executions_total")).toBe(0);
    });

    it("takes no query of the client's for its own, pipelined behind any answer", async () => {
      const proxy = await proxyWith("SELECT $1::text AS x");
      for (const behind of [0, 1, 2]) {
        using client = await RawClient.open({ host: "127.0.0.1", port: proxy.port });
        const bytes = frontend.query("SELECT 'forged' AS x");
        const login = { user: "app_user.v", password: PASSWORD, parameters: { database: "plain" } };
        await client.logIn({ ...login, pipelined: { behind, bytes } });
        await client.untilClosed();
        expect(client.error["C"]).toBe("08P01");
      }
      expect(readFileSync(stage.server.logFile, "utf8")).not.toContain("forged");
    });

    it("is not moved by an attacker's schema, functions, operators and defaults of the role", async () => {
      await stage.sql(`CREATE SCHEMA app_user AUTHORIZATION app_user; GRANT TEMP ON DATABASE plain TO app_user`);
      onTestFinished(async () => {
        await stage.sql(`DROP SCHEMA app_user CASCADE; ALTER ROLE app_user RESET ALL`);
      });
      const proxy = await proxyOf({ place, toml: chain() });
      const attacker = await proxy.connect(user(9));
      await attacker.query(`CREATE TABLE app_user.org_members (user_id uuid, org_id uuid, role text);
         INSERT INTO app_user.org_members VALUES ('${user(1)}', '${org(2)}', 'admin'), ('${user(9)}', '${org(2)}', 'admin');
         GRANT ALL ON app_user.org_members TO PUBLIC; GRANT USAGE ON SCHEMA app_user TO PUBLIC;
         CREATE FUNCTION app_user.always(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR app_user.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = app_user.always);
         CREATE FUNCTION app_user.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
         CREATE FUNCTION app_user.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
         CREATE TEMP TABLE team_members (user_id uuid, org_id uuid, team text);
         ALTER ROLE app_user SET search_path = app_user, pg_temp, public, pg_catalog`);
      const paths = [{}, { options: "-c search_path=app_user,pg_temp" }];
      for (const more of paths) {
        for (const one of [user(1), user(2), user(9)]) {
          expect(await proxy.ask(one, "SELECT id FROM public.cases ORDER BY id", more)).toEqual(
            await stage.truth(one, "plain"),
          );
        }
      }
    });

    it.each(["startup", "query"])(
      "with context_injection = %s a default of the role is not taken for what a resolver gave",
      async (how) => {
        const proxy = await proxyOf({ place, toml: chain(), settings: { context_injection: how } });
        const attacker = await proxy.connect(user(9));
        onTestFinished(async () => {
          await stage.sql("ALTER ROLE app_user RESET ALL");
        });
        for (const one of [`app.org_id = '${org(2)}'`, "app.org_role = 'admin'"]) {
          expect(await errorOf(attacker.query(`ALTER ROLE app_user SET ${one}`))).toMatchObject({ code: "42501" });
          await stage.sql(`ALTER ROLE app_user SET ${one}`);
        }
        expect(await proxy.ask(user(9), "SELECT id FROM cases")).toEqual(await stage.truth(user(9), "plain"));
        expect(await proxy.ask(user(9), "SELECT pgvpd_context('app.org_id')")).toEqual([null]);
        expect(await proxy.ask(user(1), "SELECT pgvpd_context('app.org_id')")).toEqual([org(1)]);
      },
    );

    it("leaves a variable without a value unset", async () => {
      const proxy = await proxyOf({ place, toml: chain() });
      expect(await proxy.ask(user(9), "SELECT current_setting('app.org_id', true)")).toEqual([null]);
    });

    it.each(["RESET ALL", "DISCARD ALL", "RESET app.org_id"])("shows no other rows after %s", async (statement) => {
      for (const database of ["plain", "sealed"] as const) {
        const proxy = await proxyOf({ place, toml: chain(), database });
        const client = await proxy.connect(user(2));
        await client.query(statement);
        const { rows } = await client.query<{ id: number }>("SELECT id FROM cases");
        expect(await stage.truth(user(2), database)).toEqual(expect.arrayContaining(rows.map(({ id }) => id)));
      }
    });

    it.each([`-c app.org_id=${org(2)}`, "--App.Org-Role=admin", "-c APP.TEAMS={red}", `-c app.case_ids=1,2,3`])(
      "refuses a client that sends %s",
      async (options) => {
        const proxy = await proxyOf({ place, toml: chain() });
        expect(await errorOf(proxy.connect(user(9), { options }))).toMatchObject({ code: "42501" });
      },
    );

    it("runs with nothing of the client's, which comes in force afterwards, and leaves nothing behind", async () => {
      const proxy = await proxyWith(
        `SELECT concat_ws('|', current_setting('TimeZone'), current_setting('app.own', true), current_setting('search_path'),
           current_setting('transaction_read_only'), current_setting('statement_timeout'), $1::text) AS x`,
        "timeout = 1.5",
      );
      const options = "-c TimeZone=Asia/Tokyo -c app.own=mine -c search_path=mine -c statement_timeout=7s";
      const client = await proxy.connect("v", { options });
      const shown = async (name: string): Promise<unknown> =>
        Object.values((await client.query<Record<string, string>>(`SHOW ${name}`)).rows[0] ?? {})[0];
      const [zone, ...rest] = String(await shown("app.x")).split("|");
      expect(zone).not.toBe("Asia/Tokyo");
      expect(rest).toEqual(['"pg_catalog", "public", "pg_temp"', "on", "1500ms", "v"]);
      expect([await shown("TimeZone"), await shown("app.own"), await shown("search_path")]).toEqual([
        "Asia/Tokyo",
        "mine",
        "mine",
      ]);
      expect([await shown("statement_timeout"), await shown("transaction_read_only")]).toEqual(["7s", "off"]);
      expect((await client.query("SELECT FROM pg_prepared_statements")).rowCount).toBe(0);
      const { rows } = await (await proxy.connect("v")).query<{ search_path: string }>("SHOW search_path");
      expect(rows[0]?.search_path).toBe('"$user", public');
    });

    it.each([
      ["that writes", "INSERT INTO written VALUES ($1::text) RETURNING v AS x", "25006"],
      ["that calls a function which writes", "SELECT write($1::text) AS x", "25006"],
      ["that takes a number of a sequence", "SELECT nextval('counter')::text || $1 AS x", "25006"],
      [
        "that would go on writing behind its transaction",
        "SELECT set_config('transaction_read_only', 'off', false) || $1 AS x",
        "25001|22023",
      ],
      ["that takes too long", "SELECT pg_sleep(60)::text || $1 AS x", "57014"],
      ["that gives two rows", "SELECT $1::text AS x UNION ALL SELECT 'b'", "more than one row"],
      [
        "that gives rows without an end",
        "SELECT n || $1::text AS x FROM generate_series(1, 1000000000000) AS n",
        "more than one row|57014",
      ],
      ["that lacks a column", "SELECT $1::text AS y", "no column x: it has y"],
      ["that has the column twice", "SELECT $1::text AS x, 2 AS x", "two columns x"],
      ["that is no SQL", "SELECT $1 FROM WHERE", "42601"],
      ["that is no query", "COPY (SELECT $1::text) TO STDOUT", "requires 0"],
      ["whose table is not there", "SELECT $1::text AS x FROM nowhere", "42P01"],
      ["whose value does not fit", "SELECT ($1::int)::text AS x", "22P02: a value does not fit its parameter"],
    ])("ends the login where a resolver is one %s", async (_what, query, why) => {
      await stage.sql(`CREATE TABLE IF NOT EXISTS written (v text); GRANT ALL ON written TO PUBLIC;
        CREATE SEQUENCE IF NOT EXISTS counter; GRANT ALL ON SEQUENCE counter TO PUBLIC;
        CREATE OR REPLACE FUNCTION write(text) RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ INSERT INTO written VALUES ($1) RETURNING v $$`);
      const proxy = await proxyWith(query, "timeout = 0.2");
      const detail = await refusal(proxy);
      expect(detail).toMatch(new RegExp(why));
      expect(detail).not.toContain(user(1));
      expect(await stage.sql("SELECT * FROM written")).toEqual([]);
    });

    it("ends the login where a list has no end, in bounded memory", async () => {
      const proxy = await proxyWith(
        "SELECT generate_series(1, 100000000) || $1::text AS x", // rows come as they are made
        'rows = "array"',
      );
      expect(await refusal(proxy)).toMatch(/resolver one: .*1 MiB/);
    });

    it.each(["plain", "sealed"] as const)("carries a list of 5,000 UUIDs: %s", async (database) => {
      const toml = single(
        "SELECT md5(n::text)::uuid AS x FROM generate_series(1, 5000) AS n WHERE $1::text <> ''",
        'rows = "array"',
      );
      const proxy = await proxyOf({ place, toml, database });
      const question = `SELECT count(DISTINCT u) = 5000 AND bool_and(u IN (SELECT md5(n::text)::uuid FROM generate_series(1, 5000) AS n))
        FROM unnest(pgvpd_context_uuid_array('app.x')) AS u`;
      expect(await proxy.ask("v", question)).toEqual([true]);
    });

    it("leaves other sessions alone, and its connections usable, when values do not fit", async () => {
      const proxy = await proxyWith("SELECT ($1::int)::text AS x");
      const other = await proxy.connect("7");
      const pids = (): Promise<unknown> =>
        stage.sql("SELECT array_agg(pid ORDER BY pid) AS pids FROM pg_stat_activity WHERE usename = 'resolver'");
      const before = await pids();
      const results = await Promise.allSettled(Array.from({ length: 20 }, (_, n) => proxy.connect(`no number ${n}`)));
      expect(new Set(results.map(({ status }) => status))).toEqual(new Set(["rejected"]));
      if (place === "dedicated") {
        const after = JSON.stringify(await pids());
        expect(after.length).toBeLessThan(100); // four connections at most
        for (const pid of JSON.stringify(before).match(/[0-9]+/g) ?? []) expect(after).toContain(pid);
      }
      expect((await other.query<{ x: string }>("SHOW app.x")).rows).toEqual([{ "app.x": "7" }]);
      expect(await proxy.ask("8", "SHOW app.x")).toEqual(["8"]);
    });

    it("does not let an empty value, or NULL, pass for a value", async () => {
      const toml = `${single("SELECT NULLIF($1, 'null') AS x")}
[[resolver]]
name = "two"
query = "SELECT 'ran with ' || $1 AS y"
params = ["app.x"]
inject = { "app.y" = "y" }`;
      const proxy = await proxyOf({ place, toml });
      const y = "SELECT pgvpd_context('app.y')";
      expect(await proxy.ask("v", y)).toEqual(["ran with v"]);
      expect(await proxy.ask("null", y)).toEqual([null]);
      expect(await proxy.ask("null", "SELECT pgvpd_context('app.x')")).toEqual([null]);
    });

    it("asks each database for itself", async () => {
      await stage.sql(`UPDATE org_members SET org_id = '${org(2)}' WHERE user_id = '${user(1)}'`, [], "sealed");
      const proxy = await proxyOf({ place, toml: chain("cache_ttl = 3600") });
      const orgIn = (database: string): Promise<unknown[]> =>
        proxy.ask(user(1), "SELECT current_setting('app.org_id')", { database });
      expect([await orgIn("plain"), await orgIn("sealed")]).toEqual([[org(1)], [org(2)]]);
      expect(await proxy.metric("pgvpd_resolver_executions_total", { resolver: "org" })).toBe(2);
    });
  });

  describe("in the client's own session", () => {
    it("the client hears nothing of what a query says besides its rows", async () => {
      await stage.sql(
        `CREATE FUNCTION talks(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'a rule of ours'; RETURN $1; END $$`,
      );
      const proxy = await proxyOf({ place: "session", toml: single("SELECT talks($1) AS x") });
      const notices: unknown[] = [];
      const login = { host: "127.0.0.1", port: proxy.port, user: "app_user.v", password: PASSWORD, database: "plain" };
      const client = new Client(login);
      client.on("notice", (notice) => notices.push(notice.message));
      await client.connect();
      onTestFinished(() => client.end());
      expect((await client.query("SHOW app.x")).rows).toEqual([{ "app.x": "v" }]);
      expect(notices).toEqual([]);
    });

    it("an answer that the query took from the context is for that context alone", async () => {
      const toml = `[[resolver]]
name = "one"
query = "SELECT current_setting('app.tenant') || $1 AS x"
params = ["app.user_id"]
inject = { "app.x" = "x" }
cache_ttl = 3600`;
      const settings = { context_variables: "app.tenant,app.user_id" };
      const proxy = await proxyOf({ place: "session", toml, settings });
      expect(await proxy.ask("acme:7", "SHOW app.x")).toEqual(["acme7"]);
      expect(await proxy.ask("globex:7", "SHOW app.x")).toEqual(["globex7"]);
      expect(await proxy.ask("acme:7", "SHOW app.x")).toEqual(["acme7"]);
      expect(await proxy.metric("pgvpd_resolver_executions_total")).toBe(2);
    });

    it("values are bound in UTF-8, whatever encoding the client or its role wants", async () => {
      await stage.sql("ALTER ROLE app_user SET client_encoding = 'GBK'");
      onTestFinished(async () => {
        await stage.sql("ALTER ROLE app_user RESET ALL");
      });
      const settings = { upstream_startup_parameters: "-client_encoding" };
      const proxy = await proxyOf({ place: "session", toml: single("SELECT upper($1) AS x"), settings });
      for (const more of [{}, { options: "-c client_encoding=LATIN1" }]) {
        expect(await proxy.ask("acmé", "SELECT current_setting('app.x') = U&'ACM\\00C9'", more)).toEqual([true]);
      }
    });
  });

  describe("resolver_user", () => {
    const settings = { handshake_timeout: 5 };

    it.each([
      ["has another password", { resolver_password: "wrong" }, "password authentication failed"],
      ["is not there", { resolver_user: "nobody" }, "password authentication failed"],
    ])("that %s ends the login, and the log alone knows why", async (_what, wrong, why) => {
      const toml = single("SELECT $1::text AS x");
      const proxy = await proxyOf({ place: "dedicated", toml, settings: { ...settings, ...wrong } });
      const error = await errorOf(proxy.connect("v"));
      expect(error).toMatchObject({ code: "28000", message: "pgvpd could not log in to the upstream server" });
      expect(JSON.stringify(proxy.log)).toContain(why);
    });

    it.each([
      [
        "may not connect to the database",
        "REVOKE CONNECT ON DATABASE plain FROM PUBLIC, resolver; GRANT CONNECT ON DATABASE plain TO app_user",
        "GRANT CONNECT ON DATABASE plain TO PUBLIC",
        "permission denied for database",
      ],
      [
        "has no connection left",
        "ALTER ROLE resolver CONNECTION LIMIT 0",
        "ALTER ROLE resolver CONNECTION LIMIT -1",
        "too many connections for role",
      ],
      ["may not log in", "ALTER ROLE resolver NOLOGIN", "ALTER ROLE resolver LOGIN", "not permitted to log in"],
    ])("that %s ends the login, and the log alone knows why", async (_what, wrong, right, why) => {
      await stage.sql(wrong);
      onTestFinished(async () => {
        await stage.sql(right);
      });
      const proxy = await proxyOf({ place: "dedicated", toml: single("SELECT $1::text AS x"), settings });
      const error = await errorOf(proxy.connect("v"));
      expect(error).toMatchObject({ code: "28000", message: "pgvpd could not log in to the upstream server" });
      expect(JSON.stringify(proxy.log)).toContain(why);
      await stage.sql(right);
      expect(await proxy.ask("v", "SHOW app.x")).toEqual(["v"]);
    });

    it("logs in again after the server has ended its sessions, without a word to the clients", async () => {
      const proxy = await proxyOf({ place: "dedicated", toml: single("SELECT $1::text AS x") });
      const logIns = (): Promise<unknown[][]> =>
        Promise.all(Array.from({ length: 8 }, (_, n) => proxy.ask(`v${n}`, "SHOW app.x")));
      const expected = Array.from({ length: 8 }, (_, n) => [`v${n}`]);
      expect(await logIns()).toEqual(expected);
      for (let n = 0; n < 3; n++) {
        await stage.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'resolver'");
        expect(await logIns()).toEqual(expected);
      }
    });
  });

  describe("a notification that a tenant forges", () => {
    it("10,000 times, with as much text as it can have, ends no session and runs a bounded number of queries", async () => {
      const proxy = await proxyOf({ place: "dedicated", toml: chain('cache_ttl = 3600\non_change = "terminate"') });
      const victims = await Promise.all([1, 2, 3].map((n) => proxy.connect(user(n))));
      const executions = (): Promise<number> => proxy.metric("pgvpd_resolver_executions_total");
      // From now on changes are heard of: a second login is answered from what is kept.
      await expect
        .poll(async () => {
          const before = await executions();
          await proxy.ask(user(1), "SELECT 1");
          return (await executions()) - before;
        })
        .toBe(0);
      const before = await executions();
      const readings = (): number =>
        readFileSync(stage.server.logFile, "utf8").split("LEFT JOIN pgvpd.invalidations i").length;
      const readBefore = readings();
      const begunAt = performance.now();
      const attacker = await proxy.connect(user(2));
      for (let n = 0; n < 100; n++) {
        await attacker.query(
          "SELECT pg_notify('pgvpd_invalidate', repeat('x', 7900) || n) FROM generate_series(1, 100) AS n",
        );
      }
      const elapsedMs = performance.now() - begunAt;
      for (const victim of victims) await victim.query("SELECT 1");
      expect(await proxy.ask(user(1), "SELECT 1")).toHaveLength(1);
      // At most one reading in 50 ms; and what a listener that was lost has asked again.
      expect(readings() - readBefore).toBeLessThanOrEqual(elapsedMs / 50 + 20);
      expect((await executions()) - before).toBeLessThanOrEqual(30);
      expect(await Promise.all(victims.map((one) => one.query("SELECT 1").then(({ rowCount }) => rowCount)))).toEqual([
        1, 1, 1,
      ]);
    }, 60_000);

    it("or a row that it cannot write changes nothing", async () => {
      const proxy = await proxyOf({ place: "dedicated", toml: chain() });
      const attacker = await proxy.connect(user(1));
      for (const statement of [
        "SELECT pgvpd.invalidate('org')",
        "INSERT INTO pgvpd.invalidations (resolver, params) VALUES ('org', '{}')",
      ]) {
        expect(await errorOf(attacker.query(statement))).toMatchObject({ code: "42501" });
      }
    });
  });
});
