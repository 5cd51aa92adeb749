/**
 * SIGHUP to the real program: certificates, keys and CAs are read again for connections from now on, those that are open
 * stay open, and files that cannot be used change nothing.
 */
import { appendFileSync, copyFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import type { TLSSocket } from "node:tls";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  makeAuthority,
  makeClientCertificate,
  makeServerCertificate,
  type Authority,
  type CertificateFiles,
} from "../../support/certificates.ts";
import { startProxyProcess, type LogLine, type ProxyProcess } from "../../support/proxy-process.ts";
import { RawClient } from "../../support/raw-client.ts";
import { PASSWORD } from "../../support/tenant-fixture.ts";
import { startTlsFixture, type TlsFixture } from "../../support/tls-fixture.ts";

const CONNECTIONS = 200;

let fixture: TlsFixture;
beforeAll(async () => {
  fixture = await startTlsFixture({ version: "18", auth: "trust", settings: { max_connections: "300" } });
});
afterAll(() => fixture?.[Symbol.asyncDispose]());

const at = (name: string): string => path.join(fixture.folder, name);

function startProxy(settings: Record<string, string | number | boolean>): Promise<ProxyProcess> {
  const { host, port } = fixture.server;
  return startProxyProcess({
    settings: { upstream_host: host, upstream_port: port, log_connections: false, ...settings },
  });
}

function logIn(proxy: ProxyProcess, shown?: CertificateFiles): Promise<RawClient> {
  const certificate = shown && { cert: readFileSync(shown.certFile), key: readFileSync(shown.keyFile) };
  const tls = { ca: fixture.ca, servername: "localhost", ...certificate };
  return RawClient.logIn(
    { host: proxy.host, port: proxy.port, tls },
    { user: "app_user.acme", password: PASSWORD, parameters: { database: "postgres" } },
  );
}

/** The certificate that a client sees. */
const fingerprint = (client: RawClient): string => (client.socket as TLSSocket).getPeerCertificate().fingerprint256;

/** Sends SIGHUP; the line that the program logs of it. */
async function reload(proxy: ProxyProcess): Promise<LogLine> {
  const seen = proxy.log.length;
  process.kill(proxy.pid, "SIGHUP");
  return proxy.waitForLog((line) => proxy.log.indexOf(line) >= seen && /reload/.test(String(line["msg"])));
}

/** Puts these files where the proxy's settings point to. */
function replace({ certFile, keyFile }: CertificateFiles): void {
  copyFileSync(certFile, at("live.crt"));
  copyFileSync(keyFile, at("live.key"));
}

describe("a reload", () => {
  it(`of the certificate drops none of ${CONNECTIONS} connections; broken files change nothing`, async () => {
    const [first, second, third] = ["first", "second", "third"].map((file) =>
      makeServerCertificate(fixture.authority, { file }),
    ) as [CertificateFiles, CertificateFiles, CertificateFiles];
    replace(first);
    await using proxy = await startProxy({ tls_cert: at("live.crt"), tls_key: at("live.key") });
    const clients = await Promise.all(Array.from({ length: CONNECTIONS }, () => logIn(proxy)));
    const before = new Set(clients.map(fingerprint));
    expect(before.size).toBe(1);

    const allWork = async (): Promise<void> => {
      const answers = await Promise.all(clients.map((client) => client.query("SELECT current_tenant_id()")));
      expect(answers.filter((answer) => answer.some(({ body }) => body.includes("acme")))).toHaveLength(CONNECTIONS);
    };
    const seenByNewClient = async (): Promise<string> => {
      using client = await logIn(proxy);
      return fingerprint(client);
    };

    replace(second);
    expect(await reload(proxy)).toMatchObject({ level: "info" });
    await allWork();
    const now = await seenByNewClient();
    expect(before.has(now)).toBe(false);

    const broken: readonly (readonly [RegExp, () => void])[] = [
      [/tls_cert: .*live\.crt: it holds no certificate in PEM form/, () => writeFileSync(at("live.crt"), "nothing")],
      [/tls_key: .*live\.key: it is not the key of tls_cert/, () => copyFileSync(first.certFile, at("live.crt"))],
      [/tls_key: .*live\.key: it holds no private key in PEM form/, () => writeFileSync(at("live.key"), "nothing")],
    ];
    for (const [problem, spoil] of broken) {
      spoil();
      const line = await reload(proxy);
      expect(line).toMatchObject({ level: "error" });
      expect(line["msg"]).toMatch(problem);
      expect(await seenByNewClient()).toBe(now);
    }
    await allWork();

    replace(third);
    expect(await reload(proxy)).toMatchObject({ level: "info" });
    const last = await seenByNewClient();
    expect(before.has(last) || last === now).toBe(false);
    await allWork();
    for (const client of clients) client.socket.destroy();
  });

  it("of the clients' CA counts for who comes from then on", async () => {
    const authorities = ["old", "new"].map((name) =>
      makeAuthority(fixture.folder, { file: `${name}-ca`, commonName: name }),
    ) as [Authority, Authority];
    const [old, next] = authorities.map((authority, index) =>
      makeClientCertificate(authority, { file: `client-${index}` }),
    ) as [CertificateFiles, CertificateFiles];
    copyFileSync(authorities[0].certFile, at("clients.crt"));
    await using proxy = await startProxy({
      ...(fixture.clientTls as Record<string, string>),
      client_tls_sslmode: "verify-ca",
      client_tls_ca_file: at("clients.crt"),
    });
    using staying = await logIn(proxy, old);
    await expect(logIn(proxy, next)).rejects.toThrow(/valid client certificate/);

    appendFileSync(at("clients.crt"), readFileSync(authorities[1].certFile));
    await reload(proxy);
    for (const shown of [old, next]) (await logIn(proxy, shown)).socket.destroy();

    copyFileSync(authorities[1].certFile, at("clients.crt"));
    await reload(proxy);
    (await logIn(proxy, next)).socket.destroy();
    await expect(logIn(proxy, old)).rejects.toThrow(/valid client certificate/);
    expect((await staying.query("SELECT 1")).at(-1)?.type).toBe("Z");
  });

  it("of upstream_tls_ca counts for the next connection upstream", async () => {
    const stranger = makeAuthority(fixture.folder, { file: "stranger", commonName: "stranger" });
    copyFileSync(stranger.certFile, at("upstream.crt"));
    await using proxy = await startProxy({
      ...(fixture.clientTls as Record<string, string>),
      upstream_tls: true,
      upstream_tls_ca: at("upstream.crt"),
    });
    await expect(logIn(proxy)).rejects.toThrow(/set upstream_tls_ca/);
    copyFileSync(fixture.authority.certFile, at("upstream.crt"));
    await reload(proxy);
    (await logIn(proxy)).socket.destroy();
  });
});
