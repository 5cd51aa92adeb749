/**
 * The right rows, whatever plan PostgreSQL makes: parallel workers, generic plans across a change of context, cursors,
 * read-only transactions, compiled expressions. And the right tenant, whatever its name is made of.
 */
import { readFileSync } from "node:fs";
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { outerVersions } from "../support/postgres.ts";
import { errorOf } from "../support/tenant-fixture.ts";
import { carriersOf, enter, hello, sealDatabase, startSealFixture, type SealFixture } from "./seal-fixture.ts";

/** Two tenants, row by row in turn; one policy as pgvpd_protect makes it, one for each other way to read the context. */
const SCHEMA = `
  CREATE TABLE wrapped (id int, tenant_id text NOT NULL, value int);
  INSERT INTO wrapped SELECT i, CASE i % 2 WHEN 0 THEN 'acme' ELSE 'globex' END, i % 100 FROM generate_series(1, 4000) i;
  CREATE TABLE bare (LIKE wrapped);
  CREATE TABLE listed (LIKE wrapped);
  CREATE TABLE held (LIKE wrapped);
  INSERT INTO bare SELECT * FROM wrapped WHERE id <= 400;
  INSERT INTO listed SELECT * FROM wrapped WHERE id <= 400;
  INSERT INTO held SELECT * FROM wrapped WHERE id <= 400;
  SELECT public.pgvpd_protect('wrapped');
  SELECT public.pgvpd_protect_acl('listed', '[{"column": "tenant_id", "var": "app.current_tenant_id", "type": "text_array"}]');
  ALTER TABLE bare ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
  CREATE POLICY p ON bare USING (tenant_id = current_tenant_id());
  ALTER TABLE held ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
  CREATE POLICY p ON held USING (pgvpd_context_text_contains('app.current_tenant_id', tenant_id));
  GRANT SELECT ON wrapped, bare, listed, held TO app_user;
  CREATE SCHEMA evil AUTHORIZATION app_user;
  ANALYZE;
`;

/** Queries whose answer is known for a tenant with every second row. */
const QUERIES: readonly (readonly [sql: string, answer: unknown])[] = [
  ["SELECT count(*)::int AS n FROM wrapped", 2_000],
  ["SELECT count(*)::int AS n FROM bare", 200],
  ["SELECT count(*)::int AS n FROM listed", 200],
  ["SELECT count(*)::int AS n FROM held", 200],
  ["SELECT count(DISTINCT tenant_id)::int AS n FROM wrapped", 1],
  ["SELECT count(*)::int AS n FROM wrapped w JOIN bare b USING (id)", 200],
  ["SELECT count(*)::int AS n FROM wrapped w JOIN listed l USING (id) JOIN held h USING (id)", 200],
  ["SELECT count(*)::int AS n FROM wrapped w WHERE EXISTS (SELECT FROM listed l WHERE l.id = w.id)", 200],
  ["SELECT count(*)::int AS n FROM wrapped w WHERE NOT EXISTS (SELECT FROM bare b WHERE b.id = w.id)", 1_800],
  ["SELECT count(*)::int AS n FROM (SELECT id FROM wrapped UNION ALL SELECT id FROM bare) u", 2_200],
  ["SELECT count(*)::int AS n FROM wrapped WHERE tenant_id = current_tenant_id()", 2_000],
  ["SELECT count(DISTINCT current_tenant_id())::int AS n FROM wrapped", 1],
  ["SELECT count(*)::int AS n FROM (SELECT value FROM wrapped GROUP BY value) g", 50],
  ["SELECT count(*)::int AS n FROM wrapped WHERE tenant_id = 'OTHER'", 0],
];

const PARALLEL = `SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
  SET min_parallel_index_scan_size = 0; SET max_parallel_workers_per_gather = 4`;

const tenantsIn = async (client: Client, sql: string): Promise<string[]> => {
  const { rows } = await client.query<{ tenant_id: string }>(sql);
  return [...new Set(rows.map((row) => row.tenant_id))].sort();
};

describe.each(outerVersions())("PostgreSQL %s", (version) => {
  let fixture: SealFixture;
  let port = 0;
  const force = Number(version) >= 16 ? "debug_parallel_query" : "force_parallel_mode";
  beforeAll(async () => {
    fixture = await startSealFixture({
      version,
      auth: "trust",
      schema: SCHEMA,
      settings: { max_worker_processes: "16", max_parallel_workers: "8" },
    });
    port = (await fixture.proxyWith({ context_seal: "require", context_key_file: fixture.keyFile })).port;
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(carriersOf(version))("%s", (carrier) => {
    const connect = (tenant: string): Promise<Client> =>
      fixture.connect(`app_user.${tenant}`, { port, database: carrier });

    it.each([
      ["acme", "parallel workers that are cheap", PARALLEL],
      ["globex", "parallel workers that are forced", `${PARALLEL}; SET ${force} = on`],
      ["acme", "parallel workers as in PostgreSQL's own tests", `SET ${force} = regress`],
      ["globex", "compiled expressions", "SET jit = on; SET jit_above_cost = 0; SET jit_optimize_above_cost = 0"],
      ["acme", "no parallel workers", "SET max_parallel_workers_per_gather = 0"],
      ["globex", "parallel workers and plans that are kept", `${PARALLEL}; SET plan_cache_mode = force_generic_plan`],
    ])("every query gives %s its own rows, and all of them, with %s", async (tenant, _name, settings) => {
      const client = await connect(tenant);
      await client.query(settings);
      const other = tenant === "acme" ? "globex" : "acme";
      for (const [index, [sql, answer]] of QUERIES.entries()) {
        const text = sql.replace("OTHER", other);
        expect({ text, rows: (await client.query(text)).rows }).toEqual({ text, rows: [{ n: answer }] });
        // Twice by name: planned, and from the plan that was kept.
        for (const _ of [1, 2]) expect((await client.query({ name: `q${index}`, text })).rows).toEqual([{ n: answer }]);
      }
      await client.end();
    });

    it("workers do take part", async () => {
      const client = await connect("acme");
      await client.query(PARALLEL);
      const { rows } = await client.query<{ "QUERY PLAN": string }>(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(*) FROM wrapped",
      );
      expect(rows.map((row) => row["QUERY PLAN"]).join("\n")).toMatch(/Workers Launched: [1-9]/);
      await client.end();
    });

    it("a function of the tenant's own that claims to be safe in workers shows no foreign row", async () => {
      const client = await connect("acme");
      await client.query(`${PARALLEL}; SET ${force} = on;
        CREATE OR REPLACE FUNCTION evil.whose() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$ BEGIN RETURN current_tenant_id(); END $$`);
      const { rows } = await client.query<{ whose: string | null }>("SELECT DISTINCT evil.whose() FROM wrapped");
      for (const { whose } of rows) expect([null, "acme"]).toContain(whose);
      expect(await tenantsIn(client, "SELECT tenant_id FROM wrapped WHERE tenant_id = evil.whose()")).not.toContain(
        "globex",
      );
      await client.end();
    });

    it.each(["force_generic_plan", "force_custom_plan", "auto"])(
      "plans across a change of context: %s",
      async (mode) => {
        const client = await fixture.direct(carrier);
        await client.query(`SET plan_cache_mode = ${mode};
        CREATE OR REPLACE FUNCTION pg_temp.cached() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT tenant_id FROM public.wrapped; END $$;
        PREPARE kept AS SELECT tenant_id FROM wrapped`);
        for (const tenant of ["acme", "globex", "acme", "globex", "acme", "globex", "acme", "globex"]) {
          await enter(client, fixture.key, tenant);
          expect(await tenantsIn(client, "EXECUTE kept")).toEqual([tenant]);
          expect(await tenantsIn(client, "SELECT cached AS tenant_id FROM pg_temp.cached()")).toEqual([tenant]);
          const named = await client.query({ name: "kept by name", text: "SELECT DISTINCT tenant_id FROM bare" });
          expect(named.rows).toEqual([{ tenant_id: tenant }]);
        }
        await hello(client);
        expect(await tenantsIn(client, "EXECUTE kept")).toEqual([]);
      },
    );

    it("a cursor that is held shows the rows of the context in which it was filled, and no others", async () => {
      const client = await fixture.direct(carrier);
      await enter(client, fixture.key, "acme");
      await client.query("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT tenant_id FROM wrapped; COMMIT");
      await hello(client);
      expect(await tenantsIn(client, "FETCH 100 FROM held")).toEqual(["acme"]);
      await enter(client, fixture.key, "globex");
      // This is why a pool resets a session (DISCARD ALL closes it) before somebody else gets it.
      expect(await tenantsIn(client, "FETCH ALL FROM held")).toEqual(["acme"]);
      await client.query("DISCARD ALL");
      expect(await errorOf(client.query("FETCH ALL FROM held"))).toMatchObject({ code: "34000" });
    });

    it("a cursor shows one tenant's rows, also when the context changes while it is read", async () => {
      const client = await fixture.direct(carrier);
      await enter(client, fixture.key, "acme");
      await client.query("BEGIN; DECLARE c CURSOR FOR SELECT tenant_id FROM wrapped");
      const first = await tenantsIn(client, "FETCH 10 FROM c");
      await enter(client, fixture.key, "globex");
      expect(first).toEqual(["acme"]);
      expect(await tenantsIn(client, "FETCH ALL FROM c")).toEqual(first);
      await client.query("ROLLBACK");
    });

    it("a read-only transaction can be entered, and the login of a read-only session too", async () => {
      const direct = await fixture.direct(carrier);
      await direct.query("BEGIN READ ONLY ISOLATION LEVEL SERIALIZABLE DEFERRABLE");
      await enter(direct, fixture.key, "globex");
      expect(await tenantsIn(direct, "SELECT tenant_id FROM wrapped")).toEqual(["globex"]);
      await direct.query("COMMIT");

      const client = await fixture.connect("app_user.acme", {
        port,
        database: carrier,
        options: "-c default_transaction_read_only=on",
      });
      expect((await client.query("SHOW transaction_read_only")).rows).toEqual([{ transaction_read_only: "on" }]);
      expect(await tenantsIn(client, "SELECT tenant_id FROM wrapped")).toEqual(["acme"]);
      await client.end();
    });

    describe("names of tenants", () => {
      const latin1 = `latin1_${carrier}`;
      const ascii = `ascii_${carrier}`;
      const namePorts: number[] = [];
      beforeAll(async () => {
        for (const context_injection of ["startup", "query"]) {
          const sealed = { context_seal: "require", context_key_file: fixture.keyFile, context_injection };
          namePorts.push((await fixture.proxyWith({ ...sealed, value_separator: "~" })).port);
        }
        for (const [database, encoding] of [
          [latin1, "LATIN1"],
          [ascii, "SQL_ASCII"],
        ] as const) {
          await fixture.asSuperuser(
            `CREATE DATABASE ${database} TEMPLATE template0 ENCODING '${encoding}' LC_COLLATE 'C' LC_CTYPE 'C'`,
          );
          for (const file of ["setup.sql", "helpers.sql"]) {
            await fixture.asSuperuser(readFileSync(new URL(`../../sql/${file}`, import.meta.url), "utf8"), database);
          }
          await fixture.asSuperuser(
            "CREATE TABLE notes (tenant_id text NOT NULL, body text); SELECT pgvpd_protect('notes')",
            database,
          );
          await sealDatabase(fixture, database, carrier, [fixture.key]);
        }
      });

      const plainNames = [
        "O'Brien",
        'say "hi"',
        "back\\slash",
        "pipe|pipe|",
        '{"app.current_tenant_id":"globex"}',
        '","app.current_tenant_id":"globex","x":"',
        "\\u0067lobex",
        "\\",
        "null",
        "-1",
        "a b",
        "[]",
        "$1",
        "%s",
        "x".repeat(1000),
      ];
      /** In turn with `context_injection = startup` and `query`. */
      const cases = (database: string, names: readonly string[]): (readonly [string, string, number])[] =>
        names.map((name, index) => [database, name, index % 2]);

      it.each([
        ...cases(carrier, [...plainNames, "acmé", "日本語", "🏢", "a\u0301", "ÀÉ\"'\\|{}", "é".repeat(500)]),
        ...cases(latin1, [...plainNames, "acmé", "ÿþ\"'\\|{}", "é".repeat(500)]),
        ...cases(ascii, [...plainNames, "acmé", "日本語"]),
      ])("in %s: %s", async (database, tenant, injection) => {
        const place = { port: namePorts[injection] ?? 0, database, client_encoding: "UTF8" };
        const client = await fixture.connect(`app_user.${tenant}`, place);
        const { rows } = await client.query<{ tenant: string }>("SELECT current_tenant_id() AS tenant");
        expect(rows).toEqual([{ tenant }]);
        await client.query("INSERT INTO notes (tenant_id, body) VALUES ($1, 'own')", [tenant]);
        expect((await client.query("SELECT DISTINCT tenant_id FROM notes")).rows).toEqual([{ tenant_id: tenant }]);
        expect((await client.query("DELETE FROM notes")).rowCount).toBeGreaterThan(0);
        await client.end();
      });

      it("one that the database's encoding has not is refused with 28000", async () => {
        const error = await errorOf(fixture.connect("app_user.日本語", { port, database: latin1 }));
        expect(error).toMatchObject({ code: "28000" });
      });

      it("several variables, with names in other letters, arrive each in its own", async () => {
        const { port: own } = await fixture.proxyWith({
          context_seal: "require",
          context_key_file: fixture.keyFile,
          context_variables: "App.Current_Tenant_ID, app.USER_id, app.list",
        });
        const client = await fixture.connect("app_user.acme:7:a,b", { port: own, database: carrier });
        const { rows } = await client.query(
          `SELECT current_tenant_id() AS tenant, pgvpd_context('app.user_id') AS one, pgvpd_context('APP.User_Id') AS two,
             pgvpd_context_array('app.list') AS list, pgvpd_context('app.none') AS none`,
        );
        expect(rows).toEqual([{ tenant: "acme", one: "7", two: "7", list: ["a", "b"], none: null }]);
        await client.query("SELECT set_config('app.user_id', '8', false), set_config('app.list', 'c', false)");
        const after = await client.query(
          "SELECT pgvpd_context('app.user_id') AS one, pgvpd_context_text_contains('app.list', 'c') AS c",
        );
        expect(after.rows).toEqual([{ one: "7", c: false }]);
      });
    });
  });
});
