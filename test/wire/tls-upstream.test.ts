/**
 * TLS to the upstream server, in memory: a server that does it right, and everything that a hostile one, or somebody in
 * between, can answer. There is no fallback: whatever goes wrong is 08001, and nothing is sent in plain text.
 */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { createSecureContext, TLSSocket, type TLSSocketOptions } from "node:tls";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { Config } from "../../src/config/settings.ts";
import { UpstreamTls } from "../../src/proxy/upstream/upstream-tls.ts";
import { client as frontend, server, SSL_REQUEST } from "../support/bytes.ts";
import {
  certificateFolder,
  makeAuthority,
  makeClientCertificate,
  makeServerCertificate,
  type Authority,
  type CertificateFiles,
} from "../support/certificates.ts";
import { duplexPair, quiescence, type MemorySocket } from "../support/duplex-pair.ts";
import { ScriptedUpstream, type UpstreamScript } from "../support/scripted-upstream.ts";
import { openWire, type Wire, type WireConnection } from "../support/wire-session.ts";

const certificates = certificateFolder();
const { folder } = certificates;
let authority: Authority;
let own: CertificateFiles;
beforeAll(() => {
  authority = makeAuthority(folder);
  own = makeServerCertificate(authority, { names: ["db.example", "192.0.2.1", "2001:db8::1"] });
});
afterAll(() => certificates[Symbol.dispose]());

type TlsConfig = Partial<Config>;

function upstreamTls(config: TlsConfig): UpstreamTls {
  return new UpstreamTls({
    upstreamHost: "db.example",
    upstreamTlsVerify: true,
    upstreamTlsCa: authority.certFile,
    upstreamTlsCert: undefined,
    upstreamTlsKey: undefined,
    upstreamTlsNegotiation: "postgres",
    ...config,
  });
}

/** A wire whose upstream is what `serve` makes of the other end of a connection. */
function openUpstreamWire(serve: (far: MemorySocket) => void, config: TlsConfig = {}): Wire {
  const tls = upstreamTls(config);
  const ours: MemorySocket[] = [];
  const theirs: MemorySocket[] = [];
  // What is registered first runs last: behind openWire's own checks.
  onTestFinished(() => {
    for (const far of theirs) far.destroy();
    expect(ours.filter(({ destroyed }) => !destroyed).length, "upstream sockets that are still open").toBe(0);
  });
  return openWire({
    config,
    dial: async (signal) => {
      const [near, far] = duplexPair();
      ours.push(near);
      theirs.push(far);
      far.on("error", () => {});
      serve(far);
      const socket = await tls.encrypt(near as unknown as Socket, signal);
      return { socket, address: { host: "upstream", port: 5432 } };
    },
  });
}

/** The next bytes, whole. */
async function next(far: MemorySocket): Promise<Buffer> {
  const [chunk] = (await once(far, "data")) as [Buffer];
  return chunk;
}

interface TlsServer {
  readonly files?: CertificateFiles;
  readonly options?: TLSSocketOptions;
  readonly script?: UpstreamScript;
  readonly isDirect?: boolean;
}

/** A server that does it right, and what it saw. */
function tlsServer({ files, options, script, isDirect = false }: TlsServer = {}): {
  serve: (far: MemorySocket) => void;
  upstream: () => ScriptedUpstream;
  asked: Buffer[];
  sockets: TLSSocket[];
} {
  const asked: Buffer[] = [];
  const sockets: TLSSocket[] = [];
  const upstreams: ScriptedUpstream[] = [];
  const begin = async (far: MemorySocket): Promise<void> => {
    if (!isDirect) {
      asked.push(await next(far));
      far.removeAllListeners("data");
      far.write("S");
    }
    const { certFile, keyFile } = files ?? own;
    const socket = new TLSSocket(far, {
      isServer: true,
      secureContext: createSecureContext({ cert: readFileSync(certFile), key: readFileSync(keyFile), ...options }),
      ...options,
    });
    socket.on("error", () => {});
    sockets.push(socket);
    const upstream = new ScriptedUpstream(socket as never, script ?? {});
    upstreams.push(upstream);
    void upstream.run();
  };
  return {
    serve: (far) => void begin(far),
    upstream: () => upstreams[0] as ScriptedUpstream,
    asked,
    sockets,
  };
}

/** A client that has logged in, or was refused. */
async function logIn(wire: Wire): Promise<WireConnection> {
  const connection = await wire.logIn();
  await connection.client.until(() => connection.client.isReady || connection.client.hasEnded);
  return connection;
}

/** What the client is told; fails where it is let in. */
async function refusal(wire: Wire): Promise<string> {
  const { client } = await logIn(wire);
  expect(client.isReady).toBe(false);
  expect(client.errorResponse).toMatchObject({ S: "FATAL", C: "08001" });
  return (client.errorResponse["M"] ?? "").replace("could not connect to the upstream server over TLS: ", "");
}

describe("a server that speaks TLS", () => {
  it("is asked with SSLRequest, and gets name and session inside of the encryption", async () => {
    const peer = tlsServer({ script: { auth: "scram" } });
    const { client } = await logIn(openUpstreamWire(peer.serve));
    expect(client.isReady).toBe(true);
    expect(peer.asked).toEqual([SSL_REQUEST]);
    expect(peer.sockets[0]?.servername).toBe("db.example");
    client.send(frontend.query("select 1"));
    await client.until(() => client.types.endsWith("CZ"));
  });

  it("gets no name where upstream_host is an address, which the certificate must have", async () => {
    for (const upstreamHost of ["192.0.2.1", "2001:db8::1"]) {
      const peer = tlsServer();
      const { client } = await logIn(openUpstreamWire(peer.serve, { upstreamHost }));
      expect(client.isReady, upstreamHost).toBe(true);
      expect(peer.sockets[0]?.servername).toBe(false);
    }
  });

  it("may be spoken to directly, with the protocol in ALPN", async () => {
    const peer = tlsServer({ isDirect: true, options: { ALPNProtocols: ["postgresql"] } });
    const { client } = await logIn(openUpstreamWire(peer.serve, { upstreamTlsNegotiation: "direct" }));
    expect(client.isReady).toBe(true);
    expect(peer.sockets[0]?.alpnProtocol).toBe("postgresql");
  });

  it("sees the certificate that upstream_tls_cert names", async () => {
    const files = makeClientCertificate(authority, { commonName: "app_user" });
    const peer = tlsServer({ options: { requestCert: true }, script: { auth: "scram" } });
    const config = { upstreamTlsCert: files.certFile, upstreamTlsKey: files.keyFile };
    expect((await logIn(openUpstreamWire(peer.serve, config))).client.isReady).toBe(true);
    expect(peer.sockets[0]?.getPeerCertificate().subject.CN).toBe("app_user");
  });

  it("loses its connection when the client is gone", async () => {
    const peer = tlsServer();
    const { client, session } = await logIn(openUpstreamWire(peer.serve));
    client.socket.destroy();
    await quiescence();
    expect(session.state).toBe("closed");
    expect(peer.upstream().hasEnded).toBe(true);
  });

  it("still sends its answer to who has ended after a query", async () => {
    const peer = tlsServer({ script: { ignoresEnd: true } });
    const { client } = await logIn(openUpstreamWire(peer.serve));
    client.send(frontend.query("select 1"));
    client.socket.end();
    await client.until(() => client.types.endsWith("CZ"));
    peer.upstream().send(server.notice("late"));
    await client.until(() => client.types.endsWith("CZN"));
    peer.upstream().socket.end();
    await client.until(() => client.hasEnded);
  });

  it("that breaks a record ends the session with 08006", async () => {
    const peer = tlsServer();
    const fars: MemorySocket[] = [];
    const wire = openUpstreamWire((far) => {
      fars.push(far);
      peer.serve(far);
    });
    const { client } = await logIn(wire);
    fars[0]?.write(Buffer.concat([Buffer.of(0x17, 3, 3, 0, 32), Buffer.alloc(32, 0xaa)]));
    await client.until(() => client.hasEnded);
    expect(client.sqlstate).toBe("08006");
  });
});

describe("a server that is not trusted", () => {
  const refused = (peer: TlsServer, config: TlsConfig = {}): Promise<string> =>
    refusal(openUpstreamWire(tlsServer(peer).serve, config));
  const unknown = "its certificate is signed by an authority that is not known here: set upstream_tls_ca";

  it("is signed by an authority that is not known", async () => {
    const stranger = makeAuthority(folder, { file: "stranger", commonName: "stranger" });
    const twin = makeAuthority(folder, { file: "twin" });
    expect(await refused({}, { upstreamTlsCa: undefined })).toBe(unknown);
    for (const by of [stranger, twin]) {
      expect(await refused({ files: makeServerCertificate(by, { names: ["db.example"], file: "strange" }) })).toBe(
        unknown,
      );
    }
    expect(await refused({ files: makeAuthority(folder, { file: "self", names: ["db.example"] }) })).toBe(unknown);
  });

  it("signs itself, and is trusted where upstream_tls_ca is that certificate", async () => {
    const files = makeAuthority(folder, { file: "self", names: ["db.example"] });
    const { client } = await logIn(openUpstreamWire(tlsServer({ files }).serve, { upstreamTlsCa: files.certFile }));
    expect(client.isReady).toBe(true);
  });

  it("has another name, or another address, or its address as a name alone", async () => {
    const other = "its certificate is for another name than upstream_host";
    for (const upstreamHost of ["db.example.org", "example", "192.0.2.2", "127.0.0.1", "localhost"]) {
      expect(await refused({}, { upstreamHost }), upstreamHost).toBe(other);
    }
    const files = makeServerCertificate(authority, { commonName: "192.0.2.1", names: ["x"], file: "cn" });
    expect(await refused({ files }, { upstreamHost: "192.0.2.1" })).toBe(other);
  });

  it("has expired", async () => {
    const files = makeServerCertificate(authority, { names: ["db.example"], days: -1, file: "expired" });
    expect(await refused({ files })).toBe("its certificate, or its authority's, has expired");
  });

  it("is taken all the same where upstream_tls_verify is off", async () => {
    const files = makeServerCertificate(makeAuthority(folder, { file: "stranger" }), {
      names: ["x"],
      days: -1,
      file: "bad",
    });
    const config = { upstreamTlsVerify: false, upstreamTlsCa: undefined };
    const { client } = await logIn(openUpstreamWire(tlsServer({ files }).serve, config));
    expect(client.isReady).toBe(true);
  });

  it("speaks TLS 1.1 at most", async () => {
    const options = { minVersion: "TLSv1", maxVersion: "TLSv1.1", ciphers: "ALL:@SECLEVEL=0" } as const;
    expect(await refused({ options })).toBe("it speaks no TLS 1.2 or newer");
  });

  it("does not name the protocol, spoken to directly", async () => {
    const message =
      "it does not take TLS without being asked: upstream_tls_negotiation = direct needs PostgreSQL 17 or newer";
    const config = { upstreamTlsNegotiation: "direct" } as const;
    expect(await refused({ isDirect: true }, config)).toBe(message);
    expect(await refusal(openUpstreamWire((far) => far.once("data", () => far.end()), config))).toBe(message);
    const plain = server.error("08P01", "invalid length of startup packet");
    expect(await refusal(openUpstreamWire((far) => far.once("data", () => far.end(plain)), config))).toBe(message);
  });
});

describe("an answer to SSLRequest", () => {
  it.each<[string, string | Buffer, string]>([
    ["N", "N", "it does not accept TLS: set ssl = on in its postgresql.conf"],
    [
      "S and an ErrorResponse",
      Buffer.concat([Buffer.from("S"), server.error("XX000", "planted")]),
      "received unencrypted data after SSL response",
    ],
    [
      "S and the login of somebody in between",
      Buffer.concat([Buffer.from("S"), server.authenticationOk, server.readyForQuery()]),
      "received unencrypted data after SSL response",
    ],
    ["N and more", "NN", "received unencrypted data after SSL response"],
    ["an ErrorResponse", server.error("53300", "planted"), "it answers with an error: look into its log"],
    ["an error in the old way", "Ecould not fork new process", "it answers with an error: look into its log"],
    ["HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", "what answers there is not PostgreSQL"],
    ["a zero", Buffer.of(0), "what answers there is not PostgreSQL"],
  ])("of %s is 08001, and nothing of it reaches the client", async (_name, answer, problem) => {
    const received: Buffer[] = [];
    const wire = openUpstreamWire((far) => {
      far.on("data", (chunk: Buffer) => {
        received.push(chunk);
        if (received.length === 1) far.write(answer);
      });
    });
    expect(await refusal(wire)).toBe(problem);
    expect(Buffer.concat(received)).toEqual(SSL_REQUEST);
    expect(wire.connections[0]?.client.received.includes("planted")).toBe(false);
  });

  it("of nothing but the end, or a reset, is 08001", async () => {
    expect(await refusal(openUpstreamWire((far) => far.once("data", () => far.end())))).toBe(
      "it closed the connection when it was asked for TLS",
    );
    expect(await refusal(openUpstreamWire((far) => far.once("readable", () => far.destroy())))).toMatch(FAILED);
  });

  it("of nothing at all ends with handshake_timeout", async () => {
    const wire = openUpstreamWire((far) => far.resume());
    const { client } = await wire.logIn();
    expect(client.received.length).toBe(0);
    wire.clock.advance(30_000);
    await quiescence();
    expect(client.sqlstate).toBe("08001");
  });
});

const FAILED = /^the handshake failed \(.+\)$/;

describe("after S", () => {
  /** Answers S, and has the connection from there. */
  const accepting = (then: (far: MemorySocket) => void) => (far: MemorySocket) => {
    far.once("data", () => {
      far.write("S");
      then(far);
    });
  };

  it.each<[string, (far: MemorySocket) => void]>([
    ["garbage", (far) => far.once("data", () => far.write(Buffer.alloc(64, 0xaa)))],
    ["a login in plain text", (far) => far.once("data", () => far.write(server.authenticationOk))],
    ["a reset", (far) => far.once("data", () => far.destroy())],
    ["the end", (far) => far.once("data", () => far.end())],
    ["the end before the ClientHello", (far) => far.end()],
  ])("%s is 08001", async (_name, then) => {
    expect(await refusal(openUpstreamWire(accepting(then)))).toMatch(FAILED);
  });

  it("bytes in plain text that come a moment later are no part of the session", async () => {
    const wire = openUpstreamWire(accepting((far) => setImmediate(() => far.write(server.authenticationOk))));
    expect(await refusal(wire)).toMatch(FAILED);
  });

  it("silence ends with handshake_timeout, and a client that leaves is not waited for", async () => {
    for (const end of ["timeout", "client"] as const) {
      const wire = openUpstreamWire(accepting((far) => far.resume()));
      const { client, session } = await wire.logIn();
      expect(session.state).toBe("authenticating");
      if (end === "timeout") wire.clock.advance(30_000);
      else client.socket.destroy();
      await quiescence();
      expect(client.sqlstate).toBe(end === "timeout" ? "08001" : `no error, but ""`);
      client.socket.destroy();
      await quiescence();
      expect(session.state).toBe("closed");
    }
  });

  it("what is wrong stands in the log, with its cause", async () => {
    const wire = openUpstreamWire(tlsServer().serve, { upstreamTlsCa: undefined });
    await refusal(wire);
    const line = wire.log.find(({ code }) => code === "upstream_tls");
    expect(line).toMatchObject({ level: "error", blame: "upstream" });
    expect(JSON.stringify(line)).toContain("unable to verify the first certificate");
  });
});
