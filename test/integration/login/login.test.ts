/**
 * Logging in on real servers: which password methods work, whose words an error is in, what becomes of startup parameters,
 * and which roles are refused.
 */
import { Client, type ClientConfig } from "pg";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));

const first = async (client: Client, sql: string): Promise<unknown> =>
  Object.values((await client.query<Record<string, unknown>>(sql)).rows[0] ?? {})[0];

const tenantOf = (client: Client): Promise<unknown> => first(client, "SELECT current_tenant_id()");

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  const refusal = (user: string, more = {}): Promise<Error & { code?: string; hint?: string }> =>
    errorOf(fixture.connect(user, more));
  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it("relays SCRAM-SHA-256, and a wrong password is PostgreSQL's own 28P01", async () => {
    expect(await tenantOf(await fixture.connect("app_user.acme"))).toBe("acme");
    const proxied = await refusal("app_user.acme", { password: "wrong" });
    const direct = await errorOf(
      new Client({ ...fixture.through("app_user", { password: "wrong" }), port: fixture.server.port }).connect(),
    );
    expect(proxied.code).toBe("28P01");
    expect({ ...proxied, message: proxied.message }).toEqual({ ...direct, message: direct.message });
  });

  it("passes an unknown database on as the server's own 3D000", async () => {
    expect((await refusal("app_user.acme", { database: "nowhere" })).code).toBe("3D000");
  });

  it.each([
    ["app_user", "28000", "Username must contain context values separated by '.'"],
    ["app_user.", "28000", "user name has no tenant: the value of app.current_tenant_id is empty"],
    [".acme", "28000", "user name has no role before the '.'"],
    [`${"r".repeat(64)}.acme`, "28000", "role name is longer than 63 bytes"],
  ])("refuses the user name %s with %s, and says what is expected", async (user, code, message) => {
    expect(await refusal(user)).toMatchObject({ code, message });
  });

  it.each([
    "-c app.current_tenant_id=globex",
    "--app.current-tenant-id=globex",
    "-c App.Current_Tenant_Id=globex",
    "-crole=postgres",
    "-c row_security=off",
    "--session-authorization=postgres",
    "-c local_preload_libraries=x",
  ])("refuses options that carry a protected parameter: %s", async (options) => {
    expect((await refusal("app_user.acme", { options })).code).toBe("42501");
  });

  it("refuses a replication connection for a tenant", async () => {
    expect((await refusal("app_user.acme", { replication: "database" })).code).toBe("42501");
  });

  it("forwards other options, and the server judges their values", async () => {
    const options = "-c statement_timeout=4321 --work-mem=5MB -c DateStyle=German";
    const client = await fixture.connect("app_user.acme", { options, application_name: "an application" });
    expect(await first(client, "SHOW statement_timeout")).toBe("4321ms");
    expect(await first(client, "SHOW work_mem")).toBe("5MB");
    expect(await first(client, "SHOW DateStyle")).toBe("German, DMY");
    expect(await first(client, "SHOW application_name")).toBe("an application");
    expect((await refusal("app_user.acme", { options: "-c TimeZone=Nope" })).code).toBe("22023");
  });

  it.each(["startup", "query"])(
    "applies search_path after the context (%s), and a value that fails is the client's",
    async (injection) => {
      const { port } = await fixture.proxyWith({ context_injection: injection });
      const client = await fixture.connect("app_user.acme", { port, options: "-c search_path=pg_temp,public" });
      expect(await first(client, "SHOW search_path")).toBe("pg_temp,public");
      expect(await tenantOf(client)).toBe("acme");
      const refused = await errorOf(fixture.connect("app_user.acme", { port, options: '-c search_path="open' }));
      expect(refused).toMatchObject({ code: "22023", severity: "FATAL" });
    },
  );

  it("narrows the parameters by client_parameters, and drops those of ignore_startup_parameters", async () => {
    const { port } = await fixture.proxyWith({
      client_parameters: "client_encoding, application_name",
      ignore_startup_parameters: "extra_float_digits, work_mem",
    });
    const client = await fixture.connect("app_user.acme", { port, options: "-c work_mem=5MB -c extra_float_digits=2" });
    expect(await first(client, "SHOW work_mem")).not.toBe("5MB");
    const refused = await errorOf(fixture.connect("app_user.acme", { port, options: "-c DateStyle=German" }));
    expect(refused).toMatchObject({ code: "42501", message: 'parameter "DateStyle" may not be set' });
    expect(refused.hint).toContain("client_parameters");
  });

  it.each(["startup", "query"])(
    "keeps a tenant's name whole in a database of another encoding (%s)",
    async (injection) => {
      const name = `latin_${injection}`;
      await fixture.asSuperuser(`CREATE DATABASE ${name} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0`);
      const { port } = await fixture.proxyWith({ context_injection: injection });
      const client = await fixture.connect("app_user.acmé", { port, database: name });
      expect(await first(client, "SELECT current_setting('app.current_tenant_id')")).toBe("acmé");
      expect(await first(client, "SELECT octet_length(current_setting('app.current_tenant_id'))")).toBe(4);
    },
  );

  it("answers a client's own client_encoding, and uses UTF8 for the context all the same", async () => {
    const client = encodedIn("LATIN1", fixture.through("app_user.acmé"));
    const [row] = await client`
      SELECT current_setting('client_encoding') AS encoding, octet_length(current_setting('app.current_tenant_id')) AS bytes`;
    expect(row).toEqual({ encoding: "LATIN1", bytes: 5 });
    await client.end();
  });

  it.each(["SUPERUSER", "BYPASSRLS", "REPLICATION", "CREATEROLE"])(
    "refuses a login role with %s, until it is allowed",
    async (attribute) => {
      const role = `unsafe_${attribute.toLowerCase()}`;
      await fixture.asSuperuser(`CREATE ROLE ${role} LOGIN PASSWORD '${PASSWORD}' ${attribute}`);
      const refused = await refusal(`${role}.acme`);
      expect(refused.code).toBe("28000");
      expect(refused.message).toContain(role);
      const { port } = await fixture.proxyWith({ allow_unsafe_roles: true });
      expect(await tenantOf(await fixture.connect(`${role}.acme`, { port }))).not.toBe("globex");
    },
  );

  it.each(["startup", "query"])("takes on set_role, and refuses one that is unsafe (%s)", async (context_injection) => {
    const [good, bad] = [`reader_${context_injection}`, `seer_${context_injection}`];
    await fixture.asSuperuser(
      `CREATE ROLE ${good}; GRANT ${good} TO app_user; GRANT SELECT ON notes TO ${good};
       CREATE ROLE ${bad} BYPASSRLS; GRANT ${bad} TO app_user`,
    );
    const safe = await fixture.proxyWith({ context_injection, set_role: good });
    const client = await fixture.connect("app_user.acme", { port: safe.port });
    expect(await first(client, "SELECT current_user || '/' || session_user")).toBe(`${good}/app_user`);
    expect((await client.query("SELECT body FROM notes")).rowCount).toBe(2);
    const unsafe = await fixture.proxyWith({ context_injection, set_role: bad });
    expect(await errorOf(fixture.connect("app_user.acme", { port: unsafe.port }))).toMatchObject({ code: "28000" });
    const missing = await fixture.proxyWith({ context_injection, set_role: "nobody_here" });
    expect((await errorOf(fixture.connect("app_user.acme", { port: missing.port }))).code).toMatch(/^(28000|22023)$/);
  });

  it("lets tenants log in only as login_roles", async () => {
    const { port } = await fixture.proxyWith({ login_roles: "somebody_else" });
    expect(await errorOf(fixture.connect("app_user.acme", { port }))).toMatchObject({ code: "28000" });
    expect(await errorOf(fixture.connect("postgres.acme", { port }))).toMatchObject({ code: "28000" });
  });

  it("is not moved by what a tenant does to its own role", async () => {
    const client = await fixture.connect("app_user.acme");
    await client.query("ALTER ROLE app_user SET row_security = off");
    await client.query("ALTER ROLE app_user SET standard_conforming_strings = off").catch(() => {});
    await client.query("ALTER ROLE app_user SET client_encoding = 'LATIN1'");
    await fixture.asSuperuser("ALTER ROLE app_user SET app.current_tenant_id = 'globex'");
    await client.query("ALTER ROLE app_user SET search_path = evil, pg_catalog");
    for (const context_injection of ["startup", "query"]) {
      const { port } = await fixture.proxyWith({ context_injection });
      const later = await fixture.connect("app_user.initech", { port });
      expect(await first(later, "SHOW row_security")).toBe("on");
      expect(await first(later, "SELECT public.current_tenant_id()")).toBe("initech");
      expect((await later.query("SELECT FROM public.notes")).rowCount).toBe(0);
    }
    await fixture.asSuperuser("ALTER ROLE app_user RESET ALL");
  });

  it("splits several context variables, and refuses a wrong count", async () => {
    const { port } = await fixture.proxyWith({ context_variables: "app.current_tenant_id,app.user_id" });
    const both = "SELECT current_tenant_id() || '/' || current_setting('app.user_id')";
    expect(await first(await fixture.connect("app_user.acme:u1", { port }), both)).toBe("acme/u1");
    expect(await first(await fixture.connect("app_user.acme:", { port }), both)).toBe("acme/");
    for (const user of ["app_user.acme", "app_user.acme:u1:more"]) {
      const refused = await errorOf(fixture.connect(user, { port }));
      expect(refused.message).toMatch(/^Expected 2 context value\(s\), got [13]$/);
    }
  });

  it("passes bypass users untouched: no tenant, every row, their own parameters", async () => {
    const client = await fixture.connect("postgres", { options: "-c app.current_tenant_id=globex -c role=app_user" });
    expect(await first(client, "SELECT current_user || current_tenant_id()")).toBe("app_userglobex");
    expect((await (await fixture.connect("postgres")).query("SELECT FROM notes")).rowCount).toBe(5);
  });

  it("tells clients of an upstream that is down 08001, and goes on listening", async () => {
    const { port } = await fixture.proxyWith({ upstream_port: 1 });
    for (let i = 0; i < 3; i++) {
      expect(await errorOf(fixture.connect("app_user.acme", { port }))).toMatchObject({ code: "08001" });
    }
  });
});

/** postgres.js lets one choose the client_encoding that is asked for at login; pg always asks for UTF8. */
function encodedIn(encoding: string, { host, port, user, password, database }: ClientConfig): postgres.Sql {
  const options = { host, port, username: user, password, database, max: 1, connection: { client_encoding: encoding } };
  return postgres(options as postgres.Options<Record<string, never>>);
}

describe.each(versions)("MD5 on PostgreSQL %s", (version) => {
  it("asks a local tenant for its password and makes the hash; relays it for a bypass user", async () => {
    await using fixture = await startTenantFixture({ version, auth: "md5", settings: { password_encryption: "md5" } });
    const [row] = await fixture.asSuperuser("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_user'");
    expect(row?.["rolpassword"]).toMatch(/^md5/);
    expect(await tenantOf(await fixture.connect("app_user.acme"))).toBe("acme");
    expect(await errorOf(fixture.connect("app_user.acme", { password: "wrong" }))).toMatchObject({ code: "28P01" });
    expect(await first(await fixture.connect("postgres"), "SELECT current_user")).toBe("postgres");
  });
});
