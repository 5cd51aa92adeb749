/** Logins that pgvpd ends itself, on real servers: where verifiers come from, and what a tenant's ALTER ROLE leaves behind. */
import { readFile, writeFile } from "node:fs/promises";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client, type ClientConfig } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { SettingValues } from "../../../src/index.ts";
import { createVerifier } from "../../../src/protocol/scram/keys.ts";
import { availableVersions } from "../../support/postgres.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));
const credentialsSql = await readFile(path.join(import.meta.dirname, "../../../sql/credentials.sql"), "utf8");

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  let folder: string;
  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
    folder = await mkdtemp(path.join(tmpdir(), "pgvpd-ended-"));
    await fixture.asSuperuser(credentialsSql);
    await fixture.asSuperuser("CREATE ROLE pgvpd_auth LOGIN PASSWORD 'of pgvpd itself'");
    await fixture.asSuperuser("GRANT USAGE ON SCHEMA pgvpd TO pgvpd_auth");
    await fixture.asSuperuser("GRANT EXECUTE ON FUNCTION pgvpd.find_credential TO pgvpd_auth");
  });
  afterAll(async () => {
    await fixture?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  /** A credentials file with these lines. */
  async function fileOf(...lines: string[]): Promise<string> {
    const file = path.join(folder, "credentials");
    await writeFile(file, `${lines.join("\n")}\n`, { mode: 0o600 });
    return file;
  }

  /** What a login through a proxy with these settings gives: the tenant, or the SQLSTATE. */
  async function opener(settings: SettingValues): Promise<(user: string, password: string) => Promise<string>> {
    const { port } = await fixture.proxyWith({ client_auth: "scram", login_throttle: 0, ...settings });
    return (user, password) => tenantOrCode({ host: "127.0.0.1", port, user, password, database: "postgres" });
  }

  async function tenantOrCode(config: ClientConfig): Promise<string> {
    const client = new Client(config);
    client.on("error", () => {});
    try {
      await client.connect();
      const { rows } = await client.query<{ tenant: string }>("SELECT current_tenant_id() AS tenant");
      return rows[0]?.tenant ?? "";
    } catch (error) {
      return (error as { code?: string }).code ?? (error as Error).message;
    } finally {
      await client.end().catch(() => {});
    }
  }

  describe("credentials_file", () => {
    it("with the role's own verifier opens PostgreSQL without a password of pgvpd's", async () => {
      const [row] = await fixture.asSuperuser("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_user'");
      const open = await opener({ credentials_file: await fileOf(`"app_user" "${String(row?.["rolpassword"])}"`) });
      expect(await open("app_user.acme", PASSWORD)).toBe("acme");
      expect(await open("app_user.acme", "wrong")).toBe("28P01");
      expect(await open("nobody.acme", PASSWORD)).toBe("28P01");
    });

    it("binds a credential to its tenants", async () => {
      const verifier = await createVerifier("acme's", 4_096);
      const open = await opener({
        credentials_file: await fileOf(`"app_user" "${verifier}" tenants=acme,glob*`),
        upstream_password: PASSWORD,
      });
      expect(await open("app_user.acme", "acme's")).toBe("acme");
      expect(await open("app_user.globex", "acme's")).toBe("globex");
      expect(await open("app_user.initech", "acme's")).toBe("28P01");
      expect(await open("app_user.acme", PASSWORD)).toBe("28P01");
    });

    it("with a verifier that is not the server's fails at login, where pgvpd has no password either", async () => {
      const open = await opener({ credentials_file: await fileOf(`"app_user" "${await createVerifier("x", 4_096)}"`) });
      expect(await open("app_user.acme", "x")).toBe("28000");
    });
  });

  describe("auth_query", () => {
    const settings = async (): Promise<SettingValues> => ({
      auth_user: "pgvpd_auth",
      credentials_file: await fileOf('"pgvpd_auth" "of pgvpd itself"'),
      auth_cache_ttl: 0,
    });
    beforeEach(() =>
      fixture.asSuperuser("TRUNCATE pgvpd.tenant_credentials; ALTER ROLE app_user LOGIN VALID UNTIL 'infinity'"),
    );

    it("finds the role's own verifier, unless it is expired or may not log in", async () => {
      const open = await opener(await settings());
      expect(await open("app_user.acme", PASSWORD)).toBe("acme");
      expect(await open("app_user.acme", "wrong")).toBe("28P01");
      expect(await open("nobody.acme", PASSWORD)).toBe("28P01");
      await fixture.asSuperuser("ALTER ROLE app_user VALID UNTIL '2020-01-01'");
      expect(await open("app_user.acme", PASSWORD)).toBe("28P01");
      await fixture.asSuperuser("ALTER ROLE app_user NOLOGIN VALID UNTIL 'infinity'");
      expect(await open("app_user.acme", PASSWORD)).toBe("28P01");
    });

    it("finds a tenant's credential first, and an expired one opens nothing", async () => {
      const open = await opener({ ...(await settings()), upstream_password: PASSWORD });
      const verifier = await createVerifier("acme's", 4_096);
      await fixture.asSuperuser(
        `INSERT INTO pgvpd.tenant_credentials (login_name, tenant, verifier) VALUES ('app_user', 'acme', '${verifier}')`,
      );
      expect(await open("app_user.acme", "acme's")).toBe("acme");
      expect(await open("app_user.acme", PASSWORD)).toBe("28P01");
      expect(await open("app_user.globex", "acme's")).toBe("28P01");
      expect(await open("app_user.globex", PASSWORD)).toBe("globex");
      await fixture.asSuperuser("UPDATE pgvpd.tenant_credentials SET valid_until = '2020-01-01'");
      expect(await open("app_user.acme", "acme's")).toBe("28P01");
      expect(await open("app_user.acme", PASSWORD)).toBe("28P01");
    });

    it("takes PgBouncer's queries", async () => {
      await fixture.asSuperuser(
        "CREATE OR REPLACE FUNCTION lookup(name) RETURNS TABLE (n name, p text) SECURITY DEFINER LANGUAGE sql AS 'SELECT usename, passwd FROM pg_shadow WHERE usename = $1'",
      );
      const open = await opener({ ...(await settings()), auth_query: "SELECT n, p FROM public.lookup($1)" });
      expect(await open("app_user.acme", PASSWORD)).toBe("acme");
      expect(await open("nobody.acme", PASSWORD)).toBe("28P01");
    });

    it("goes on when its connection was lost", async () => {
      const open = await opener(await settings());
      expect(await open("app_user.acme", PASSWORD)).toBe("acme");
      await fixture.asSuperuser("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'pgvpd_auth'");
      expect(await open("app_user.acme", PASSWORD)).toBe("acme");
    });

    it("that cannot be asked is 08001 for everybody, not a wrong password", async () => {
      const open = await opener({ ...(await settings()), auth_query: "SELECT 1 FROM nowhere WHERE $1 = ''" });
      expect(await open("app_user.acme", PASSWORD)).toBe("08001");
      expect(await open("nobody.acme", PASSWORD)).toBe("08001");
    });

    it("asks once for a hundred logins at the same time", async () => {
      await fixture.asSuperuser(
        "CREATE SEQUENCE IF NOT EXISTS asked; CREATE OR REPLACE FUNCTION counted(text) RETURNS TABLE (n name, p text) SECURITY DEFINER LANGUAGE sql AS 'SELECT rolname, rolpassword FROM pg_authid, nextval(''public.asked'') WHERE rolname = $1'",
      );
      const open = await opener({
        ...(await settings()),
        auth_query: "SELECT n, p FROM public.counted($1)",
        auth_cache_ttl: 60,
      });
      const logins = Array.from({ length: 40 }, () => open("app_user.acme", PASSWORD));
      expect(new Set(await Promise.all(logins))).toEqual(new Set(["acme"]));
      expect(await fixture.asSuperuser("SELECT last_value::int AS n FROM asked")).toEqual([{ n: 1 }]);
    });
  });

  it("pool_password is a password for every tenant, and never one for PostgreSQL", async () => {
    const open = await opener({ pool_password: "shared", upstream_password: PASSWORD });
    expect(await open("app_user.acme", "shared")).toBe("acme");
    expect(await open("app_user.globex", "shared")).toBe("globex");
    expect(await open("app_user.acme", PASSWORD)).toBe("28P01");
    expect(await open("nobody.acme", "shared")).toBe("28000");
  });

  describe("ALTER ROLE ... SET", () => {
    const shown = "SELECT current_setting('statement_timeout') AS timeout, current_setting('search_path') AS path";

    it("of a tenant changes nothing for later sessions; the administrator's, from before, counts", async () => {
      await fixture.asSuperuser("ALTER ROLE app_user SET statement_timeout = '77s'");
      const { port } = await fixture.proxyWith({
        client_auth: "scram",
        pool_password: "shared",
        upstream_password: PASSWORD,
      });
      const config = { host: "127.0.0.1", port, user: "app_user.acme", password: "shared", database: "postgres" };
      const attacker = new Client(config);
      await attacker.connect();
      await attacker.query(
        "ALTER ROLE app_user SET statement_timeout = '1ms'; ALTER ROLE app_user SET search_path = evil",
      );
      await attacker.end();
      const victim = new Client({ ...config, user: "app_user.globex" });
      await victim.connect();
      try {
        expect((await victim.query(shown)).rows).toEqual([{ timeout: "77s", path: '"$user", public' }]);
        await victim.query("RESET ALL");
        expect((await victim.query(shown)).rows).toEqual([{ timeout: "77s", path: '"$user", public' }]);
      } finally {
        await victim.end();
        await fixture.asSuperuser("ALTER ROLE app_user RESET ALL");
      }
    });

    it("is left alone where upstream_startup_parameters says so", async () => {
      await fixture.asSuperuser("ALTER ROLE app_user SET statement_timeout = '55s'");
      const { port } = await fixture.proxyWith({
        client_auth: "scram",
        pool_password: "shared",
        upstream_password: PASSWORD,
        upstream_startup_parameters: "-statement_timeout",
      });
      const client = new Client({
        host: "127.0.0.1",
        port,
        user: "app_user.acme",
        password: "shared",
        database: "postgres",
      });
      await client.connect();
      try {
        await fixture.asSuperuser("ALTER ROLE app_user SET statement_timeout = '44s'");
        const later = new Client({
          host: "127.0.0.1",
          port,
          user: "app_user.acme",
          password: "shared",
          database: "postgres",
        });
        await later.connect();
        expect((await later.query(shown)).rows).toMatchObject([{ timeout: "44s" }]);
        await later.end();
      } finally {
        await client.end();
        await fixture.asSuperuser("ALTER ROLE app_user RESET ALL");
      }
    });
  });

  it("a credentials_file that cannot be used stops the start, and says why", async () => {
    const bound = await fileOf(`"app_user" "${await createVerifier("x", 4_096)}" tenants=acme`);
    const error = await errorOf(fixture.proxyWith({ client_auth: "scram", credentials_file: bound }));
    expect(error.message).toContain("upstream_password");
    const plain = await fileOf('"app_user" "a plain secret"');
    const refused = await errorOf(fixture.proxyWith({ client_auth: "scram", credentials_file: plain }));
    expect(refused.message).toMatch(/credentials:1: /);
    expect(refused.message).not.toContain("a plain secret");
  });
});
