/**
 * `pgvpd doctor` on the demo's database, sealed and hardened: nothing is found there but what the server's own version
 * brings; every fault that is planted is found; and the SQL that doctor gives for a fault makes it vanish.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client } from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { readDatabaseUrl } from "../../../src/config/database-url.ts";
import { configFromSettings, type SettingValues } from "../../../src/config/load.ts";
import { createKeyFile } from "../../../src/config/seal-keys.ts";
import { createDemoDatabase, demoDatabase, planDemoDatabase } from "../../../src/demo/demo-database.ts";
import type { DemoFolder } from "../../../src/demo/demo-folder.ts";
import type { DemoServer } from "../../../src/demo/demo-server.ts";
import { examineAtStart } from "../../../src/doctor/at-start.ts";
import { examine, type Examination, type Probing } from "../../../src/doctor/examine.ts";
import type { Finding } from "../../../src/doctor/finding.ts";

import { availableVersions, requireTool, startPostgres, type PostgresServer } from "../../support/postgres.ts";
import { FAULTS, FAULTY_ROLES, SERVER_FAULTS, type Fault } from "./faults.ts";

const sqlFile = (name: string): string => readFileSync(new URL(`../../../sql/${name}`, import.meta.url), "utf8");

/** What only a newer server mends; the test of the version says which servers have it. */
const OF_THE_SERVER = ["server_rls_fault", "server_code_fault", "table_upsert_shows_rows", "probe_on_conflict"];

const versions = availableVersions().filter((version) => Number(version) >= 15);
const psql = requireTool("psql");

describe.each([...new Set([versions.at(0), versions.at(-1)])])("PostgreSQL %s", (version = "") => {
  let server: PostgresServer;
  let folder: string;
  const settings: SettingValues = { login_roles: "pgvpd_login", set_role: "app_user" };

  beforeAll(async () => {
    server = await startPostgres({ version, auth: "trust" });
    folder = mkdtempSync(path.join(tmpdir(), "pgvpd-doctor-"));
    const keyFile = path.join(folder, "context.key");
    createKeyFile(keyFile);
    await createDemo(server, keyFile);
    await run(sqlFile("hardening.sql"));
    await run("ALTER ROLE app_user NOLOGIN; REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC");
  });
  afterAll(async () => {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  async function run(statements: string, database = demoDatabase): Promise<Record<string, unknown>[]> {
    const client = new Client({ connectionString: server.url(database) });
    await client.connect();
    try {
      return (await client.query<Record<string, unknown>>(statements)).rows;
    } finally {
      await client.end();
    }
  }

  const visit = (
    given: SettingValues = settings,
    {
      database = demoDatabase,
      user = "postgres",
      probing = "scratch",
    }: { database?: string; user?: string; probing?: Probing } = {},
  ): Promise<Examination> =>
    examine(readDatabaseUrl(server.url(database, user)), configFromSettings(given), {
      tenantColumns: ["tenant_id"],
      probing,
    });

  /** As somebody pastes it into psql. */
  const applyFix = (fix: string): Promise<string> =>
    new Promise((resolve) => {
      const child = execFile(
        psql.path ?? "",
        ["-X", "-q", "-v", "ON_ERROR_STOP=1", server.url(demoDatabase)],
        (error, out, err) => resolve(error === null ? "" : `${error.message} ${out} ${err}`),
      );
      child.stdin?.end(fix);
    });

  const codesOf = (findings: readonly Finding[]): string[] => findings.map(({ code, object }) => `${code} ${object}`);
  const withoutServer = (findings: readonly Finding[]): Finding[] =>
    findings.filter(({ code }) => !OF_THE_SERVER.includes(code));

  it("finds nothing in the hardened demo but what the server's version brings", async () => {
    for (const probing of ["scratch", "tables"] as const) {
      const { findings, notChecked } = await visit(settings, { probing });
      expect(codesOf(withoutServer(findings))).toEqual([]);
      expect(notChecked).toEqual([]);
    }
  });

  it("finds nothing either where tenants log in as app_user", async () => {
    const { findings, notChecked } = await visit({});
    expect(codesOf(withoutServer(findings))).toEqual([]);
    expect(notChecked).toEqual([]);
  });

  it("finds nothing at a start either, where it looks as the login role, but for what that role may not see", async () => {
    const lines: string[] = [];
    const config = configFromSettings({
      ...settings,
      upstream_host: server.host,
      upstream_port: server.port,
      upstream_require_auth: "none",
      doctor: "warn",
      doctor_database: demoDatabase,
    });
    await examineAtStart(config, pino({ base: null }, { write: (line) => void lines.push(line) }));
    const logged = lines.map((line) => JSON.parse(line) as { code?: string; what?: string; msg: string });
    const others = logged.filter(({ code }) => code === undefined || !OF_THE_SERVER.includes(code));
    expect(others.map(({ code, what, msg }) => [code ?? what, msg])).toEqual([
      ["seal_without_key", "doctor: not checked"],
      [undefined, "doctor has looked"],
    ]);
  });

  it("leaves nothing behind", async () => {
    const state = `SELECT (SELECT count(*) FROM pg_class) AS classes, (SELECT count(*) FROM pg_namespace) AS schemas,
      (SELECT count(*) FROM pg_policy) AS policies, (SELECT array_agg(kid) FROM pgvpd.context_keys) AS keys`;
    const before = await run(state);
    await visit();
    expect(await run(state)).toEqual(before);
  });

  it("leaves nothing behind where an attempt breaks off", async () => {
    await run(`CREATE FUNCTION public.f_refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no policies today'; END $$;
      CREATE EVENT TRIGGER f_refuse ON ddl_command_start WHEN TAG IN ('CREATE POLICY') EXECUTE FUNCTION public.f_refuse()`);
    const { notChecked } = await visit();
    expect(notChecked).toEqual([{ what: "probes", reason: "no policies today" }]);
    expect(await run("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pgvpd_doctor%'")).toEqual([]);
    await run("DROP EVENT TRIGGER f_refuse; DROP FUNCTION public.f_refuse()");
  });

  it("does not wait for a table that a migration holds, and names it", async () => {
    const migration = new Client({ connectionString: server.url(demoDatabase) });
    await migration.connect();
    let notChecked: Examination["notChecked"];
    try {
      await migration.query("BEGIN; LOCK TABLE contacts IN ACCESS EXCLUSIVE MODE");
      ({ notChecked } = await visit(settings, { probing: "tables" }));
    } finally {
      await migration.end();
    }
    const reason = expect.stringMatching(/^another session holds a lock on public\.contacts: /) as string;
    expect(notChecked).toEqual([
      { what: "policies", reason, isLocked: true },
      { what: "probe_table_open public.contacts", reason: "canceling statement due to lock timeout" },
    ]);
  });

  it("looks with the rights of a tenant's role too, and says what it could not see", async () => {
    await run("ALTER ROLE app_user LOGIN");
    const { findings, notChecked } = await visit({}, { user: "app_user" });
    expect(codesOf(withoutServer(findings))).toEqual([]);
    expect(notChecked).toEqual([
      { what: "seal_without_key", reason: "permission denied for table context_keys", isDenied: true },
      { what: "probes", reason: "role app_user may not create a schema: give the URL of an administrator" },
    ]);
    await run("ALTER ROLE app_user NOLOGIN");
  });

  it("names another database that tenants can connect to and that lacks the seal", async () => {
    await run("CREATE DATABASE half", "postgres");
    for (const file of ["setup.sql", "helpers.sql", "hardening.sql"]) await run(sqlFile(file), "half");
    await run("GRANT CONNECT ON DATABASE half TO app_user", "postgres");
    const { findings } = await visit(settings, { probing: "off" });
    expect(findings.filter(({ code }) => code === "database_open")).toMatchObject([
      {
        object: "database half",
        why: "tenants can connect to it, its context is not sealed as that of this one is",
        fix: expect.stringMatching(/^REVOKE CONNECT ON DATABASE half FROM (PUBLIC, )?app_user;$/) as string,
      },
    ]);
    await run(`SET pgvpd.carrier = 'signed'; ${sqlFile("seal.sql")}`, "half");
    expect(codesOf(withoutServer((await visit(settings, { probing: "off" })).findings))).toEqual([]);
    await run("DROP DATABASE half", "postgres");
  });

  it("says when there is no key", async () => {
    await run("UPDATE pgvpd.context_keys SET active = false");
    const { findings } = await visit();
    expect(codesOf(withoutServer(findings))).toEqual(["seal_without_key pgvpd.context_keys"]);
    await run("UPDATE pgvpd.context_keys SET active = true");
  });

  it.each(["slot", "signed"])("names what no SQL of its own mends, sealed with the carrier %s", async (carrier) => {
    const database = `by_eye_${carrier}`;
    await run(`CREATE DATABASE ${database}`, "postgres");
    for (const file of ["setup.sql", "helpers.sql", "seal.sql"])
      await run(`SET pgvpd.carrier = '${carrier}'; ${sqlFile(file)}`, database);
    const seen = async (): Promise<string[]> =>
      codesOf((await visit(settings, { database, probing: "off" })).findings).filter((line) =>
        /^(policy_|seal_function)/.test(line),
      );
    await run(
      `CREATE TABLE either (tenant_id text, owner uuid, body text); CREATE TABLE other (tenant_id text);
       CREATE TABLE acl (tenant_id varchar, owner uuid, code text, id int);
       SELECT pgvpd_protect('other');
       SELECT pgvpd_protect_acl('acl', '[{"column": "owner", "var": "app.user_id", "type": "uuid", "when": "id > 1 OR code IS NULL"},
         {"column": "code", "var": "app.codes", "type": "text_array"}, {"column": "id", "var": "app.ids", "type": "integer_array"}]')`,
      database,
    );
    expect(await seen()).toEqual([]);
    await run(
      `ALTER TABLE either ENABLE ROW LEVEL SECURITY;
       CREATE POLICY p ON either USING (tenant_id = (SELECT current_tenant_id()) OR body IS NOT NULL) WITH CHECK (tenant_id = (SELECT current_tenant_id()));
       CREATE POLICY q ON either FOR SELECT USING (tenant_id <> coalesce((SELECT current_tenant_id()), ''));
       CREATE OR REPLACE FUNCTION pgvpd.context_value(name text) RETURNS text LANGUAGE plpgsql STABLE
         AS $$ BEGIN RETURN nullif(current_setting($1, true), ''); END $$;
       ALTER FUNCTION pgvpd.hello() RESET search_path`,
      database,
    );
    expect(await seen()).toEqual([
      "policy_unclear public.either: p",
      "policy_unclear public.either: q",
      "seal_function_replaced pgvpd.context_value(text)",
      "seal_function_replaced pgvpd.hello()",
    ]);
    await run(`SET pgvpd.carrier = '${carrier}'; ${sqlFile("seal.sql")}; DROP TABLE either`, database);
    expect(await seen()).toEqual([]);
    await run(`DROP DATABASE ${database}`, "postgres");
  });

  describe("attacks that are tried", () => {
    it("work without the seal where SQL sets the variable, and are gone with it", async () => {
      await run("CREATE DATABASE unsealed", "postgres");
      for (const file of ["setup.sql", "helpers.sql"]) await run(sqlFile(file), "unsealed");
      const open = (await visit(settings, { database: "unsealed" })).findings.filter(isAttack);
      expect(open.map(({ code, severity }) => [code, severity])).toEqual([
        ["probe_set", "warning"],
        ["probe_set_config", "warning"],
        ["probe_own_view", "warning"],
        ["probe_own_function", "warning"],
      ]);
      await run(sqlFile("seal.sql"), "unsealed");
      expect(codesOf((await visit(settings, { database: "unsealed" })).findings.filter(isAttack))).toEqual([]);
    });

    it("are tried on the policies that a database writes without pgvpd's SQL", async () => {
      await run("CREATE DATABASE by_hand", "postgres");
      const { findings, notChecked } = await visit({ context_variables: "my.tenant" }, { database: "by_hand" });
      expect(notChecked).toEqual([]);
      expect(findings.filter(isAttack).map(({ code }) => code)).toContain("probe_set");
    });

    it("find functions that tenants can plant", async () => {
      await run("CREATE DATABASE planting", "postgres");
      await run(`${sqlFile("setup.sql")}; GRANT CREATE ON SCHEMA public TO app_user`, "planting");
      const { findings } = await visit(settings, { database: "planting" });
      expect(findings.map(({ code }) => code)).toContain("probe_plant_function");
    });

    it("find tables that show rows without a tenant, or to any", async () => {
      await run("CREATE DATABASE opened", "postgres");
      await run(sqlFile("setup.sql"), "opened");
      await run(
        `CREATE TABLE always (tenant_id text); INSERT INTO always VALUES ('acme');
         CREATE TABLE any_tenant (tenant_id text); INSERT INTO any_tenant VALUES ('acme');
         SELECT pgvpd_protect('always'), pgvpd_protect('any_tenant');
         CREATE POLICY p ON always USING (true);
         CREATE POLICY p ON any_tenant USING (current_tenant_id() IS NOT NULL)`,
        "opened",
      );
      const { findings } = await visit(settings, { database: "opened", probing: "tables" });
      expect(
        findings.filter(({ code }) => code === "probe_table_open").map(({ object, why }) => `${object}: ${why}`),
      ).toEqual([
        "public.always: a session without a tenant reads rows of it",
        "public.any_tenant: a tenant that nobody has reads rows of it",
      ]);
    });

    const TAKE_OVER = `BEGIN
        PERFORM set_config('role', 'none', true);
        PERFORM set_config('session_authorization', 'postgres', true);
        ALTER ROLE owner_of_code SUPERUSER;
        PERFORM nextval('taken_over');
      EXCEPTION WHEN insufficient_privilege OR invalid_parameter_value OR feature_not_supported THEN
        PERFORM nextval('refused');
      END`;
    // What a sequence counts, no rollback takes back.
    const counted = async (sequence: string, database: string): Promise<unknown> =>
      (await run(`SELECT is_called FROM ${sequence}`, database))[0]?.["is_called"];

    it("do not lend the rights of a superuser to the functions of a table's policy", async () => {
      await run("CREATE ROLE owner_of_code", "postgres");
      await run("CREATE DATABASE lent", "postgres");
      await run(sqlFile("setup.sql"), "lent");
      await run(
        `CREATE SEQUENCE taken_over; CREATE SEQUENCE refused; GRANT USAGE ON SEQUENCE taken_over, refused TO PUBLIC;
         CREATE FUNCTION take_over() RETURNS boolean LANGUAGE plpgsql SET search_path = public AS $$ BEGIN ${TAKE_OVER}; RETURN true; END $$;
         CREATE TABLE bait (tenant_id text); INSERT INTO bait VALUES ('acme'); GRANT SELECT ON bait TO app_user;
         ALTER TABLE bait ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
         CREATE POLICY p ON bait USING (take_over());
         ALTER FUNCTION take_over() OWNER TO owner_of_code; ALTER TABLE bait OWNER TO owner_of_code`,
        "lent",
      );
      const { findings } = await visit(settings, { database: "lent", probing: "tables" });
      expect(codesOf(findings)).toContain("probe_table_open public.bait");
      expect([await counted("refused", "lent"), await counted("taken_over", "lent")]).toEqual([true, false]);
    });

    it("are not tried with functions of a role that could take over the rights of a superuser", async () => {
      await run(
        `CREATE OR REPLACE FUNCTION public.current_tenant_id() RETURNS text LANGUAGE plpgsql SET search_path = public AS $$ BEGIN ${TAKE_OVER}; RETURN NULL; END $$;
         ALTER FUNCTION current_tenant_id() OWNER TO owner_of_code; ALTER SEQUENCE refused RESTART; ALTER SEQUENCE taken_over RESTART`,
        "lent",
      );
      const { notChecked } = await visit(settings, { database: "lent" });
      expect(notChecked).toEqual([
        {
          what: "probes",
          reason:
            "what would be called belongs to role owner_of_code (public.current_tenant_id()), which could take over the rights of postgres: " +
            "run the doctor as owner_of_code, or install the SQL of pgvpd again as a superuser",
        },
      ]);
      expect([await counted("refused", "lent"), await counted("taken_over", "lent")]).toEqual([false, false]);
    });

    it("are tried where somebody has added a function of the same name", async () => {
      await run("CREATE DATABASE overloaded", "postgres");
      await run(
        `${sqlFile("setup.sql")}; CREATE FUNCTION pgvpd_protect(text, text, text) RETURNS void LANGUAGE sql AS 'SELECT';
         ALTER FUNCTION pgvpd_protect(text, text, text) OWNER TO app_user`,
        "overloaded",
      );
      const { findings, notChecked } = await visit(settings, { database: "overloaded" });
      expect(notChecked).toEqual([]);
      expect(findings.map(({ code }) => code)).toContain("probe_set");
    });

    it("are tried with the signed carrier too", async () => {
      await run("CREATE DATABASE signed", "postgres");
      for (const file of ["setup.sql", "seal.sql"])
        await run(`SET pgvpd.carrier = 'signed'; ${sqlFile(file)}`, "signed");
      const { findings, notChecked } = await visit(settings, { database: "signed" });
      expect(notChecked).toEqual([]);
      expect(codesOf(findings.filter(isAttack))).toEqual([]);
    });

    it("are not tried with functions that a tenant can replace", async () => {
      await run("ALTER FUNCTION public.pgvpd_protect OWNER TO app_user", "opened");
      const { notChecked } = await visit(settings, { database: "opened" });
      expect(notChecked).toEqual([
        { what: "probes", reason: "functions of pgvpd belong to a role that tenants can become: mend that first" },
      ]);
    });
  });

  describe("planted faults", () => {
    const planted: Fault[] = [...FAULTS, ...SERVER_FAULTS].filter(({ since = 0 }) => since <= Number(version));
    const faulty: SettingValues = { ...settings, login_roles: ["pgvpd_login", ...FAULTY_ROLES].join(",") };
    let found: Examination;

    beforeAll(async () => {
      for (const { plant } of planted) await run(plant);
      await run("SELECT pg_reload_conf()");
      // Until every new session has the settings.
      await vi.waitFor(
        async () => expect(await run("SHOW lo_compat_privileges")).toEqual([{ lo_compat_privileges: "on" }]),
        20_000,
      );
      found = await visit(faulty);
    }, 120_000);

    it.each(planted.map(({ code, object }) => [code, object]))("%s: %s", (code, object) => {
      expect(codesOf(found.findings.filter((finding) => finding.code === code))).toContainEqual(
        expect.stringContaining(`${code} ${object}`),
      );
    });

    it.skipIf(psql.path === undefined)(
      "vanish with the SQL that doctor gives for them, each by its own",
      async () => {
        let rest = found.findings.filter(({ fix }) => !fix.startsWith("--"));
        expect(rest.length).toBeGreaterThanOrEqual(planted.length);
        for (let rounds = 0; rest.length > 0 && rounds < 200; rounds++) {
          const [finding] = rest as [Finding, ...Finding[]];
          expect(await applyFix(finding.fix), `${finding.code}: ${finding.fix}`).toBe("");
          const isLeft = async (): Promise<boolean> => {
            const probing = finding.code.startsWith("probe_") ? "scratch" : "off";
            rest = (await visit(faulty, { probing })).findings.filter(({ fix }) => !fix.startsWith("--"));
            return rest.some(({ code, object }) => code === finding.code && object === finding.object);
          };
          await expect
            .poll(isLeft, { message: `${finding.code} ${finding.object}: ${finding.fix}`, timeout: 5_000 })
            .toBe(false);
        }
        const { findings, notChecked } = await visit(faulty);
        expect(codesOf(withoutServer(findings))).toEqual([]);
        expect(notChecked).toEqual([]);
      },
      240_000,
    );
  });

  const isAttack = ({ code }: Finding): boolean => code.startsWith("probe_") && !OF_THE_SERVER.includes(code);
});

/** The database of `pgvpd demo`, by its own code, on a server of ours. */
async function createDemo(server: PostgresServer, keyFile: string): Promise<void> {
  const demoServer: DemoServer = {
    host: server.host,
    port: server.port,
    isOurs: true,
    tls: {},
    ended: new Promise(() => {}),
    client: (database) => ({ connectionString: server.url(database) }),
    maintenanceDatabase: "postgres",
    kill: () => {},
    [Symbol.asyncDispose]: async () => {},
  };
  const folder: DemoFolder = {
    path: path.dirname(keyFile),
    passwords: { superuser: server.password, application: "the password of app_user" },
    keyFile,
    announce: async () => {},
    [Symbol.asyncDispose]: async () => {},
  };
  await createDemoDatabase(demoServer, await planDemoDatabase(demoServer), folder, false);
}
