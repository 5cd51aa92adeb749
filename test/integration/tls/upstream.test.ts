/**
 * TLS to real servers: both ways to begin it, what is verified, client certificates, cancels, what is refused, and the
 * words for it. On PostgreSQL 15 and 18: the former knows no direct TLS.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SettingValues } from "../../../src/index.ts";
import { client as frontend } from "../../support/bytes.ts";
import {
  certificateFolder,
  makeAuthority,
  makeClientCertificate,
  makeServerCertificate,
  serverTls,
  type CertificateOptions,
} from "../../support/certificates.ts";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient, sendCancel } from "../../support/raw-client.ts";
import { untilRunning } from "../../support/server-side.ts";
import { PASSWORD, startTenantFixture } from "../../support/tenant-fixture.ts";
import { startTlsFixture, type TlsFixture } from "../../support/tls-fixture.ts";

/** The role decides: app_cert needs a certificate, everybody else a password, and TLS in either case. */
const HBA = `
local all all trust
hostssl all app_cert all cert
hostssl all all all scram-sha-256
hostnossl all postgres all scram-sha-256`;

const LOGIN = { user: "app_user.acme", password: PASSWORD, parameters: { database: "postgres" } };

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TlsFixture;
  beforeAll(async () => {
    fixture = await startTlsFixture({ version, auth: HBA });
    await fixture.asSuperuser("CREATE ROLE app_cert LOGIN; GRANT SELECT ON notes TO app_cert");
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  /** `ready`, or the error that the client gets, of a login through a proxy with these settings. */
  async function outcome(settings: SettingValues, login = LOGIN): Promise<string> {
    const { port } = await fixture.proxyWith({ ...fixture.upstreamTls, ...settings });
    using client = await RawClient.open({ host: "127.0.0.1", port });
    await client.logIn(login);
    if (client.key === undefined) return `${client.error["C"]} ${client.error["M"]}`;
    const answer = await client.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    expect(answer.find(({ type }) => type === "D")?.body.toString("utf8", 6)).toBe("t");
    return "ready";
  }

  const refused = (problem: string): string => `08001 could not connect to the upstream server over TLS: ${problem}`;
  const unknown = refused("its certificate is signed by an authority that is not known here: set upstream_tls_ca");

  it("is verified: by address, and by name", async () => {
    expect(await outcome({})).toBe("ready");
    expect(await outcome({ upstream_host: "localhost" })).toBe("ready");
  });

  it("is refused where its authority is not known, or is another", async () => {
    expect(await outcome({ upstream_tls_ca: "" })).toBe(unknown);
    const stranger = makeAuthority(fixture.folder, { file: "stranger", commonName: "stranger" });
    expect(await outcome({ upstream_tls_ca: stranger.certFile })).toBe(unknown);
  });

  it("is taken as it is where upstream_tls_verify is off", async () => {
    expect(await outcome({ upstream_tls_ca: "", upstream_tls_verify: false })).toBe("ready");
  });

  it("takes a certificate of pgvpd's where its pg_hba.conf demands one", async () => {
    const login = { ...LOGIN, user: "app_cert.acme" };
    const own = makeClientCertificate(fixture.authority, { commonName: "app_cert" });
    const shown = { upstream_tls_cert: own.certFile, upstream_tls_key: own.keyFile };
    const ended = { client_auth: "scram", pool_password: LOGIN.password };
    expect(await outcome({ ...shown, ...ended }, login)).toBe("ready");
    expect(await outcome({}, login)).toBe("28000 connection requires a valid client certificate");
    for (const user of ["app_cert.acme", "app_cert"]) {
      const superusers = user === "app_cert" ? { superuser_bypass: "app_cert" } : {};
      expect(await outcome({ ...shown, ...superusers }, { ...login, user })).toBe(
        "28000 the upstream server took pgvpd's certificate for a login, and the client has proved nothing",
      );
    }
    const other = makeClientCertificate(fixture.authority, { commonName: "somebody", file: "somebody" });
    expect(await outcome({ upstream_tls_cert: other.certFile, upstream_tls_key: other.keyFile }, login)).toBe(
      `28000 certificate authentication failed for user "app_cert"`,
    );
  });

  it("does not know the authority of pgvpd's certificate: it says so in a TLS alert alone", async () => {
    const stranger = makeAuthority(fixture.folder, { file: "stranger", commonName: "stranger" });
    const own = makeClientCertificate(stranger, { commonName: "app_cert", file: "stranger-client" });
    const { port } = await fixture.proxyWith({
      ...fixture.upstreamTls,
      upstream_tls_cert: own.certFile,
      upstream_tls_key: own.keyFile,
    });
    using client = await RawClient.open({ host: "127.0.0.1", port });
    await client.logIn(LOGIN);
    expect(["08006", "08001"]).toContain(client.error["C"]);
  });

  it("is cancelled over TLS: it takes nothing else", async () => {
    const { port } = await fixture.proxyWith(fixture.upstreamTls);
    const place = { host: "127.0.0.1", port };
    using client = await RawClient.logIn(place, LOGIN);
    client.send(frontend.query("SELECT pg_sleep(60), 'upstream TLS'"));
    await untilRunning(fixture, "upstream TLS");
    await sendCancel(place, client.key ?? { processId: 0, secret: Buffer.alloc(0) });
    await client.readUntil("Z");
    expect(client.error["C"]).toBe("57014");
  });

  it("is spoken to directly from version 17 on, and by nobody in plain text", async () => {
    const direct = await outcome({ upstream_tls_negotiation: "direct" });
    if (Number(version) >= 17) expect(direct).toBe("ready");
    else {
      expect(direct).toBe(
        refused(
          "it does not take TLS without being asked: upstream_tls_negotiation = direct needs PostgreSQL 17 or newer",
        ),
      );
    }
    expect(await outcome({ upstream_tls: false, upstream_tls_ca: "" })).toMatch(/^28000 no pg_hba.conf entry/);
  });

  it("says itself why a login fails", async () => {
    expect(await outcome({}, { ...LOGIN, password: "wrong" })).toBe(
      '28P01 password authentication failed for user "app_user"',
    );
  });
});

describe("a server", () => {
  /** What a client is told of a server whose certificate is this. */
  async function outcome(certificate: CertificateOptions, settings: Record<string, string> = {}): Promise<string> {
    using certificates = certificateFolder();
    const authority = makeAuthority(certificates.folder);
    const files = makeServerCertificate(authority, certificate);
    await using fixture = await startTenantFixture({
      version: "18",
      settings: { ...(await serverTls(files)), ...settings },
    });
    const { port } = await fixture.proxyWith({ upstream_tls: true, upstream_tls_ca: authority.certFile });
    using client = await RawClient.open({ host: "127.0.0.1", port });
    await client.logIn(LOGIN);
    return client.error["M"] ?? "ready";
  }
  const refused = (problem: string): string => `could not connect to the upstream server over TLS: ${problem}`;

  it("of another name, and of another address, is refused", async () => {
    const other = refused("its certificate is for another name than upstream_host");
    expect(await outcome({ names: ["localhost"] })).toBe(other);
    expect(await outcome({ names: ["192.0.2.1"], commonName: "127.0.0.1" })).toBe(other);
  });

  it("whose certificate has expired is refused", async () => {
    expect(await outcome({ days: -1 })).toBe(refused("its certificate, or its authority's, has expired"));
  });

  it("that speaks TLS 1.1 at most is refused", async () => {
    const old = { ssl_min_protocol_version: "TLSv1", ssl_max_protocol_version: "TLSv1.1" };
    expect(await outcome({}, old)).toBe(refused("it speaks no TLS 1.2 or newer"));
  });

  it("without TLS is refused, and pgvpd does not fall back", async () => {
    await using fixture = await startTenantFixture({ version: "18" });
    const { port } = await fixture.proxyWith({ upstream_tls: true });
    using client = await RawClient.open({ host: "127.0.0.1", port });
    await client.logIn(LOGIN);
    expect(client.error["M"]).toBe(refused("it does not accept TLS: set ssl = on in its postgresql.conf"));
  });
});
