/** sql/credentials.sql: which verifier decides for a role and a tenant, who may ask, and what an attacker can do about it. */
import { readFileSync } from "node:fs";
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createVerifier } from "../../../src/protocol/scram/keys.ts";
import {
  column,
  createDatabase,
  failure,
  helpersSql,
  onOuterVersions,
  setupSql,
  sqlFile,
  uninstallSql,
  unprivilegedOwner,
  type Installer,
  type TestDatabase,
} from "./database.ts";

const credentialsSql = readFileSync(sqlFile("credentials.sql"), "utf8");
const question = "SELECT login_name, verifier, is_bound FROM pgvpd.find_credential($1, $2)";
const salt = "c2FsdHNhbHRzYWx0c2FsdA==";
const key = `${"A".repeat(43)}=`;

/** A verifier that can be told from others. */
const verifier = (iterations: number): string => `SCRAM-SHA-256$${iterations}:${salt}$${key}:${key}`;

/** What the function answers, without the login name: `[["SCRAM-SHA-256$...", true]]`, or nothing. */
async function find(client: Client, role: string, tenant: string | null): Promise<[string, boolean][]> {
  const { rows } = await client.query<{ login_name: string; verifier: string; is_bound: boolean }>(question, [
    role,
    tenant,
  ]);
  for (const row of rows) expect(row.login_name).toBe(role);
  return rows.map((row) => [row.verifier, row.is_bound]);
}

async function bind(db: TestDatabase, role: string, tenant: string, iterations: number, until?: string): Promise<void> {
  await db.owner.query(
    `INSERT INTO pgvpd.tenant_credentials (login_name, tenant, verifier, valid_until) VALUES ($1, $2, $3, $4)
     ON CONFLICT (login_name, tenant) DO UPDATE SET verifier = excluded.verifier, valid_until = excluded.valid_until`,
    [role, tenant, verifier(iterations), until],
  );
}

/** What is there, with its rights: the same text is the same installation. */
async function installation(db: TestDatabase): Promise<unknown[]> {
  return column(
    db.admin,
    `SELECT pg_get_functiondef(p.oid) || p.proacl::text || p.proowner::regrole FROM pg_proc p WHERE p.proname = 'find_credential'
     UNION ALL SELECT c.oid::regclass || c.relkind::text || coalesce(c.relacl::text, '') || c.relowner::regrole
     FROM pg_class c WHERE c.relnamespace = to_regnamespace('pgvpd') AND c.relname LIKE 'tenant_credentials%' ORDER BY 1`,
  );
}

onOuterVersions((server) => {
  /** Roles belong to the whole server, so they are made once, and each test sets those that it looks at. */
  beforeAll(async () => {
    await using db = await createDatabase(server(), "owner");
    await db.admin.query(`CREATE ROLE pgvpd_auth LOGIN; CREATE ROLE app_user LOGIN; CREATE ROLE other_user LOGIN`);
  });

  async function install(installer: Installer): Promise<TestDatabase> {
    const db = await createDatabase(server(), installer);
    await db.owner.query(credentialsSql);
    await db.owner.query("GRANT EXECUTE ON FUNCTION pgvpd.find_credential(text, text) TO pgvpd_auth");
    expect(db.takeMessages()).toEqual([]);
    return db;
  }

  describe.each<Installer>(["superuser", "owner"])("installed by %s", (installer) => {
    let db: TestDatabase;
    let auth: Client;
    beforeAll(async () => {
      db = await install(installer);
      auth = await db.connect("pgvpd_auth");
    });
    afterAll(() => db?.[Symbol.asyncDispose]());
    beforeEach(async () => {
      await db.owner.query("DELETE FROM pgvpd.tenant_credentials");
      await db.admin.query(`ALTER ROLE app_user LOGIN VALID UNTIL 'infinity' PASSWORD NULL`);
    });

    test("a bound credential is found for its role and its tenant alone", async () => {
      await bind(db, "app_user", "acme", 4096);
      expect(await find(auth, "app_user", "acme")).toEqual([[verifier(4096), true]]);
      expect(await find(auth, "app_user", "globex")).toEqual([]);
      expect(await find(auth, "app_user", "ACME")).toEqual([]);
      expect(await find(auth, "other_user", "acme")).toEqual([]);
      expect(await find(auth, "no_such_role", "acme")).toEqual([]);
      expect(await find(auth, "app_user", "")).toEqual([]);
      expect(await find(auth, "app_user", null)).toEqual([]);
    });

    test("without the role there is none, nor for a name that PostgreSQL would cut down to the role's", async () => {
      const role = "r".repeat(63);
      await db.admin.query(`CREATE ROLE ${role} LOGIN`);
      await bind(db, role, "acme", 4096);
      expect(await find(auth, role, "acme")).toEqual([[verifier(4096), true]]);
      expect(await find(auth, `${role}r`, "acme")).toEqual([]);
      expect((await failure(bind(db, `${role}r`, "acme", 4096))).code).toBe("23514");
      await db.admin.query(`DROP ROLE ${role}`);
      expect(await find(auth, role, "acme")).toEqual([]);
    });

    test.each([
      ["NOLOGIN", []],
      ["VALID UNTIL 'yesterday'", []],
      ["VALID UNTIL 'tomorrow'", [[verifier(4096), true]]],
    ])("of a role with %s", async (attribute, expected) => {
      await bind(db, "app_user", "acme", 4096);
      await db.admin.query(`ALTER ROLE app_user ${attribute}`);
      expect(await find(auth, "app_user", "acme")).toEqual(expected);
    });

    test.each([
      ["*", "anything", true],
      ["glob*", "globex", true],
      ["glob*", "glob", true],
      ["glob*", "Globex", false],
      ["glob*", "my-globex", false],
      ["*ex", "globex", true],
      ["*ex", "globex2", false],
      ["g*b*x", "globex", true],
      ["g*b*x", "gbbx\nx", true],
      ["g*b*x", "glox", false],
      ["**", "globex", true],
      ["a_c*", "abcd", false],
      ["a_c*", "a_cd", true],
      ["a%c*", "abcd", false],
      ["a%c*", "a%cd", true],
      ["a!c*", "a!cd", true],
      ["a!%*", "a!%d", true],
      ["a\\*", "a\\b", true],
      ["a\\*", "a*", false],
      ["a.c*", "abc", false],
      ["[ab]*", "ab", false],
      ["é*", "éa", true],
      ["é*", "ea", false],
      ["a_c", "abc", false],
      ["a%", "abc", false],
    ])("pattern %j for tenant %j: %s", async (pattern, tenant, isMatch) => {
      await bind(db, "app_user", pattern, 4096);
      expect(await find(auth, "app_user", tenant)).toEqual(isMatch ? [[verifier(4096), true]] : []);
    });

    test("the exact tenant comes before every pattern, then the pattern with the most literal characters", async () => {
      const rows = ["*", "a*", "*cme*", "acm*", "a*m*e", "acme", "acme***"];
      for (const [index, tenant] of rows.entries()) await bind(db, "app_user", tenant, 1000 + index);
      const order = ["acme", "acme***", "*cme*", "a*", "*"];
      for (const tenant of order) {
        expect(await find(auth, "app_user", "acme")).toEqual([[verifier(1000 + rows.indexOf(tenant)), true]]);
        await db.owner.query("DELETE FROM pgvpd.tenant_credentials WHERE tenant IN ($1, 'acm*', 'a*m*e')", [tenant]);
      }
      expect(await find(auth, "app_user", "acme")).toEqual([]);
    });

    test("a tenant whose name is a pattern's text is no exact match", async () => {
      await bind(db, "app_user", "a*", 1000);
      await bind(db, "app_user", "a*cme*", 1001);
      expect(await find(auth, "app_user", "a*cme*")).toEqual([[verifier(1001), true]]);
      await bind(db, "app_user", "a*cme**", 1002);
      expect((await find(auth, "app_user", "a*")).flat()).toEqual([verifier(1000), true]);
    });

    test("an expired one decides too: neither a pattern nor the role's own takes its place", async () => {
      await db.admin.query("ALTER ROLE app_user PASSWORD 'own'");
      await bind(db, "app_user", "*", 4096);
      await bind(db, "app_user", "acme", 5000, "yesterday");
      await bind(db, "app_user", "globex*", 6000, "yesterday");
      await bind(db, "app_user", "initech", 7000, "tomorrow");
      expect(await find(auth, "app_user", "acme")).toEqual([]);
      expect(await find(auth, "app_user", "globex2")).toEqual([]);
      expect(await find(auth, "app_user", "initech")).toEqual([[verifier(7000), true]]);
      expect(await find(auth, "app_user", "umbrella")).toEqual([[verifier(4096), true]]);
    });

    test("what is no verifier, no tenant or no name is refused", async () => {
      const texts = [
        "secret",
        "md5d41d8cd98f00b204e9800998ecf8427e",
        verifier(0),
        verifier(4096).slice(0, -1),
        `${verifier(4096)}\n`,
        `x${verifier(4096)}`,
        verifier(4096).replace(salt, ""),
        verifier(4096).replace(salt, "abc"),
        verifier(4096).replace(salt, "A".repeat(2_000)),
        verifier(4096).replace(key, "AAAA"),
      ];
      for (const text of texts) {
        const insertion = db.owner.query("INSERT INTO pgvpd.tenant_credentials VALUES ('app_user', 'acme', $1)", [
          text,
        ]);
        expect((await failure(insertion)).constraint).toBe("tenant_credentials_verifier_is_scram");
      }
      expect((await failure(bind(db, "app_user", "", 4096))).code).toBe("23514");
      expect((await failure(bind(db, "", "acme", 4096))).code).toBe("23514");
      await db.owner.query("INSERT INTO pgvpd.tenant_credentials VALUES ('app_user', 'acme', $1)", [
        await createVerifier("secret", 4096),
      ]);
    });

    test("a row of many is found by an index, and so are the patterns", async () => {
      await db.owner.query(
        `INSERT INTO pgvpd.tenant_credentials SELECT 'app_user', 'tenant' || n, $1 FROM generate_series(1, 20000) n`,
        [verifier(4096)],
      );
      await db.owner.query("ANALYZE pgvpd.tenant_credentials");
      await bind(db, "app_user", "acme*", 5000);
      const scans = async (): Promise<unknown> =>
        (await column(db.admin, "SELECT pg_stat_get_xact_numscans('pgvpd.tenant_credentials'::regclass)::int"))[0];
      await db.admin.query("BEGIN");
      expect(await find(db.admin, "app_user", "tenant777")).toEqual([[verifier(4096), true]]);
      expect(await find(db.admin, "app_user", "acme2")).toEqual([[verifier(5000), true]]);
      expect(await scans()).toBe(0);
      await db.admin.query("ROLLBACK");
    });

    test("without rights nobody reads the table, and only whom the administrator names runs the function", async () => {
      const application = await db.connect("app_user");
      const attempts = [
        "SELECT * FROM pgvpd.tenant_credentials",
        "SELECT count(*) FROM pgvpd.tenant_credentials",
        "INSERT INTO pgvpd.tenant_credentials VALUES ('app_user', 'globex', 'x')",
        "DELETE FROM pgvpd.tenant_credentials",
        "TRUNCATE pgvpd.tenant_credentials",
        "COPY pgvpd.tenant_credentials TO STDOUT",
        "CREATE TRIGGER t BEFORE INSERT ON pgvpd.tenant_credentials EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE FUNCTION pgvpd.find_credential(name, name) RETURNS void LANGUAGE sql AS ''",
        "CREATE OR REPLACE FUNCTION pgvpd.find_credential(role_name text, tenant_name text) RETURNS void LANGUAGE sql AS ''",
      ];
      for (const client of [application, auth]) {
        for (const attempt of attempts) expect((await failure(client.query(attempt))).code, attempt).toBe("42501");
      }
      const error = await failure(application.query(question, ["app_user", "acme"]));
      expect(error).toMatchObject({ code: "42501", message: "permission denied for function find_credential" });
    });

    test("a caller's search_path, operators, temporary objects and settings change nothing", async () => {
      await bind(db, "app_user", "acme", 4096);
      await bind(db, "app_user", "g\\lob*", 5000);
      await db.admin.query("GRANT CREATE, TEMPORARY ON DATABASE " + db.name + " TO pgvpd_auth");
      const hijacker = await db.connect("pgvpd_auth");
      await hijacker.query(`
        CREATE SCHEMA evil;
        CREATE FUNCTION evil.yes(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'as %', current_user; END $$;
        CREATE FUNCTION evil.yes(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'as %', current_user; END $$;
        CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
        CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.yes);
        CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
        CREATE OPERATOR evil.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
        CREATE OPERATOR evil.~~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.yes);
        CREATE FUNCTION evil.strpos(text, text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'as %', current_user; END $$;
        CREATE FUNCTION evil.replace(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'as %', current_user; END $$;
        CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'as %', current_user; END $$;
        CREATE TEMP TABLE pg_roles AS SELECT 1 AS oid, 'app_user'::name AS rolname, true AS rolcanlogin;
        CREATE TEMP TABLE pg_authid (LIKE pg_temp.pg_roles);
        CREATE TEMP TABLE tenant_credentials (login_name text);
        SET search_path = pg_temp, evil, pg_catalog;
        SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on;
      `);
      expect(await find(hijacker, "app_user", "acme")).toEqual([[verifier(4096), true]]);
      expect(await find(hijacker, "app_user", "g\\lobex")).toEqual([[verifier(5000), true]]);
      expect(await find(hijacker, "app_user", "globex")).toEqual([]);
      expect(await find(hijacker, "app_user' OR true --", "acme")).toEqual([]);
      await hijacker.query("DROP SCHEMA evil CASCADE");
      await db.admin.query(`REVOKE ALL ON DATABASE ${db.name} FROM pgvpd_auth`);
    });

    test("twice, and over setup.sql and helpers.sql or before them, it is the same, with its rows and grants", async () => {
      await using other = await createDatabase(server(), installer);
      await other.owner.query(setupSql);
      await other.owner.query(helpersSql);
      await other.owner.query("SET search_path = pg_temp");
      await other.owner.query(credentialsSql);
      await other.owner.query("GRANT EXECUTE ON FUNCTION pgvpd.find_credential(text, text) TO pgvpd_auth");
      await bind(other, "app_user", "acme", 4096);
      other.takeMessages();
      const once = await installation(other);
      await other.owner.query(credentialsSql);
      expect(other.takeMessages()).toEqual([]);
      expect(await installation(other)).toEqual(once);
      expect(await installation(db)).toEqual(once);
      expect(once).toHaveLength(4);
      expect(await column(other.owner, "SELECT current_setting('search_path')")).toEqual(["pg_temp"]);
      expect(await find(await other.connect("pgvpd_auth"), "app_user", "acme")).toEqual([[verifier(4096), true]]);

      await using before = await createDatabase(server(), installer);
      for (const text of [credentialsSql, setupSql, helpersSql]) await before.owner.query(text);
      await before.owner.query("GRANT EXECUTE ON FUNCTION pgvpd.find_credential(text, text) TO pgvpd_auth");
      expect(await installation(before)).toEqual(once);
    });

    test("default privileges give nobody anything", async () => {
      await using other = await createDatabase(server(), installer);
      await other.owner.query(`ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO other_user, PUBLIC;
        ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO other_user`);
      await other.owner.query(credentialsSql);
      for (const client of [await other.connect("other_user"), await other.connect("app_user")]) {
        expect((await failure(client.query("SELECT FROM pgvpd.tenant_credentials"))).code).toBe("42501");
        expect((await failure(client.query(question, ["app_user", "acme"]))).code).toBe("42501");
      }
    });

    test("inside the caller's transaction, which stays the caller's", async () => {
      await using other = await createDatabase(server(), installer);
      await other.owner.query("BEGIN");
      await other.owner.query(credentialsSql);
      await other.owner.query("ROLLBACK");
      expect(await installation(other)).toEqual([]);
      expect(await column(other.owner, "SELECT to_regnamespace('pgvpd')::text")).toEqual([null]);
    });

    test("uninstall keeps a table that holds credentials, and says so; empty, it goes with the schema", async () => {
      await using other = await install(installer);
      await bind(other, "app_user", "acme", 4096);
      await other.owner.query(uninstallSql);
      expect(other.takeMessages().map((message) => `${message.severity} ${message.text}`)).toEqual([
        "WARNING kept table pgvpd.tenant_credentials: it holds credentials",
        "WARNING kept schema pgvpd: cannot drop schema pgvpd because other objects depend on it",
        "NOTICE kept what protects data: policies, row-level security, grants and the role app_user",
      ]);
      expect(await column(other.owner, "SELECT tenant FROM pgvpd.tenant_credentials")).toEqual(["acme"]);
      expect(await column(other.owner, "SELECT FROM pg_proc WHERE proname = 'find_credential'")).toEqual([]);
      await other.owner.query("DELETE FROM pgvpd.tenant_credentials");
      await other.owner.query(uninstallSql);
      expect(await column(other.owner, "SELECT to_regnamespace('pgvpd')::text")).toEqual([null]);
    });
  });

  describe("the role's own verifier", () => {
    const own = (db: TestDatabase): Promise<unknown[]> =>
      column(db.admin, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app_user'");

    test.each(["scram-sha-256", "md5"])(
      "(%s) is found where no bound one fits, with tenant and without",
      async (method) => {
        await using db = await install("superuser");
        await db.admin.query(`SET password_encryption = '${method}'; ALTER ROLE app_user LOGIN PASSWORD 'own'`);
        const auth = await db.connect("pgvpd_auth");
        await bind(db, "app_user", "acme", 4096);
        const [stored] = await own(db);
        expect(String(stored)).toMatch(method === "md5" ? /^md5/ : /^SCRAM-SHA-256\$/);
        for (const tenant of ["globex", "", null])
          expect(await find(auth, "app_user", tenant)).toEqual([[stored, false]]);
        expect(await find(auth, "app_user", "acme")).toEqual([[verifier(4096), true]]);
        for (const attribute of ["NOLOGIN", "LOGIN VALID UNTIL 'yesterday'", "PASSWORD NULL VALID UNTIL 'infinity'"]) {
          await db.admin.query(`ALTER ROLE app_user ${attribute}`);
          expect(await find(auth, "app_user", "globex"), attribute).toEqual([]);
        }
      },
    );

    test.each(["SUPERUSER", "BYPASSRLS", "REPLICATION"])("of a role with %s is never given away", async (attribute) => {
      await using db = await install("superuser");
      await db.admin.query(`CREATE ROLE powerful LOGIN ${attribute} PASSWORD 'own'`);
      const auth = await db.connect("pgvpd_auth");
      for (const tenant of ["acme", "", null]) expect(await find(auth, "powerful", tenant)).toEqual([]);
      await db.admin.query(`ALTER ROLE powerful NO${attribute}`);
      expect(await find(auth, "powerful", "acme")).toHaveLength(1);
      await db.admin.query("DROP ROLE powerful");
    });

    test("is not found, without an error, where the installer may not read pg_authid", async () => {
      await using db = await install("owner");
      await db.admin.query("ALTER ROLE app_user LOGIN PASSWORD 'own' VALID UNTIL 'infinity'");
      const auth = await db.connect("pgvpd_auth");
      expect(await find(auth, "app_user", "acme")).toEqual([]);
    });
  });

  describe("where somebody without the installer's rights could change what runs with them", () => {
    test("a schema of another role is refused, with the statements that help; its owner can then go on", async () => {
      await using db = await createDatabase(server(), "owner");
      await db.owner.query(setupSql);
      const error = await failure(db.admin.query(credentialsSql));
      expect(error).toMatchObject({
        code: "42501",
        message: `schema pgvpd belongs to role ${unprivilegedOwner}, who could then act with the rights of postgres`,
        hint: `If that role is trusted: ALTER SCHEMA pgvpd OWNER TO postgres; GRANT USAGE, CREATE ON SCHEMA pgvpd TO ${unprivilegedOwner};`,
      });
      expect(await installation(db)).toEqual([]);
      await db.admin.query(error.hint?.replace(/^[^:]*: /, "") ?? "");
      await db.admin.query(credentialsSql);
      await db.owner.query(setupSql);
      for (const attempt of [
        "DROP TABLE pgvpd.tenant_credentials",
        "DROP FUNCTION pgvpd.find_credential",
        "DROP SCHEMA pgvpd",
      ]) {
        expect((await failure(db.owner.query(attempt))).code).toBe("42501");
      }
    });

    test("a table or a function of another role is refused, and so is what is no table", async () => {
      await using db = await createDatabase(server(), "owner");
      await db.owner.query(credentialsSql);
      const give = async (): Promise<string> => {
        const { message, hint } = await failure(db.admin.query(credentialsSql));
        await db.admin.query(hint?.replace(/^[^:]*: /, "") ?? "");
        return message;
      };
      expect(await give()).toContain("schema pgvpd belongs to role");
      const messages = [await give(), await give()].sort();
      expect(messages[0]).toContain("function pgvpd.find_credential(text,text) belongs to role");
      expect(messages[1]).toContain("table pgvpd.tenant_credentials belongs to role");
      await db.admin.query(credentialsSql);

      await db.admin.query(
        "DROP TABLE pgvpd.tenant_credentials; CREATE VIEW pgvpd.tenant_credentials AS SELECT 1 AS one",
      );
      expect((await failure(db.admin.query(credentialsSql))).message).toBe("pgvpd.tenant_credentials is not a table");
      expect((await failure(db.owner.query(credentialsSql))).hint).toBe("Install as that role, or as a superuser.");
    });
  });
});
