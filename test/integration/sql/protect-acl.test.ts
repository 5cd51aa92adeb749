/** pgvpd_protect_acl(): every path type and "when", what it refuses, and that no text in its JSON becomes other SQL. */
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { Client } from "pg";
import {
  column,
  createInstalledDatabase,
  failure,
  onOuterVersions,
  type Installer,
  type TestDatabase,
} from "./database.ts";

const uuid = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`;

onOuterVersions((server) => {
  describe.each<Installer>(["superuser", "owner"])("installed by %s", (installer) => {
    let db: TestDatabase;
    beforeAll(async () => {
      db = await createInstalledDatabase(server(), installer);
      return () => db[Symbol.asyncDispose]();
    });
    beforeEach(async () => {
      await db.owner.query(`
        DROP TABLE IF EXISTS cases;
        CREATE TABLE cases (id uuid, n integer, small smallint, org_id uuid, creator text, code varchar(10), padded char(5), state text)`);
      for (let n = 1; n <= 6; n++) {
        await db.owner.query("INSERT INTO cases VALUES ($1, $2, $2::integer, $3, $4, $5::text, $5::text, $6)", [
          uuid(n),
          n,
          uuid(100 + (n % 2)),
          n % 2 === 0 ? "even" : "odd",
          `c${n}`,
          n > 3 ? "open" : "closed",
        ]);
      }
    });

    const protect = (paths: unknown, table = "cases"): Promise<unknown> =>
      db.owner.query("SELECT pgvpd_protect_acl($1, $2)", [table, JSON.stringify(paths)]);

    /** Runs work as app_user with these variables set. */
    const within = <T>(context: Record<string, string>, work: (session: Client) => Promise<T>): Promise<T> =>
      db.as(undefined, async (session) => {
        for (const [name, value] of Object.entries(context))
          await session.query("SELECT set_config($1, $2, false)", [name, value]);
        return work(session);
      });
    const visible = (context: Record<string, string>): Promise<unknown[]> =>
      within(context, (session) => column(session, "SELECT n FROM cases ORDER BY n"));

    test.each([
      [{ column: "creator", var: "app.v", type: "text" }, "even", [2, 4, 6]],
      [{ column: "creator", var: "app.v" }, "even", [2, 4, 6]],
      [{ column: "code", var: "app.v", type: "text" }, "c3", [3]],
      [{ column: "padded", var: "app.v", type: "text" }, "c3", [3]],
      [{ column: "id", var: "app.v", type: "uuid" }, uuid(5), [5]],
      [{ column: "n", var: "app.v", type: "integer" }, "4", [4]],
      [{ column: "small", var: "app.v", type: "integer" }, "4", [4]],
      [{ column: "id", var: "app.v", type: "uuid_array" }, `${uuid(1)}, ${uuid(6)}`, [1, 6]],
      [{ column: "id", var: "app.v", type: "uuid_array" }, `{${uuid(1)},${uuid(6)}}`, [1, 6]],
      [{ column: "code", var: "app.v", type: "text_array" }, "c2,c9,c5", [2, 5]],
      [{ column: "padded", var: "app.v", type: "text_array" }, '{c2,"c5"}', [2, 5]],
      [{ column: "small", var: "app.v", type: "integer_array" }, "1,3", [1, 3]],
    ])("path %j with %j shows %j", async (path, value, expected) => {
      await protect([path]);
      expect(await visible({ "app.v": value })).toEqual(expected);
      expect(await visible({ "app.v": "" })).toEqual([]);
      expect(await visible({})).toEqual([]);
    });

    const documented = [
      { column: "creator", var: "app.user_id", type: "text" },
      { column: "id", var: "app.granted_case_ids", type: "uuid_array" },
      { column: "org_id", var: "app.org_id", type: "uuid", when: "pgvpd_context('app.org_role') = 'admin'" },
    ];

    test("several paths add up, and 'when' opens its own path only", async () => {
      await protect(documented);
      expect(await visible({ "app.user_id": "odd" })).toEqual([1, 3, 5]);
      expect(await visible({ "app.user_id": "odd", "app.granted_case_ids": uuid(2) })).toEqual([1, 2, 3, 5]);
      expect(await visible({ "app.org_id": uuid(100), "app.org_role": "admin" })).toEqual([2, 4, 6]);
      expect(await visible({ "app.org_id": uuid(100), "app.org_role": "member" })).toEqual([]);
      expect(await visible({ "app.org_id": uuid(100) })).toEqual([]);
      expect(await visible({ "app.org_role": "admin" })).toEqual([]);
    });

    test("'when' may look at the row and at other tables", async () => {
      await db.owner.query(
        "CREATE TABLE IF NOT EXISTS openings (state text); TRUNCATE openings; INSERT INTO openings VALUES ('open')",
      );
      await db.owner.query("GRANT SELECT ON openings TO app_user");
      await protect([{ column: "creator", var: "app.v", when: "state <> 'closed'" }]);
      expect(await visible({ "app.v": "even" })).toEqual([4, 6]);
      await protect([
        { column: "creator", var: "app.v", when: "EXISTS (SELECT FROM openings o WHERE o.state = cases.state)" },
      ]);
      expect(await visible({ "app.v": "odd" })).toEqual([5]);
    });

    test("INSERT and UPDATE obey the same paths", async () => {
      await protect(documented);
      await within({ "app.user_id": "odd" }, async (session) => {
        expect((await failure(session.query("INSERT INTO cases (creator) VALUES ('even')"))).code).toBe("42501");
        expect((await failure(session.query("UPDATE cases SET creator = 'even'"))).code).toBe("42501");
        expect((await session.query("INSERT INTO cases (creator) VALUES ('odd')")).rowCount).toBe(1);
        expect((await session.query("UPDATE cases SET state = 'x' WHERE n = 2")).rowCount).toBe(0);
      });
    });

    test("one policy, TO PUBLIC, and protecting again replaces it", async () => {
      await protect(documented);
      await protect([{ column: "creator", var: "app.v" }]);
      const { rows } = await db.owner.query(
        "SELECT policyname, roles::text, cmd, qual = with_check AS same FROM pg_policies WHERE tablename = 'cases'",
      );
      expect(rows).toEqual([{ policyname: "pgvpd_acl_cases", roles: "{public}", cmd: "ALL", same: true }]);
      expect(
        await column(db.owner, "SELECT reason FROM pgvpd_status() WHERE table_name = 'cases' AND isolated"),
      ).toEqual([null]);
    });

    test("reads each variable once per query and uses indexes", async () => {
      await protect([
        { column: "id", var: "app.ids", type: "uuid_array" },
        { column: "creator", var: "app.user_id", when: "pgvpd_context('app.org_role') = 'admin'" },
      ]);
      await db.owner.query("CREATE INDEX cases_id ON cases (id); CREATE INDEX cases_creator ON cases (creator)");
      await within({ "app.ids": uuid(2) }, async (session) => {
        await session.query("SET enable_seqscan = off");
        const plan = (await column(session, "EXPLAIN (COSTS off) SELECT * FROM cases")).join("\n");
        expect(plan).toContain("Bitmap Index Scan on cases_id");
        expect(plan).toContain("Bitmap Index Scan on cases_creator");
        expect(plan.match(/InitPlan \d/g)?.length).toBeGreaterThanOrEqual(3);
        expect(plan).not.toContain("SubPlan");
        expect(plan).not.toContain("pgvpd_context");
        expect(await column(session, "SELECT n FROM cases")).toEqual([2]);
      });
    });

    test("a table of another schema, and partitions", async () => {
      await db.owner.query(`
        CREATE SCHEMA IF NOT EXISTS crm; DROP TABLE IF EXISTS crm.files;
        CREATE TABLE crm.files (owner text, kind text) PARTITION BY LIST (kind);
        CREATE TABLE crm.files_a PARTITION OF crm.files FOR VALUES IN ('a');
        INSERT INTO crm.files VALUES ('me', 'a'), ('you', 'a')`);
      await protect([{ column: "owner", var: "app.v", when: "kind = 'a'" }], "crm.files");
      await db.owner.query("GRANT SELECT ON crm.files_a TO app_user");
      for (const table of ["crm.files", "crm.files_a"]) {
        expect(await within({ "app.v": "me" }, (s) => column(s, `SELECT owner FROM ${table}`))).toEqual(["me"]);
      }
    });

    test("warns when pgvpd_protect's policy is on the table as well", async () => {
      await db.owner.query("SELECT pgvpd_protect('cases', 'creator')");
      db.takeMessages();
      await protect(documented);
      const warnings = db.takeMessages().filter((message) => message.severity === "WARNING");
      expect(warnings.map((warning) => warning.text)).toEqual([
        "public.cases has other permissive policies: pgvpd_tenant_isolation_cases",
      ]);
    });

    const ok = { column: "creator", var: "app.v" };
    test.each<[name: string, paths: unknown, code: string, message: string, hint: string]>([
      ["no paths", [], "22023", "at least one path", "For example"],
      ["an object", ok, "22023", "must be a JSON array", "For example"],
      ["null", null, "22023", "must be a JSON array", "For example"],
      ["a text as path", ["creator"], "22023", "a path must be an object", "For example"],
      [
        "an unknown key",
        [{ ...ok, where: "true" }],
        "22023",
        'unknown key "where"',
        'Allowed are "column", "var", "type" and "when".',
      ],
      [
        "an unknown type",
        [{ ...ok, type: "int" }],
        "22023",
        'unknown type "int"',
        "text, uuid, integer, text_array, uuid_array, integer_array",
      ],
      ["no column", [{ var: "app.v" }], "22023", '"column" must be given', "are needed"],
      ["no var", [{ column: "creator" }], "22023", '"var" must be given', "are needed"],
      ["a number as column", [{ column: 1, var: "app.v" }], "22023", '"column" must be given', "are needed"],
      ["null as when", [{ ...ok, when: null }], "22023", '"when" must be given', "may be absent"],
      ["an empty when", [{ ...ok, when: " " }], "22023", '"when" must be given', "may be absent"],
      [
        "a variable of PostgreSQL's",
        [{ column: "creator", var: "application_name" }],
        "22023",
        "is not a variable of the context",
        "app.user_id",
      ],
      [
        "a missing column",
        [{ column: "nobody", var: "app.v" }],
        "42703",
        'has no column "nobody"',
        "Its columns are: id, n,",
      ],
      [
        "a column of another type",
        [{ column: "id", var: "app.v" }],
        "42804",
        "column id of public.cases has type uuid",
        "text,",
      ],
      [
        "a uuid path on text",
        [{ ...ok, type: "uuid" }],
        "42804",
        "column creator of public.cases has type text",
        "uuid",
      ],
      ["a when that is no boolean", [{ ...ok, when: "'x'::text" }], "42804", "boolean", ""],
      ["a when of an unknown column", [{ ...ok, when: "nobody = 1" }], "42703", "nobody", ""],
    ])("refuses %s", async (_, paths, code, message, hint) => {
      const error = await failure(protect(paths));
      expect(error.code).toBe(code);
      expect(error.message).toContain(message);
      expect(error.hint ?? "").toContain(hint);
      expect(await column(db.owner, "SELECT polname FROM pg_policy WHERE polrelid = 'cases'::regclass")).toEqual([]);
    });

    test.each([
      "true)) OR ((true",
      "true) OR (true)) OR ((true",
      "true) FROM cases; DROP TABLE victim; SELECT (true",
      "true; DROP TABLE victim",
      "true) --",
      "true /*",
      "true, true",
      "",
    ])("'when' cannot leave its brackets: %j", async (when) => {
      await db.owner.query("CREATE TABLE IF NOT EXISTS victim (id integer)");
      await failure(protect([{ ...ok, when }]));
      expect(await column(db.owner, "SELECT to_regclass('victim')::text")).toEqual(["victim"]);
      expect(await column(db.owner, "SELECT relrowsecurity FROM pg_class WHERE oid = 'cases'::regclass")).toEqual([
        false,
      ]);
    });

    test.each(["false) OR (true", "true -- a comment", "false OR true"])(
      "'when' with an OR or a comment still narrows its path: %j",
      async (when) => {
        await protect([{ ...ok, when }]);
        expect(await visible({ "app.v": "even" })).toEqual([2, 4, 6]);
        expect(await visible({})).toEqual([]);
      },
    );

    test("quotes in column, variable and table stay text", async () => {
      const odd = `o'd"d\\ %I $1; --`;
      const quoted = `"${odd.replaceAll('"', '""')}"`;
      await db.owner.query(`CREATE TABLE ${quoted} (${quoted} text)`);
      await db.owner.query(`INSERT INTO ${quoted} VALUES ('mine'), ('yours')`);
      await protect([{ column: odd, var: "app.v" }], odd);
      expect(await within({ "app.v": "mine" }, (s) => column(s, `SELECT * FROM ${quoted}`))).toEqual(["mine"]);
      await protect([{ column: odd, var: "app.v') = 'x' OR true OR pgvpd_context('app.w" }], odd);
      expect(await within({ "app.v": "mine" }, (s) => column(s, `SELECT * FROM ${quoted}`))).toEqual([]);
      expect((await failure(protect([{ column: 'creator" = "creator" OR "creator', var: "app.v" }]))).code).toBe(
        "42703",
      );
      await db.owner.query(`DROP TABLE ${quoted}`);
    });

    test("an operator in the author's search_path does not replace PostgreSQL's", async () => {
      await db.owner.query(`
        CREATE SCHEMA trap;
        CREATE FUNCTION trap.always(varchar, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT true $$;
        CREATE OPERATOR trap.= (LEFTARG = varchar, RIGHTARG = text, FUNCTION = trap.always);
        SET search_path = trap, public, pg_catalog`);
      await db.owner.query("SELECT pgvpd_protect_acl('cases', $1)", [
        JSON.stringify([{ column: "code", var: "app.v" }]),
      ]);
      await db.owner.query("RESET search_path; DROP SCHEMA trap CASCADE");
      expect(await visible({ "app.v": "c1" })).toEqual([1]);
    });

    test("a tenant cannot protect a table, and gains nothing by trying", async () => {
      await protect(documented);
      await within({}, async (session) => {
        const error = await failure(session.query("SELECT pgvpd_protect_acl('cases', $1)", [JSON.stringify([ok])]));
        expect(error.code).toBe("42501");
      });
    });
  });
});
