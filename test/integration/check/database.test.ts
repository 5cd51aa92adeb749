/**
 * `pgvpd check --database-url` against a real database: what it says of policies and roles, and that a role without any
 * rights is enough for it.
 */
import { readFileSync } from "node:fs";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkDatabase } from "../../../src/check/check-database.ts";
import { configFromSettings, type SettingValues } from "../../../src/config/load.ts";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";

let server: PostgresServer;
beforeAll(async () => {
  server = await startPostgres({ settings: { log_statement: "all", log_line_prefix: "%a " } });
  await run("CREATE DATABASE plain");
  await run("CREATE ROLE nobody LOGIN PASSWORD 'n'; CREATE ROLE app_user LOGIN PASSWORD 'a'");
  await run("CREATE ROLE super SUPERUSER; CREATE ROLE bypass BYPASSRLS; CREATE ROLE authenticated NOLOGIN");
  await run(
    "CREATE ROLE wal REPLICATION; CREATE ROLE maker CREATEROLE; CREATE ROLE climber LOGIN; GRANT maker TO climber",
  );
  await run("CREATE ROLE admin LOGIN SUPERUSER PASSWORD 'a'");
  await run(`
    CREATE SCHEMA shop;
    CREATE FUNCTION current_tenant_id() RETURNS text LANGUAGE sql STABLE
      AS $$ SELECT nullif(current_setting('app.current_tenant_id', true), '') $$;
    CREATE TABLE shop.orders (id int, tenant_id text);
    CREATE TABLE shop.notes (id int, current_tenant_id text);
    CREATE TABLE shop.inbox (tenant_id text);
    CREATE POLICY p ON shop.orders USING (tenant_id = (SELECT current_tenant_id()));
    CREATE POLICY p ON shop.notes USING (current_tenant_id = current_setting('app.user_id', true));
    CREATE POLICY p ON shop.inbox FOR INSERT WITH CHECK (tenant_id = current_tenant_id());
  `);
});
afterAll(() => server.stop());

async function run(statements: string): Promise<void> {
  const client = new Client({ connectionString: server.url() });
  await client.connect();
  await client.query(statements);
  await client.end();
}

async function check(settings: SettingValues = {}, url = server.url("postgres", "nobody", "n")): Promise<string[]> {
  const findings = await checkDatabase(url, configFromSettings(settings));
  return findings.map(({ verdict, text }) => `${verdict}: ${text}`);
}

describe("a database, seen by a role without rights", () => {
  it("is in order where its policies read a variable that is set and app_user is safe", async () => {
    expect(await check()).toEqual([
      expect.stringMatching(/^ok: database: postgres on PostgreSQL \d+\.\d+, as nobody$/),
      "ok: policies: 2 read current_tenant_id(), and context_variables has app.current_tenant_id",
      "ok: roles: app_user is held by row-level security",
    ]);
  });

  it("is told that tenants would see nothing, by USING and by WITH CHECK, not by a column of that name", async () => {
    const [, policies] = await check({ context_variables: "app.user_id" });
    expect(policies).toBe(
      "warning: policies: 2 read current_tenant_id() (on shop.inbox, shop.orders), but context_variables lacks " +
        "app.current_tenant_id: tenants see no rows there",
    );
  });

  it("may be another database, with other policies", async () => {
    const [, policies] = await check({}, server.url("plain", "nobody", "n"));
    expect(policies).toBe("ok: policies: none reads current_tenant_id()");
  });

  it("names every role that row-level security does not hold", async () => {
    const findings = await check({ login_roles: "super,bypass,wal,maker,climber,app_user,absent" });
    expect(findings.slice(2).map((finding) => finding.replace(/: row-level.*|, which .*/, ""))).toEqual([
      "error: roles: super has SUPERUSER",
      "warning: roles: super is NOLOGIN: tenants cannot log in with it",
      "error: roles: bypass has BYPASSRLS",
      "warning: roles: bypass is NOLOGIN: tenants cannot log in with it",
      "error: roles: wal has REPLICATION",
      "warning: roles: wal is NOLOGIN: tenants cannot log in with it",
      "error: roles: maker has CREATEROLE",
      "warning: roles: maker is NOLOGIN: tenants cannot log in with it",
      "warning: roles: a tenant as climber can SET ROLE maker",
      "ok: roles: app_user is held by row-level security",
      "warning: roles: there is no role absent: tenants cannot log in with it",
    ]);
  });

  it("looks at the role of set_role, and whether the login role may take it on", async () => {
    expect((await check({ set_role: "authenticated" })).slice(2)).toEqual([
      "warning: roles: app_user may not take on authenticated, the role of set_role: GRANT authenticated TO app_user",
      "ok: roles: authenticated is held by row-level security",
    ]);
    expect((await check({ set_role: "bypass" })).slice(3)).toEqual([
      "error: roles: bypass has BYPASSRLS: row-level security does not hold it, and pgvpd refuses tenants as this role",
    ]);
  });
});

describe("the role of --database-url", () => {
  it("is a warning where it is unsafe and a tenant's user name could name it", async () => {
    const url = server.url("postgres", "admin", "a");
    const warning =
      "warning: roles: admin, the role of --database-url, has SUPERUSER: row-level security does not hold it, and " +
      "login_roles does not keep tenants from naming it";
    expect((await check({}, url)).slice(2)).toEqual(["ok: roles: app_user is held by row-level security", warning]);
    expect(await check({ login_roles: "app_user" }, url)).not.toContain(warning);
    expect(await check({ superuser_bypass: "admin" }, url)).not.toContain(warning);
  });
});

describe("its statements", () => {
  it("do not meet functions and operators of somebody else", async () => {
    // Regression: with public in the search_path a tenant's own operator would run with the rights of who checks.
    await run(`
      GRANT CREATE ON SCHEMA public TO PUBLIC;
      CREATE FUNCTION public.stolen(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'stolen'; END $$;
      CREATE OPERATOR public.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = public.stolen);
      ALTER ROLE nobody SET search_path = public, pg_catalog;
    `);
    expect((await check())[1]).toMatch(/^ok: policies: 2 read/);
    await run("ALTER ROLE nobody RESET search_path; DROP OPERATOR public.~ (text, text)");
  });

  it("read, and change nothing but settings of their own session", async () => {
    await check();
    const log = readFileSync(server.logFile, "utf8").split("\n");
    const ours = log.flatMap((line) => /^pgvpd check LOG: .*?(?:statement|execute \S+): (\w+)/.exec(line)?.[1] ?? []);
    expect(ours.length).toBeGreaterThan(4);
    expect(new Set(ours)).toEqual(new Set(["SELECT", "SET"]));
  });
});

describe("a database that cannot be entered", () => {
  it("is an error in PostgreSQL's words, without the password", async () => {
    const [finding, ...rest] = await check({}, server.url("postgres", "nobody", "hunter2"));
    expect(rest).toEqual([]);
    expect(finding).toBe('error: database: password authentication failed for user "nobody"');
  });

  it("is an error where nothing listens", async () => {
    const url = new URL(server.url());
    url.port = "1";
    const [finding] = await check({}, url.href);
    expect(finding).toMatch(/^error: database: connect ECONNREFUSED/);
  });
});
