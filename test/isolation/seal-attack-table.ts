/**
 * What a tenant can try in a session of its own against the sealed context, and what is left afterwards: in a database
 * with each carrier, and in one without the seal. The last column is what shows that an attack is one at all.
 */
import { contextOf, type Carrier, type Kind } from "./seal-fixture.ts";

/**
 * Rows of the tenant that a session sees in the end: all of its own, none, or another's. `reset`: as after RESET ALL
 * where nothing is sealed, the tenant's own with context_injection = startup and none with query.
 */
export type Left = "own" | "none" | "foreign" | "reset";

export interface Attack {
  readonly name: string;
  /** Statements, one after the other; those that fail, fail. */
  readonly sql: readonly string[];
  /** SQLSTATE of the last one in a sealed database, where it has to fail. */
  readonly refusedWith?: string;
  /** What is seen in the end; `own` where it is not said. */
  readonly slot?: Left;
  readonly signed?: Left;
  readonly plain?: Left;
  /** Without the seal it changes rows of the other tenant. */
  readonly writesPlain?: boolean;
  readonly since?: number;
}

const SET = "SET app.current_tenant_id = 'globex'";
const globex = contextOf("globex");
const forgedSlot = `pgvpd1:00000000-0000-0000-0000-000000000000:${globex}`;
const zeros = "'\\x0000000000000000000000000000000000000000000000000000000000000000'";
const READ = "SELECT body FROM public.notes";

/** A context variable is set, in every way that SQL has. */
const settingTheVariable: readonly Attack[] = [
  { name: "SET", sql: [SET], plain: "foreign" },
  { name: "SET in other letters", sql: [`SET "App".CURRENT_Tenant_ID = 'globex'`], plain: "foreign" },
  { name: "SET and a query in one message", sql: [`${SET}; ${READ}`], plain: "foreign" },
  { name: "SET LOCAL", sql: ["BEGIN", "SET LOCAL app.current_tenant_id = 'globex'"], plain: "foreign" },
  { name: "set_config", sql: ["SELECT set_config('app.current_tenant_id', 'globex', false)"], plain: "foreign" },
  {
    name: "set_config for the transaction",
    sql: ["BEGIN", "SELECT set_config('app.current_tenant_id', 'globex', true)"],
    plain: "foreign",
  },
  {
    name: "set_config within the query that reads",
    sql: [`SELECT n.body FROM (SELECT set_config('app.current_tenant_id', 'globex', false) OFFSET 0) s, notes n`],
    plain: "foreign",
  },
  {
    name: "a DO block that builds the statement",
    sql: ["DO $$ BEGIN EXECUTE 'S' || 'ET app.current_' || 'tenant_id = ''globex'''; END $$"],
    plain: "foreign",
  },
  {
    name: "UPDATE pg_settings",
    sql: [
      "UPDATE pg_settings SET setting = 'globex' WHERE name = 'app.current_tenant_id'",
      `UPDATE pg_settings SET setting = '${forgedSlot}' WHERE name = 'session_preload_libraries'`,
    ],
  },
  {
    name: "a function with a setting of its own",
    sql: [
      `CREATE FUNCTION pg_temp.peek() RETURNS SETOF text LANGUAGE plpgsql SET app.current_tenant_id = 'globex'
        AS $$ BEGIN RETURN QUERY SELECT body FROM public.notes; END $$`,
    ],
    refusedWith: "42501", // a variable that no library has announced
  },
  {
    name: "a SECURITY DEFINER function of its own",
    sql: [
      `CREATE FUNCTION pg_temp.peek() RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER
        AS $$ BEGIN SET app.current_tenant_id = 'globex'; RETURN QUERY SELECT body FROM public.notes; END $$`,
      "SELECT pg_temp.peek()",
    ],
    plain: "foreign",
  },
  {
    name: "a procedure that commits",
    sql: [
      `CREATE PROCEDURE pg_temp.cross() LANGUAGE plpgsql
        AS $$ BEGIN PERFORM set_config('app.current_tenant_id', 'globex', false); COMMIT; END $$`,
      "CALL pg_temp.cross()",
    ],
    plain: "foreign",
  },
  {
    name: "SET that is rolled back",
    sql: ["BEGIN", "SAVEPOINT s", SET, "ROLLBACK TO s"],
  },
  { name: "an empty tenant", sql: ["SET app.current_tenant_id = ''"], plain: "none" },
  { name: "RESET of the variable", sql: ["RESET app.current_tenant_id"], plain: "reset" },
  {
    name: "ALTER DATABASE",
    sql: ["ALTER DATABASE postgres SET app.current_tenant_id = 'globex'"],
    refusedWith: "42501",
  },
  {
    name: "ALTER ROLE, for later sessions",
    sql: ["ALTER ROLE app_user SET app.current_tenant_id = 'globex'"],
    refusedWith: "42501", // as above
  },
  {
    name: "a prepared statement that ran before",
    sql: [
      "PREPARE kept AS SELECT body FROM public.notes",
      ...Array.from({ length: 6 }, () => "EXECUTE kept"),
      SET,
      "EXECUTE kept",
    ],
    plain: "foreign",
  },
  {
    name: "a generic plan",
    sql: [
      "SET plan_cache_mode = force_generic_plan",
      "PREPARE kept AS SELECT body FROM public.notes",
      "EXECUTE kept",
      SET,
      "EXECUTE kept",
    ],
    plain: "foreign",
  },
  {
    name: "a cursor WITH HOLD that is filled later",
    sql: [SET, "DECLARE kept CURSOR WITH HOLD FOR SELECT body FROM public.notes", "FETCH ALL FROM kept"],
    plain: "foreign",
  },
];

/** The whole session is reset, or becomes somebody else's. */
const resetting: readonly Attack[] = [
  { name: "nothing", sql: [] },
  { name: "RESET ALL", sql: ["RESET ALL"], slot: "none", signed: "none", plain: "reset" },
  { name: "DISCARD ALL", sql: ["DISCARD ALL"], slot: "none", signed: "none", plain: "reset" },
  {
    name: "DISCARD of anything else",
    sql: ["DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP", "DEALLOCATE ALL", "CLOSE ALL", "UNLISTEN *"],
  },
  { name: "RESET ALL, then SET", sql: ["RESET ALL", SET], slot: "none", signed: "none", plain: "foreign" },
  { name: "RESET ROLE", sql: ["RESET ROLE"] },
  { name: "SET ROLE NONE", sql: ["SET ROLE NONE"] },
  { name: "SET ROLE to the owner of the seal", sql: ["SET ROLE pgvpd_owner"], refusedWith: "42501" },
  { name: "SET ROLE to the superuser", sql: ["SET ROLE postgres"], refusedWith: "42501" },
  { name: "SET SESSION AUTHORIZATION DEFAULT", sql: ["SET SESSION AUTHORIZATION DEFAULT"] },
  {
    name: "SET SESSION AUTHORIZATION to the owner of the seal",
    sql: ["SET SESSION AUTHORIZATION pgvpd_owner"],
    refusedWith: "42501",
  },
  {
    name: "row_security = off",
    sql: ["SET row_security = off", READ],
    refusedWith: "42501",
    slot: "none",
    signed: "none",
    plain: "none",
  },
  {
    name: "DROP OWNED",
    sql: ["BEGIN", "DROP OWNED BY app_user CASCADE"],
    slot: "none",
    signed: "none",
    plain: "none",
  },
  { name: "REASSIGN OWNED", sql: ["REASSIGN OWNED BY pgvpd_owner TO app_user"], refusedWith: "42501" },
  { name: "membership in the owner of the seal", sql: ["GRANT pgvpd_owner TO app_user"], refusedWith: "42501" },
  { name: "membership in pg_read_all_settings", sql: ["GRANT pg_read_all_settings TO app_user"], refusedWith: "42501" },
];

/** The carrier itself is written. */
const writingTheCarrier: readonly Attack[] = [
  { name: "SET of the slot", sql: [`SET session_preload_libraries = '${forgedSlot}'`], refusedWith: "42501" },
  {
    name: "SET LOCAL of the slot",
    sql: [`SET LOCAL session_preload_libraries = '${forgedSlot}'`],
    refusedWith: "42501",
  },
  { name: "SET of the slot to its default", sql: ["SET session_preload_libraries TO DEFAULT"], refusedWith: "42501" },
  { name: "RESET of the slot", sql: ["RESET session_preload_libraries"], refusedWith: "42501" },
  {
    name: "set_config of the slot",
    sql: [`SELECT set_config('session_preload_libraries', '${forgedSlot}', false)`],
    refusedWith: "42501",
  },
  {
    name: "set_config of the slot to NULL",
    sql: ["SELECT set_config('session_preload_libraries', NULL, false)"],
    refusedWith: "42501",
  },
  {
    name: "a function that sets the slot",
    sql: [
      `CREATE FUNCTION pg_temp.peek() RETURNS text LANGUAGE sql SET session_preload_libraries = '${forgedSlot}' AS 'SELECT 1::text'`,
    ],
    refusedWith: "42501",
  },
  {
    name: "a function that keeps the slot",
    sql: [
      "CREATE FUNCTION pg_temp.peek() RETURNS text LANGUAGE sql SET session_preload_libraries FROM CURRENT AS 'SELECT 1::text'",
    ],
    refusedWith: "42501",
  },
  {
    name: "ALTER ROLE with the slot",
    sql: [`ALTER ROLE app_user SET session_preload_libraries = '${forgedSlot}'`],
    refusedWith: "42501",
  },
  {
    name: "ALTER ROLE with the slot as it is",
    sql: ["ALTER ROLE app_user SET session_preload_libraries FROM CURRENT"],
    refusedWith: "42501",
  },
  {
    name: "ALTER ROLE with the signed context",
    sql: [`ALTER ROLE app_user SET pgvpd.sealed = '1|9999999999|${"0".repeat(64)}|${globex}'`],
    refusedWith: "42501",
  },
  { name: "a library", sql: ["LOAD '/tmp/anything'"], refusedWith: "42501" },
  {
    name: "SET of the signed context",
    sql: [`SET pgvpd.sealed = '1|9999999999|${"0".repeat(64)}|${globex}'`],
    signed: "none",
  },
  { name: "SET of the signed context to nothing", sql: ["SET pgvpd.sealed = ''"], signed: "none" },
  {
    name: "the signed context with another tenant in it",
    sql: ["SELECT set_config('pgvpd.sealed', replace(current_setting('pgvpd.sealed', true), 'acme', 'globex'), false)"],
    signed: "none",
  },
  {
    name: "the signed context with another end",
    sql: [
      `SELECT set_config('pgvpd.sealed', regexp_replace(current_setting('pgvpd.sealed', true), '[|][0-9]+[|]', '|99999999999|'), false)`,
    ],
    signed: "none",
  },
  {
    name: "the signed context with a blank behind it",
    sql: ["SELECT set_config('pgvpd.sealed', current_setting('pgvpd.sealed', true) || ' ', false)"],
    signed: "none",
  },
  {
    name: "the signed context of its own, once more",
    sql: [
      "SELECT set_config('kept.token', coalesce(current_setting('pgvpd.sealed', true), ''), false)",
      "SELECT FROM pgvpd.hello()",
      "SELECT set_config('pgvpd.sealed', current_setting('kept.token'), false)",
    ],
    slot: "none",
  },
  {
    name: "a string that the pattern of the signed context dislikes",
    sql: ["SELECT set_config('pgvpd.sealed', repeat('1|', 1000000), false)"],
    signed: "none",
  },
];

/** The functions of the seal are called as only pgvpd should. */
const callingTheSeal: readonly Attack[] = [
  { name: "hello", sql: ["SELECT * FROM pgvpd.hello()"], slot: "none", signed: "none" },
  {
    name: "hello, then SET",
    sql: ["SELECT * FROM pgvpd.hello()", SET],
    slot: "none",
    signed: "none",
    plain: "foreign",
  },
  {
    name: "hello that is rolled back",
    sql: ["BEGIN", "SAVEPOINT s", "SELECT * FROM pgvpd.hello()", "ROLLBACK TO s"],
  },
  {
    name: "hello in a block that fails",
    sql: ["DO $$ BEGIN PERFORM pgvpd.hello(); RAISE EXCEPTION 'x'; EXCEPTION WHEN OTHERS THEN NULL; END $$"],
  },
  {
    name: "hello, and another one that is rolled back",
    sql: ["SELECT FROM pgvpd.hello()", "BEGIN", "SELECT FROM pgvpd.hello()", "ROLLBACK"],
    slot: "none",
    signed: "none",
  },
  ...[
    ["a signature of zeros", `1, '${globex}', 9999999999, ${zeros}`],
    ["no signature", `1, '${globex}', 9999999999, NULL`],
    ["an empty signature", `1, '${globex}', 9999999999, ''`],
    ["a signature of nothing at all", `1, '${globex}', 9999999999, sha256('')`],
    ["no key", `NULL, '${globex}', 9999999999, ${zeros}`],
    ["a key that is not there", `7, '${globex}', 9999999999, ${zeros}`],
    ["a key with a negative number", `-1, '${globex}', 9999999999, ${zeros}`],
    ["no context", `1, NULL, 9999999999, ${zeros}`],
    ["an empty context", `1, '', 9999999999, ${zeros}`],
    ["no end", `1, '${globex}', NULL, ${zeros}`],
    ["nothing but NULL", "NULL, NULL, NULL, NULL"],
    [
      "the hash of what is covered, without a key",
      `1, '${globex}', 9999999999,
      sha256(convert_to(concat_ws('|', 'pgvpd1', pg_backend_pid(), '', current_database(), '${globex}'), 'UTF8'))`,
    ],
  ].map(([name, args]) => ({
    name: `set_context with ${name}`,
    sql: [`SELECT pgvpd.set_context(${args})`],
    refusedWith: "28000",
  })),
  {
    name: "set_context that fails behind hello",
    sql: ["SELECT FROM pgvpd.hello()", `SELECT pgvpd.set_context(1, '${globex}', 9999999999, ${zeros})`],
    refusedWith: "28000",
    slot: "none",
    signed: "none",
  },
];

/** Keys and the slot are read, and the seal's objects changed. */
const reachingForTheKey: readonly Attack[] = [
  ...[
    "SHOW session_preload_libraries",
    "SELECT current_setting('session_preload_libraries')",
    "SELECT * FROM pgvpd.context_keys",
    "SELECT count(*) FROM pgvpd.context_keys",
    "COPY pgvpd.context_keys TO STDOUT",
    "COPY (TABLE pgvpd.context_keys) TO STDOUT",
    "SELECT pgvpd.is_authentic(1, 'x', 'x')",
    "INSERT INTO pgvpd.context_keys VALUES (9, repeat('x', 64)::bytea, repeat('x', 64)::bytea)",
    "UPDATE pgvpd.context_keys SET active = true",
    "DELETE FROM pgvpd.context_keys",
    "TRUNCATE pgvpd.context_keys",
    "DO $$ BEGIN LOCK TABLE pgvpd.context_keys; END $$",
    "CREATE TEMP TABLE heir () INHERITS (pgvpd.context_keys)",
    "CREATE TABLE evil.child (kid int REFERENCES pgvpd.context_keys)",
    "CREATE TRIGGER spy BEFORE INSERT ON pgvpd.context_keys FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE pgvpd.context_keys OWNER TO app_user",
    "GRANT SELECT ON pgvpd.context_keys TO app_user",
    "CREATE FUNCTION pgvpd.own() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "CREATE OR REPLACE FUNCTION pgvpd.context_value(name text) RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
    "CREATE OR REPLACE FUNCTION public.current_tenant_id() RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
    "ALTER FUNCTION pgvpd.context_value(text) RESET ALL",
    "ALTER FUNCTION pgvpd.context_value(text) SECURITY INVOKER",
    "ALTER FUNCTION public.current_tenant_id() IMMUTABLE",
    "ALTER FUNCTION public.current_tenant_id() SET app.current_tenant_id = 'globex'",
    "DROP FUNCTION pgvpd.set_context(integer, text, bigint, bytea)",
    "ALTER SCHEMA pgvpd RENAME TO other",
    "DROP SCHEMA pgvpd CASCADE",
    "CREATE EVENT TRIGGER spy ON ddl_command_start EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
    "ALTER TABLE notes DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY open ON notes USING (true)",
    "CREATE TRIGGER spy BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE RULE spy AS ON INSERT TO notes DO ALSO NOTHING",
    "CREATE INDEX ON notes ((current_tenant_id() || body))",
    "CREATE STATISTICS spy ON tenant_id, body FROM notes",
    "ALTER TABLE notes OWNER TO app_user",
    "CREATE PUBLICATION spy FOR TABLE notes",
    "SELECT pg_create_logical_replication_slot('spy', 'pgoutput')",
    "SELECT pg_read_file('PG_VERSION')",
    "SELECT lo_import('/etc/hostname')",
    "SELECT pg_read_binary_file(pg_relation_filepath('notes'))",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT * FROM pg_file_settings",
    "SELECT * FROM pg_authid",
  ].map((sql) => ({ name: sql, sql: [sql], refusedWith: "42501" })),
  ...[
    "SHOW ALL",
    "SELECT * FROM pg_settings",
    "SELECT * FROM pg_show_all_settings()",
    "SELECT * FROM pg_db_role_setting",
    "SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'pgvpd'::regnamespace AND p.prokind = 'f'",
    "SELECT * FROM pg_stats WHERE schemaname = 'pgvpd' OR tablename IN ('notes', 'cases')",
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM pg_prepared_statements",
    "SELECT * FROM pg_cursors",
    "EXPLAIN (ANALYZE, VERBOSE, BUFFERS, SETTINGS) SELECT * FROM notes",
  ].map((sql) => ({ name: sql, sql: [sql] })),
  {
    name: "what the planner tells of the check of a signature",
    sql: [
      "SET debug_print_parse = on; SET debug_print_rewritten = on; SET debug_print_plan = on; SET client_min_messages = debug5",
      `SELECT pgvpd.set_context(1, '${globex}', 9999999999, ${zeros})`,
      "SELECT pgvpd.context_value('app.current_tenant_id')",
      "RESET client_min_messages",
    ],
  },
  {
    name: "what an error tells of the values that were bound",
    sql: [
      "SET log_parameter_max_length_on_error = -1",
      `SELECT pgvpd.set_context(1, '${globex}', 9999999999, ${zeros})`,
    ],
    refusedWith: "28000",
  },
  {
    name: "a table of its own in the place of the keys",
    sql: [
      `CREATE TEMP TABLE context_keys AS SELECT 1 AS kid, ''::bytea AS ipad, ''::bytea AS opad, true AS active`,
      "SET search_path = pg_temp",
      `SELECT pgvpd.set_context(1, '${globex}', 9999999999, sha256(sha256('')))`,
    ],
    refusedWith: "28000",
  },
];

/** `evil` is a schema of the tenants' own, which they let everybody use: also the owner of the seal. */
const inFront = (sql: string): Attack => ({
  name: `in front of PostgreSQL's own: ${sql}`,
  sql: [
    sql,
    "SET search_path = evil, pg_temp, pg_catalog, public",
    `SELECT pgvpd.set_context(1, '${globex}', 9999999999, ${zeros})`,
    "SELECT public.current_tenant_id(), pgvpd.context_value('app.current_tenant_id')",
    "DISCARD PLANS",
  ],
});

const hijacking: readonly Attack[] = [
  ...[
    "CREATE FUNCTION evil.current_tenant_id() RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
    "CREATE FUNCTION pg_temp.current_tenant_id() RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
    "CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
    "CREATE FUNCTION evil.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    'CREATE FUNCTION evil.substr(text, integer) RETURNS text LANGUAGE sql AS $$ SELECT \'{"app.current_tenant_id":"globex"}\' $$',
    "CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'app.other' $$",
    "CREATE FUNCTION evil.concat_ws(text, VARIADIC \"any\") RETURNS text LANGUAGE internal AS 'text_concat_ws'",
    "CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
    "CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
    "CREATE FUNCTION evil.pg_backend_pid() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "CREATE DOMAIN evil.json AS text",
    "CREATE DOMAIN pg_temp.text AS pg_catalog.text",
    `CREATE FUNCTION evil.same(bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT true';
      CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = bytea, RIGHTARG = bytea)`,
    `CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
      CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text)`,
    `CREATE FUNCTION evil.joined(bytea, bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$;
      CREATE OPERATOR evil.|| (FUNCTION = evil.joined, LEFTARG = bytea, RIGHTARG = bytea)`,
    `CREATE FUNCTION evil.arrow(json, text) RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$;
      CREATE OPERATOR evil.->> (FUNCTION = evil.arrow, LEFTARG = json, RIGHTARG = text)`,
    `CREATE TABLE evil.context_keys AS SELECT 1 AS kid, ''::bytea AS ipad, ''::bytea AS opad, true AS active;
      CREATE TABLE evil.notes AS SELECT 'acme' AS tenant_id, 'x' AS body`,
  ].map(inFront),
  {
    name: "other rules of reading a string, with the plans made anew",
    sql: ["SET standard_conforming_strings = off", "SET escape_string_warning = off", "DISCARD PLANS", READ],
  },
  { name: "transform_null_equals", sql: ["SET transform_null_equals = on", "DISCARD PLANS", READ] },
];

/** Rows are looked at before the policy has judged them, or by another way. */
const leaking: readonly Attack[] = [
  {
    name: "a function that looks at every row first",
    sql: [
      `CREATE FUNCTION evil.look(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
        AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'`,
      "SELECT * FROM notes WHERE evil.look(body)",
      "SELECT * FROM cases WHERE evil.look(body)",
    ],
  },
  {
    name: "an operator that looks at every row first",
    sql: [
      `CREATE FUNCTION evil.look(text, text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
        AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'`,
      "CREATE OPERATOR evil.<<< (FUNCTION = evil.look, LEFTARG = text, RIGHTARG = text, RESTRICT = eqsel)",
      "SELECT * FROM notes WHERE body OPERATOR(evil.<<<) 'x'",
    ],
  },
  { name: "an error that quotes the value", sql: ["SELECT body::int FROM notes WHERE tenant_id <> 'acme'"] },
  {
    name: "a view",
    sql: ["CREATE TEMP VIEW mine AS SELECT * FROM public.notes", SET, "SELECT * FROM mine"],
    plain: "foreign",
  },
  { name: "a table that inherits", sql: ["CREATE TEMP TABLE heir () INHERITS (notes)"], refusedWith: "42501" },
  { name: "rows by their place", sql: ["SELECT body FROM notes WHERE ctid IN ('(0,1)', '(0,3)', '(0,4)', '(0,5)')"] },
  { name: "a sample", sql: ["SELECT body FROM notes TABLESAMPLE SYSTEM (100)"] },
  { name: "FOR UPDATE", sql: ["SELECT body FROM notes WHERE tenant_id = 'globex' FOR UPDATE"] },
  { name: "COPY of the table", sql: ["COPY notes TO STDOUT"] },
  { name: "COPY of a query", sql: ["COPY (SELECT body FROM notes) TO STDOUT"] },
  { name: "COPY after SET", sql: [SET, "COPY (SELECT body FROM notes) TO STDOUT"], plain: "foreign" },
];

const writing: readonly Attack[] = [
  { name: "INSERT", sql: ["INSERT INTO notes (tenant_id, body) VALUES ('globex', 'forged')"], refusedWith: "42501" },
  {
    name: "INSERT of NULL",
    sql: ["INSERT INTO notes (tenant_id, body) VALUES (current_setting('no.such', true), 'forged')"],
    refusedWith: "42501",
  },
  {
    name: "INSERT after SET",
    sql: [SET, "INSERT INTO notes (tenant_id, body) VALUES ('globex', 'forged') RETURNING *"],
    refusedWith: "42501",
    plain: "foreign",
    writesPlain: true,
  },
  {
    name: "INSERT without a context",
    sql: ["RESET ALL", "INSERT INTO notes (tenant_id, body) VALUES ('acme', 'forged')"],
    refusedWith: "42501",
    slot: "none",
    signed: "none",
    plain: "reset",
    writesPlain: true,
  },
  {
    name: "INSERT from a SELECT",
    sql: ["INSERT INTO notes (tenant_id, body) SELECT 'globex', body FROM notes"],
    refusedWith: "42501",
  },
  { name: "UPDATE into the other tenant", sql: ["UPDATE notes SET tenant_id = 'globex'"], refusedWith: "42501" },
  {
    name: "UPDATE of the other tenant",
    sql: ["UPDATE notes SET body = 'forged' WHERE tenant_id = 'globex' RETURNING *"],
  },
  {
    name: "UPDATE after SET",
    sql: [SET, "UPDATE notes SET body = 'forged' WHERE tenant_id = 'globex'"],
    plain: "foreign",
    writesPlain: true,
  },
  { name: "DELETE of the other tenant", sql: ["DELETE FROM notes WHERE tenant_id <> 'acme' RETURNING *"] },
  {
    name: "DELETE after SET",
    sql: [SET, "DELETE FROM notes WHERE tenant_id = 'globex' RETURNING *"],
    plain: "foreign",
    writesPlain: true,
  },
  {
    name: "a WITH that writes after SET",
    sql: [
      SET,
      "WITH w AS (UPDATE notes SET body = body || 'x' WHERE tenant_id = 'globex' RETURNING body) SELECT * FROM w",
    ],
    plain: "foreign",
    writesPlain: true,
  },
  {
    name: "ON CONFLICT DO UPDATE",
    sql: [
      `INSERT INTO notes (id, tenant_id, body) OVERRIDING SYSTEM VALUE VALUES (3, 'acme', 'forged')
        ON CONFLICT (id) DO UPDATE SET body = 'forged'`,
    ],
    refusedWith: "42501",
  },
  {
    name: "ON CONFLICT DO NOTHING",
    sql: [
      `INSERT INTO notes (id, tenant_id, body) OVERRIDING SYSTEM VALUE VALUES (3, 'acme', 'forged')
        ON CONFLICT (id) DO NOTHING RETURNING *`,
    ],
  },
  {
    name: "MERGE that matches",
    sql: [
      "MERGE INTO notes USING (SELECT 1) one ON notes.tenant_id = 'globex' WHEN MATCHED THEN UPDATE SET body = 'forged'",
    ],
    since: 15,
  },
  {
    name: "MERGE that inserts",
    sql: [
      `MERGE INTO notes USING (SELECT 1) one ON notes.tenant_id = 'globex'
        WHEN NOT MATCHED THEN INSERT (tenant_id, body) VALUES ('globex', 'forged')`,
    ],
    refusedWith: "42501",
    since: 15,
  },
  {
    name: "MERGE after SET",
    sql: [
      SET,
      "MERGE INTO notes USING (SELECT 1) one ON notes.tenant_id = 'globex' WHEN MATCHED THEN UPDATE SET body = 'forged'",
    ],
    plain: "foreign",
    writesPlain: true,
    since: 15,
  },
  { name: "TRUNCATE", sql: ["TRUNCATE notes"], refusedWith: "42501" },
  {
    name: "COPY FROM",
    sql: [SET, "COPY notes (tenant_id, body) FROM STDIN"],
    refusedWith: "0A000",
    plain: "foreign",
  },
];

export const ATTACKS: readonly Attack[] = [
  ...settingTheVariable,
  ...resetting,
  ...writingTheCarrier,
  ...callingTheSeal,
  ...reachingForTheKey,
  ...hijacking,
  ...leaking,
  ...writing,
];

export const attacksFor = (version: string): Attack[] => ATTACKS.filter(({ since = 0 }) => Number(version) >= since);

/** Has to be seen by a session that came by `injection` in a database of that kind. */
export function leftBy(attack: Attack, kind: Kind, injection: "startup" | "query"): "own" | "none" | "foreign" {
  const left = (kind === "plain" ? attack.plain : attack[kind satisfies Carrier]) ?? "own";
  if (left !== "reset") return left;
  return injection === "startup" ? "own" : "none";
}

/** Tables and rows beyond those of the tenant fixture: a policy of the helpers', and a schema of the tenants' own. */
export const ATTACK_SCHEMA = `
  CREATE TABLE cases (owner_id text NOT NULL, body text);
  SELECT public.pgvpd_protect_acl('cases', '[{"column": "owner_id", "var": "app.current_tenant_id"}]');
  INSERT INTO cases VALUES ('acme', 'a3'), ('globex', 'g4');
  CREATE ROLE worker;
  GRANT worker TO app_user;
  GRANT SELECT, INSERT, UPDATE, DELETE ON notes, cases TO worker;
  GRANT USAGE ON SCHEMA public TO worker;
  CREATE SCHEMA evil AUTHORIZATION app_user;
  GRANT ALL ON SCHEMA evil TO PUBLIC;
  ANALYZE notes, cases;
`;

/** What a session sees in the end. */
export const LOOK = "SELECT body FROM public.notes UNION ALL SELECT body FROM public.cases ORDER BY 1";
export const OWN = ["a1", "a2", "a3"];

/** Is there a value of the other tenant's in what a session has seen? */
export const isForeign = (seen: string): boolean => /\bg[1-4]\b/.test(seen);
