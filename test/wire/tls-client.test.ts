/**
 * TLS with clients, whole sessions in memory: both ways to begin it, who must and who may, and everything that a hostile
 * client can do around a handshake. What the certificates are worth is in tls-certificates.test.ts.
 */
import { once } from "node:events";
import { connect, createSecureContext } from "node:tls";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { Config } from "../../src/config/settings.ts";
import { ClientTls } from "../../src/proxy/client/client-tls.ts";
import {
  cancelRequest,
  client as frontend,
  GSSENC_REQUEST,
  server,
  SSL_REQUEST,
  startupMessage,
} from "../support/bytes.ts";
import {
  certificateFolder,
  makeAuthority,
  makeServerCertificate,
  type CertificateFiles,
} from "../support/certificates.ts";
import { duplexPair, quiescence } from "../support/duplex-pair.ts";
import { ScriptedClient } from "../support/scripted-client.ts";
import { askForTls, beginTls, connectTls, logInOverTls } from "../support/tls-client.ts";
import { openWire, Wire, type ConnectOptions, type WireOptions } from "../support/wire-session.ts";

const STARTUP = startupMessage({ user: "app_user.acme", database: "shop" });
const NETWORK: ConnectOptions = { address: "192.0.2.7", isLocal: false };

const certificates = certificateFolder();
let own: CertificateFiles;
beforeAll(() => {
  own = makeServerCertificate(makeAuthority(certificates.folder));
});
afterAll(() => certificates[Symbol.dispose]());

function clientTls(clientTlsSslmode: Config["clientTlsSslmode"] = "allow"): ClientTls {
  return new ClientTls({ tlsCert: own.certFile, tlsKey: own.keyFile, clientTlsSslmode, clientTlsCaFile: undefined });
}

function openTlsWire(config: Partial<Config> = {}, more: WireOptions = {}): Wire {
  return openWire({ config, ...more, clientTls: clientTls(config.clientTlsSslmode) });
}

/** A ClientHello as Node's client sends it, with or without ALPN. */
async function clientHello(protocols: readonly string[]): Promise<Buffer> {
  const [near, far] = duplexPair();
  onTestFinished(() => void [near, far].map((socket) => socket.destroy()));
  connect({ socket: near, ALPNProtocols: [...protocols] }).on("error", () => {});
  const [hello] = (await once(far, "data")) as [Buffer];
  return hello;
}

describe("a client that asks for TLS", () => {
  it("gets one byte, a handshake, and a session in which messages pass", async () => {
    const wire = openTlsWire();
    const { client, plain } = await logInOverTls(wire);
    expect(client.socket.getProtocol()).toBe("TLSv1.3");
    expect(client.isReady).toBe(true);
    client.send(frontend.query("select 1"));
    await client.until(() => client.types.endsWith("CZ"));
    expect(wire.upstream.queries).toEqual(["select 1"]);
    expect(wire.log).toContainEqual(expect.objectContaining({ msg: "connected", tls: "TLSv1.3" }));
    expect(plain.received.toString("latin1")).toBe("S");
  });

  it("may ask for GSSAPI encryption before", async () => {
    const wire = openTlsWire();
    const { client } = wire.connect({ ...NETWORK, answers: false });
    client.send(GSSENC_REQUEST);
    await quiescence();
    client.send(SSL_REQUEST);
    await quiescence();
    expect(client.received.toString("latin1")).toBe("NS");
    const socket = beginTls(client);
    await once(socket, "secureConnect");
    socket.destroy();
  });

  it("may name the protocol in ALPN, as libpq does from version 17 on", async () => {
    const { client } = await logInOverTls(openTlsWire(), { tls: { ALPNProtocols: ["postgresql"] } });
    expect(client.socket.alpnProtocol).toBe("postgresql");
    expect(client.isReady).toBe(true);
  });

  it("may speak TLS 1.2", async () => {
    const { client } = await logInOverTls(openTlsWire(), { tls: { maxVersion: "TLSv1.2" } });
    expect(client.socket.getProtocol()).toBe("TLSv1.2");
    expect(client.isReady).toBe(true);
  });

  it("may log in with every byte in a record of its own", async () => {
    const wire = openTlsWire({}, { upstream: { auth: "scram" } });
    const segment = (whole: Buffer): Buffer[] => [...whole].map((byte) => Buffer.of(byte));
    const { client } = await connectTls(wire, { segment, answers: true });
    client.send(STARTUP);
    await client.until(() => client.isReady || client.hasEnded);
    expect(client.isReady).toBe(true);
  });

  it("is refused, and may go on in plain text, where no certificate is configured", async () => {
    const wire = openWire();
    const { client } = wire.connect({ ...NETWORK, answers: false });
    client.send(SSL_REQUEST);
    await quiescence();
    expect(client.received.toString("latin1")).toBe("N");
    client.send(STARTUP);
    await quiescence();
    expect(wire.upstream.startup).toBeDefined();
  });

  it("hears in the encryption why its login has failed: from the upstream, and from pgvpd", async () => {
    const wire = openTlsWire({}, { upstream: { auth: "scram", password: "another" } });
    const refused = await logInOverTls(wire);
    expect(refused.client.sqlstate).toBe("28P01");
    const nameless = await logInOverTls(wire, { user: "nobody" });
    expect(nameless.client.sqlstate).toBe("28000");
    for (const { plain } of [refused, nameless]) expect(plain.received.toString("latin1")).toBe("S");
  });
});

describe("a client that begins with TLS", () => {
  it("and names the protocol in ALPN is served", async () => {
    const wire = openTlsWire();
    const { client, plain } = await logInOverTls(wire, { isDirect: true });
    expect(client.isReady).toBe(true);
    expect(plain.received.length).toBe(0);
  });

  it("may send its ClientHello one byte at a time", async () => {
    const segment = (whole: Buffer): Buffer[] => [...whole].map((byte) => Buffer.of(byte));
    const hello = await clientHello(["postgresql"]);
    const { client } = openTlsWire().connect({ ...NETWORK, answers: false, segment });
    client.send(hello);
    await quiescence();
    expect(client.received[0]).toBe(0x16);
    expect(client.hasEnded).toBe(false);
  });

  it.each([[[]], [["http/1.1"]]])("and names %j is closed, and nothing reaches the upstream", async (ALPNProtocols) => {
    const wire = openTlsWire();
    const { client, session } = wire.connect({ ...NETWORK, answers: false });
    const socket = beginTls(client, { ALPNProtocols });
    socket.once("secureConnect", () => socket.write(STARTUP));
    const encrypted = new ScriptedClient(socket, {});
    await encrypted.until(() => encrypted.hasEnded);
    await quiescence();
    expect(session.state).toBe("closed");
    expect(encrypted.received.length).toBe(0);
    expect(wire.upstreams).toEqual([]);
    expect(await wire.metric("pgvpd_errors_total", { code: "tls_handshake" })).toBe(1);
  });

  it("is refused in plain text where no certificate is configured", async () => {
    const wire = openWire();
    const { client } = wire.connect(NETWORK);
    client.send(await clientHello(["postgresql"]));
    await quiescence();
    expect(client.sqlstate).toBe("08P01");
    expect(client.hasEnded).toBe(true);
  });

  it("is refused behind a GSSENCRequest", async () => {
    const wire = openTlsWire();
    const { client } = wire.connect(NETWORK);
    client.send(GSSENC_REQUEST);
    await quiescence();
    client.send(await clientHello(["postgresql"]));
    await quiescence();
    expect(client.received.toString("latin1", 0, 1)).toBe("N");
    expect(client.received.includes("08P01")).toBe(true);
  });
});

describe("what is not encrypted", () => {
  it.each([
    ["a StartupMessage", STARTUP],
    ["one byte", Buffer.of(0)],
    ["a second SSLRequest", SSL_REQUEST],
    ["the beginning of a handshake", Buffer.of(0x16, 3, 1)],
  ])("%s behind SSLRequest is 08P01", async (_name, behind) => {
    const wire = openTlsWire();
    const { client } = wire.connect(NETWORK);
    client.send(SSL_REQUEST, behind);
    await quiescence();
    expect(client.errorResponse).toMatchObject({
      S: "FATAL",
      C: "08P01",
      M: "received unencrypted data after SSL request",
    });
    expect(client.hasEnded).toBe(true);
    expect(wire.upstreams).toEqual([]);
  });

  it("and comes after the answer is taken for a handshake, which fails: nothing is answered in plain text", async () => {
    const wire = openTlsWire();
    const { client, session } = await askForTls(wire);
    client.send(STARTUP);
    await client.until(() => client.hasEnded);
    await quiescence();
    expect(session.state).toBe("closed");
    expect(wire.upstreams).toEqual([]);
    // What there is behind the S is a TLS alert at most: of 7 bytes, the first of which is 21.
    const behind = client.received.subarray(1);
    expect(behind.length === 0 || (behind.length === 7 && behind[0] === 21)).toBe(true);
    expect(await wire.metric("pgvpd_errors_total", { code: "tls_handshake" })).toBe(1);
  });

  it("and comes between the records of a handshake ends it", async () => {
    const wire = openTlsWire();
    const { client } = await askForTls(wire);
    client.send(await clientHello([]), STARTUP);
    await client.until(() => client.hasEnded);
    expect(wire.upstreams).toEqual([]);
    expect(client.received.includes("FATAL")).toBe(false);
  });
});

describe("behind TLS", () => {
  it.each([
    ["SSLRequest", SSL_REQUEST],
    ["GSSENCRequest", GSSENC_REQUEST],
  ])("%s is 08P01, after SSLRequest and after direct TLS", async (_name, request) => {
    for (const isDirect of [false, true]) {
      const { client } = await connectTls(openTlsWire(), { isDirect });
      client.send(request);
      await client.until(() => client.hasEnded);
      expect(client.sqlstate).toBe("08P01");
    }
  });

  it("a byte behind the StartupMessage is 08P01", async () => {
    const { client } = await connectTls(openTlsWire());
    client.send(STARTUP, frontend.query("select 1"));
    await client.until(() => client.hasEnded);
    expect(client.sqlstate).toBe("08P01");
  });

  it("renegotiation is refused", async () => {
    const { client } = await logInOverTls(openTlsWire(), { tls: { maxVersion: "TLSv1.2" } });
    const error = await new Promise<unknown>((resolve) => {
      client.socket.once("error", resolve);
      client.socket.renegotiate({}, resolve);
    });
    expect(error).toMatchObject({ code: "ERR_SSL_NO_RENEGOTIATION" });
  });

  it("sessions are not resumed: every connection shows its certificate anew", async () => {
    for (const version of ["TLSv1.2", "TLSv1.3"] as const) {
      const wire = openTlsWire();
      const tls = { minVersion: version, maxVersion: version };
      const first = await connectTls(wire, { tls });
      let session = first.client.socket.getSession() as Buffer | undefined;
      first.client.socket.on("session", (ticket: Buffer) => {
        session = ticket;
      });
      first.client.send(STARTUP);
      await first.client.until(() => first.client.isReady);
      const second = await connectTls(wire, { tls: { ...tls, ...(session && { session }) } });
      expect(second.client.socket.isSessionReused(), version).toBe(false);
    }
  });
});

describe("a broken record", () => {
  const garbage = Buffer.concat([Buffer.of(0x17, 3, 3, 0, 32), Buffer.alloc(32, 0xaa)]);

  it("during login ends the session", async () => {
    const wire = openTlsWire({}, { upstream: { auth: "scram" } });
    const { client, session, plain } = await connectTls(wire, { answers: false });
    client.send(STARTUP);
    await client.until(() => client.types === "R");
    plain.socket.write(garbage);
    await client.until(() => client.hasEnded);
    await quiescence();
    expect(session.state).toBe("closed");
    expect(wire.upstream.hasEnded).toBe(true);
  });

  it("in a session ends it, and the upstream's connection", async () => {
    const wire = openTlsWire();
    const { client, session, plain } = await logInOverTls(wire);
    plain.socket.write(garbage);
    await client.until(() => client.hasEnded);
    await quiescence();
    expect(session.state).toBe("closed");
    expect(wire.upstream.hasEnded).toBe(true);
  });
});

describe("a handshake", () => {
  it.each([
    ["nothing", 0],
    ["half a ClientHello", 100],
  ])("of which the client sends %s ends with handshake_timeout, and not a word in plain text", async (_name, sent) => {
    const wire = openTlsWire();
    const { client, session } = await askForTls(wire);
    client.send((await clientHello([])).subarray(0, sent));
    await quiescence();
    expect(session.state).toBe("negotiating");
    wire.clock.advance(30_000);
    await quiescence();
    expect(session.state).toBe("closed");
    expect(client.received.toString("latin1")).toBe("S");
    expect(await wire.metric("pgvpd_errors_total", { code: "handshake_timeout" })).toBe(1);
  });

  it("that the client ends, or resets, at any byte leaves nothing", async () => {
    const hello = await clientHello(["postgresql"]);
    for (let count = 0; count <= hello.length; count += 13) {
      for (const leave of ["end", "destroy"] as const) {
        for (const isDirect of [false, true]) {
          const wire = new Wire({ clientTls: clientTls() });
          const { client, session } = isDirect ? wire.connect(NETWORK) : await askForTls(wire);
          client.send(hello.subarray(0, count));
          await quiescence();
          client.socket[leave]();
          await quiescence();
          expect(session.state, `${leave} after byte ${count}`).toBe("closed");
          await wire.assertNothingLeft();
        }
      }
    }
  });

  it("whose ClientHello claims to have 16 MiB is refused long before they have come", async () => {
    const { client, session } = await askForTls(openTlsWire());
    // Records of 16 KiB, the first of which begins a ClientHello (1) of 2^24-1 bytes.
    const header = Buffer.of(0x16, 3, 1, 0x40, 0);
    const begin = Buffer.concat([header, Buffer.of(1, 0xff, 0xff, 0xff), Buffer.alloc(0x4000 - 4)]);
    const goOn = Buffer.concat([header, Buffer.alloc(0x4000)]);
    for (let piece = begin; !client.hasEnded && client.sentBytes < 2 ** 20; piece = goOn) {
      client.send(piece);
      await quiescence();
    }
    expect(client.sentBytes).toBeLessThan(256 * 1024);
    expect(session.state).toBe("closed");
  });

  it("that ends right before the StartupMessage leaves nothing", async () => {
    const wire = openTlsWire();
    const { client, session } = await connectTls(wire);
    client.socket.end();
    await client.until(() => client.hasEnded);
    await quiescence();
    expect(session.state).toBe("closed");
  });

  it("of TLS 1.1 fails", async () => {
    const wire = openTlsWire();
    const { client, session } = await askForTls(wire);
    const socket = beginTls(client, {
      secureContext: createSecureContext({
        minVersion: "TLSv1",
        maxVersion: "TLSv1.1",
        ciphers: "ALL:@SECLEVEL=0",
      }),
    });
    const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
    expect(error.code).toBe("ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION");
    await quiescence();
    expect(session.state).toBe("closed");
  });

  it("that the client gives up, as it does not trust the certificate, leaves nothing", async () => {
    const wire = openTlsWire();
    const { client, session } = await askForTls(wire);
    const socket = beginTls(client, { rejectUnauthorized: true });
    await once(socket, "error");
    await quiescence();
    expect(session.state).toBe("closed");
  });
});

describe("TLS that is required", () => {
  const modes = ["require", "verify-ca", "verify-full"] as const;
  it.each(modes)("by client_tls_sslmode = %s: a StartupMessage in plain text is 28000", async (clientTlsSslmode) => {
    const wire = openTlsWire({ clientTlsSslmode });
    const { client } = await wire.logIn(NETWORK);
    expect(client.errorResponse).toMatchObject({ S: "FATAL", C: "28000", M: "connection requires TLS" });
    expect(wire.upstreams).toEqual([]);
  });

  it("by tls_port: a StartupMessage in plain text is 28000, and both ways to begin TLS are open", async () => {
    const wire = openTlsWire();
    const { client } = await wire.logIn({ ...NETWORK, isTlsPort: true });
    expect(client.errorResponse).toMatchObject({ C: "28000", M: "connection requires TLS" });
    for (const isDirect of [false, true]) {
      const encrypted = await logInOverTls(wire, { isTlsPort: true, isDirect });
      expect(encrypted.client.isReady).toBe(true);
    }
  });

  it("is not required of a Unix-domain socket, which libpq cannot encrypt", async () => {
    const { client } = await openTlsWire({ clientTlsSslmode: "require" }).logIn();
    expect(client.isReady).toBe(true);
  });

  it("is not required where it is allowed", async () => {
    const { client } = await openTlsWire().logIn(NETWORK);
    expect(client.isReady).toBe(true);
  });
});

describe("a CancelRequest", () => {
  const request = cancelRequest(1234, Buffer.from("none"));

  it.each([
    ["in plain text", false],
    ["over TLS", true],
  ])("%s is taken wherever TLS or a certificate is required", async (_name, isEncrypted) => {
    for (const clientTlsSslmode of ["allow", "require", "verify-full"] as const) {
      for (const isTlsPort of [false, true]) {
        const wire = openTlsWire({ clientTlsSslmode });
        const { client } = isEncrypted
          ? await connectTls(wire, { isTlsPort })
          : wire.connect({ ...NETWORK, isTlsPort });
        client.send(request);
        await client.until(() => client.hasEnded);
        await quiescence();
        expect(await wire.metric("pgvpd_cancel_requests_total", { outcome: "unknown" })).toBe(1);
        expect(client.received.length).toBe(0);
      }
    }
  });
});

describe("a client over TLS that ends its half", () => {
  it("after a query still gets the answer: the upstream sees the query, then the end", async () => {
    const wire = openTlsWire({}, { upstream: { ignoresEnd: true } });
    const { client, session } = await logInOverTls(wire);
    client.send(frontend.query("select 1"));
    client.socket.end();
    await client.until(() => client.types.endsWith("CZ"));
    await quiescence();
    expect(session.state).toBe("half_closed");
    expect(wire.upstream.hasEnded).toBe(true);
    wire.upstream.send(server.notice("late"));
    await client.until(() => client.types.endsWith("CZN"));
    wire.upstream.socket.end();
    await client.until(() => client.hasEnded);
    await quiescence();
    expect(session.state).toBe("closed");
  });
});
