/**
 * Whose words a client hears when its login fails, byte for byte, and which methods of authentication work: one server
 * with a role for each method. Also protocol 3.2, whose cancel keys are longer, against servers that speak it or not.
 */
import { networkInterfaces } from "node:os";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend } from "../../support/bytes.ts";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient, sendCancel, type Place } from "../../support/raw-client.ts";
import { AUTH_BY_ROLE, createLoginRoles, loginRoles, untilRunning } from "../../support/server-side.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const methods = Object.keys(loginRoles) as (keyof typeof loginRoles)[];
const parameters = { database: "postgres" };

/** The text of a Query's first DataRow, of one column. */
async function ask(client: RawClient, sql: string): Promise<string | undefined> {
  const messages = await client.query(sql);
  return messages.find(({ type }) => type === "D")?.body.toString("utf8", 6);
}

describe.each(availableVersions())("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  let proxied: Place;
  let direct: Place;
  /** The ErrorResponse that a login ends with. */
  const refusal = async (place: Place, user: string, password: string, database = "postgres"): Promise<Buffer> => {
    const client = await RawClient.open(place);
    await client.logIn({ user, password, parameters: { database } });
    return client.errorBytes ?? Buffer.alloc(0);
  };

  beforeAll(async () => {
    fixture = await startTenantFixture({
      version,
      auth: AUTH_BY_ROLE,
      proxy: { superuser_bypass: "postgres,admin_md5", listen_host: "*" },
    });
    await createLoginRoles(fixture);
    proxied = { host: "127.0.0.1", port: fixture.port };
    direct = { host: "127.0.0.1", port: fixture.server.port };
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it.each(methods)("a %s role logs in and has its tenant", async (method) => {
    const login = { user: `${loginRoles[method]}.acme`, password: PASSWORD, parameters };
    using client = await RawClient.logIn(proxied, login);
    expect(await ask(client, "SELECT session_user || '/' || current_tenant_id()")).toBe(`${loginRoles[method]}/acme`);
  });

  it("a bypass user logs in with MD5, which is relayed", async () => {
    using client = await RawClient.logIn(proxied, { user: "admin_md5", password: PASSWORD, parameters });
    expect(client.types).toMatch(/^R/);
    expect(await ask(client, "SELECT current_user")).toBe("admin_md5");
  });

  it.each(["scram", "md5", "cleartext"] as const)(
    "a wrong password of a %s role is answered as directly",
    async (method) => {
      const role = loginRoles[method];
      const said = await refusal(proxied, `${role}.acme`, "wrong");
      expect(said.toString()).toContain(`password authentication failed for user "${role}"`);
      expect(said).toEqual(await refusal(direct, role, "wrong"));
    },
  );

  it("a wrong password of a bypass user is answered as directly", async () => {
    for (const user of ["postgres", "admin_md5"]) {
      const said = await refusal(proxied, user, "wrong");
      expect(said.toString()).toContain("28P01");
      expect(said).toEqual(await refusal(direct, user, "wrong"));
    }
  });

  it("an unknown role is answered as directly", async () => {
    const said = await refusal(proxied, "nobody_here.acme", PASSWORD);
    expect(said.toString()).toContain("28P01");
    expect(said).toEqual(await refusal(direct, "nobody_here", PASSWORD));
  });

  it("an unknown database is answered as directly, after the password", async () => {
    const said = await refusal(proxied, "app_user.acme", PASSWORD, "no_such_database");
    expect(said.toString()).toContain("3D000");
    expect(said).toEqual(await refusal(direct, "app_user", PASSWORD, "no_such_database"));
    expect((await refusal(proxied, "app_user.acme", "wrong", "no_such_database")).toString()).toContain("28P01");
  });

  it("a role that may not log in is answered as directly", async () => {
    await fixture.asSuperuser(`CREATE ROLE sleeper NOLOGIN PASSWORD '${PASSWORD}'`);
    expect(await refusal(proxied, "sleeper.acme", PASSWORD)).toEqual(await refusal(direct, "sleeper", PASSWORD));
  });

  const ownAddress = Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ internal, family }) => !internal && family === "IPv4")?.address;

  it.skipIf(ownAddress === undefined)(
    "from beyond loopback a tenant's MD5 login is refused before its password is asked for, and says what to do",
    async () => {
      const client = await RawClient.open({ host: ownAddress ?? "", port: fixture.port });
      await client.logIn({ user: "app_md5.acme", password: PASSWORD, parameters });
      expect(client.error).toMatchObject({ C: "28000", M: expect.stringContaining("MD5") as string });
      expect(client.error["H"]).toMatch(/SCRAM.*TLS/);
      expect(client.types).toBe("E");
      using scram = await RawClient.logIn(
        { host: ownAddress ?? "", port: fixture.port },
        { user: "app_user.acme", password: PASSWORD, parameters },
      );
      expect(await ask(scram, "SELECT current_tenant_id()")).toBe("acme");
    },
  );

  describe("protocol 3.2", () => {
    const speaks32 = Number(version) >= 18;

    it.each(["startup", "query"])(`is ${speaks32 ? "spoken" : "negotiated down"} (%s)`, async (context_injection) => {
      const { port } = await fixture.proxyWith({ context_injection });
      const place = { host: "127.0.0.1", port };
      using client = await RawClient.logIn(place, { user: "app_user.acme", password: PASSWORD, parameters, minor: 2 });
      expect(client.key?.secret.length).toBe(speaks32 ? 32 : 4);
      expect(client.types.includes("v")).toBe(!speaks32);
      expect(await ask(client, "SELECT current_tenant_id()")).toBe("acme");

      client.send(frontend.query("SELECT pg_sleep(60), 'cancelled by its long key'"));
      await untilRunning(fixture, "cancelled by its long key");
      expect(await sendCancel(place, client.key ?? { processId: 0, secret: Buffer.alloc(4) })).toHaveLength(0);
      await client.readUntil("Z");
      expect(client.error["C"]).toBe("57014");
      expect(await ask(client, "SELECT 'alive'")).toBe("alive");
    });

    it("is what a client gets that asks for 3.9999 and an unknown option", async () => {
      const login = { user: "app_user.acme", password: PASSWORD, minor: 9999 };
      using client = await RawClient.logIn(proxied, { ...login, parameters: { ...parameters, "_pq_.test": "1" } });
      expect(client.types[0]).toBe("v");
      // Byte1('v') Int32 length  Int32 version  Int32 count  String option
      expect(client.received.readInt32BE(5)).toBe(speaks32 ? 196_610 : 196_608);
      expect(client.received.toString("latin1", 9, 23)).toBe("\0\0\0\x01_pq_.test\0");
      expect(await ask(client, "SELECT current_tenant_id()")).toBe("acme");
    });
  });
});
