/** pgvpd_protect(): whose rows a tenant sees, which tables and columns it takes, and what it says about the rest. */
import { beforeAll, describe, expect, test } from "vitest";
import {
  column,
  createInstalledDatabase,
  failure,
  onEveryVersion,
  type Installer,
  type TestDatabase,
} from "./database.ts";

const acmeUuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const globexUuid = "b1ffcd00-0d1c-4ef9-8c7e-7cc0ce491b22";

/** Column type and the two tenants' values. */
const columnTypes: readonly (readonly [type: string, acme: string, globex: string])[] = [
  ["text", "acme", "globex"],
  ["varchar(40)", "acme", "globex"],
  ["varchar(6)", "acme-1", "acme-2"],
  ["char(10)", "acme", "globex"],
  ["uuid", acmeUuid, globexUuid],
  ["smallint", "1", "2"],
  ["integer", "42", "43"],
  ["bigint", "9007199254740993", "9007199254740992"],
  ["tenant_text", "acme", "globex"],
  ["tenant_uuid", acmeUuid, globexUuid],
];

onEveryVersion((server) => {
  describe.each<Installer>(["superuser", "owner"])("installed by %s", (installer) => {
    let db: TestDatabase;
    beforeAll(async () => {
      db = await createInstalledDatabase(server(), installer);
      await db.owner.query("CREATE DOMAIN tenant_text AS varchar(40); CREATE DOMAIN tenant_uuid AS uuid NOT NULL");
      return () => db[Symbol.asyncDispose]();
    });

    describe.each(columnTypes)("a tenant column of type %s", (type, acme, globex) => {
      const table = `of_${type.replaceAll(/\W/g, "_")}`;
      beforeAll(async () => {
        await db.owner.query(`CREATE TABLE ${table} (id serial PRIMARY KEY, tenant_id ${type} NOT NULL, name text)`);
        await db.owner.query(`CREATE INDEX ${table}_tenant ON ${table} (tenant_id)`);
        await db.owner.query(`INSERT INTO ${table} (tenant_id, name) VALUES ($1, 'a'), ($1, 'b'), ($2, 'g')`, [
          acme,
          globex,
        ]);
        await db.owner.query(`SELECT pgvpd_protect('${table}')`);
      });

      test("shows each tenant its rows only", async () => {
        expect(await db.as(acme, (s) => column(s, `SELECT name FROM ${table} ORDER BY id`))).toEqual(["a", "b"]);
        expect(await db.as(globex, (s) => column(s, `SELECT name FROM ${table} ORDER BY id`))).toEqual(["g"]);
      });

      test("shows nothing without a tenant, and with an empty one", async () => {
        expect(await db.as(undefined, (s) => column(s, `SELECT name FROM ${table}`))).toEqual([]);
        expect(await db.as("", (s) => column(s, `SELECT name FROM ${table}`))).toEqual([]);
      });

      test("shows nothing after a SET LOCAL whose transaction is over, which leaves an empty value", async () => {
        await db.as(undefined, async (session) => {
          await session.query("BEGIN");
          await session.query("SELECT set_config('app.current_tenant_id', $1, true)", [acme]);
          expect(await column(session, `SELECT count(*)::int FROM ${table}`)).toEqual([2]);
          await session.query("COMMIT");
          expect(await column(session, "SELECT current_setting('app.current_tenant_id')")).toEqual([""]);
          expect(await column(session, `SELECT name FROM ${table}`)).toEqual([]);
        });
      });

      test("refuses an INSERT and an UPDATE for another tenant with 42501, and changes no foreign row", async () => {
        await db.as(acme, async (session) => {
          expect((await failure(session.query(`INSERT INTO ${table} (tenant_id) VALUES ($1)`, [globex]))).code).toBe(
            "42501",
          );
          expect((await failure(session.query(`UPDATE ${table} SET tenant_id = $1`, [globex]))).code).toBe("42501");
          expect((await session.query(`UPDATE ${table} SET name = name WHERE name = 'g'`)).rowCount).toBe(0);
          expect((await session.query(`DELETE FROM ${table} WHERE name = 'g'`)).rowCount).toBe(0);
          await session.query("BEGIN");
          await session.query(`INSERT INTO ${table} (tenant_id, name) VALUES ($1, 'new')`, [acme]);
          expect((await session.query(`DELETE FROM ${table}`)).rowCount).toBe(3);
          await session.query("ROLLBACK");
        });
        await db.as(undefined, async (session) => {
          expect((await failure(session.query(`INSERT INTO ${table} (tenant_id) VALUES ($1)`, [acme]))).code).toBe(
            "42501",
          );
        });
      });

      test("hides the rows from an owner who is no superuser, too", async () => {
        const seen = await column(db.owner, `SELECT count(*)::int FROM ${table}`);
        expect(seen).toEqual([installer === "owner" ? 0 : 3]);
      });

      test("reads the tenant once per query and uses the index", async () => {
        await db.as(acme, async (session) => {
          await session.query("SET enable_seqscan = off; SET enable_bitmapscan = off");
          const plan = (await column(session, `EXPLAIN (COSTS off) SELECT * FROM ${table}`)).join("\n");
          expect(plan).toContain(`Index Scan using ${table}_tenant`);
          expect(plan).toMatch(/Index Cond: \(.*tenant_id.*\)/);
          expect(plan).toContain("InitPlan 1");
        });
      });
    });

    test.each([
      ["uuid", "acme", "22P02"],
      ["uuid", `${acmeUuid}' OR true --`, "22P02"],
      ["integer", "acme", "22P02"],
      ["integer", "4294967338", "22003"], // 2^32 + 42
      ["smallint", "65537", "22003"],
    ])("a %s column and the tenant %j is error %s, not foreign rows", async (type, tenant, code) => {
      await db.as(tenant, async (session) => {
        expect((await failure(session.query(`SELECT * FROM of_${type}`))).code).toBe(code);
      });
    });

    test.each(["acme", "acme-11", "acme-1 "])("a value is never cut to the column's length: %j", async (tenant) => {
      expect(await db.as(tenant, (s) => column(s, "SELECT name FROM of_varchar_6_"))).toEqual([]);
    });

    test("a cached plan follows the tenant", async () => {
      await db.as("acme", async (session) => {
        await session.query(
          "SET plan_cache_mode = force_generic_plan; PREPARE mine AS SELECT name FROM of_text ORDER BY id",
        );
        expect(await column(session, "EXECUTE mine")).toEqual(["a", "b"]);
        await session.query("SET app.current_tenant_id = 'globex'");
        expect(await column(session, "EXECUTE mine")).toEqual(["g"]);
        await session.query("RESET app.current_tenant_id");
        expect(await column(session, "EXECUTE mine")).toEqual([]);
      });
    });

    test("parallel workers see the tenant as their leader does", async () => {
      await db.owner.query("CREATE TABLE many (tenant_id text NOT NULL, n integer)");
      await db.owner.query(
        "INSERT INTO many SELECT (ARRAY['acme', 'globex'])[1 + n % 2], n FROM generate_series(1, 20000) AS n",
      );
      await db.owner.query("SELECT pgvpd_protect('many'); ANALYZE many");
      await db.as("acme", async (session) => {
        await session.query(
          "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2",
        );
        expect((await column(session, "EXPLAIN SELECT count(*) FROM many")).join("\n")).toContain("Parallel Seq Scan");
        expect(await column(session, "SELECT count(*)::int FROM many")).toEqual([10000]);
        const bare = "SELECT count(*)::int FROM many WHERE tenant_id = current_tenant_id()";
        expect((await column(session, `EXPLAIN ${bare}`)).join("\n")).toContain("Parallel Seq Scan");
        expect(await column(session, bare)).toEqual([10000]);
      });
    });

    test("a table of another schema, its column given in quotes, its sequence and its schema", async () => {
      await db.owner.query('CREATE SCHEMA crm; CREATE TABLE crm.contacts (id bigserial, "Org Id" integer NOT NULL)');
      await db.owner.query(`SELECT pgvpd_protect('crm.contacts', '"Org Id"')`);
      await db.as("7", async (session) => {
        expect(await column(session, 'INSERT INTO crm.contacts ("Org Id") VALUES (7) RETURNING id::int')).toEqual([1]);
        expect((await failure(session.query('INSERT INTO crm.contacts ("Org Id") VALUES (8)'))).code).toBe("42501");
      });
      expect(await db.as("8", (s) => column(s, "SELECT id FROM crm.contacts"))).toEqual([]);
    });

    test("an unqualified name is looked up in the caller's search_path", async () => {
      await db.owner.query(`
        CREATE SCHEMA billing; CREATE TABLE billing.accounts (tenant_id text NOT NULL); CREATE TABLE public.accounts (tenant_id text NOT NULL);
        SET search_path = billing, public; SELECT public.pgvpd_protect('accounts'); RESET search_path`);
      const [billing, other] = await column(
        db.owner,
        "SELECT relrowsecurity FROM pg_class WHERE relname = 'accounts' ORDER BY relnamespace = 'public'::regnamespace",
      );
      expect([billing, other]).toEqual([true, false]);
      expect(await column(db.owner, "SELECT current_setting('search_path')")).toEqual(['"$user", public']);
    });

    test("an empty search_path is no obstacle for a qualified name", async () => {
      await db.owner.query("CREATE TABLE no_path (tenant_id text NOT NULL, state text)");
      await db.owner.query(`SET search_path = ''; SELECT public.pgvpd_protect('public.no_path')`);
      const error = await failure(db.owner.query("SELECT public.pgvpd_protect('no_path')"));
      await db.owner.query("RESET search_path");
      expect(error).toMatchObject({ code: "42P01", hint: "There is public.no_path: name the schema." });
    });

    test.each([
      ['mixed "case', `"mixed ""case"`],
      ["MixedCase", "MixedCase"],
      ["a.b", "a.b"],
      ["x'; DROP TABLE victim; --", "x'; DROP TABLE victim; --"],
      ['x"; DROP TABLE victim; --', 'x"; DROP TABLE victim; --'],
      ["%I %s $1 \\ ü", "%I %s $1 \\ ü"],
      ["select", "select"],
    ])("a table called %j", async (name, given) => {
      const quoted = `"${name.replaceAll('"', '""')}"`;
      await db.owner.query("CREATE TABLE IF NOT EXISTS victim (tenant_id text)");
      await db.owner.query(`CREATE TABLE ${quoted} (${quoted} text NOT NULL)`);
      await db.owner.query("SELECT pgvpd_protect($1, $2)", [given, name]);
      await db.owner.query(`ALTER TABLE ${quoted} NO FORCE ROW LEVEL SECURITY`);
      await db.owner.query(`INSERT INTO ${quoted} VALUES ('acme'), ('globex')`);
      await db.owner.query(`ALTER TABLE ${quoted} FORCE ROW LEVEL SECURITY`);
      expect(await db.as("acme", (s) => column(s, `SELECT * FROM ${quoted}`))).toEqual(["acme"]);
      expect(await column(db.owner, "SELECT polname FROM pg_policy WHERE polrelid = $1::regclass", [quoted])).toEqual([
        `pgvpd_tenant_isolation_${name}`,
      ]);
      expect(await column(db.owner, "SELECT to_regclass('victim')::text")).toEqual(["victim"]);
      await db.owner.query(`DROP TABLE ${quoted}`);
    });

    test("a name that can mean two tables is refused", async () => {
      await db.owner.query('CREATE TABLE users (tenant_id text); CREATE TABLE "Users" (tenant_id text)');
      const error = await failure(db.owner.query("SELECT pgvpd_protect('Users')"));
      expect(error.code).toBe("22023");
      expect(error.message).toContain('public."Users" or public.users');
      await db.owner.query(`SELECT pgvpd_protect('"Users"')`);
    });

    test("a long name gives the policy name that PostgreSQL would cut, again and again", async () => {
      const first = `${"long_".repeat(12)}_1`;
      const second = `${"long_".repeat(12)}_2`;
      for (const name of [first, second, first, second]) {
        await db.owner.query(`CREATE TABLE IF NOT EXISTS ${name} (tenant_id text NOT NULL)`);
        await db.owner.query(`SELECT pgvpd_protect('${name}')`);
      }
      const policies = await column(
        db.owner,
        "SELECT polname FROM pg_policy WHERE polrelid IN ($1::regclass, $2::regclass)",
        [first, second],
      );
      expect(policies).toHaveLength(2);
      expect(policies).toEqual(policies.map(() => `pgvpd_tenant_isolation_${first}`.slice(0, 63)));
    });

    test("partitions are protected with their parent, for those who name them too", async () => {
      await db.owner.query(`
        CREATE TABLE events (tenant_id text NOT NULL, at date NOT NULL) PARTITION BY RANGE (at);
        CREATE TABLE events_2023 PARTITION OF events FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
        CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (tenant_id);
        CREATE TABLE events_2024_rest PARTITION OF events_2024 DEFAULT;
        INSERT INTO events VALUES ('acme', '2023-05-05'), ('globex', '2023-05-05'), ('acme', '2024-05-05'), ('globex', '2024-05-05');
        SELECT pgvpd_protect('events')`);
      await db.owner.query("GRANT SELECT ON events_2023, events_2024_rest TO app_user"); // what a tenant must not need
      for (const table of ["events", "events_2023", "events_2024_rest"]) {
        const tenants = await db.as("acme", (s) => column(s, `SELECT DISTINCT tenant_id FROM ${table}`));
        expect(tenants).toEqual(["acme"]);
      }
      expect(await column(db.owner, "SELECT has_table_privilege('app_user', 'events_2023', 'INSERT')")).toEqual([
        false,
      ]);
    });

    test("children by INHERITS are protected with their parent", async () => {
      await db.owner.query(`
        CREATE TABLE parent (tenant_id text NOT NULL); CREATE TABLE child (extra text) INHERITS (parent);
        INSERT INTO child VALUES ('acme'), ('globex'); SELECT pgvpd_protect('parent'); GRANT SELECT ON child TO app_user`);
      expect(await db.as("acme", (s) => column(s, "SELECT tenant_id FROM parent"))).toEqual(["acme"]);
      expect(await db.as("acme", (s) => column(s, "SELECT tenant_id FROM child"))).toEqual(["acme"]);
    });

    test("grants the sequences of serial, identity and default columns", async () => {
      await db.owner.query(`
        CREATE SEQUENCE numbers;
        CREATE TABLE numbered (a serial, b integer GENERATED ALWAYS AS IDENTITY, c bigint DEFAULT nextval('numbers'), tenant_id text NOT NULL);
        SELECT pgvpd_protect('numbered')`);
      await db.as("acme", async (session) => {
        const { rows } = await session.query("INSERT INTO numbered (tenant_id) VALUES ('acme') RETURNING a, b, c::int");
        expect(rows).toEqual([{ a: 1, b: 1, c: 1 }]);
      });
    });

    test("protecting twice, or with another column, replaces the policy", async () => {
      await db.owner.query("CREATE TABLE twice (tenant_id text NOT NULL, org_id integer NOT NULL)");
      await db.owner.query(
        "SELECT pgvpd_protect('twice'); SELECT pgvpd_protect('twice'); SELECT pgvpd_protect('twice', 'org_id')",
      );
      const expressions = await column(
        db.owner,
        "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polrelid = 'twice'::regclass",
      );
      expect(expressions).toHaveLength(1);
      expect(expressions[0]).toContain("org_id = ( SELECT (current_tenant_id())::integer");
    });

    test("warns of other permissive policies and names them", async () => {
      await db.owner.query(`CREATE TABLE shared (tenant_id text NOT NULL);
        CREATE POLICY everything ON shared USING (true); CREATE POLICY narrower ON shared AS RESTRICTIVE USING (true)`);
      db.takeMessages();
      await db.owner.query("SELECT pgvpd_protect('shared')");
      const warnings = db.takeMessages().filter((message) => message.severity === "WARNING");
      expect(warnings.map((warning) => warning.text)).toEqual([
        "public.shared has other permissive policies: everything",
      ]);
    });

    test("says that a tenant column may be NULL and has no index", async () => {
      await db.owner.query("CREATE TABLE loose (tenant_id text)");
      db.takeMessages();
      await db.owner.query("SELECT pgvpd_protect('loose')");
      expect(db.takeMessages()).toEqual([
        {
          severity: "NOTICE",
          text: "column tenant_id of public.loose may be NULL: no tenant sees such rows",
          hint: "ALTER TABLE public.loose ALTER COLUMN tenant_id SET NOT NULL;",
        },
        {
          severity: "NOTICE",
          text: "no index of public.loose starts with tenant_id: every query reads the rows of all tenants",
          hint: "CREATE INDEX ON public.loose (tenant_id);",
        },
      ]);
    });

    test("another application role, none, and one that does not exist", async () => {
      await db.admin.query(`DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticated') THEN CREATE ROLE authenticated; END IF; END $$`);
      await db.owner.query("CREATE TABLE granted (tenant_id text NOT NULL)");
      const rights = (role: string) =>
        column(
          db.owner,
          "SELECT has_table_privilege($1, 'granted', 'SELECT') AND has_table_privilege($1, 'granted', 'DELETE')",
          [role],
        );
      await db.owner.query("SELECT pgvpd_protect('granted', app_role => NULL)");
      expect(await rights("app_user")).toEqual([false]);
      await db.owner.query("SELECT pgvpd_protect('granted', 'tenant_id', 'authenticated')");
      expect(await rights("authenticated")).toEqual([true]);
      expect(await rights("app_user")).toEqual([false]);

      db.takeMessages();
      await db.owner.query(`SELECT pgvpd_protect('granted', 'tenant_id', 'no"body')`);
      const warnings = db.takeMessages().filter((message) => message.severity === "WARNING");
      expect(warnings).toHaveLength(1);
      expect(warnings[0]?.hint).toContain('GRANT SELECT, INSERT, UPDATE, DELETE ON public.granted TO "no""body";');
    });

    test("warns when the application role could get round the policy", async () => {
      await db.owner.query(
        "CREATE TABLE powerful (tenant_id text NOT NULL); GRANT TRUNCATE, TRIGGER ON powerful TO app_user",
      );
      db.takeMessages();
      await db.owner.query("SELECT pgvpd_protect('powerful')");
      const warnings = db.takeMessages().filter((message) => message.severity === "WARNING");
      expect(warnings.map((warning) => warning.text)).toEqual([
        "public.powerful is protected, but role app_user holds TRUNCATE, TRIGGER, which policies do not cover",
      ]);
    });

    test.each([
      ["a view", "CREATE VIEW v AS SELECT 1 AS tenant_id", "v", "42809", "public.v is a view"],
      [
        "a materialized view",
        "CREATE MATERIALIZED VIEW mv AS SELECT 1 AS tenant_id",
        "mv",
        "42809",
        "public.mv is a materialized view",
      ],
      ["a sequence", "CREATE SEQUENCE sq", "sq", "42809", "public.sq is a sequence"],
      ["a temporary table", "CREATE TEMP TABLE tmp (tenant_id text)", "tmp", "42809", "is a temporary table"],
      ["a system table", "", "pg_catalog.pg_class", "42809", "pg_catalog.pg_class is a system table"],
      ["a missing table", "", "nothing_here", "42P01", 'table "nothing_here" does not exist'],
      ["a missing schema", "", "nowhere.t", "42P01", 'table "nowhere.t" does not exist'],
      ["three dots", "", "a.b.c.d", "42P01", 'table "a.b.c.d" does not exist'],
      ["no name", "", "", "22023", "table_name is missing"],
      [
        "a missing column",
        "CREATE TABLE no_tenant (id integer, other text)",
        "no_tenant",
        "42703",
        'table public.no_tenant has no column "tenant_id"',
      ],
      [
        "a type it does not compare",
        "CREATE TABLE js (tenant_id jsonb)",
        "js",
        "42804",
        "column tenant_id of public.js has type jsonb",
      ],
    ])("refuses %s", async (_, create, name, code, text) => {
      if (create !== "") await db.owner.query(create);
      const error = await failure(db.owner.query("SELECT pgvpd_protect($1)", [name]));
      expect(error.code).toBe(code);
      expect(error.message).toContain(text);
      if (code !== "22023") expect(error.hint).not.toBe("");
    });

    test("refuses a foreign table, and warns of one below a partitioned table", async () => {
      await db.admin.query(`
        CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
        CREATE FOREIGN TABLE far (tenant_id text) SERVER nowhere;
        CREATE TABLE mixed (tenant_id text NOT NULL) PARTITION BY LIST (tenant_id);
        CREATE FOREIGN TABLE mixed_far PARTITION OF mixed DEFAULT SERVER nowhere`);
      expect((await failure(db.admin.query("SELECT pgvpd_protect('far')"))).message).toBe(
        "public.far is a foreign table",
      );
      const notices: string[] = [];
      db.admin.on("notice", (notice) => notices.push(notice.message ?? ""));
      await db.admin.query("SELECT pgvpd_protect('mixed')");
      expect(notices.join("\n")).toContain("public.mixed_far is a foreign table below public.mixed");
    });

    test("a tenant cannot protect, unprotect or re-protect a table", async () => {
      await db.as("acme", async (session) => {
        expect((await failure(session.query("SELECT pgvpd_protect('of_text', 'name')"))).code).toBe("42501");
        expect((await failure(session.query("ALTER TABLE of_text DISABLE ROW LEVEL SECURITY"))).code).toBe("42501");
        expect((await failure(session.query("DROP POLICY pgvpd_tenant_isolation_of_text ON of_text"))).code).toBe(
          "42501",
        );
      });
    });

    test("DROP OWNED by a tenant takes no policy of ours, as it takes one TO the role", async () => {
      await using fresh = await createInstalledDatabase(server(), installer);
      await fresh.owner.query(`
        CREATE TABLE ours (tenant_id text NOT NULL); SELECT pgvpd_protect('ours');
        CREATE TABLE theirs (tenant_id text NOT NULL); CREATE POLICY to_role ON theirs TO app_user USING (true)`);
      await fresh.as("acme", (session) => session.query("DROP OWNED BY app_user"));
      expect(await column(fresh.owner, "SELECT polname FROM pg_policy")).toEqual(["pgvpd_tenant_isolation_ours"]);
    });
  });
});
