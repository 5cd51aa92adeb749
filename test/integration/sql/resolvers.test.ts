/** sql/resolvers.sql: what a change of a table leaves behind for those who listen, and who else can write there. */
import { readFileSync } from "node:fs";
import type { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  column,
  createAppUser,
  createDatabase,
  createInstalledDatabase,
  failure,
  onOuterVersions,
  sqlFile,
  uninstallSql,
  type Installer,
  type TestDatabase,
} from "./database.ts";

const resolversSql = readFileSync(sqlFile("resolvers.sql"), "utf8");

/** As src/proxy/context/invalidation-listener.ts asks. */
const changesSince = `SELECT resolver || ' ' || params::text FROM pgvpd.invalidations i
  WHERE i.xid >= pg_snapshot_xmin($1::pg_snapshot) AND NOT pg_visible_in_snapshot(i.xid, $1::pg_snapshot)
  ORDER BY i.xid, i.ctid`;

const snapshotOf = async (client: Client): Promise<unknown> =>
  (await column(client, "SELECT pg_current_snapshot()::text"))[0];

/** What is there, with its rights: the same text is the same installation. */
const installation = (db: TestDatabase): Promise<unknown[]> =>
  column(
    db.admin,
    `SELECT pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') || p.proowner::regrole FROM pg_proc p WHERE p.proname LIKE '%invalidate%'
     UNION ALL SELECT c.oid::regclass || c.relkind::text || coalesce(c.relacl::text, '') || c.relowner::regrole
     FROM pg_class c WHERE c.relnamespace = to_regnamespace('pgvpd') AND c.relname LIKE 'invalidations%' ORDER BY 1`,
  );

onOuterVersions((server) => {
  describe.each<Installer>(["superuser", "owner"])("installed by the %s", (installer) => {
    let db: TestDatabase;
    let before: unknown;

    beforeAll(async () => {
      db = await createInstalledDatabase(server(), installer);
      await db.owner.query(resolversSql);
      expect(db.takeMessages()).toEqual([]);
      await db.owner.query(`CREATE TABLE members (user_id uuid, org_id text, "Odd "" name, $1" int, note text);
        GRANT ALL ON members TO app_user`);
    });
    afterAll(() => db[Symbol.asyncDispose]());
    beforeEach(async () => {
      await db.owner.query(`TRUNCATE members; TRUNCATE pgvpd.invalidations`);
      before = await snapshotOf(db.owner);
    });

    const changes = async (): Promise<unknown[]> => {
      const found = await column(db.owner, changesSince, [before]);
      before = await snapshotOf(db.owner);
      return found;
    };
    const onChange = async (columns: string, table = "members", resolver = "org"): Promise<void> => {
      await db.owner.query("SELECT pgvpd.invalidate_on_change($1, $2, $3)", [table, resolver, columns]);
      expect(await changes(), "what may have changed before the triggers were there").toEqual([`${resolver} {}`]);
    };
    const [a, b] = ["6f9619ff-8b86-d011-b42d-00c04fc964ff", "00000000-0000-0000-0000-00000000000b"];

    test("again, it stays what it is", async () => {
      const installed = await installation(db);
      await db.owner.query(resolversSql);
      expect(await installation(db)).toEqual(installed);
      db.takeMessages();
    });

    test("says what changed for INSERT, UPDATE, DELETE and TRUNCATE", async () => {
      await onChange("{user_id,org_id}");
      await db.owner.query(`INSERT INTO members VALUES ('${a.toUpperCase()}', 'x')`);
      expect(await changes()).toEqual([`org {${a},x}`]);
      await db.owner.query(`UPDATE members SET org_id = 'y'`);
      expect(await changes()).toEqual([`org {${a},x}`, `org {${a},y}`]);
      await db.owner.query(`UPDATE members SET note = 'other columns may matter to the query'`);
      expect(await changes()).toEqual([`org {${a},y}`]);
      await db.owner.query(`INSERT INTO members VALUES ('${b}', 'x') ; DELETE FROM members WHERE user_id = '${a}'`);
      expect(await changes()).toEqual([`org {${b},x}`, `org {${a},y}`]);
      await db.owner.query(`TRUNCATE members`);
      expect(await changes()).toEqual(["org {}"]);
    });

    test("says it whoever changes the table, and whatever that role may call", async () => {
      await onChange("{user_id}");
      const tenant = await db.connect("app_user");
      await tenant.query(`INSERT INTO members VALUES ('${a}', 'x')`);
      expect(await changes()).toEqual([`org {${a}}`]);
      await tenant.query(`UPDATE members SET user_id = '${b}' WHERE user_id = '${a}'`);
      expect(await changes()).toEqual([`org {${a}}`, `org {${b}}`]);
      await tenant.end();
    });

    test("says nothing for values that are NULL: no resolver is called with them", async () => {
      await onChange("{user_id,org_id}");
      await db.owner.query(`INSERT INTO members VALUES ('${a}', NULL)`);
      expect(await changes()).toEqual([]);
      await db.owner.query(`UPDATE members SET org_id = 'x'`);
      expect(await changes()).toEqual([`org {${a},x}`]);
      await db.owner.query(`UPDATE members SET org_id = NULL`);
      expect(await changes()).toEqual([`org {${a},x}`]);
    });

    test("keeps values as they are, whatever they hold", async () => {
      await onChange("{org_id}");
      for (const value of ["", "a,b", `{"x"}`, "NULL", "back\\slash", "it's", "line\nbreak", "$1", "é"]) {
        await db.owner.query("INSERT INTO members (org_id) VALUES ($1)", [value]);
      }
      const { rows } = await db.owner.query<{ params: string[] }>(
        "SELECT params FROM pgvpd.invalidations ORDER BY xid",
      );
      expect(rows.slice(1).map(({ params }) => params)).toEqual(
        ["", "a,b", `{"x"}`, "NULL", "back\\slash", "it's", "line\nbreak", "$1", "é"].map((value) => [value]),
      );
    });

    test("takes columns and tables with odd names, and domains", async () => {
      await db.owner.query(`DROP TABLE IF EXISTS "Odd ""Table"; DROP DOMAIN IF EXISTS slug; CREATE DOMAIN slug AS text;
        CREATE TABLE "Odd ""Table" ("Odd "" name, $1" slug, "user" int)`);
      await onChange(`{"Odd \\" name, $1","user"}`, `"Odd ""Table"`, `it's "odd"`);
      await db.owner.query(`INSERT INTO "Odd ""Table" VALUES ('x', 1)`);
      expect(await changes()).toEqual([`it's "odd" {x,1}`]);
    });

    test("makes the whole resolver look again for what is too long to tell, and for other types of columns", async () => {
      await onChange("{org_id}");
      await db.owner.query(`INSERT INTO members (org_id) VALUES (repeat('x', 1001))`);
      expect(await changes()).toEqual(["org {}"]);
      await db.owner.query(`DROP TABLE IF EXISTS timed; CREATE TABLE timed (user_id uuid, since timestamptz)`);
      db.takeMessages();
      await onChange("{user_id,since}", "timed");
      expect(db.takeMessages().map(({ text }) => text)).toContain(
        "column since of public.timed has type timestamp with time zone: a change makes the whole resolver look again",
      );
      await db.owner.query(`INSERT INTO timed VALUES ('${a}', now())`);
      expect(await changes()).toEqual(["org {}"]);
    });

    test("without columns every change makes the whole resolver look again", async () => {
      await onChange("{}");
      await db.owner.query(`INSERT INTO members VALUES ('${a}', 'x')`);
      expect(await changes()).toEqual(["org {}"]);
    });

    test("a column that was renamed since makes the whole resolver look again, rather than nothing", async () => {
      await db.owner.query(`DROP TABLE IF EXISTS renamed; CREATE TABLE renamed (user_id uuid, old_name text)`);
      await onChange("{user_id,old_name}", "renamed");
      await db.owner.query(`ALTER TABLE renamed RENAME old_name TO new_name; INSERT INTO renamed VALUES ('${a}', 'x')`);
      expect(await changes()).toEqual(["org {}"]);
      await db.owner.query(`ALTER TABLE renamed DROP new_name; DELETE FROM renamed`);
      expect(await changes()).toEqual(["org {}"]);
    });

    test("partitions tell it as their table does, also when they are written directly, and rows that move", async () => {
      await db.owner
        .query(`DROP TABLE IF EXISTS parts; CREATE TABLE parts (user_id uuid, org_id text) PARTITION BY LIST (org_id);
        CREATE TABLE parts_x PARTITION OF parts FOR VALUES IN ('x'); CREATE TABLE parts_y PARTITION OF parts FOR VALUES IN ('y')`);
      await onChange("{user_id}", "parts");
      await db.owner.query(`CREATE TABLE parts_z PARTITION OF parts FOR VALUES IN ('z')`);
      await db.owner.query(`INSERT INTO parts VALUES ('${a}', 'x')`);
      await db.owner.query(`INSERT INTO parts_z VALUES ('${b}', 'z')`);
      expect(await changes()).toEqual([`org {${a}}`, `org {${b}}`]);
      await db.owner.query(`UPDATE parts SET org_id = 'y' WHERE org_id = 'x'`);
      expect(await changes()).toContain(`org {${a}}`);
      await db.owner.query(`TRUNCATE parts`);
      expect(await changes()).toEqual(["org {}"]);
    });

    test("resolvers of one table do not get into each other's way", async () => {
      const long = "a name that is longer than PostgreSQL's names can be, so that it is cut: ";
      const names = ["x", "all_x", "row_x", `${long}1`, `${long}2`];
      for (const name of names) await onChange("{user_id}", "members", name);
      await db.owner.query("SELECT pgvpd.no_invalidate_on_change('members', 'x')");
      await onChange("{org_id}", "members", "row_x");
      await db.owner.query(`INSERT INTO members VALUES ('${a}', 'o')`);
      const told = (await changes()).filter((line) => line !== `org {${a}}` && line !== "org {}");
      expect(new Set(told)).toEqual(new Set([`all_x {${a}}`, "row_x {o}", `${long}1 {${a}}`, `${long}2 {${a}}`]));
      for (const name of names) await db.owner.query("SELECT pgvpd.no_invalidate_on_change('members', $1)", [name]);
    });

    test("no_invalidate_on_change leaves no trigger behind", async () => {
      await onChange("{user_id}");
      await db.owner.query("SELECT pgvpd.no_invalidate_on_change('members', 'org')");
      expect(await column(db.admin, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'members'::regclass")).toEqual([]);
      await db.owner.query("SELECT pgvpd.no_invalidate_on_change('members', 'org')");
    });

    test("a transaction that commits late is seen then, once, however long it was open", async () => {
      const late = await db.connect(installer === "owner" ? "platform_owner" : "postgres");
      await late.query("BEGIN");
      await late.query("SELECT pgvpd.invalidate('org', 'late')");
      for (let n = 0; n < 3; n++) {
        await db.owner.query("SELECT pgvpd.invalidate('org', $1)", [`${n}`]);
        expect(await changes()).toEqual([`org {${n}}`]);
      }
      // As if ten minutes had passed: what was committed then goes, what was not stays.
      await db.admin.query("UPDATE pgvpd.invalidations SET written_at = written_at - interval '1 hour'");
      await late.query("SAVEPOINT one");
      await late.query("SELECT pgvpd.invalidate('org', 'in a subtransaction')");
      await late.query("COMMIT");
      await db.admin.query("SELECT pgvpd.invalidate('noise') FROM generate_series(1, 10000)");
      const seen = (await changes()).filter((line) => line !== "noise {}");
      expect(seen).toEqual(["org {late}", 'org {"in a subtransaction"}']);
      expect(await changes()).toEqual([]);
      await late.end();
    });

    test("what was read long since goes, and who removes it makes nobody wait", async () => {
      await db.owner.query("SELECT pgvpd.invalidate('old', n::text) FROM generate_series(1, 50) n");
      await db.admin.query("SELECT pgvpd.invalidate('old', 'last')");
      await db.admin.query("UPDATE pgvpd.invalidations SET written_at = written_at - interval '11 minutes'");
      const remover = await db.connect(installer === "owner" ? "platform_owner" : "postgres");
      await remover.query("BEGIN");
      // One in five hundred calls removes.
      await remover.query("SELECT pgvpd.invalidate('new') FROM generate_series(1, 10000)");
      await db.owner.query("SET statement_timeout = '10s'");
      await db.owner.query("SELECT pgvpd.invalidate('new') FROM generate_series(1, 10000)");
      await db.owner.query("RESET statement_timeout");
      await remover.query("COMMIT");
      await remover.end();
      const left = await column(db.owner, "SELECT count(*)::int FROM pgvpd.invalidations WHERE resolver = 'old'");
      expect(left).toEqual([1]); // the row that says what had ended
    });

    test("a notification goes out with it, and is empty", async () => {
      const listener = await db.connect("app_user");
      const heard: (string | undefined)[] = [];
      listener.on("notification", ({ payload }) => heard.push(payload));
      await listener.query("LISTEN pgvpd_invalidate");
      await db.owner.query("SELECT pgvpd.invalidate('org', 'secret')");
      await expect.poll(async () => (await listener.query("SELECT 1"), heard)).toEqual([""]);
      await listener.end();
    });

    test.each([
      ["INSERT INTO pgvpd.invalidations (resolver, params) VALUES ('org', '{}')"],
      ["DELETE FROM pgvpd.invalidations"],
      ["SELECT * FROM pgvpd.invalidations"],
      ["TRUNCATE pgvpd.invalidations"],
      ["SELECT pgvpd.invalidate('org')"],
      ["SELECT pgvpd.invalidate_on_change('mine', 'org')"],
      ["SELECT pgvpd.no_invalidate_on_change('mine', 'org')"],
      ["CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pgvpd.invalidate_row('org')"],
      [
        "CREATE TRIGGER t AFTER INSERT ON pgvpd.invalidations FOR EACH ROW EXECUTE FUNCTION pgvpd.invalidate_row('org')",
      ],
    ])("a tenant may not: %s", async (statement) => {
      const tenant = await db.connect("app_user");
      await tenant.query("CREATE TEMP TABLE mine (user_id uuid)");
      expect((await failure(tenant.query(statement))).code).toBe("42501");
      await tenant.end();
    });

    test("a tenant's objects of the same names change nothing", async () => {
      await onChange("{user_id}");
      const tenant = await db.connect("app_user");
      await tenant.query(`CREATE TEMP TABLE invalidations (resolver text, params text[]);
        CREATE FUNCTION pg_temp.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT '{}'::jsonb $$;
        CREATE FUNCTION pg_temp.random() RETURNS float8 LANGUAGE sql AS $$ SELECT 0::float8 $$;
        SET search_path = pg_temp, pg_catalog`);
      await tenant.query(`INSERT INTO public.members VALUES ('${a}', 'x')`);
      expect(await changes()).toEqual([`org {${a}}`]);
      await tenant.end();
    });

    test.each([
      ["SELECT pgvpd.invalidate(NULL)", "22023"],
      ["SELECT pgvpd.invalidate('org', VARIADIC NULL)", "22023"],
      ["SELECT pgvpd.invalidate_on_change('members', NULL)", "22023"],
      ["SELECT pgvpd.invalidate_on_change('members', 'org', NULL)", "22023"],
      ["SELECT pgvpd.invalidate_on_change('nowhere', 'org')", "42P01"],
      ["SELECT pgvpd.invalidate_on_change('members', 'org', '{nothing}')", "42703"],
    ])("%s is %s", async (statement, code) => {
      expect((await failure(db.owner.query(statement))).code).toBe(code);
    });
  });

  test("needs sql/setup.sql, and says so", async () => {
    await using db = await createDatabase(server(), "owner");
    const error = await failure(db.owner.query(resolversSql));
    expect([error.code, error.hint]).toEqual(["42883", "Run sql/setup.sql, then this file again."]);
  });

  test.each<Installer>(["superuser", "owner"])(
    "uninstall.sql takes everything away that the %s has installed",
    async (installer) => {
      await using db = await createInstalledDatabase(server(), installer);
      await createAppUser(db);
      await db.owner.query(resolversSql);
      await db.owner.query(`CREATE TABLE members (user_id uuid, org_id text) PARTITION BY LIST (org_id);
      CREATE TABLE members_x PARTITION OF members FOR VALUES IN ('x');
      SELECT pgvpd.invalidate_on_change('members', 'org', '{user_id}')`);
      db.takeMessages();
      await db.owner.query(uninstallSql);
      expect(await installation(db)).toEqual([]);
      expect(await column(db.admin, "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'pgvpd%'")).toEqual([]);
      await db.owner.query("INSERT INTO members VALUES ('00000000-0000-0000-0000-000000000001', 'x')");
    },
  );
});
