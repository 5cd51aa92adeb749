/** Client certificates: who must show one, which ones count, and whom they must name. */
import { readFileSync } from "node:fs";
import type { ConnectionOptions, PeerCertificate } from "node:tls";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Config } from "../../src/config/settings.ts";
import { assertCertificateNames } from "../../src/proxy/client/certificate-names.ts";
import { ClientTls } from "../../src/proxy/client/client-tls.ts";
import type { Identity } from "../../src/proxy/tenant/identity.ts";
import {
  certificateFolder,
  makeAuthority,
  makeClientCertificate,
  makeServerCertificate,
  type Authority,
  type CertificateFiles,
  type CertificateOptions,
  type KeyKind,
} from "../support/certificates.ts";
import { proxyErrorOf } from "../support/proxy-error-of.ts";
import { logInOverTls } from "../support/tls-client.ts";
import { openWire, type Wire } from "../support/wire-session.ts";

const certificates = certificateFolder();
const { folder } = certificates;
let authority: Authority;
let stranger: Authority;
let own: CertificateFiles;
beforeAll(() => {
  authority = makeAuthority(folder);
  stranger = makeAuthority(folder, { file: "stranger", commonName: "somebody else" });
  own = makeServerCertificate(authority);
});
afterAll(() => certificates[Symbol.dispose]());

function openTlsWire(config: Partial<Config>, ca = authority): Wire {
  const { clientTlsSslmode = "verify-ca" } = config;
  const files = { tlsCert: own.certFile, tlsKey: own.keyFile, clientTlsCaFile: ca.certFile };
  return openWire({
    config: { ...config, clientTlsSslmode },
    clientTls: new ClientTls({ ...files, clientTlsSslmode }),
  });
}

/** What a client shows, made new for each call. */
function showing(options: CertificateOptions, by = authority): ConnectionOptions {
  const { certFile, keyFile } = makeClientCertificate(by, options);
  return { cert: readFileSync(certFile), key: readFileSync(keyFile) };
}

/** `ready`, or what the client is told. */
async function outcome(wire: Wire, tls: ConnectionOptions, user = "app_user.acme"): Promise<string> {
  const { client, plain } = await logInOverTls(wire, { tls, user });
  expect(plain.received.toString("latin1")).toBe("S");
  if (client.isReady) return "ready";
  expect(wire.upstreams).toEqual([]);
  return `${client.errorResponse["S"]} ${client.errorResponse["C"]} ${client.errorResponse["M"]}`;
}

const REFUSED = "FATAL 28000 connection requires a valid client certificate";

describe("client_tls_sslmode = verify-ca", () => {
  it("takes a certificate of any name that the authority has signed", async () => {
    expect(await outcome(openTlsWire({}), showing({ commonName: "whoever" }))).toBe("ready");
  });

  it.each<KeyKind>(["rsa", "rsa-pss", "ed25519"])("takes one whose authority and key are %s", async (key) => {
    const ca = makeAuthority(folder, { file: `ca-${key}`, key });
    expect(await outcome(openTlsWire({}, ca), showing({ key }, ca))).toBe("ready");
  });

  it("refuses who has none", async () => {
    expect(await outcome(openTlsWire({}), {})).toBe(REFUSED);
  });

  it("refuses one that somebody else has signed", async () => {
    expect(await outcome(openTlsWire({}), showing({}, stranger))).toBe(REFUSED);
  });

  it("refuses one of an authority of the same name with another key: there OpenSSL itself ends the connection", async () => {
    const twin = makeAuthority(folder, { file: "twin" });
    const wire = openTlsWire({});
    const { client } = await logInOverTls(wire, { tls: showing({}, twin) });
    expect(client.isReady).toBe(false);
    expect(wire.upstreams).toEqual([]);
  });

  it("refuses one that signs itself", async () => {
    const tls = { cert: readFileSync(stranger.certFile), key: readFileSync(stranger.keyFile) };
    expect(await outcome(openTlsWire({}), tls)).toBe(REFUSED);
  });

  it("refuses one that has expired, and one that is a server's", async () => {
    expect(await outcome(openTlsWire({}), showing({ days: -1 }))).toBe(REFUSED);
    const { certFile, keyFile } = makeServerCertificate(authority, { file: "other-server" });
    const tls = { cert: readFileSync(certFile), key: readFileSync(keyFile) };
    expect(await outcome(openTlsWire({}), tls)).toBe(REFUSED);
  });

  it("says why in the log alone", async () => {
    const wire = openTlsWire({});
    await outcome(wire, showing({ days: -1 }));
    expect(wire.log).toContainEqual(
      expect.objectContaining({ code: "client_certificate", detail: expect.stringMatching(/certificate has expired/) }),
    );
  });

  it("refuses a session resumed, or begun, without a certificate", async () => {
    for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
      const wire = openTlsWire({});
      const tls: ConnectionOptions = { minVersion: version, maxVersion: version };
      const first = await logInOverTls(wire, { tls: { ...tls, ...showing({}) } });
      const tickets: Buffer[] = [];
      first.client.socket.on("session", (ticket: Buffer) => tickets.push(ticket));
      const session = first.client.socket.getSession() ?? tickets[0];
      const { client } = await logInOverTls(wire, { tls: { ...tls, ...(session && { session }) } });
      expect(client.sqlstate, version).toBe("28000");
    }
  });
});

describe("other modes", () => {
  it.each(["allow", "require"] as const)("%s: no certificate is asked for", async (clientTlsSslmode) => {
    const wire = openTlsWire({ clientTlsSslmode });
    expect(await outcome(wire, showing({}, stranger))).toBe("ready");
  });

  it("verify-ca and verify-full refuse a Unix-domain socket, which has no certificate", async () => {
    for (const clientTlsSslmode of ["verify-ca", "verify-full"] as const) {
      const { client } = await openTlsWire({ clientTlsSslmode }).logIn();
      expect(client.errorResponse["M"]).toBe("connection requires a valid client certificate");
    }
  });
});

describe("client_tls_sslmode = verify-full", () => {
  const full = { clientTlsSslmode: "verify-full" } as const;
  const refusedAs = (user: string): string => `FATAL 28000 certificate authentication failed for user "${user}"`;

  it("takes a certificate that names the tenant, as common or alternative name", async () => {
    expect(await outcome(openTlsWire(full), showing({ commonName: "acme" }))).toBe("ready");
    expect(await outcome(openTlsWire(full), showing({ commonName: "x", names: ["y", "acme"] }))).toBe("ready");
    expect(await outcome(openTlsWire(full), showing({ commonName: "", names: ["acme"] }))).toBe("ready");
  });

  it.each([
    ["another tenant", { commonName: "globex" }],
    ["the role alone", { commonName: "app_user" }],
    ["the whole user name", { commonName: "app_user.acme" }],
    ["the tenant in other letters", { commonName: "ACME" }],
    ["the tenant and something behind it", { commonName: "acme\0.example", names: ["acme.example"] }],
    ["a list that holds the tenant", { commonName: "globex,acme", names: ["globex, DNS:acme"] }],
    ["nobody", { commonName: "" }],
  ])("refuses a certificate that names %s", async (_name, options) => {
    expect(await outcome(openTlsWire(full), showing(options))).toBe(refusedAs("app_user.acme"));
  });

  it("refuses the right name of the wrong authority", async () => {
    expect(await outcome(openTlsWire(full), showing({ commonName: "acme" }, stranger))).toBe(REFUSED);
  });

  it("with client_cert_map = role takes one that names the role, and not the tenant", async () => {
    const role = { ...full, clientCertMap: "role" } as const;
    expect(await outcome(openTlsWire(role), showing({ commonName: "app_user" }))).toBe("ready");
    expect(await outcome(openTlsWire(role), showing({ commonName: "acme" }))).toBe(refusedAs("app_user.acme"));
  });

  it("takes of a bypass user one that names that user", async () => {
    for (const clientCertMap of ["tenant", "role"] as const) {
      const config = { ...full, clientCertMap };
      expect(await outcome(openTlsWire(config), showing({ commonName: "postgres" }), "postgres")).toBe("ready");
      expect(await outcome(openTlsWire(config), showing({ commonName: "acme" }), "postgres")).toBe(
        refusedAs("postgres"),
      );
    }
  });
});

describe("the names of a certificate", () => {
  const identity = { kind: "tenant", user: "app_user.acme", loginRole: "app_user", tenant: "acme" } as Identity;
  const check = (certificate: object): void =>
    assertCertificateNames(certificate as PeerCertificate, identity, {
      clientTlsSslmode: "verify-full",
      clientCertMap: "tenant",
    });

  it("are those of several common names, and of the kinds that hold a name as such", () => {
    for (const certificate of [
      { subject: { CN: ["x", "acme"] } },
      { subject: {}, subjectaltname: "DNS:x, email:acme" },
      { subject: {}, subjectaltname: "URI:acme" },
    ]) {
      expect(() => check(certificate)).not.toThrow();
    }
  });

  it.each([
    ["no subject", {}],
    ["an organisation", { subject: { O: "acme", OU: "acme" } }],
    ["an alternative name of another kind", { subject: {}, subjectaltname: "DirName:acme, othername:acme" }],
    [
      "a list with quotes, in which a comma may be part of a name",
      { subject: {}, subjectaltname: 'DNS:"x", DNS:acme' },
    ],
    ["a name without a kind", { subject: {}, subjectaltname: "acme" }],
  ])("are not %s", (_name, certificate) => {
    expect(proxyErrorOf(() => check(certificate)).code).toBe("certificate_name");
  });
});
