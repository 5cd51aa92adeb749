/**
 * sql/hardening.sql: every side door stands open before it, is closed by it and open again after sql/uninstall.sql; what
 * applications, operators and owners do all day goes on; and what docs/security.md says cannot be closed is open indeed.
 */
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import { drizzle } from "drizzle-orm/node-postgres";
import { pgTable, text as textColumn } from "drizzle-orm/pg-core";
import { Client } from "pg";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createProxy } from "../../../src/index.ts";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { outerVersions, startPostgres, type PostgresServer } from "../../support/postgres.ts";
import {
  column,
  createDatabase,
  createInstalledDatabase,
  failure,
  sqlFile,
  uninstallSql,
  unprivilegedOwner,
  type Installer,
  type TestDatabase,
} from "./database.ts";

const hardeningSql = readFileSync(sqlFile("hardening.sql"), "utf8");
const run = promisify(execFile);

/** Needed to see what leaks through pg_stat_statements and pg_prepared_xacts; neither is on by default. */
const serverSettings = { shared_preload_libraries: "pg_stat_statements", max_prepared_transactions: "5" };

/** Sessions of the tenants: two of the same role, as the proxy opens them. The second one is somebody else's. */
interface Sessions {
  readonly attacker: Client;
  readonly victim: Client;
}

/** Resolves to true when it gets hold of the other one's data, or of what is shared; 42501 where it may not. */
type Attack = (sessions: Sessions) => Promise<boolean>;

/** True when the victim's query can be read in the first column of `sql`, whose $1 is the victim's pid. */
const readsQuery =
  (sql: string): Attack =>
  async ({ attacker, victim }) => {
    const [pid] = await column(victim, "SELECT pg_backend_pid() AS order_of_globex");
    return (await column(attacker, sql, sql.includes("$1") ? [pid] : [])).some((query) =>
      String(query).includes("order_of_globex"),
    );
  };

const seesLock =
  (relation: string): Attack =>
  async ({ attacker, victim }) => {
    await victim.query("SELECT pg_advisory_lock(70001)");
    return (await column(attacker, `SELECT objid::int FROM ${relation} WHERE locktype = 'advisory'`)).includes(70001);
  };

const seesPrepared =
  (relation: string): Attack =>
  async ({ attacker, victim }) => {
    await victim.query("BEGIN; PREPARE TRANSACTION 'payment of globex'");
    try {
      return (await column(attacker, `SELECT gid FROM ${relation}`)).includes("payment of globex");
    } finally {
      await victim.query("ROLLBACK PREPARED 'payment of globex'");
    }
  };

const signals =
  (name: string): Attack =>
  async ({ attacker, victim }) => {
    const [pid] = await column(victim, "SELECT pg_backend_pid()");
    return (await column(attacker, `SELECT ${name}($1)`, [pid]))[0] === true;
  };

const readsLargeObject =
  (create: string): Attack =>
  async ({ attacker, victim }) => {
    const [oid] = await column(victim, create);
    await victim.query("SELECT lo_put($1, 0, 'secret of globex')", [oid]);
    const [content] = await column(attacker, "SELECT convert_from(lo_get($1), 'UTF8')", [oid]);
    await attacker.query("SELECT lo_unlink($1)", [oid]);
    return content === "secret of globex";
  };

/** True when the statement is carried out; nothing of it stays. */
const does =
  (sql: string): Attack =>
  async ({ attacker }) => {
    await attacker.query("BEGIN");
    try {
      await attacker.query(sql);
      return true;
    } finally {
      await attacker.query("ROLLBACK");
    }
  };

/** What the rights take away, and (below) what the guard does where the rights would allow it. */
const doors: Record<string, Attack> = {
  pg_stat_activity: readsQuery("SELECT query FROM pg_stat_activity WHERE pid = $1"),
  pg_stat_get_activity: readsQuery("SELECT query FROM pg_stat_get_activity($1)"),
  pg_stat_get_backend_activity: readsQuery(
    "SELECT pg_stat_get_backend_activity(i) FROM pg_stat_get_backend_idset() AS i",
  ),
  pg_stat_statements: readsQuery("SELECT query FROM pg_stat_statements"),
  "pg_stat_statements()": readsQuery("SELECT query FROM pg_stat_statements(true)"),
  pg_stat_progress_copy: does("SELECT * FROM pg_stat_progress_copy"),
  pg_locks: seesLock("pg_locks"),
  pg_lock_status: seesLock("pg_lock_status()"),
  pg_prepared_xacts: seesPrepared("pg_prepared_xacts"),
  pg_prepared_xact: seesPrepared("pg_prepared_xact()"),
  pg_cancel_backend: signals("pg_cancel_backend"),
  pg_terminate_backend: signals("pg_terminate_backend"),
  lo_creat: readsLargeObject("SELECT lo_creat(-1)"),
  lo_create: readsLargeObject("SELECT lo_create(0)"),
  lo_from_bytea: readsLargeObject("SELECT lo_from_bytea(0, '')"),
  "temporary tables": does("CREATE TEMPORARY TABLE mine (n int)"),
  "objects in public": does("CREATE TABLE public.mine (n int)"),
  schemas: does("CREATE SCHEMA mine"),
  "policies that name the role": async (sessions) => {
    await sessions.attacker.query("BEGIN; DROP OWNED BY app_user");
    const { rowCount } = await sessions.attacker.query("SELECT FROM pg_policies WHERE tablename = 'legacy'");
    return rowCount === 0;
  },
  "default privileges": does("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"),
  functions: does("CREATE FUNCTION workshop.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
  procedures: does("CREATE PROCEDURE workshop.planted() LANGUAGE sql AS ''"),
  aggregates: does("CREATE AGGREGATE workshop.planted(int) (SFUNC = int4pl, STYPE = int)"),
  operators: does("CREATE OPERATOR workshop.=== (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text)"),
  triggers: does(
    "CREATE TRIGGER planted BEFORE UPDATE ON legacy FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
  ),
};

/** What no REVOKE and no event trigger closes: the table in docs/security.md. */
const remaining: Record<string, Attack> = {
  NOTIFY: async ({ attacker, victim }) => {
    const heard = new Promise((resolve) => attacker.once("notification", ({ payload }) => resolve(payload)));
    await attacker.query("LISTEN orders");
    await victim.query("NOTIFY orders, 'order of globex'");
    return (await heard) === "order of globex";
  },
  "advisory locks": async ({ attacker, victim }) => {
    await victim.query("SELECT pg_advisory_lock(70002)");
    return (await column(attacker, "SELECT pg_try_advisory_lock(70002)"))[0] === false;
  },
  "LOCK TABLE": async ({ attacker, victim }) => {
    await attacker.query("BEGIN; LOCK TABLE notes IN ACCESS EXCLUSIVE MODE");
    return (await failure(victim.query("BEGIN; LOCK TABLE notes IN ACCESS SHARE MODE NOWAIT"))).code === "55P03";
  },
  "unique indexes": async ({ attacker }) =>
    (await failure(attacker.query("INSERT INTO invoices (number, tenant_id) VALUES (1, 'acme')"))).code === "23505",
  "foreign keys": async ({ attacker }) => {
    const pay = (invoice: number) => attacker.query("INSERT INTO payments VALUES ($1, 'acme')", [invoice]);
    await pay(1);
    return (await failure(pay(2))).code === "23503";
  },
  sequences: async ({ attacker }) =>
    (
      await column(
        attacker,
        "INSERT INTO invoices (number, tenant_id) VALUES (nextval('numbers'), 'acme') RETURNING number",
      )
    )[0] !== "1",
  "estimates of the planner": async ({ attacker }) => {
    const estimate = async (tenant: string): Promise<number> => {
      const [plan] = await column(attacker, `EXPLAIN (FORMAT JSON) SELECT * FROM notes WHERE tenant_id = '${tenant}'`);
      return Number(/"Plan Rows": (\d+)/.exec(JSON.stringify(plan).replaceAll('":', '": '))?.[1]);
    };
    return (await estimate("globex")) > 10 * (await estimate("initech"));
  },
  "sizes and counters": async ({ attacker }) =>
    Number((await column(attacker, "SELECT reltuples FROM pg_class WHERE relname = 'notes'"))[0]) > 1000,
  "settings of one's own role": does("ALTER ROLE CURRENT_USER SET statement_timeout = 1"),
  "the password of one's own role": does("ALTER ROLE CURRENT_USER PASSWORD 'of the attacker'"),
  "ending prepared transactions": async ({ attacker, victim }) => {
    await victim.query("BEGIN; PREPARE TRANSACTION 'a name that was guessed'");
    await attacker.query("ROLLBACK PREPARED 'a name that was guessed'");
    return true;
  },
  "views with their owner's rights": async ({ attacker }) =>
    (await column(attacker, "SELECT DISTINCT tenant_id FROM all_notes")).includes("globex"),
  "names of roles and databases": async ({ attacker }) =>
    (await column(attacker, "SELECT rolname FROM pg_roles")).includes("pgvpd_maintenance"),
};

/** Whether PUBLIC has more rights than by default when a test begins: what is taken must come back, and nothing else. */
const opened = `
  CREATE EXTENSION pg_stat_statements;
  GRANT CREATE ON SCHEMA public TO PUBLIC;
  DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO PUBLIC', current_database()); END $$;
  CREATE SCHEMA workshop; GRANT ALL ON SCHEMA workshop TO app_user;
  CREATE TABLE legacy (tenant_id text); ALTER TABLE legacy ENABLE ROW LEVEL SECURITY;
  CREATE POLICY of_tenant ON legacy TO app_user USING (tenant_id = (SELECT current_tenant_id()));
  GRANT SELECT, TRIGGER ON legacy TO app_user`;

/** The doors through which a session of `user` (which takes on `role`) gets. */
async function openDoors(db: TestDatabase, user: string, role?: string, within = doors): Promise<string[]> {
  const open: string[] = [];
  for (const [name, attack] of Object.entries(within)) {
    const [attacker, victim] = await Promise.all([connectTo(db, user), connectTo(db, user)]);
    try {
      if (role !== undefined) await Promise.all([attacker, victim].map((client) => client.query(`SET ROLE ${role}`)));
      if (await attack({ attacker, victim })) open.push(name);
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "42501"))
        throw new Error(name, { cause: error });
    } finally {
      await Promise.all([attacker.end(), victim.end()]);
    }
  }
  return open;
}

async function connectTo(db: TestDatabase, user: string): Promise<Client> {
  const client = new Client({ connectionString: db.server.url(db.name, user) });
  client.on("error", () => {}); // pg_terminate_backend
  await client.connect();
  return client;
}

/** Every right on everything that hardening.sql may touch, as text. */
function rights(db: TestDatabase): Promise<unknown[]> {
  return column(
    db.admin,
    `SELECT x FROM (
       SELECT p.oid::regprocedure || ' ' || a.grantee::regrole || ' ' || a.privilege_type FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner))) a
       UNION ALL
       SELECT c.oid::regclass || ' ' || a.grantee::regrole || ' ' || a.privilege_type FROM pg_class c, aclexplode(coalesce(relacl, acldefault('r', relowner))) a
       UNION ALL
       SELECT datname || ' ' || a.grantee::regrole || ' ' || a.privilege_type FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) a WHERE datname = current_database()
       UNION ALL
       SELECT nspname || ' ' || a.grantee::regrole || ' ' || a.privilege_type FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a WHERE nspname !~ '^pg_temp|^pg_toast'
       UNION ALL
       SELECT 'event trigger ' || evtname || ' ' || evttags::text FROM pg_event_trigger
     ) AS q(x) ORDER BY x COLLATE "C"`,
  );
}

/** Removes the login role and pgvpd_maintenance from the server, so that a test can see them created. */
async function forgetRoles(db: TestDatabase): Promise<void> {
  const roles = await column(
    db.admin,
    "SELECT rolname FROM pg_roles WHERE rolname IN ('pgvpd_login', 'pgvpd_maintenance')",
  );
  if (roles.length === 0) return;
  for (const name of await column(db.admin, "SELECT datname FROM pg_database WHERE datallowconn")) {
    const client = new Client({ connectionString: db.server.url(String(name), db.server.superuser) });
    await client.connect();
    await client.query(`DROP OWNED BY ${roles.join(", ")}`);
    await client.end();
  }
  await db.admin.query(`DROP ROLE ${roles.join(", ")}`);
}

const warnings = (db: TestDatabase): string[] =>
  db.takeMessages().flatMap((message) => (message.severity === "WARNING" ? [message.text] : []));

/** A database with a protected table of two tenants, hardened by a superuser. */
async function createHardenedDatabase(
  server: PostgresServer,
  installer: Installer = "superuser",
): Promise<TestDatabase> {
  const db = await createInstalledDatabase(server, installer);
  await db.owner.query(`CREATE TABLE notes (tenant_id text NOT NULL, body text);
    INSERT INTO notes VALUES ('acme', 'a1'), ('globex', 'g1'); SELECT pgvpd_protect('notes')`);
  await db.admin.query(`ALTER SCHEMA pgvpd OWNER TO ${server.superuser}`); // as a hint says where it is another role's
  await db.admin.query(hardeningSql);
  db.takeMessages();
  return db;
}

describe.each(outerVersions())("PostgreSQL %s", (version) => {
  let started: PostgresServer | undefined;
  beforeAll(async () => {
    started = await startPostgres({ version, auth: "trust", settings: serverSettings });
  });
  afterAll(() => started?.stop());
  const server = (): PostgresServer => {
    if (started === undefined) throw new Error("the server is not running yet");
    return started;
  };

  describe("the side doors", () => {
    test("stand open, are closed, and are open again after uninstall.sql", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.admin.query(opened);
      expect(await openDoors(db, "app_user")).toEqual(Object.keys(doors));

      await db.owner.query(hardeningSql);
      expect(await openDoors(db, "app_user")).toEqual([]);
      expect(await openDoors(db, "pgvpd_login", "app_user")).toEqual([]);
      expect(await openDoors(db, "pgvpd_login")).toEqual([]);

      await db.owner.query(uninstallSql);
      expect(await openDoors(db, "app_user")).toEqual(Object.keys(doors));
    });

    test("no function by which one session sees another is left to PUBLIC", async () => {
      await using db = await createHardenedDatabase(server());
      const left = await column(
        db.admin,
        `SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE pronamespace = 'pg_catalog'::regnamespace AND has_function_privilege('app_user', oid, 'EXECUTE')
           AND (proname ~ '^pg_stat_get_(activity|backend_|progress)' OR proname ~ '^pg_(cancel|terminate)_backend$'
                OR proname ~ '^lo_(creat|import|export|from)' OR proname IN ('pg_lock_status', 'pg_prepared_xact'))`,
      );
      expect(left).toEqual([]);
    });

    test("uninstall.sql leaves every right as it was, also those that were other than PostgreSQL's own", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.admin.query(`${opened};
        REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC;
        REVOKE SELECT ON pg_locks FROM PUBLIC; GRANT SELECT ON pg_locks TO pg_monitor;
        GRANT EXECUTE ON FUNCTION pg_cancel_backend(int) TO pg_signal_backend;
        REVOKE SELECT ON pg_stat_statements FROM PUBLIC`);
      const before = await rights(db);
      await db.owner.query(hardeningSql);
      const hardened = await rights(db);
      expect(hardened).not.toEqual(before);

      await db.owner.query(hardeningSql);
      expect(await rights(db)).toEqual(hardened);

      await db.owner.query(uninstallSql);
      // uninstall.sql takes its own functions away, and nothing else.
      const gone = (right: unknown): boolean => /^(pgvpd|current_tenant_id)/.test(String(right));
      expect((await rights(db)).filter((right) => !gone(right))).toEqual(before.filter((right) => !gone(right)));
      expect(
        await column(db.admin, "SELECT concat(to_regclass('pgvpd.hardening_undo'), to_regproc('pgvpd.guard_ddl'))"),
      ).toEqual([""]);
    });

    test("in the caller's transaction, which stays the caller's, in the caller's search_path", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      const before = await rights(db);
      await db.owner.query("SET search_path = pg_temp");
      await db.owner.query("BEGIN");
      await db.owner.query(hardeningSql);
      await db.owner.query("ROLLBACK");
      expect(await rights(db)).toEqual(before);
      await db.owner.query(hardeningSql);
      expect(await column(db.owner, "SHOW search_path")).toEqual(["pg_temp"]);
    });

    test("stand open in another database, which shows the same sessions: it is named until this file ran there", async () => {
      await using db = await createHardenedDatabase(server());
      await using other = await createDatabase(server(), "superuser");
      const victim = await db.connect("pgvpd_login");
      await victim.query("SELECT 'order of globex'");
      const attacker = await other.connect("pgvpd_login");
      const spy = () =>
        column(attacker, "SELECT query FROM pg_stat_activity WHERE datname = $1 AND usename = 'pgvpd_login'", [
          db.name,
        ]);
      expect(await spy()).toEqual(["SELECT 'order of globex'"]);

      await db.owner.query(hardeningSql);
      const named = warnings(db).find((text) => text.includes("databases whose doors are open"));
      expect(named).toMatch(new RegExp(`\\b${other.name}\\b`));
      await other.owner.query(hardeningSql); // without setup.sql
      expect((await failure(spy())).code).toBe("42501");
      db.takeMessages();
      await db.owner.query(hardeningSql);
      expect(warnings(db).filter((text) => new RegExp(`\\b${other.name}\\b`).test(text))).toEqual([]);
    });

    test("what no statement can close is open, and docs/security.md names it", async () => {
      await using db = await createHardenedDatabase(server());
      await db.admin.query(`
        CREATE SEQUENCE numbers; GRANT USAGE ON SEQUENCE numbers TO app_user;
        CREATE TABLE invoices (number bigint PRIMARY KEY, tenant_id text NOT NULL);
        CREATE TABLE payments (invoice bigint REFERENCES invoices, tenant_id text NOT NULL);
        SELECT pgvpd_protect('invoices'), pgvpd_protect('payments');
        INSERT INTO invoices VALUES (nextval('numbers'), 'globex');
        INSERT INTO notes SELECT 'globex', 'g' || i FROM generate_series(1, 2000) i;
        CREATE VIEW all_notes AS SELECT * FROM notes; GRANT SELECT ON all_notes TO app_user;
        ANALYZE`);
      await db.admin.query(`ALTER ROLE app_user IN DATABASE ${db.name} SET app.current_tenant_id = 'acme'`);
      expect(await openDoors(db, "app_user", undefined, remaining)).toEqual(Object.keys(remaining));
      const page = readFileSync(new URL("../../../docs/security.md", import.meta.url), "utf8");
      expect(Object.keys(remaining).filter((name) => !page.includes(name))).toEqual([]);
    });

    test("the functions of the sealed context work behind closed doors", async () => {
      for (const carrier of Number(version) < 15 ? ["signed"] : ["slot", "signed"]) {
        await using db = await createHardenedDatabase(server());
        await db.admin.query(`SET pgvpd.carrier = '${carrier}'`);
        await db.admin.query(readFileSync(sqlFile("seal.sql"), "utf8"));
        const session = await db.connect("pgvpd_login");
        expect(await column(session, "SELECT carrier FROM pgvpd.hello()")).toEqual([carrier]);
        expect((await failure(session.query("SELECT pgvpd.set_context(1, '{}', 0, '')"))).code).toBe("28000");
      }
    });

    test("a right that the tenants' roles have besides PUBLIC's is named", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.admin.query(`GRANT SELECT ON pg_locks TO app_user; GRANT TEMPORARY ON DATABASE ${db.name} TO app_user`);
      await db.owner.query(hardeningSql);
      expect(warnings(db)).toEqual(
        expect.arrayContaining([
          "still open: seeing the locks of others (SELECT on pg_catalog.pg_locks for app_user)",
          `still open: creating in the database (TEMPORARY on ${db.name} for app_user)`,
        ]),
      );
      await db.admin.query("REVOKE SELECT ON pg_locks FROM app_user");
    });

    test("large objects of the tenants' roles are counted", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.as(undefined, (session) => session.query("SELECT lo_create(0), lo_create(0)"));
      await db.owner.query(hardeningSql);
      expect(warnings(db)).toContain("2 large objects belong to role app_user: every tenant can read and change them");
    });
  });

  describe("the login role", () => {
    test("has a role to take on, and nothing to fall back on", async () => {
      await using db = await createHardenedDatabase(server());
      const session = await db.connect("pgvpd_login");
      await session.query("SET app.current_tenant_id = 'acme'");
      expect((await failure(session.query("SELECT * FROM notes"))).code).toBe("42501");
      await session.query("SET ROLE app_user");
      expect(await column(session, "SELECT body FROM notes")).toEqual(["a1"]);
      for (const back of ["RESET ROLE", "SET ROLE NONE", "RESET SESSION AUTHORIZATION"]) {
        await session.query(`SET ROLE app_user; ${back}`);
        expect(await column(session, "SELECT current_user::text")).toEqual(["pgvpd_login"]);
        expect((await failure(session.query("SELECT * FROM notes"))).code).toBe("42501");
      }
      expect((await failure(session.query("SET ROLE postgres"))).code).toBe("42501");
      expect((await failure(session.query("GRANT app_user TO pgvpd_maintenance"))).code).toBe("42501");
      expect(
        await column(
          db.admin,
          "SELECT r.rolname::text FROM pg_roles r WHERE pg_has_role('pgvpd_login', r.oid, 'MEMBER') ORDER BY 1",
        ),
      ).toEqual(["app_user", "pgvpd_login"]);
    });

    test("works through the proxy as sql/hardening.sql says", async () => {
      await using db = await createHardenedDatabase(server());
      const { host, port } = server();
      const settings = { upstream_host: host, upstream_port: port, set_role: "app_user", login_roles: "pgvpd_login" };
      const proxy = createProxy({ port: 0, log_level: "off", ...settings });
      const [address] = await proxy.start();
      const at = {
        host: "127.0.0.1",
        port: address !== undefined && "port" in address ? address.port : 0,
        database: db.name,
      };
      try {
        const client = new Client({ ...at, user: "pgvpd_login.globex" });
        await client.connect();
        expect(await column(client, "SELECT body FROM notes")).toEqual(["g1"]);
        await client.query("RESET ROLE"); // to where the session began, which pgvpd pins
        expect(await column(client, "SELECT body FROM notes")).toEqual(["g1"]);
        await client.query("SET ROLE NONE");
        expect((await failure(client.query("SELECT body FROM notes"))).code).toBe("42501");
        await client.end();
        const refused = new Client({ ...at, user: "app_user.globex" });
        await expect(refused.connect()).rejects.toMatchObject({ code: "28000" });
      } finally {
        await proxy.stop();
      }
    });

    test("and its membership are made for the roles that the settings name", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.admin.query(
        'DROP ROLE IF EXISTS "tenant, login"; DROP ROLE IF EXISTS authenticated; CREATE ROLE authenticated NOLOGIN',
      );
      await db.owner.query(`SET pgvpd.app_role = 'authenticated'; SET pgvpd.login_role = 'tenant, login'`);
      await db.owner.query(hardeningSql);
      const session = await db.connect("tenant, login");
      await session.query("SET ROLE authenticated");
      expect((await failure(session.query("DROP OWNED BY authenticated"))).message).toBe(
        'DROP OWNED is not allowed to sessions of role "tenant, login"',
      );

      await db.owner.query("RESET pgvpd.app_role; RESET pgvpd.login_role");
      await db.owner.query(hardeningSql); // the guard goes on knowing the other pair
      expect((await failure(session.query("DROP OWNED BY authenticated"))).code).toBe("42501");
      const guarded = `SELECT unnest(substr(setting, strpos(setting, '=') + 1)::text[])
        FROM pg_proc CROSS JOIN unnest(proconfig) AS setting WHERE proname = 'guard_ddl' AND setting LIKE 'pgvpd.%'`;
      expect(await column(db.admin, guarded)).toEqual(["app_user", "authenticated", "pgvpd_login", "tenant, login"]);
    });

    test("is named when it is more than it should be, and left as it is", async () => {
      await using db = await createHardenedDatabase(server());
      await db.admin
        .query(`DROP ROLE IF EXISTS much; CREATE ROLE much LOGIN CREATEDB; GRANT app_user, pg_monitor TO much;
        GRANT SELECT ON notes TO much; CREATE TABLE things (n int); ALTER TABLE things OWNER TO much`);
      await db.owner.query("SET pgvpd.login_role = 'much'");
      await db.owner.query(hardeningSql);
      const texts = warnings(db);
      expect(texts).toContain("role much is not what a login role should be: it has CREATEDB, INHERIT");
      expect(texts).toContain(
        "role much can become more than app_user: SET ROLE leads from one membership to the next",
      );
      expect(texts).toContain("role much has rights of its own on: table public.notes, table public.things");
      expect(texts.some((text) => text.startsWith("still open: seeing what other sessions do"))).toBe(true);
      if (Number(version) < 16)
        expect(texts).toContain("role much inherits the rights of app_user, so RESET ROLE takes nothing away");
      expect(await column(db.admin, "SELECT rolcreatedb FROM pg_roles WHERE rolname = 'much'")).toEqual([true]);
      await db.admin.query("DROP OWNED BY much; DROP ROLE much");
    });

    test("does not inherit: a membership that does is mended, or named with the statement that mends it", async () => {
      await using db = await createHardenedDatabase(server());
      await db.admin.query(`DROP ROLE IF EXISTS heir; DROP ROLE IF EXISTS granter;
        CREATE ROLE heir LOGIN; CREATE ROLE granter; GRANT app_user TO granter WITH ADMIN OPTION;
        SET ROLE granter; GRANT app_user TO heir; RESET ROLE`);
      const inherits = () => column(db.admin, "SELECT pg_has_role('heir', 'app_user', 'USAGE')");
      await db.owner.query("SET pgvpd.login_role = 'heir'");
      await db.owner.query(hardeningSql);
      const message = db.takeMessages().find(({ text }) => text.startsWith("role heir inherits"));
      expect(await inherits()).toEqual([true]);
      const granter = Number(version) < 16 ? "" : "REVOKE app_user FROM heir GRANTED BY granter;";
      expect(message?.hint).toBe(granter === "" ? "ALTER ROLE heir NOINHERIT;" : granter);
      await db.admin.query(message?.hint ?? "");
      await db.owner.query(hardeningSql);
      expect(await inherits()).toEqual([false]);
      expect(await column(db.admin, "SELECT pg_has_role('heir', 'app_user', 'MEMBER')")).toEqual([true]);
      expect(warnings(db).filter((text) => text.includes("inherits"))).toEqual([]);
      await db.admin.query("REVOKE app_user FROM granter CASCADE; DROP ROLE heir; DROP ROLE granter");
    });

    test("cannot be the application role, which has to exist", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.owner.query("SET pgvpd.app_role = 'pgvpd_login'");
      expect((await failure(db.owner.query(hardeningSql))).code).toBe("22023");
      await db.owner.query("SET pgvpd.app_role = 'nobody here'");
      expect(await failure(db.owner.query(hardeningSql))).toMatchObject({
        code: "42704",
        message: 'role "nobody here" does not exist',
      });
    });
  });

  describe("the guard", () => {
    test("lets the owner, migrations under another role and a superuser work", async () => {
      await using db = await createHardenedDatabase(server(), "owner");
      await db.admin.query(
        `DROP ROLE IF EXISTS migrator; CREATE ROLE migrator LOGIN; GRANT ${unprivilegedOwner} TO migrator`,
      );
      for (const client of [db.owner, db.admin, await db.connect("migrator")]) {
        await client.query(`BEGIN; CREATE SCHEMA made; CREATE FUNCTION made.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
          CREATE PROCEDURE made.p() LANGUAGE sql AS ''; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app_user`);
        await client.query("ROLLBACK");
      }
      await db.owner.query("BEGIN; DROP OWNED BY CURRENT_USER CASCADE; ROLLBACK");
      await db.owner.query("CREATE TEMPORARY TABLE scratch (n int)");
      await db.admin.query(`REVOKE ${unprivilegedOwner} FROM migrator`);
    });

    test("cannot be talked out of it by a setting, a function or another role", async () => {
      await using db = await createHardenedDatabase(server());
      await db.admin.query(
        `CREATE FUNCTION drop_all() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN DROP OWNED BY app_user; END $$`,
      );
      const session = await db.connect("pgvpd_login");
      await session.query(`SET ROLE app_user; SET pgvpd.guarded_logins = '{}'`);
      for (const attempt of [
        "DROP OWNED BY app_user",
        "DO $$ BEGIN EXECUTE 'DROP OWNED' || ' BY app_user'; END $$",
        "SELECT drop_all()",
        "ALTER EVENT TRIGGER pgvpd_guard DISABLE",
        "ALTER FUNCTION pgvpd.guard_ddl() RESET ALL",
        "SET session_replication_role = replica",
        "DROP FUNCTION pgvpd.guard_ddl() CASCADE",
        "DELETE FROM pgvpd.hardening_undo",
      ])
        expect({ attempt, code: (await failure(session.query(attempt))).code }).toEqual({ attempt, code: "42501" });
    });
  });

  describe("operators", () => {
    test("of pg_monitor see, and of pg_signal_backend end, what they did before", async () => {
      await using db = await createHardenedDatabase(server());
      await db.admin.query(`CREATE EXTENSION pg_stat_statements; DROP ROLE IF EXISTS watcher; CREATE ROLE watcher LOGIN;
        GRANT pg_monitor, pg_signal_backend TO watcher`);
      await db.owner.query(hardeningSql);
      const watcher = await db.connect("watcher");
      const victim = await db.connect("pgvpd_login");
      const [pid] = await column(victim, "SELECT pg_backend_pid()");
      expect(await column(watcher, "SELECT query FROM pg_stat_activity WHERE pid = $1", [pid])).toEqual([
        "SELECT pg_backend_pid()",
      ]);
      for (const view of [
        "pg_stat_statements",
        "pg_locks",
        "pg_prepared_xacts",
        "pg_stat_replication",
        "pg_stat_ssl",
        "pg_stat_progress_copy",
      ])
        await watcher.query(`SELECT * FROM ${view}`);
      expect(await column(watcher, "SELECT pg_cancel_backend($1)", [pid])).toEqual([true]);
    });

    test("pgvpd_maintenance sees and ends sessions of the login role, and no others", async () => {
      await using db = await createHardenedDatabase(server());
      await db.admin.query("DROP ROLE IF EXISTS keeper; CREATE ROLE keeper LOGIN; GRANT pgvpd_maintenance TO keeper");
      const keeper = await db.connect("keeper");
      const victim = await connectTo(db, "pgvpd_login");
      const ended = new Promise((resolve) => victim.once("end", resolve));
      const [pid] = await column(victim, "SELECT pg_backend_pid()");
      const end = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid = $1 AND backend_start = (SELECT backend_start FROM pg_stat_activity WHERE pid = $1)`;
      expect(await column(keeper, end, [pid])).toEqual([true]);
      await ended;

      const [other] = await column(await db.connect("app_user"), "SELECT pg_backend_pid()");
      expect(await column(keeper, "SELECT query FROM pg_stat_activity WHERE pid = $1", [other])).toEqual([
        "<insufficient privilege>",
      ]);
      expect((await failure(keeper.query("SELECT pg_terminate_backend($1)", [other]))).code).toBe("42501");
      expect((await failure(keeper.query("SELECT * FROM notes"))).code).toBe("42501");
    });
  });

  describe("as a role that is no superuser", () => {
    /** What the hints tell an administrator to run. */
    const advised = (db: TestDatabase): string[] =>
      db.takeMessages().flatMap(({ severity, hint }) => {
        const sql = /^Let an administrator run(?: this file, or)?: (.*)$/.exec(hint)?.[1];
        return severity === "WARNING" && sql !== undefined ? [sql] : [];
      });

    test("it closes what it may, and says what an administrator has to run for the rest", async () => {
      await using db = await createInstalledDatabase(server(), "owner");
      await db.admin.query(opened);
      await forgetRoles(db);
      await db.owner.query(hardeningSql);
      const statements = advised(db);
      // Before 15, schema public does not belong to the owner of the database.
      const closedByOwner = ["temporary tables", "schemas", ...(Number(version) < 15 ? [] : ["objects in public"])];
      expect(Object.keys(doors).filter((name) => !closedByOwner.includes(name))).toEqual(
        await openDoors(db, "app_user"),
      );

      for (const sql of statements) await db.admin.query(sql);
      const leftToTheGuard = Object.keys(doors).slice(Object.keys(doors).indexOf("policies that name the role"));
      expect(await openDoors(db, "app_user")).toEqual(leftToTheGuard);
      expect(await openDoors(db, "pgvpd_login")).toEqual(["default privileges"]); // its own

      await db.owner.query(hardeningSql);
      expect(advised(db)).toEqual([]);
    });

    test("with CREATEROLE it makes the roles too", async () => {
      await using db = await createInstalledDatabase(server(), "owner");
      await forgetRoles(db);
      await db.admin.query(
        `ALTER ROLE ${unprivilegedOwner} CREATEROLE; GRANT app_user TO ${unprivilegedOwner} WITH ADMIN OPTION`,
      );
      try {
        await db.owner.query(hardeningSql);
        const session = await db.connect("pgvpd_login");
        await session.query("SET ROLE app_user");
        expect(await column(db.admin, "SELECT pg_has_role('pgvpd_login', 'app_user', 'USAGE')")).toEqual([false]);
      } finally {
        await forgetRoles(db);
        await db.admin.query(`ALTER ROLE ${unprivilegedOwner} NOCREATEROLE; REVOKE app_user FROM ${unprivilegedOwner}`);
      }
    });

    test("nobody else can write what uninstall.sql runs, whatever default privileges say", async () => {
      await using db = await createInstalledDatabase(server(), "superuser");
      await db.admin.query("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO app_user, PUBLIC");
      await db.owner.query(hardeningSql);
      const plant = "INSERT INTO pgvpd.hardening_undo VALUES ('ALTER ROLE app_user SUPERUSER')";
      expect((await failure(db.as("acme", (session) => session.query(plant)))).code).toBe("42501");
      expect(
        await column(db.admin, "SELECT has_table_privilege('app_user', 'pgvpd.hardening_undo', 'SELECT')"),
      ).toEqual([false]);
    });

    test("what one role installed another does not go on with, and does not undo", async () => {
      await using db = await createInstalledDatabase(server(), "owner");
      await db.owner.query(hardeningSql);
      const before = await rights(db);
      const { code, message, hint } = await failure(db.admin.query(hardeningSql));
      expect({ code, message }).toEqual({
        code: "42501",
        message: `schema pgvpd belongs to role ${unprivilegedOwner}, who could then act with the rights of postgres`,
      });
      expect(hint).toContain(
        "ALTER SCHEMA pgvpd OWNER TO postgres; GRANT USAGE, CREATE ON SCHEMA pgvpd TO platform_owner;",
      );
      await db.admin.query(
        "ALTER SCHEMA pgvpd OWNER TO postgres; GRANT USAGE, CREATE ON SCHEMA pgvpd TO platform_owner",
      );
      expect((await failure(db.admin.query(hardeningSql))).message).toContain(
        "table pgvpd.hardening_undo belongs to role",
      );
      await db.admin.query(`ALTER SCHEMA pgvpd OWNER TO ${unprivilegedOwner}`);
      await db.admin.query(uninstallSql);
      expect(await column(db.admin, "SELECT count(*)::int FROM pgvpd.hardening_undo")).toEqual([1]);
      await db.owner.query(uninstallSql);
      expect(await rights(db)).not.toEqual(before);
      expect(await column(db.admin, `SELECT has_database_privilege('app_user', '${db.name}', 'TEMPORARY')`)).toEqual([
        true,
      ]);

      await using superusers = await createHardenedDatabase(server(), "owner");
      expect((await failure(superusers.owner.query(hardeningSql))).code).toBe("42501");
      await superusers.owner.query(uninstallSql);
      expect(warnings(superusers)).toContain("kept what sql/hardening.sql did: role postgres installed it");
      expect(await column(superusers.admin, "SELECT evtname::text FROM pg_event_trigger")).toEqual(["pgvpd_guard"]);
    });
  });

  describe("what clients do all day goes on", () => {
    test("pg, postgres.js and Drizzle, and the catalogs that they read", async () => {
      await using db = await createHardenedDatabase(server());
      for (const user of ["app_user", "pgvpd_login"]) {
        const client = await db.connect(user);
        await client.query(
          "SELECT set_config('app.current_tenant_id', 'acme', false), set_config('role', 'app_user', false)",
        );
        const notes = pgTable("notes", { tenant: textColumn("tenant_id"), body: textColumn("body") });
        const orm = drizzle(client);
        await orm.insert(notes).values({ tenant: "acme", body: user });
        expect((await orm.select({ body: notes.body }).from(notes)).map(({ body }) => body)).toContain(user);
        expect(
          await column(client, "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'"),
        ).toEqual(["notes"]);
        for (const view of ["columns", "table_constraints", "routines", "role_table_grants", "schemata", "sequences"])
          await client.query(`SELECT * FROM information_schema.${view}`);
        for (const view of [
          "pg_settings",
          "pg_stat_user_tables",
          "pg_prepared_statements",
          "pg_cursors",
          "pg_timezone_names",
          "pg_roles",
        ])
          await client.query(`SELECT * FROM ${view}`);

        const sql = postgres(server().url(db.name, user), {
          max: 1,
          onnotice: () => {},
          connection: { role: "app_user", "app.current_tenant_id": "acme" },
        });
        expect(await sql`SELECT ${[1, 2]}::int[] AS list`).toMatchObject([{ list: [1, 2] }]);
        expect(await sql`SELECT DISTINCT tenant_id FROM notes`).toMatchObject([{ tenant_id: "acme" }]);
        await sql.end();
      }
    });

    describeWithTools(["psql", "pg_dump"], "psql and pg_dump", (psql = "", pgDump = "") => {
      test("psql's backslash commands, as the application role and as the owner", async () => {
        await using db = await createHardenedDatabase(server(), "owner");
        const commands = [
          "\\d",
          "\\d notes",
          "\\dt+",
          "\\df",
          "\\dn+",
          "\\du",
          "\\dp",
          "\\dx",
          "\\dy",
          "\\ddp",
          "\\conninfo",
        ];
        for (const user of ["app_user", "pgvpd_login", unprivilegedOwner]) {
          const args = [
            server().url(db.name, user),
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            ...commands.flatMap((command) => ["-c", command]),
          ];
          const { stdout, stderr } = await run(psql, args);
          expect(stderr.replace(/.*(server|WARNING|features might).*\n/g, "")).toBe("");
          expect(stdout).toContain("pgvpd_tenant_isolation_notes");
        }
      });

      test("pg_dump, as the owner; a superuser's dump carries the closed doors, but for the right to temporary tables", async ({
        skip,
      }) => {
        const { stdout } = await run(pgDump, ["--version"]);
        if (Number(/ (\d+)/.exec(stdout)?.[1]) < Number(version)) skip(`needs pg_dump ${version}`);
        await using db = await createHardenedDatabase(server(), "owner");
        const dump = (user: string) => run(pgDump, [server().url(db.name, user), "--enable-row-security"]);
        expect((await dump(unprivilegedOwner)).stdout).toContain("CREATE TABLE public.notes");

        await using copy = await createDatabase(server(), "superuser");
        const script = (await dump(server().superuser)).stdout
          .replaceAll(/^COPY [^]*?^\\\.$/gm, "")
          .replaceAll(/^\\.*$/gm, "");
        await copy.admin.query(script);
        await copy.admin.query("SET search_path = public");
        const within = Object.fromEntries(
          Object.entries(doors).filter(
            ([name]) => !/statements|triggers|functions|procedures|agg|operators/.test(name),
          ),
        );
        expect(await openDoors(copy, "app_user", undefined, within)).toEqual(["temporary tables"]);
      });
    });
  });
});
