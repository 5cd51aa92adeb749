/**
 * Real clients over TLS: psql with an old and a new libpq, pg, postgres.js and a socket of Node's own, on both ports, with
 * and without certificates; and cancels in both ways. The upstream leg is plain here.
 */
import { readFileSync } from "node:fs";
import { connect, type ConnectionOptions } from "node:tls";
import { Client } from "pg";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { createProxy, type SettingValues } from "../../../src/index.ts";
import { client as frontend, startupMessage } from "../../support/bytes.ts";
import { makeAuthority, makeClientCertificate, makeServerCertificate } from "../../support/certificates.ts";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { availableVersions } from "../../support/postgres.ts";
import { libpqs, outputOf, runPsql, startPsql } from "../../support/psql.ts";
import { RawClient, sendCancel } from "../../support/raw-client.ts";
import { untilRunning } from "../../support/server-side.ts";
import { errorOf, PASSWORD } from "../../support/tenant-fixture.ts";
import { startTlsFixture, type TlsFixture } from "../../support/tls-fixture.ts";

const ROWS = "SELECT body FROM notes ORDER BY id";
const ACME = "a1\na2";

let fixture: TlsFixture;
let port: number;
beforeAll(async () => {
  fixture = await startTlsFixture({ version: availableVersions().includes("15") ? "15" : "18" });
  ({ port } = await fixture.proxyWith(fixture.clientTls));
});
afterAll(() => fixture?.[Symbol.asyncDispose]());

/** A proxy with TLS and these settings; the port and the TLS port that it listens on. */
async function startProxy(settings: SettingValues): Promise<{ port: number; tlsPort: number }> {
  const { host, port: upstreamPort } = fixture.server;
  const proxy = createProxy({
    port: 0,
    tls_port: 0,
    upstream_host: host,
    upstream_port: upstreamPort,
    log_level: "off",
    ...fixture.clientTls,
    ...settings,
  });
  onTestFinished(() => proxy.stop());
  const ports = (await proxy.start()).map((address) => ("port" in address ? address.port : 0));
  return { port: ports[0] ?? 0, tlsPort: ports[1] ?? 0 };
}

const connection = (more: Record<string, string | number> = {}): Record<string, string | number> => ({
  host: "localhost",
  port,
  user: "app_user.acme",
  password: PASSWORD,
  dbname: "postgres",
  sslmode: "verify-full",
  sslrootcert: fixture.authority.certFile,
  ...more,
});

describeWithTools(["psql"], "psql", (psql = "") => {
  describe.each(libpqs)("with $name", (libpq) => {
    const run = (more: Record<string, string | number> = {}, sql = ROWS): Promise<string> =>
      runPsql(psql, libpq, connection(more), sql);

    it.each(["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])(
      "connects with sslmode=%s",
      async (sslmode) => {
        expect(await run({ sslmode })).toBe(ACME);
      },
    );

    it("refuses a certificate of another authority, and one of another name", async () => {
      const stranger = makeAuthority(fixture.folder, { file: "stranger", commonName: "stranger" });
      expect(await run({ sslrootcert: stranger.certFile })).toMatch(/certificate verify failed/);
      const files = makeServerCertificate(fixture.authority, { names: ["db.example"], file: "elsewhere" });
      const other = await startProxy({ tls_cert: files.certFile, tls_key: files.keyFile });
      expect(await run({ port: other.port })).toMatch(/server certificate for "db.example" does not match host name/);
      expect(await run({ port: other.port, sslmode: "verify-ca" })).toBe(ACME);
    });

    it("comes in by tls_port, encrypted alone", async () => {
      const { tlsPort } = await startProxy({});
      expect(await run({ port: tlsPort })).toBe(ACME);
      expect(await run({ port: tlsPort, sslmode: "disable" })).toMatch(/FATAL: {2}connection requires TLS/);
    });

    it("must encrypt where client_tls_sslmode = require", async () => {
      const { port: required } = await startProxy({ client_tls_sslmode: "require" });
      expect(await run({ port: required, sslmode: "disable" })).toMatch(/FATAL: {2}connection requires TLS/);
      expect(await run({ port: required, sslmode: "allow" })).toBe(ACME);
    });

    it("shows its certificate, which must be the tenant's under verify-full", async () => {
      const { port: verified } = await startProxy({
        client_tls_sslmode: "verify-full",
        client_tls_ca_file: fixture.authority.certFile,
      });
      const acme = makeClientCertificate(fixture.authority, { commonName: "acme", file: "acme" });
      const shown = { port: verified, sslcert: acme.certFile, sslkey: acme.keyFile };
      expect(await run(shown)).toBe(ACME);
      expect(await run({ ...shown, user: "app_user.globex" })).toMatch(
        /FATAL: {2}certificate authentication failed for user "app_user.globex"/,
      );
      expect(await run({ port: verified })).toMatch(/FATAL: {2}connection requires a valid client certificate/);
    });

    it("cancels its query by Ctrl-C", async () => {
      const child = startPsql(psql, libpq, connection(), `SELECT pg_sleep(60), 'Ctrl-C with ${libpq.name}'`);
      await untilRunning(fixture, `Ctrl-C with ${libpq.name}`);
      child.kill("SIGINT");
      expect(await outputOf(child)).toMatch(/canceling statement due to user request/);
    });

    it("hears of a wrong password, and of a user name without a tenant", async () => {
      expect(await run({ password: "wrong" })).toMatch(/FATAL: {2}password authentication failed for user "app_user"/);
      expect(await run({ user: "app_user" })).toMatch(/FATAL: {2}Username must contain context values/);
    });
  });

  const direct = libpqs.filter(({ major }) => (major ?? 0) >= 17);
  describe.each(direct)("with $name and sslnegotiation=direct", (libpq) => {
    it.each(["port", "tlsPort"] as const)("connects to the %s", async (which) => {
      const ports = await startProxy({ client_tls_sslmode: "require" });
      expect(await runPsql(psql, libpq, connection({ port: ports[which], sslnegotiation: "direct" }), ROWS)).toBe(ACME);
    });
  });
});

describe("node-postgres", () => {
  const config = (more: ConnectionOptions = {}): object => ({
    host: "localhost",
    port,
    ssl: { ca: fixture.ca, ...more },
  });

  it("verifies pgvpd's certificate and works", async () => {
    const client = await fixture.connect("app_user.acme", config());
    expect((await client.query(ROWS)).rows).toHaveLength(2);
  });

  it("refuses a certificate that it does not know", async () => {
    const { code } = await errorOf(fixture.connect("app_user.acme", { ...config(), ssl: true }));
    expect(code).toBe("UNABLE_TO_VERIFY_LEAF_SIGNATURE");
  });

  it("hears of a wrong password", async () => {
    const client = new Client(fixture.through("app_user.acme", { ...config(), password: "wrong" }));
    expect((await errorOf(client.connect())).code).toBe("28P01");
  });
});

describe("postgres.js", () => {
  it("works, and cancels a query", async () => {
    const sql = postgres({
      host: "localhost",
      port,
      user: "app_user.acme",
      password: PASSWORD,
      database: "postgres",
      ssl: { ca: fixture.ca },
      max: 1,
    });
    try {
      expect(await sql`SELECT body FROM notes`).toHaveLength(2);
      const sleeping = sql`SELECT pg_sleep(60), 'postgres.js'`.execute();
      const failed = errorOf(sleeping);
      await untilRunning(fixture, "postgres.js");
      sleeping.cancel();
      expect((await failed).code).toBe("57014");
      expect(await sql`SELECT 1 AS one`).toEqual([{ one: 1 }]);
    } finally {
      await sql.end();
    }
  });
});

describe("a socket that begins with TLS", () => {
  /** Sends a StartupMessage as soon as it may; resolves with the first byte that comes back, if one does. */
  async function firstByte(options: ConnectionOptions): Promise<string> {
    const socket = connect({ host: "localhost", port, ca: fixture.ca, ...options });
    onTestFinished(() => void socket.destroy());
    socket.on("error", () => {});
    socket.once("secureConnect", () => socket.write(startupMessage({ user: "app_user.acme", database: "postgres" })));
    return new Promise((resolve) => {
      socket.once("data", (chunk: Buffer) => resolve(chunk.toString("latin1", 0, 1)));
      socket.once("close", () => resolve("closed"));
    });
  }

  it("and names postgresql in ALPN is asked for its password", async () => {
    expect(await firstByte({ ALPNProtocols: ["postgresql"] })).toBe("R");
  });

  it("and names something else, or nothing, is closed", async () => {
    expect(await firstByte({})).toBe("closed");
    expect(await firstByte({ ALPNProtocols: ["h2", "http/1.1"] })).toBe("closed");
  });

  it("of TLS 1.1 is closed", async () => {
    const old = { minVersion: "TLSv1", maxVersion: "TLSv1.1", ciphers: "ALL:@SECLEVEL=0" } as const;
    expect(await firstByte({ ALPNProtocols: ["postgresql"], ...old })).toBe("closed");
  });
});

describe("a CancelRequest, where TLS is required", () => {
  it.each([
    ["in plain text", false],
    ["over TLS", true],
  ])("%s ends the query with 57014", async (name, isEncrypted) => {
    const place = { host: "localhost", port: (await startProxy({ client_tls_sslmode: "require" })).port };
    const tls = { ca: fixture.ca, servername: "localhost" };
    const login = { user: "app_user.acme", password: PASSWORD, parameters: { database: "postgres" } };
    using client = await RawClient.logIn({ ...place, tls }, login);
    client.send(frontend.query(`SELECT pg_sleep(60), '${name}'`));
    await untilRunning(fixture, name);
    const key = client.key ?? { processId: 0, secret: Buffer.alloc(0) };
    expect(await sendCancel(isEncrypted ? { ...place, tls } : place, key)).toHaveLength(0);
    await client.readUntil("Z");
    expect(client.error["C"]).toBe("57014");
    expect((await client.query("SELECT 1")).at(-1)?.type).toBe("Z");
  });
});

describe("a certificate of the wrong kind", () => {
  it("is no client certificate: a server's, an expired one, one of somebody else", async () => {
    const { port: verified } = await startProxy({
      client_tls_sslmode: "verify-ca",
      client_tls_ca_file: fixture.authority.certFile,
    });
    const stranger = makeAuthority(fixture.folder, { file: "stranger", commonName: "stranger" });
    for (const { certFile, keyFile } of [
      makeServerCertificate(fixture.authority, { file: "not-a-client" }),
      makeClientCertificate(fixture.authority, { file: "expired", days: -1 }),
      makeClientCertificate(stranger, { file: "strange-client" }),
    ]) {
      const ssl = { ca: fixture.ca, cert: readFileSync(certFile), key: readFileSync(keyFile) };
      const { code, message } = await errorOf(
        fixture.connect("app_user.acme", { host: "localhost", port: verified, ssl }),
      );
      expect({ code, message }).toEqual({
        code: "28000",
        message: "connection requires a valid client certificate",
      });
    }
  });
});
