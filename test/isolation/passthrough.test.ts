/**
 * Isolation as a property: whatever a tenant does in its session or puts into its StartupMessage, in each way of
 * injecting the context, the number of foreign rows that it sees or changes is 0. The attacks that do get through while
 * the context is not sealed have a suite of their own, which says so.
 */
import type { Client } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../support/postgres.ts";
import { RawClient } from "../support/raw-client.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));

/** acme's rows as a session sees them afterwards: all of its own, or none, where no context is left. */
type Left = "own" | "none";

interface Attack {
  readonly name: string;
  /** Statements of one session; those that fail, fail. */
  readonly sql: readonly string[];
  /** SQLSTATE of the last one, where it must fail. */
  readonly refusedWith?: string;
  /** What is left with context_injection startup, and query. `own` and `own` by default. */
  readonly leaves?: readonly [startup: Left, query: Left];
}

const ATTACKS: readonly Attack[] = [
  { name: "nothing", sql: [] },
  { name: "RESET ALL", sql: ["RESET ALL"], leaves: ["own", "none"] },
  { name: "DISCARD ALL", sql: ["DISCARD ALL"], leaves: ["own", "none"] },
  { name: "RESET of the variable", sql: ["RESET app.current_tenant_id"], leaves: ["own", "none"] },
  { name: "SET TO DEFAULT", sql: ["SET app.current_tenant_id TO DEFAULT"], leaves: ["own", "none"] },
  {
    name: "UPDATE pg_settings",
    sql: ["UPDATE pg_settings SET setting = 'globex' WHERE name = 'app.current_tenant_id'"],
  },
  { name: "an empty tenant", sql: ["SET app.current_tenant_id = ''"], leaves: ["none", "none"] },
  { name: "a pattern as tenant", sql: ["SET app.current_tenant_id = '%'"], leaves: ["none", "none"] },
  { name: "SQL as tenant", sql: ["SET app.current_tenant_id = $$' OR true --$$"], leaves: ["none", "none"] },
  { name: "RESET ROLE", sql: ["RESET ROLE"] },
  { name: "SET ROLE NONE", sql: ["SET ROLE NONE"] },
  { name: "SET SESSION AUTHORIZATION DEFAULT", sql: ["SET SESSION AUTHORIZATION DEFAULT"] },
  { name: "SET ROLE to the owner", sql: ["SET ROLE postgres"], refusedWith: "42501" },
  { name: "SET SESSION AUTHORIZATION to the owner", sql: ["SET SESSION AUTHORIZATION postgres"], refusedWith: "42501" },
  {
    name: "row_security = off",
    sql: ["SET row_security = off", "SELECT * FROM notes"],
    refusedWith: "42501",
    leaves: ["none", "none"],
  },
  { name: "ALTER TABLE", sql: ["ALTER TABLE notes DISABLE ROW LEVEL SECURITY"], refusedWith: "42501" },
  { name: "a policy of its own", sql: ["CREATE POLICY open ON notes USING (true)"], refusedWith: "42501" },
  { name: "TRUNCATE", sql: ["TRUNCATE notes"], refusedWith: "42501" },
  {
    name: "INSERT for another tenant",
    sql: ["INSERT INTO notes (tenant_id, body) VALUES ('globex', 'forged')"],
    refusedWith: "42501",
  },
  {
    name: "INSERT for no tenant",
    sql: ["RESET ALL", "INSERT INTO notes (tenant_id, body) VALUES (NULL, 'forged')"],
    refusedWith: "42501",
    leaves: ["own", "none"],
  },
  { name: "UPDATE into another tenant", sql: ["UPDATE notes SET tenant_id = 'globex'"], refusedWith: "42501" },
  { name: "UPDATE of another tenant", sql: ["UPDATE notes SET body = 'forged' WHERE tenant_id = 'globex'"] },
  { name: "DELETE of another tenant", sql: ["DELETE FROM notes WHERE tenant_id <> 'acme'"] },
  { name: "FOR UPDATE of another tenant", sql: ["SELECT * FROM notes WHERE tenant_id = 'globex' FOR UPDATE"] },
  {
    name: "ON CONFLICT with another tenant's row",
    sql: [
      `INSERT INTO notes (id, tenant_id, body) OVERRIDING SYSTEM VALUE SELECT i, 'acme', 'forged' FROM generate_series(1, 9) i
        ON CONFLICT (id) DO UPDATE SET body = 'forged'`,
    ],
    refusedWith: "42501",
  },
  {
    name: "MERGE into another tenant's rows",
    sql: [
      `MERGE INTO notes USING (SELECT 1) one ON notes.tenant_id = 'globex' WHEN MATCHED THEN UPDATE SET body = 'forged'`,
    ],
  },
  { name: "COPY into the table", sql: ["COPY notes FROM STDIN"], refusedWith: "0A000" },
  {
    name: "a table that inherits",
    sql: ["CREATE TEMP TABLE heir () INHERITS (notes)", "SELECT * FROM notes"],
  },
  {
    name: "a function that looks at every row first",
    sql: [
      `CREATE FUNCTION pg_temp.look(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
        AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'`,
      "SELECT * FROM notes WHERE pg_temp.look(tenant_id)",
    ],
  },
  {
    name: "an error that quotes the value",
    sql: ["SELECT tenant_id::int FROM notes WHERE tenant_id <> 'acme'"],
  },
  {
    name: "a function in front of current_tenant_id",
    sql: [
      "CREATE FUNCTION pg_temp.current_tenant_id() RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$",
      "SET search_path = pg_temp, public",
    ],
  },
  {
    name: "an operator in front of =",
    sql: [
      "CREATE FUNCTION pg_temp.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
      "CREATE OPERATOR pg_temp.= (FUNCTION = pg_temp.always, LEFTARG = text, RIGHTARG = text)",
      "SET search_path = pg_temp, pg_catalog, public",
    ],
  },
  {
    name: "a plan that is kept",
    sql: ["PREPARE kept AS SELECT * FROM notes", "EXECUTE kept", "SET app.current_tenant_id = ''", "EXECUTE kept"],
    leaves: ["none", "none"],
  },
  {
    name: "a view of its own",
    sql: ["CREATE TEMP VIEW mine AS SELECT * FROM public.notes", "SELECT * FROM mine"],
  },
  { name: "EXPLAIN ANALYZE", sql: ["EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM notes"] },
  { name: "statistics", sql: ["SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'notes'"] },
  { name: "files of the server", sql: ["COPY (SELECT 1) TO PROGRAM 'true'"], refusedWith: "42501" },
  {
    name: "pages of the table",
    sql: ["SELECT pg_read_binary_file(pg_relation_filepath('notes'))"],
    refusedWith: "42501",
  },
];

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  const ports: Record<string, number> = {};
  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
    await fixture.asSuperuser(
      "CREATE ROLE worker; GRANT worker TO app_user; GRANT ALL ON notes TO worker; ANALYZE notes",
    );
    await fixture.asSuperuser("REVOKE TRUNCATE, TRIGGER, REFERENCES ON notes FROM worker");
    for (const context_injection of ["startup", "query"]) {
      ports[context_injection] = (await fixture.proxyWith({ context_injection })).port;
      ports[`${context_injection} and set_role`] = (
        await fixture.proxyWith({ context_injection, set_role: "worker" })
      ).port;
    }
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());
  afterEach(async () => {
    await fixture.asSuperuser("ALTER ROLE app_user RESET ALL");
    const rows = await fixture.asSuperuser("SELECT tenant_id, body FROM notes ORDER BY body");
    expect(rows).toEqual([...owned("acme", "a1", "a2"), ...owned("globex", "g1", "g2", "g3")]);
  });

  const injections = ["startup", "query", "startup and set_role", "query and set_role"];

  describe.each(injections)("context_injection = %s", (injection) => {
    it.each(ATTACKS)("foreign rows after $name: 0", async ({ sql, refusedWith, leaves = ["own", "own"] }) => {
      const client = await fixture.connect("app_user.acme", { port: ports[injection] ?? 0 });
      const seen: string[] = [];
      client.on("notice", ({ message }) => seen.push(message ?? ""));
      await client.query("BEGIN");
      let lastCode: string | undefined;
      for (const statement of sql) lastCode = await attempt(client, statement, seen);
      if (refusedWith !== undefined) expect(lastCode).toBe(refusedWith);
      await attempt(client, "SELECT tenant_id, body FROM public.notes", seen);
      await client.query("ROLLBACK");

      // Once more outside of a transaction, where what was SET stays; what changes rows was rolled back.
      const changesRows = sql.some((statement) => /^(INSERT|UPDATE|DELETE|MERGE|TRUNCATE)/.test(statement));
      if (!changesRows) for (const statement of sql) await attempt(client, statement, seen);
      const rows = await attempt(client, "SELECT body FROM public.notes", seen, true);
      expect(seen.join("\n")).not.toMatch(/globex|g1|g2|g3/);
      const left = leaves[injection.startsWith("startup") ? 0 : 1];
      if (!changesRows) expect(rows).toBe(left === "own" ? 2 : 0);
      await client.end();
    });

    it("a role that the tenant has altered gives later logins nothing", async () => {
      const port = ports[injection] ?? 0;
      const attacker = await fixture.connect("app_user.globex", { port });
      await attacker.query("RESET ROLE");
      for (const setting of [
        "app.current_tenant_id = 'globex'",
        "role = 'none'",
        "row_security = off",
        "standard_conforming_strings = off",
        "client_encoding = 'GBK'",
        "search_path = 'pg_temp, evil, pg_catalog'",
        "session_preload_libraries = 'evil'",
        "local_preload_libraries = 'evil'",
        "default_transaction_isolation = 'serializable'",
      ]) {
        await attacker.query(`ALTER ROLE app_user SET ${setting}`).catch(() => {});
      }
      const victim = await fixture.connect("app_user.acme", { port });
      const { rows } = await victim.query("SELECT body FROM public.notes ORDER BY body");
      expect(rows).toEqual([{ body: "a1" }, { body: "a2" }]);
      const shown = await victim.query(
        `SELECT current_user AS role, current_setting('row_security') AS rls, current_setting('client_encoding') AS encoding,
          current_setting('standard_conforming_strings') AS strings, public.current_tenant_id() AS tenant`,
      );
      const role = injection.endsWith("set_role") ? "worker" : "app_user";
      expect(shown.rows).toEqual([{ role, rls: "on", encoding: "UTF8", strings: "on", tenant: "acme" }]);
    });

    it.each([
      "acme' OR '1'='1",
      "acme,globex",
      "{acme,globex}",
      "%",
      "*",
      "ACME",
      "acme ",
      " globex",
      "globex.",
      "acme.globex",
      "acme';SET ROLE postgres;--",
      "$1",
      "\\'",
      "acme -c app.current_tenant_id=globex",
    ])("the tenant name %j is taken literally", async (tenant) => {
      const client = await fixture.connect(`app_user.${tenant}`, { port: ports[injection] ?? 0 });
      const { rows } = await client.query(
        "SELECT current_tenant_id() AS tenant, (SELECT count(*)::int FROM notes) AS rows",
      );
      expect(rows).toEqual([{ tenant, rows: 0 }]);
      await client.end();
    });
  });

  describe("the StartupMessage", () => {
    const names = [
      "app.current_tenant_id",
      "App.Current_Tenant_ID",
      "role",
      "ROLE",
      "row_security",
      "Session_Authorization",
    ];
    const spellings: readonly ((name: string) => string)[] = [
      (name) => `-c ${name}=globex`,
      (name) => `-c${name}=globex`,
      (name) => `--${name}=globex`,
      (name) => `--${name.replaceAll("_", "-")}=globex`,
      (name) => `-c\t\n ${name.replaceAll("_", "-")}=globex`,
      (name) => `-c ${name.replaceAll(/./g, "\\$&")}=globex`,
      (name) => `-c work_mem=5MB --${name}=globex -c work_mem=6MB`,
      (name) => `-c ${name}=acme -c ${name}=globex`,
    ];
    const asOptions = names.flatMap((name) => spellings.map((spell) => ({ options: spell(name) })));
    const asParameter = names.map((name) => ({ [name]: "globex" }));

    it.each([...asOptions, ...asParameter])("with %j is refused with 42501", async (parameters) => {
      for (const injection of ["startup", "query"]) {
        const client = await RawClient.open({ host: "127.0.0.1", port: ports[injection] ?? 0 });
        const more = { database: "postgres", ...(parameters as Record<string, string>) };
        await client.logIn({ user: "app_user.acme", password: PASSWORD, parameters: more });
        expect(client.error["C"]).toBe("42501");
        expect(client.types).toBe("E");
      }
    });

    it.each([
      ["options in options", "-c options=-crole=postgres", "42501"],
      ["user in options", "-c user=postgres", "42501"],
      ["database in options", "--database=template1", "42501"],
      ["replication in options", "-c replication=true", "42501"],
      ["a switch of the postgres program", "-d 5", "22023"],
      ["a switch behind --", "-- -c role=postgres", "22023"],
      ["-c without a value", "-c", "22023"],
      ["a name with a space", "-c app.current_tenant_id\\ =globex", "42602"],
      ["a name with a hyphen in a parameter", { "app.current-tenant-id": "globex" }, "42602"],
      ["another placeholder", "-c app.other=globex", undefined],
    ])("with %s reads no foreign row", async (_name, given, expected) => {
      for (const injection of ["startup", "query"]) {
        const client = await RawClient.open({ host: "127.0.0.1", port: ports[injection] ?? 0 });
        const more = typeof given === "string" ? { options: given } : (given as unknown as Record<string, string>);
        await client.logIn({
          user: "app_user.acme",
          password: PASSWORD,
          parameters: { database: "postgres", ...more },
        });
        expect(client.error["C"]).toBe(expected);
        if (expected !== undefined) continue;
        const answer = await client.query("SELECT count(*) FROM notes");
        expect(answer.find(({ type }) => type === "D")?.body.toString("latin1", 6)).toBe("2");
        client.socket.destroy();
      }
    });

    it.each(["postgres.acme", "postgres.globex"])(
      "of %s gets no session with the superuser's password",
      async (user) => {
        for (const port of Object.values(ports)) {
          const refused = await errorOf(fixture.connect(user, { port, password: fixture.server.password }));
          expect(refused).toMatchObject({ code: "28000", message: expect.stringContaining("is not safe") as string });
        }
      },
    );

    it.each(["app_user", "app_user.", ".acme", ""])("of %j, without a tenant, is refused with 28000", async (user) => {
      for (const port of Object.values(ports)) {
        const client = await RawClient.open({ host: "127.0.0.1", port });
        await client.logIn({ user, password: PASSWORD, parameters: { database: "postgres" } });
        expect(client.error["C"]).toBe("28000");
      }
    });
  });

  describe("without the sealed context", () => {
    it.each([
      ["SET", "SET app.current_tenant_id = 'globex'"],
      ["SET LOCAL", "BEGIN; SET LOCAL app.current_tenant_id = 'globex'"],
      ["set_config", "SELECT set_config('app.current_tenant_id', 'globex', false)"],
      ["a DO block", "DO $$ BEGIN EXECUTE 'SET app.current_' || 'tenant_id = ''globex'''; END $$"],
    ])("%s reads the other tenant: documented", async (_name, sql) => {
      for (const port of Object.values(ports)) {
        const client = await fixture.connect("app_user.acme", { port });
        await client.query(sql);
        const { rows } = await client.query("SELECT body FROM notes ORDER BY body");
        expect(rows).toEqual([{ body: "g1" }, { body: "g2" }, { body: "g3" }]);
        await client.end();
      }
    });

    it("it lasts no longer than the session", async () => {
      for (const port of Object.values(ports)) {
        const attacker = await fixture.connect("app_user.acme", { port });
        await attacker.query("SET app.current_tenant_id = 'globex'");
        await attacker.end();
        const later = await fixture.connect("app_user.acme", { port });
        expect((await later.query("SELECT body FROM notes WHERE tenant_id <> 'acme'")).rowCount).toBe(0);
        await later.end();
      }
    });

    it("a password of the role is that of every tenant: the name of the tenant is not proved", async () => {
      const client = await fixture.connect("app_user.globex", { password: PASSWORD });
      expect((await client.query("SELECT FROM notes")).rowCount).toBe(3);
    });
  });
});

const owned = (tenant_id: string, ...bodies: string[]): unknown[] => bodies.map((body) => ({ tenant_id, body }));

/** Runs a statement inside a savepoint where there is a transaction; notes every value that it shows. */
async function attempt(client: Client, sql: string, seen: string[]): Promise<string | undefined>;
async function attempt(client: Client, sql: string, seen: string[], wantsRows: true): Promise<number>;
async function attempt(client: Client, sql: string, seen: string[], wantsRows = false): Promise<unknown> {
  const inTransaction = (client as unknown as { getTransactionStatus(): string }).getTransactionStatus() === "T";
  if (inTransaction) await client.query("SAVEPOINT attempt");
  try {
    const { rows } = await client.query({ text: sql, rowMode: "array" });
    seen.push(JSON.stringify(rows));
    return wantsRows ? rows.length : undefined;
  } catch (error) {
    const { code, message, detail = "" } = error as Error & { code?: string; detail?: string };
    // The statement itself may name globex, and what the client sent is no news to it.
    seen.push(`${message} ${detail}`);
    if (inTransaction) await client.query("ROLLBACK TO attempt");
    return wantsRows ? 0 : code;
  }
}
