/** pgvpd_status(): each way in which a table does not isolate its tenants is found and named, and no sound one is blamed. */
import { beforeAll, describe, expect, test } from "vitest";
import { createInstalledDatabase, onEveryVersion, type Installer, type TestDatabase } from "./database.ts";

const own = "tenant_id = (SELECT current_tenant_id())";
const protectedBy = (policies: string): string =>
  `ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; ${policies}`;

/** SQL that follows CREATE TABLE t (tenant_id text, open boolean), and what status says. */
const verdicts: readonly (readonly [name: string, sql: string, isolated: boolean, reason: string | null])[] = [
  ["pgvpd_protect", "SELECT pgvpd_protect('t')", true, null],
  ["pgvpd_protect_acl", `SELECT pgvpd_protect_acl('t', '[{"column": "tenant_id", "var": "app.x"}]')`, true, null],
  ["a policy by hand", protectedBy(`CREATE POLICY p ON t USING (${own})`), true, null],
  [
    "current_setting in a policy",
    protectedBy("CREATE POLICY p ON t USING (tenant_id = current_setting('app.x', true))"),
    true,
    null,
  ],
  ["a policy for SELECT only", protectedBy(`CREATE POLICY p ON t FOR SELECT USING (${own})`), true, null],
  ["no policy at all", protectedBy(""), true, "no policy: no row is visible to anyone"],
  ["nothing done", "", false, "row-level security is not enabled (role app_user has no rights on the table)"],
  ["only grants", "GRANT SELECT ON t TO app_user", false, "row-level security is not enabled"],
  ["a column grant", "GRANT SELECT (open) ON t TO PUBLIC", false, "row-level security is not enabled"],
  [
    "a policy without ENABLE",
    `CREATE POLICY p ON t USING (${own})`,
    false,
    "row-level security is not enabled (role app_user has no rights on the table)",
  ],
  [
    "not forced",
    "SELECT pgvpd_protect('t'); ALTER TABLE t NO FORCE ROW LEVEL SECURITY",
    false,
    "row-level security is not forced: the owner OWNER sees every row",
  ],
  [
    "a second, open policy",
    "SELECT pgvpd_protect('t'); CREATE POLICY all_rows ON t USING (true)",
    false,
    "policy all_rows does not read the tenant in its USING",
  ],
  [
    "an open policy for SELECT",
    "SELECT pgvpd_protect('t'); CREATE POLICY \"Public rows\" ON t FOR SELECT USING (open)",
    false,
    'policy "Public rows" does not read the tenant in its USING',
  ],
  [
    "an open WITH CHECK",
    protectedBy(`CREATE POLICY p ON t USING (${own}) WITH CHECK (true)`),
    false,
    "policy p does not read the tenant in its WITH CHECK",
  ],
  [
    "an open INSERT",
    "SELECT pgvpd_protect('t'); CREATE POLICY p ON t FOR INSERT WITH CHECK (true)",
    false,
    "policy p does not read the tenant in its WITH CHECK",
  ],
  [
    "the tenant's name in quotes only",
    protectedBy("CREATE POLICY p ON t USING (tenant_id <> 'current_tenant_id()')"),
    false,
    "policy p does not read the tenant in its USING",
  ],
  [
    "a tenant that is only asked for",
    protectedBy("CREATE POLICY p ON t USING (current_tenant_id() <> 'x')"),
    false,
    "policy p reads the tenant, but compares it with no column of the table",
  ],
  [
    "... OR no tenant",
    protectedBy(`CREATE POLICY p ON t USING (${own} OR (SELECT current_tenant_id()) IS NULL)`),
    false,
    "policy p lets rows through when there is no tenant",
  ],
  [
    "... OR no bare tenant",
    protectedBy(`CREATE POLICY p ON t USING (current_tenant_id() IS NULL OR ${own})`),
    false,
    "policy p lets rows through when there is no tenant",
  ],
  [
    "... OR no setting",
    protectedBy(`CREATE POLICY p ON t USING (NULLIF(current_setting('app.x', true), '') IS NULL OR ${own})`),
    false,
    "policy p lets rows through when there is no tenant",
  ],
  [
    "a column that may be NULL beside the tenant",
    protectedBy(
      `CREATE POLICY p ON t USING (tenant_id = current_tenant_id() AND (open IS NULL OR lower(note) IS NULL))`,
    ),
    true,
    null,
  ],
  [
    "open below a restrictive policy",
    protectedBy(`CREATE POLICY p ON t USING (true); CREATE POLICY r ON t AS RESTRICTIVE USING (${own})`),
    true,
    null,
  ],
  [
    "a restrictive policy for SELECT only",
    protectedBy(`CREATE POLICY p ON t USING (true); CREATE POLICY r ON t AS RESTRICTIVE FOR SELECT USING (${own})`),
    false,
    "policy p does not read the tenant in its USING",
  ],
  [
    "a restrictive policy TO the role",
    protectedBy(`CREATE POLICY p ON t USING (true); CREATE POLICY r ON t AS RESTRICTIVE TO app_user USING (${own})`),
    false,
    "policy p does not read the tenant in its USING; policy r is not TO PUBLIC: whoever is its role can remove it with DROP OWNED",
  ],
  [
    "a policy TO the role",
    protectedBy(`CREATE POLICY p ON t TO app_user USING (${own})`),
    false,
    "policy p is not TO PUBLIC: whoever is its role can remove it with DROP OWNED",
  ],
  [
    "an open policy TO another role",
    "SELECT pgvpd_protect('t'); CREATE POLICY p ON t TO pg_monitor USING (true)",
    true,
    null,
  ],
  [
    "TRUNCATE",
    "SELECT pgvpd_protect('t'); GRANT TRUNCATE ON t TO app_user",
    false,
    "role app_user holds TRUNCATE, which policies do not cover",
  ],
  [
    "ALL to PUBLIC",
    "SELECT pgvpd_protect('t'); GRANT ALL ON t TO PUBLIC",
    false,
    "role app_user holds TRUNCATE, REFERENCES, TRIGGER, which policies do not cover",
  ],
];

onEveryVersion((server) => {
  describe.each<Installer>(["superuser", "owner"])("installed by %s", (installer) => {
    let db: TestDatabase;
    beforeAll(async () => {
      db = await createInstalledDatabase(server(), installer);
      return () => db[Symbol.asyncDispose]();
    });

    const statusOf = async (table: string, role = "app_user"): Promise<Record<string, unknown> | undefined> => {
      const { rows } = await db.owner.query<Record<string, unknown>>(
        "SELECT * FROM pgvpd_status($1) WHERE table_name = $2",
        [role, table],
      );
      return rows[0];
    };

    test.each(verdicts)("%s", async (_, sql, isolated, reason) => {
      await db.owner.query("DROP TABLE IF EXISTS t; CREATE TABLE t (tenant_id text, open boolean, note text)");
      await db.owner.query(sql);
      const { rows } = await db.owner.query<{ owner: string }>("SELECT current_user AS owner");
      expect(await statusOf("t")).toMatchObject({
        isolated,
        reason: reason?.replace("OWNER", rows[0]?.owner ?? "") ?? null,
      });
    });

    test("the first columns are those of pgvpd 1.0", async () => {
      await db.owner.query("DROP TABLE IF EXISTS t; CREATE TABLE t (tenant_id text); SELECT pgvpd_protect('t')");
      const { rows, fields } = await db.owner.query("SELECT * FROM pgvpd_status() WHERE table_name = 't'");
      expect(fields.map((field) => field.name)).toEqual([
        "table_name",
        "rls_enabled",
        "rls_forced",
        "policy_count",
        "isolated",
        "reason",
        "seal",
      ]);
      expect(rows).toEqual([
        {
          table_name: "t",
          rls_enabled: true,
          rls_forced: true,
          policy_count: "1",
          isolated: true,
          reason: null,
          seal: "none",
        },
      ]);
    });

    test("a table that the application role owns, directly or through a membership", async () => {
      await db.owner.query("CREATE TABLE owned (tenant_id text); SELECT pgvpd_protect('owned')");
      await db.admin.query("ALTER TABLE owned OWNER TO app_user");
      expect(await statusOf("owned")).toMatchObject({
        isolated: false,
        reason: "role app_user owns the table and can switch its protection off",
      });
      await db.admin.query("CREATE ROLE team; GRANT team TO app_user; ALTER TABLE owned OWNER TO team");
      expect(await statusOf("owned")).toMatchObject({
        isolated: false,
        reason: "role app_user is a member of the owner team and can switch the protection off",
      });
      await db.admin.query("DROP TABLE owned; DROP ROLE team");
    });

    test("a role that policies do not bind, and a member of one", async () => {
      await db.admin.query(
        `CREATE ROLE mighty BYPASSRLS; CREATE ROLE climber; GRANT mighty TO climber; CREATE ROLE almighty SUPERUSER`,
      );
      await db.owner.query("DROP TABLE IF EXISTS t; CREATE TABLE t (tenant_id text); SELECT pgvpd_protect('t')");
      expect(await statusOf("t", "mighty")).toMatchObject({
        isolated: false,
        reason: "role mighty has BYPASSRLS: policies do not bind it",
      });
      expect(await statusOf("t", "almighty")).toMatchObject({
        isolated: false,
        reason: "role almighty is a superuser: policies do not bind it",
      });
      expect(await statusOf("t", "climber")).toMatchObject({
        isolated: false,
        reason: "role climber is a member of mighty, which policies do not bind",
      });
      expect(await statusOf("t", "no_such_role")).toMatchObject({ isolated: true, reason: null });
      await db.admin.query("DROP ROLE climber, mighty, almighty");
    });

    test("a partition that came later, and one that was never protected", async () => {
      await db.owner.query(`
        CREATE TABLE ev (tenant_id text NOT NULL, n integer) PARTITION BY LIST (n);
        CREATE TABLE ev_1 PARTITION OF ev FOR VALUES IN (1);
        SELECT pgvpd_protect('ev')`);
      expect(await statusOf("ev")).toMatchObject({ isolated: true });
      expect(await statusOf("ev_1")).toMatchObject({ isolated: true });
      await db.owner.query("CREATE TABLE ev_2 PARTITION OF ev FOR VALUES IN (2)");
      expect(await statusOf("ev")).toMatchObject({
        isolated: false,
        reason: "has no protection for those who name public.ev_2 directly",
      });
      expect(await statusOf("ev_2")).toMatchObject({ isolated: false });
      await db.owner.query("SELECT pgvpd_protect('ev')");
      expect(await statusOf("ev")).toMatchObject({ isolated: true, reason: null });
      expect(await statusOf("ev_2")).toMatchObject({ isolated: true, reason: null });
    });

    test("a function that policies call and that is IMMUTABLE or the tenants' own", async () => {
      await db.owner.query(`
        DROP TABLE IF EXISTS t; CREATE TABLE t (tenant_id text); SELECT pgvpd_protect('t');
        CREATE FUNCTION mine(text) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT $1 = current_tenant_id() $$;
        CREATE POLICY r ON t AS RESTRICTIVE USING (mine(tenant_id));
        ALTER FUNCTION current_tenant_id() IMMUTABLE`);
      expect(await statusOf("t")).toMatchObject({
        reason: "function public.current_tenant_id() is IMMUTABLE: cached plans show another tenant's rows",
      });
      await db.owner.query("ALTER FUNCTION current_tenant_id() STABLE");
      await db.admin.query("ALTER FUNCTION mine(text) OWNER TO app_user");
      expect(await statusOf("t")).toMatchObject({
        reason: "function public.mine(text), which a policy calls, is owned by role app_user",
      });
      await db.admin.query("DROP TABLE t; DROP FUNCTION mine(text)");
    });

    test("tables of every schema, with their schema, and none of the system's", async () => {
      await db.owner
        .query(`CREATE SCHEMA "my crm"; CREATE TABLE "my crm"."Deals" (tenant_id text); CREATE TABLE "Mixed" (tenant_id text);
        CREATE VIEW a_view AS SELECT 1; SELECT pgvpd_protect('"my crm"."Deals"'); SELECT pgvpd_protect('Mixed')`);
      const { rows } = await db.owner.query<{ table_name: string; isolated: boolean }>(
        "SELECT table_name, isolated FROM pgvpd_status()",
      );
      expect(rows).toContainEqual({ table_name: '"my crm"."Deals"', isolated: true });
      expect(rows).toContainEqual({ table_name: "Mixed", isolated: true });
      expect(rows.filter((row) => /^(pg_|information_schema|pgvpd)|a_view/.test(row.table_name))).toEqual([]);
    });

    test("a tenant may ask, and learns nothing of rows", async () => {
      const { rowCount } = await db.as("acme", (session) => session.query("SELECT * FROM pgvpd_status()"));
      expect(rowCount).toBeGreaterThan(0);
    });
  });
});
