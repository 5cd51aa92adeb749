/** Installing: as superuser and as a mere owner, by driver and by psql, twice, over pgvpd 1.0's SQL, and where it cannot. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import {
  column,
  createAppUser,
  createDatabase,
  createInstalledDatabase,
  dropAppUser,
  failure,
  helpersSql,
  onOuterVersions,
  referenceSql,
  setupSql,
  sqlFile,
  uninstallSql,
  unprivilegedOwner,
  type Installer,
  type TestDatabase,
} from "./database.ts";

/** Everything that pgvpd installs, as text: what is the same text is the same installation. */
async function installation(db: TestDatabase): Promise<unknown[]> {
  return column(
    db.admin,
    `SELECT p.oid::regprocedure || ' ' || pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') || p.proowner::regrole
     FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname = 'pgvpd' OR n.nspname = 'public' AND p.proname ~ 'pgvpd|current_tenant' ORDER BY 1`,
  );
}

onOuterVersions((server, version) => {
  describe.each<Installer>(["superuser", "owner"])("installed by %s", (installer) => {
    test("twice gives the same as once, in the caller's search_path, without a word the second time", async () => {
      await using db = await createDatabase(server(), installer);
      await createAppUser(db);
      await db.owner.query("SET search_path = pg_temp");
      await db.owner.query(setupSql);
      await db.owner.query(helpersSql);
      const once = await installation(db);
      db.takeMessages();
      await db.owner.query(setupSql);
      await db.owner.query(helpersSql);
      expect(db.takeMessages()).toEqual([]);
      expect(await installation(db)).toEqual(once);
      expect(await column(db.owner, "SELECT current_setting('search_path')")).toEqual(["pg_temp"]);
      expect(once).toHaveLength(24);
    });

    test("inside the caller's transaction, which stays the caller's", async () => {
      await using db = await createDatabase(server(), installer);
      await createAppUser(db);
      await db.owner.query("BEGIN");
      await db.owner.query(setupSql);
      await db.owner.query(helpersSql);
      await db.owner.query("ROLLBACK");
      expect(await installation(db)).toEqual([]);
      expect(await column(db.owner, "SELECT to_regnamespace('pgvpd')::text")).toEqual([null]);
    });

    describeWithTools(["psql"], "by psql -f", (psql = "") => {
      test("the same is installed as by the driver", async () => {
        await using byDriver = await createInstalledDatabase(server(), installer);
        await using db = await createDatabase(server(), installer);
        const user = installer === "owner" ? unprivilegedOwner : server().superuser;
        const files = ["-f", sqlFile("setup.sql"), "-f", sqlFile("helpers.sql")];
        const { stderr } = await promisify(execFile)(psql, [
          server().url(db.name, user),
          "-X",
          "-v",
          "ON_ERROR_STOP=1",
          ...files,
        ]);
        expect(stderr).toBe("");
        expect(await installation(db)).toEqual(await installation(byDriver));
      });
    });

    describe("over pgvpd 1.0's SQL", () => {
      const uuids = ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b1ffcd00-0d1c-4ef9-8c7e-7cc0ce491b22"];
      async function withReference(): Promise<TestDatabase> {
        const db = await createDatabase(server(), installer);
        await createAppUser(db);
        await db.owner.query(referenceSql);
        await db.owner.query(`
          CREATE TABLE contacts (tenant_id text NOT NULL, name text);
          CREATE TABLE cases (id uuid, owner text, code text);
          INSERT INTO contacts VALUES ('acme', 'a'), ('globex', 'g');
          INSERT INTO cases VALUES ('${uuids[0]}', 'me', 'x'), ('${uuids[1]}', 'you', 'y');
          SELECT pgvpd_protect('contacts');
          SELECT pgvpd_protect_acl('cases', '[{"column": "id", "var": "app.ids", "type": "uuid_array"},
            {"column": "owner", "var": "app.me", "type": "text"}, {"column": "code", "var": "app.codes", "type": "text_array"}]')`);
        db.takeMessages();
        return db;
      }
      const policies = (db: TestDatabase): Promise<unknown[]> =>
        column(db.admin, "SELECT tablename || ' ' || policyname || ' ' || roles::text FROM pg_policies ORDER BY 1");
      const old = ["cases pgvpd_acl_cases {app_user}", "contacts pgvpd_tenant_isolation_contacts {app_user}"];
      const mended = ["cases pgvpd_acl_cases {public}", "contacts pgvpd_tenant_isolation_contacts {public}"];

      test("its policies stay and go on filtering with the new functions; protecting again mends them", async () => {
        await using db = await withReference();
        await db.owner.query(setupSql);
        await db.owner.query(helpersSql);
        expect(await policies(db)).toEqual(old);
        const cases = (name: string, value: string) =>
          db.as(undefined, async (session) => {
            await session.query("SELECT set_config($1, $2, false)", [name, value]);
            return column(session, "SELECT owner FROM cases ORDER BY owner");
          });
        const check = async () => {
          expect(await db.as("acme", (s) => column(s, "SELECT name FROM contacts"))).toEqual(["a"]);
          expect(await db.as(undefined, (s) => column(s, "SELECT name FROM contacts"))).toEqual([]);
          expect(await cases("app.ids", `{${uuids.join(",")}}`)).toEqual(["me", "you"]);
          expect(await cases("app.me", "me")).toEqual(["me"]);
          expect(await cases("app.codes", "y, z")).toEqual(["you"]);
          expect(await cases("app.codes", "")).toEqual([]);
        };
        await check();
        const before = await db.owner.query("SELECT table_name, isolated, reason FROM pgvpd_status() ORDER BY 1");
        expect(before.rows.map((row: { isolated: boolean }) => row.isolated)).toEqual([false, false]);

        const warnings = db.takeMessages().filter((message) => message.severity === "WARNING");
        expect(warnings.map((warning) => warning.text)).toContain(
          "tables with policies of pgvpd 1.0: public.cases, public.contacts",
        );

        await db.owner.query(`SELECT pgvpd_protect('contacts');
          SELECT pgvpd_protect_acl('cases', '[{"column": "id", "var": "app.ids", "type": "uuid_array"},
            {"column": "owner", "var": "app.me"}, {"column": "code", "var": "app.codes", "type": "text_array"}]')`);
        expect(await policies(db)).toEqual(mended);
        await check();
        const after = await db.owner.query("SELECT table_name, isolated, reason FROM pgvpd_status() ORDER BY 1");
        expect(after.rows).toEqual([
          { table_name: "cases", isolated: true, reason: null },
          { table_name: "contacts", isolated: true, reason: null },
        ]);
      });

      test("there is one function of each name afterwards, and twice is as good as once", async () => {
        await using db = await withReference();
        await db.owner.query(setupSql);
        await db.owner.query(helpersSql);
        const once = await installation(db);
        await db.owner.query(setupSql);
        await db.owner.query(helpersSql);
        expect(await installation(db)).toEqual(once);
        const names = await column(
          db.admin,
          "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
        );
        expect(names).toEqual([...new Set(names)]);
        expect(names).toHaveLength(9);
        expect(await column(db.admin, "SELECT pgvpd_context(var_name => 'app.x')")).toEqual([null]); // policies use it: its argument keeps its name
      });
    });

    test("functions in the way: one nobody uses goes, one that a policy uses stays and is named", async () => {
      await using db = await createDatabase(server(), installer);
      await createAppUser(db);
      await db.owner.query(`
        CREATE FUNCTION pgvpd_protect(text) RETURNS void LANGUAGE sql AS '';
        CREATE FUNCTION pgvpd_context(text, text) RETURNS text LANGUAGE sql AS 'SELECT $2';
        CREATE FUNCTION current_tenant_id(integer) RETURNS text LANGUAGE sql AS 'SELECT ''app'' ';
        CREATE TABLE t (tenant_id text); CREATE POLICY p ON t USING (tenant_id = pgvpd_context('app.x', 'y'))`);
      await db.owner.query(setupSql);
      await db.owner.query(helpersSql);
      const texts = db.takeMessages().map((message) => `${message.severity} ${message.text}`);
      expect(texts).toEqual([
        "NOTICE function public.current_tenant_id(integer) is not from pgvpd and stays; pgvpd uses current_tenant_id() without arguments",
        "NOTICE removed function public.pgvpd_protect(text) (result: void) of an earlier installation",
        "WARNING function public.pgvpd_context(text,text) of an earlier installation stays: it is used by policy p on table public.t",
      ]);
    });

    test("a current_tenant_id() of another type is replaced when unused, and never under a policy", async () => {
      await using db = await createDatabase(server(), installer);
      await createAppUser(db);
      await db.owner.query(`
        CREATE FUNCTION current_tenant_id() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT NULL::uuid';
        CREATE TABLE t (tenant_id uuid); CREATE POLICY p ON t USING (tenant_id = current_tenant_id())`);
      const error = await failure(db.owner.query(setupSql));
      expect(error.code).toBe("2BP01");
      expect(error.message).toContain("is used by policy p on table public.t");
      expect(error.hint).toContain("ALTER FUNCTION public.current_tenant_id() RENAME TO");
      expect(await column(db.owner, "SELECT polname FROM pg_policy")).toEqual(["p"]);
      await db.owner.query("ALTER FUNCTION current_tenant_id() RENAME TO tenant_before_pgvpd");
      await db.owner.query(setupSql);
      expect(await column(db.owner, "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy")).toEqual([
        "(tenant_id = tenant_before_pgvpd())",
      ]);
      expect(await column(db.owner, "SELECT pg_typeof(current_tenant_id())::text")).toEqual(["text"]);
    });

    test("EXECUTE is granted where default privileges take it away", async () => {
      await using db = await createDatabase(server(), installer);
      await createAppUser(db);
      await db.owner.query("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC");
      await db.owner.query(setupSql);
      await db.owner.query(helpersSql);
      await db.owner.query(
        "CREATE TABLE t (tenant_id text NOT NULL); INSERT INTO t VALUES ('acme'), ('globex'); SELECT pgvpd_protect('t')",
      );
      expect(await db.as("acme", (s) => column(s, "SELECT tenant_id FROM t"))).toEqual(["acme"]);
    });

    test("uninstall keeps what policies need, and removes the rest; without policies, everything", async () => {
      await using db = await createInstalledDatabase(server(), installer);
      await db.owner.query(`CREATE TABLE t (tenant_id text NOT NULL); INSERT INTO t VALUES ('acme'), ('globex');
        SELECT pgvpd_protect_acl('t', '[{"column": "tenant_id", "var": "app.current_tenant_id", "type": "text_array"}]')`);
      db.takeMessages();
      await db.owner.query(uninstallSql);
      const said = db.takeMessages();
      expect(said.map((message) => message.severity)).toEqual(["WARNING", "NOTICE"]);
      expect(said[0]?.text).toContain("used by: policy pgvpd_acl_t on table public.t");
      expect(await db.as("acme", (s) => column(s, "SELECT tenant_id FROM t"))).toEqual(["acme"]);
      expect(await installation(db)).toHaveLength(8);
      await db.owner.query("DROP TABLE t");
      await db.owner.query(uninstallSql);
      await db.owner.query(uninstallSql);
      expect(await installation(db)).toEqual([]);
      expect(await column(db.owner, "SELECT to_regnamespace('pgvpd')::text")).toEqual([null]);
    });
  });

  describeWithTools(["pg_dump", "psql"], "dumped and restored", (pgDump = "", psql = "") => {
    test("a protected table carries its functions and policies along", async ({ skip }) => {
      const { stdout: dumpVersion } = await promisify(execFile)(pgDump, ["--version"]);
      const major = Number(/\d+/.exec(dumpVersion)?.[0]);
      skip(major < Number(version), `${dumpVersion.trim()} reads no newer server`);
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner.query(
        "CREATE TABLE t (tenant_id text NOT NULL); INSERT INTO t VALUES ('acme'), ('globex'); SELECT pgvpd_protect('t')",
      );
      await using copy = await createDatabase(server(), "superuser");
      const dump = await promisify(execFile)(pgDump, [server().url(db.name)]);
      const restored = promisify(execFile)(psql, [server().url(copy.name), "-X", "-q", "-v", "ON_ERROR_STOP=1"]);
      restored.child.stdin?.end(dump.stdout);
      await restored;
      expect(await copy.as("acme", (s) => column(s, "SELECT tenant_id FROM t"))).toEqual(["acme"]);
      expect(await column(copy.owner, "SELECT reason FROM pgvpd_status() WHERE isolated")).toEqual([null]);
    });
  });

  describe("the role app_user", () => {
    test("is created without a password, and can do nothing special", async () => {
      await dropAppUser(server());
      await using db = await createDatabase(server(), "superuser");
      await db.owner.query(setupSql);
      expect(db.takeMessages()).toEqual([
        {
          severity: "NOTICE",
          text: "created role app_user, without a password",
          hint: "Give it one, in psql: \\password app_user",
        },
      ]);
      const { rows } = await db.admin.query<Record<string, unknown>>(
        "SELECT * FROM pg_authid WHERE rolname = 'app_user'",
      );
      expect(rows[0]).toMatchObject({
        rolcanlogin: true,
        rolsuper: false,
        rolbypassrls: false,
        rolcreatedb: false,
        rolcreaterole: false,
        rolreplication: false,
        rolpassword: null,
      });
      const members = await column(
        db.admin,
        "SELECT member::regrole::text FROM pg_auth_members WHERE roleid = 'app_user'::regrole",
      );
      expect(members).toEqual([]);
    });

    test("is created by a role with CREATEROLE and no more", async () => {
      await dropAppUser(server());
      await using db = await createDatabase(server(), "owner");
      await db.admin.query(`ALTER ROLE ${unprivilegedOwner} CREATEROLE`);
      await db.owner.query(setupSql);
      await db.admin.query(`ALTER ROLE ${unprivilegedOwner} NOCREATEROLE`);
      expect(db.takeMessages().map((message) => message.text)).toEqual(["created role app_user, without a password"]);
      await dropAppUser(server());
    });

    test("is left to an administrator by a role without CREATEROLE, who is told the statement", async () => {
      await dropAppUser(server());
      await using db = await createDatabase(server(), "owner");
      await db.owner.query(setupSql);
      await db.owner.query(helpersSql);
      const [message, ...more] = db.takeMessages();
      expect(more).toEqual([]);
      expect(message).toMatchObject({
        severity: "WARNING",
        text: `role ${unprivilegedOwner} may not create the role app_user`,
      });
      const statement = /administrator run: (CREATE ROLE [^;]+);/.exec(message?.hint ?? "")?.[1] ?? "";
      await db.admin.query(statement);
      await db.owner.query(
        "CREATE TABLE t (tenant_id text NOT NULL); INSERT INTO t VALUES ('acme'), ('globex'); SELECT pgvpd_protect('t')",
      );
      expect(await db.as("acme", (s) => column(s, "SELECT tenant_id FROM t"))).toEqual(["acme"]);
    });

    test.each(["scram-sha-256", "md5"])(
      "that has the published password (%s) is named, another password is not",
      async (method) => {
        await using db = await createDatabase(server(), "superuser");
        await createAppUser(db);
        const install = async (password: string): Promise<string[]> => {
          await db.admin.query(`SET password_encryption = '${method}'; ALTER ROLE app_user PASSWORD ${password}`);
          await db.owner.query(setupSql);
          return db.takeMessages().map((message) => message.text);
        };
        expect(await install("'changeme'")).toEqual(["role app_user has the published password of pgvpd 1.0"]);
        expect(await install("'changeme2'")).toEqual([]);
        expect(await install("NULL")).toEqual([]);
      },
    );

    test("that is unsafe is named, with the statement that mends it", async () => {
      await using db = await createDatabase(server(), "superuser");
      await createAppUser(db);
      await db.admin.query(
        "CREATE ROLE boss BYPASSRLS; GRANT boss TO app_user; ALTER ROLE app_user CREATEDB CREATEROLE",
      );
      await db.owner.query(setupSql);
      const messages = db.takeMessages();
      expect(messages.map((message) => message.text)).toEqual([
        "role app_user is unsafe for tenants: it has CREATEROLE, CREATEDB",
        "role app_user is unsafe for tenants: it is a member of boss",
      ]);
      for (const message of messages) await db.admin.query(message.hint);
      await db.owner.query(setupSql);
      expect(db.takeMessages()).toEqual([]);
      await db.admin.query("DROP ROLE boss");
    });

    test("that may not use schema public gets the right, or its absence is told", async () => {
      await using db = await createDatabase(server(), "superuser");
      await createAppUser(db);
      await db.admin.query("REVOKE ALL ON SCHEMA public FROM PUBLIC");
      await db.owner.query(setupSql);
      expect(await column(db.admin, "SELECT has_schema_privilege('app_user', 'public', 'USAGE')")).toEqual([true]);

      await using other = await createDatabase(server(), "owner");
      await other.admin.query(`ALTER SCHEMA public OWNER TO postgres; REVOKE ALL ON SCHEMA public FROM PUBLIC;
        GRANT USAGE, CREATE ON SCHEMA public TO ${unprivilegedOwner}`);
      await other.owner.query(setupSql);
      const warnings = other.takeMessages().filter((message) => message.severity === "WARNING");
      expect(warnings.map((warning) => warning.hint)).toContain(
        "Let the schema's owner run: GRANT USAGE ON SCHEMA public TO app_user;",
      );
    });
  });

  describe("where it cannot be installed", () => {
    test("a role that may not create in schema public is told who may", async () => {
      await using db = await createDatabase(server(), "superuser");
      await db.admin.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC"); // as from PostgreSQL 15 on
      const guest = await db.connect(unprivilegedOwner);
      const error = await failure(guest.query(setupSql));
      expect(error).toMatchObject({
        code: "42501",
        message: `role ${unprivilegedOwner} may not create functions in schema public`,
      });
      expect(error.hint).toContain(`GRANT CREATE ON SCHEMA public TO ${unprivilegedOwner};`);

      await db.admin.query(`GRANT CREATE ON SCHEMA public TO ${unprivilegedOwner}`);
      const next = await failure(guest.query(setupSql));
      expect(next).toMatchObject({
        code: "42501",
        hint: `Let an administrator run: CREATE SCHEMA pgvpd AUTHORIZATION ${unprivilegedOwner};`,
      });
      await db.admin.query(`CREATE SCHEMA pgvpd AUTHORIZATION ${unprivilegedOwner}`);
      await guest.query(setupSql);
      await guest.query(helpersSql);
    });

    test("over a superuser's installation a mere owner is told whose it is", async () => {
      await using db = await createDatabase(server(), "owner");
      await createAppUser(db);
      await db.admin.query(referenceSql);
      const error = await failure(db.owner.query(setupSql));
      expect(error).toMatchObject({
        code: "42501",
        message: "function public.current_tenant_id() belongs to role postgres",
      });
      expect(error.hint).toContain(`ALTER FUNCTION public.current_tenant_id() OWNER TO ${unprivilegedOwner};`);

      await db.admin.query("DROP FUNCTION pgvpd_protect, pgvpd_protect_acl, pgvpd_status, current_tenant_id");
      await db.admin.query(setupSql);
      expect((await failure(db.owner.query(setupSql))).message).toContain(
        "may not create functions in schema pgvpd, which another role installed",
      );
    });

    test("helpers.sql without setup.sql says what is missing", async () => {
      await using db = await createDatabase(server(), "superuser");
      const error = await failure(db.owner.query(helpersSql));
      expect(error).toMatchObject({ code: "42883", hint: "Run sql/setup.sql, then this file again." });
    });

    test("a function that the tenants' role planted is taken from it", async () => {
      await using db = await createDatabase(server(), "superuser");
      await createAppUser(db);
      await db.admin.query("GRANT CREATE ON SCHEMA public TO PUBLIC");
      await db.as(undefined, (s) =>
        s.query("CREATE FUNCTION public.current_tenant_id() RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$"),
      );
      await db.owner.query(setupSql);
      expect(
        await column(db.admin, "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'current_tenant_id'"),
      ).toEqual(["postgres"]);
      const texts = db.takeMessages().map((message) => message.text);
      expect(texts).toContain("function public.current_tenant_id() belonged to role app_user");
      expect(texts).toContain(
        "role app_user may create functions in schema public, which would run in the sessions of every tenant",
      );
    });
  });
});
