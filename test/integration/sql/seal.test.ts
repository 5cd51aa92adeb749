/**
 * sql/seal.sql: which carrier it chooses, what it refuses and why, that it can be run again and changed, that setup.sql
 * and helpers.sql leave it in place, and that uninstall.sql takes it away. What it holds against: test/isolation/.
 */
import { readFileSync } from "node:fs";
import { Client } from "pg";
import { describe, expect, test } from "vitest";
import { renderKeyInstallation, type SealKey } from "../../../src/config/seal-keys.ts";
import { enter } from "../../isolation/seal-fixture.ts";
import {
  column,
  createDatabase,
  createInstalledDatabase,
  failure,
  helpersSql,
  onEveryVersion,
  setupSql,
  sqlFile,
  unprivilegedOwner,
  uninstallSql,
  type TestDatabase,
} from "./database.ts";

const sealSql = readFileSync(sqlFile("seal.sql"), "utf8");
const key: SealKey = { kid: 1, bytes: Buffer.alloc(32, 7) };
const keySql = renderKeyInstallation([key]);
const asSigned = `SET pgvpd.carrier = 'signed'; ${sealSql}; RESET pgvpd.carrier`;

const carrierOf = async (db: TestDatabase): Promise<unknown> =>
  (await column(db.admin, "SELECT pgvpd.seal_carrier()"))[0];

/** How the functions that policies call are marked; a signature made in the leader is none in a worker. */
const marksOf = (db: TestDatabase): Promise<unknown[]> =>
  column(
    db.admin,
    `SELECT DISTINCT proparallel FROM pg_proc
     WHERE proname ~ '^(current_tenant_id|pgvpd_context.*|context_value)$' AND provolatile = 's'`,
  );

/** Owners of the seal's functions and of the keys. */
const ownersOf = (db: TestDatabase): Promise<unknown[]> =>
  column(
    db.admin,
    `SELECT DISTINCT pg_get_userbyid(owner) FROM (
       SELECT proowner AS owner FROM pg_proc WHERE proname IN ('hello', 'set_context', 'context_value', 'is_authentic', 'session_start', 'sealed_context')
       UNION ALL SELECT relowner FROM pg_class WHERE oid = 'pgvpd.context_keys'::regclass) AS o`,
  );

async function withTable(db: TestDatabase): Promise<void> {
  await db.owner.query(`CREATE TABLE t (tenant_id text NOT NULL); INSERT INTO t VALUES ('acme'), ('globex');
    SELECT pgvpd_protect('t')`);
  db.takeMessages();
}

/** What acme sees, with a context that is signed as pgvpd signs it, and with one that is merely set. */
async function rowsOf(db: TestDatabase, database = db.name): Promise<{ sealed: unknown[]; set: unknown[] }> {
  const carrier = await carrierOf(db);
  const set = await db.as("acme", (session) => column(session, "SELECT tenant_id FROM t"));
  if (carrier === "none") return { sealed: [], set };
  const sealed = await db.as(undefined, async (session) => {
    await enter(session, key, "acme", { database });
    return column(session, "SELECT tenant_id FROM t");
  });
  return { sealed, set };
}

onEveryVersion((server, version) => {
  const hasSlot = Number(version) >= 15;
  const best = hasSlot ? "slot" : "signed";

  describe("installed by a superuser", () => {
    test("the slot is chosen where there is one; its session alone sees rows", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await withTable(db);
      expect(await rowsOf(db)).toEqual({ sealed: [], set: ["acme"] });
      await db.owner.query(sealSql);
      expect(db.takeMessages()).toEqual([
        {
          severity: "NOTICE",
          text: `the context is sealed (carrier: ${best}): sessions that do not come through pgvpd see no rows`,
          hint: "",
        },
      ]);
      await db.owner.query(keySql);
      expect(await carrierOf(db)).toBe(best);
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
      expect(await ownersOf(db)).toEqual(["pgvpd_owner"]);
      expect(await marksOf(db)).toEqual([hasSlot ? "s" : "r"]);
      expect(await column(db.admin, "SELECT DISTINCT seal FROM pgvpd_status()")).toEqual([best]);
    });

    test("pgvpd_owner can do nothing but what the seal needs", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner.query(sealSql);
      const { rows } = await db.admin.query(
        `SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, rolpassword
         FROM pg_authid WHERE rolname = 'pgvpd_owner'`,
      );
      expect(rows).toEqual([
        {
          rolcanlogin: false,
          rolsuper: false,
          rolbypassrls: false,
          rolcreaterole: false,
          rolcreatedb: false,
          rolreplication: false,
          rolpassword: null,
        },
      ]);
      const members = "SELECT count(*)::int FROM pg_auth_members WHERE roleid = 'pgvpd_owner'::regrole";
      expect(await column(db.admin, members)).toEqual([0]);
      expect(await column(db.admin, "SELECT has_schema_privilege('pgvpd_owner', 'pgvpd', 'CREATE')")).toEqual([false]);
    });

    test("SET pgvpd.carrier chooses; and anything but a carrier is refused", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await withTable(db);
      await db.owner.query(asSigned);
      await db.owner.query(keySql);
      expect(await carrierOf(db)).toBe("signed");
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
      expect(await marksOf(db)).toEqual(["r"]);
      const error = await failure(db.owner.query(`SET pgvpd.carrier = 'none'; ${sealSql}`));
      expect(error).toMatchObject({ code: "22023", message: 'pgvpd.carrier is "none"', hint: "slot or signed" });
    });

    test("twice is as good as once, in the caller's search_path", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await withTable(db);
      await db.owner.query("SET search_path = pg_temp");
      await db.owner.query(sealSql);
      await db.owner.query(keySql);
      const objects = (): Promise<unknown[]> =>
        column(
          db.admin,
          `SELECT pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') || p.proowner::regrole FROM pg_proc p
           WHERE p.pronamespace = 'pgvpd'::regnamespace AND p.prokind = 'f' OR p.proname ~ 'pgvpd_|current_tenant'
           UNION ALL SELECT c.relacl::text || c.relowner::regrole FROM pg_class c WHERE c.oid = 'pgvpd.context_keys'::regclass
           ORDER BY 1`,
        );
      const once = await objects();
      await db.owner.query(sealSql);
      expect(await objects()).toEqual(once);
      expect(await column(db.owner, "SELECT current_setting('search_path')")).toEqual(["pg_temp"]);
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
    });

    test.runIf(hasSlot)("the carrier changes back and forth, and the keys stay", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await withTable(db);
      await db.owner.query(`${sealSql}; ${keySql}`);
      for (const [sql, carrier, mark] of [
        [asSigned, "signed", "r"],
        [sealSql, "slot", "s"],
        [asSigned, "signed", "r"],
      ] as const) {
        await db.owner.query(sql);
        expect(await carrierOf(db)).toBe(carrier);
        expect(await marksOf(db)).toEqual([mark]);
        expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
      }
    });

    test.each(hasSlot ? ["slot", "signed"] : ["signed"])(
      "setup.sql and helpers.sql, run again, leave the seal in place: %s",
      async (carrier) => {
        await using db = await createInstalledDatabase(server(), "superuser");
        await withTable(db);
        await db.owner.query(`SET pgvpd.carrier = '${carrier}'; ${sealSql}; ${keySql}`);
        const marks = await marksOf(db);
        db.takeMessages();
        await db.owner.query(setupSql);
        await db.owner.query(helpersSql);
        expect(db.takeMessages()).toEqual([]);
        expect(await carrierOf(db)).toBe(carrier);
        expect(await marksOf(db)).toEqual(marks);
        expect(await ownersOf(db)).toEqual(["pgvpd_owner"]);
        expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
      },
    );

    test("default privileges give nobody a key", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner.query(
        "CREATE ROLE reporter; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app_user, reporter, PUBLIC",
      );
      await db.owner.query(sealSql);
      expect(
        await column(
          db.admin,
          `SELECT DISTINCT a.grantee::regrole::text FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'pgvpd.context_keys'::regclass`,
        ),
      ).toEqual(["pgvpd_owner"]);
      await db.owner.query(
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM app_user, reporter, PUBLIC; DROP ROLE reporter",
      );
    });

    test("an application's own functions of these names keep their marks", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner.query(
        "CREATE FUNCTION current_tenant_id(integer) RETURNS text LANGUAGE sql PARALLEL UNSAFE AS $$ SELECT 'x' $$",
      );
      await db.owner.query(sealSql);
      expect(
        await column(
          db.admin,
          "SELECT proparallel FROM pg_proc WHERE oid = 'current_tenant_id(integer)'::regprocedure",
        ),
      ).toEqual(["u"]);
    });
  });

  describe("installed by the owner of the database", () => {
    test("the context is signed, once an administrator lets the owner see when a session began", async () => {
      await using db = await createInstalledDatabase(server(), "owner");
      await withTable(db);
      const error = await failure(db.owner.query(sealSql));
      expect(error).toMatchObject({
        code: "42501",
        message: `role ${unprivilegedOwner} cannot see when a session began`,
        hint: `Let an administrator run: GRANT pg_read_all_stats TO ${unprivilegedOwner};`,
      });
      expect(await carrierOf(db)).toBe("none");
      await db.admin.query(/GRANT .*;/.exec(error.hint ?? "")?.[0] ?? "");
      await db.owner.query(sealSql);
      await db.owner.query(keySql);
      expect(await carrierOf(db)).toBe("signed");
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
      expect(await ownersOf(db)).toEqual([unprivilegedOwner]);
      expect(await marksOf(db)).toEqual(["r"]);

      await db.owner.query(`${setupSql}; ${helpersSql}; ${sealSql}`);
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
      await db.admin.query(`REVOKE pg_read_all_stats FROM ${unprivilegedOwner}`);
      // Now nobody can say when the session began: no context, and no rows.
      const session = await db.connect("app_user");
      await expect(enter(session, key, "acme", { database: db.name })).rejects.toMatchObject({ code: "28000" });
    });

    test("over a superuser's setup it says whose objects are in the way", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.admin.query(
        `GRANT pg_read_all_stats TO ${unprivilegedOwner}; GRANT ALL ON SCHEMA pgvpd TO ${unprivilegedOwner}`,
      );
      const session = await db.connect(unprivilegedOwner);
      const error = await failure(session.query(sealSql));
      expect(error).toMatchObject({ code: "42501", hint: "Install as that role, or as a superuser." });
      expect(error.message).toMatch(/belongs to role postgres, who could then undo the seal$/);
      await db.admin.query(`REVOKE pg_read_all_stats FROM ${unprivilegedOwner}`);
    });

    test("a superuser takes its schema and functions over before sealing, as the hints say", async () => {
      await using db = await createInstalledDatabase(server(), "owner");
      await withTable(db);
      for (let round = 0; ; round++) {
        const error = await db.admin.query(sealSql).then(
          () => undefined,
          (thrown: Error & { hint?: string }) => thrown,
        );
        if (error === undefined) break;
        expect(error.message).toContain(`belongs to role ${unprivilegedOwner}, who could then undo the seal`);
        expect(round).toBeLessThan(3);
        await db.admin.query(/trusted: (.*)/.exec(error.hint ?? "")?.[1] ?? "");
      }
      await db.admin.query(keySql);
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
      await db.owner.query(setupSql);
      await db.owner.query(helpersSql);
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });
    });
  });

  describe("is refused", () => {
    test("without setup.sql", async () => {
      await using db = await createDatabase(server(), "superuser");
      expect(await failure(db.owner.query(sealSql))).toMatchObject({
        code: "42883",
        hint: "Run sql/setup.sql (and sql/helpers.sql), then this file again.",
      });
    });

    test("where a tenant's role owns the schema", async () => {
      await using db = await createDatabase(server(), "superuser");
      await db.admin.query("CREATE SCHEMA pgvpd AUTHORIZATION app_user");
      await db.owner.query(setupSql);
      expect((await failure(db.owner.query(sealSql))).message).toBe(
        "schema pgvpd belongs to role app_user, who could then undo the seal",
      );
    });

    test("where a function of an earlier pgvpd would go on reading the variable", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner.query(
        "CREATE OR REPLACE FUNCTION pgvpd_context(var text) RETURNS text LANGUAGE sql STABLE AS 'SELECT current_setting(var, true)'",
      );
      expect(await failure(db.owner.query(sealSql))).toMatchObject({
        code: "55000",
        message:
          "these functions would go on reading a session variable, which is not sealed: public.pgvpd_context(text)",
      });
      await db.owner.query(helpersSql);
      await db.owner.query(sealSql);
    });

    test("at its end, where a statement before has failed", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      const lastBlock = sealSql.slice(sealSql.indexOf("DO $readers$"));
      await db.owner.query("SET pgvpd.installing_carrier = 'signed'");
      expect((await failure(db.owner.query(lastBlock))).message).toContain("the context is not sealed");
    });
  });

  describe("pgvpd_status()", () => {
    test("names a policy that reads a variable past the seal", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner
        .query(`CREATE TABLE t (tenant_id text NOT NULL); ALTER TABLE t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON t USING (tenant_id = current_setting('app.current_tenant_id', true))`);
      const status = "SELECT isolated, reason, seal FROM pgvpd_status()";
      expect((await db.owner.query(status)).rows).toEqual([{ isolated: true, reason: null, seal: "none" }]);
      await db.owner.query(sealSql);
      expect((await db.owner.query(status)).rows).toEqual([
        { isolated: false, reason: "policy p reads a session variable, which is not sealed", seal: best },
      ]);
    });
  });

  describe("uninstall.sql", () => {
    const roleExists = (db: TestDatabase): Promise<unknown[]> =>
      column(db.admin, "SELECT count(*)::int FROM pg_roles WHERE rolname = 'pgvpd_owner'");

    test("keeps the seal as long as a policy reads through it, then removes all of it, and the role with the last one", async () => {
      await dropOwnerRole(server());
      await using db = await createInstalledDatabase(server(), "superuser");
      await using other = await createInstalledDatabase(server(), "superuser");
      await withTable(db);
      await db.owner.query(`${sealSql}; ${keySql}`);
      await other.owner.query(asSigned);
      db.takeMessages();

      await db.owner.query(uninstallSql);
      expect(db.takeMessages().map(({ text }) => text)).toEqual([
        "kept the functions that read the context (current_tenant_id, pgvpd_context..., schema pgvpd, the seal and its keys), " +
          "used by: policy pgvpd_tenant_isolation_t on table public.t",
        "kept what protects data: policies, row-level security, grants and the role app_user",
      ]);
      expect(await rowsOf(db)).toEqual({ sealed: ["acme"], set: [] });

      await db.owner.query("DROP TABLE t");
      await db.owner.query(uninstallSql);
      expect(db.takeMessages().map(({ text }) => text)).toEqual([
        'kept role pgvpd_owner: role "pgvpd_owner" cannot be dropped because some objects depend on it',
        "kept what protects data: policies, row-level security, grants and the role app_user",
      ]);
      expect(await column(db.admin, "SELECT nspname FROM pg_namespace WHERE nspname = 'pgvpd'")).toEqual([]);
      if (hasSlot) {
        // It keeps its rights too, because the seal of the other database may need them.
        expect(
          await column(db.admin, "SELECT has_parameter_privilege('pgvpd_owner', 'session_preload_libraries', 'SET')"),
        ).toEqual([true]);
      }
      expect(await roleExists(db)).toEqual([1]);

      other.takeMessages();
      await other.owner.query(uninstallSql);
      expect(other.takeMessages().map(({ severity }) => severity)).toEqual(["NOTICE"]);
      expect(await roleExists(db)).toEqual([0]);
    });

    test("by a role that did not seal says what it could not remove", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner.query(sealSql);
      const guest = await db.connect(unprivilegedOwner);
      const said: string[] = [];
      guest.on("notice", ({ message }) => said.push(message ?? ""));
      await guest.query(uninstallSql);
      expect(said).toContain("kept table pgvpd.context_keys: must be owner of table context_keys");
      expect(await carrierOf(db)).toBe(best);
    });
  });
});

/** What other tests have sealed with; the role is one for all databases. */
async function dropOwnerRole(server: { url(database?: string): string }): Promise<void> {
  const admin = new Client({ connectionString: server.url() });
  await admin.connect();
  const { rows } = await admin.query<{ datname: string }>("SELECT datname FROM pg_database WHERE datname ~ '^sql_'");
  for (const { datname } of rows) await admin.query(`DROP DATABASE ${datname}`);
  await admin.query("DROP ROLE IF EXISTS pgvpd_owner").catch(async () => {
    await admin.query("REVOKE SET ON PARAMETER session_preload_libraries FROM pgvpd_owner");
    await admin.query("DROP ROLE pgvpd_owner");
  });
  await admin.end();
}
