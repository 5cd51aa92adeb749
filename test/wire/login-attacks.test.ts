/**
 * What a client may not do before ReadyForQuery: each attempt ends with FATAL 08P01 (or what the catalogue says), and not
 * a byte of it reaches the upstream. In the system that pgvpd follows, a Query behind the last SASL message was executed.
 */
import { describe, expect, it } from "vitest";
import {
  bytes,
  cancelRequest,
  client as frontend,
  cstring,
  GSSENC_REQUEST,
  header,
  int32,
  message,
  SSL_REQUEST,
  startupMessage,
  startupPacket,
} from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { byteByByte, openWire, type Wire, type WireConnection } from "../support/wire-session.ts";

const STARTUP = startupMessage({ user: "app_user.acme", database: "shop" });
const EVIL = frontend.query("select evil");

/** The client was refused with `sqlstate`, and nothing evil went upstream. */
async function expectRefused(wire: Wire, { client, session }: WireConnection, sqlstate = "08P01"): Promise<void> {
  await quiescence();
  expect(client.sqlstate).toBe(sqlstate);
  expect(client.errorResponse["S"]).toBe("FATAL");
  expect(client.hasEnded).toBe(true);
  expect(client.isReady).toBe(false);
  expect(session.state).toBe("closing");
  for (const upstream of wire.upstreams) {
    expect(upstream.received.includes("evil")).toBe(false);
    expect(upstream.messages.every(({ type }) => type === "p")).toBe(true);
    expect(upstream.hasEnded).toBe(true);
  }
}

describe("the first packet", () => {
  it.each([
    ["a length of 4", int32(4), "08P01"],
    ["a length of 0", int32(0), "08P01"],
    ["a length of -1", int32(-1), "08P01"],
    ["a length of 2^31-1", int32(0x7fff_ffff), "08P01"],
    ["a length of 10,001", int32(10_001), "08P01"],
    ["an HTTP request", Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "08P01"],
    ["a TLS ClientHello", Buffer.of(0x16, 3, 1, 2, 0, 1, 0), "08P01"],
    ["protocol 2.0", startupPacket(int32(2 << 16), cstring("user")), "0A000"],
    ["protocol 4.0", startupPacket(int32(4 << 16), cstring("user")), "0A000"],
    ["no terminator", startupPacket(int32(196_608), cstring("user"), cstring("u")), "08P01"],
    ["trailing bytes", startupPacket(int32(196_608), 0, "x"), "08P01"],
  ])("with %s is refused at once", async (_name, packet, sqlstate) => {
    const wire = openWire();
    const connection = wire.connect();
    connection.client.send(packet);
    await expectRefused(wire, connection, sqlstate);
    expect(wire.upstreams).toEqual([]);
  });

  it("is refused as soon as the 4th byte of its length is there", async () => {
    const wire = openWire();
    const connection = wire.connect();
    connection.client.send(Buffer.of(0x7f, 0xff, 0xff));
    await quiescence();
    expect(connection.client.received).toHaveLength(0);
    connection.client.send(Buffer.of(0xff));
    await expectRefused(wire, connection);
  });
});

describe("encryption requests", () => {
  it.each([
    ["a third request", [SSL_REQUEST, GSSENC_REQUEST, SSL_REQUEST]],
    ["a second SSLRequest", [SSL_REQUEST, SSL_REQUEST]],
    ["a second GSSENCRequest", [GSSENC_REQUEST, GSSENC_REQUEST]],
  ])("%s is refused", async (_name, requests) => {
    const wire = openWire();
    const connection = wire.connect({ answers: false });
    for (const request of requests) {
      connection.client.send(request);
      await quiescence();
    }
    const { received } = connection.client;
    const ns = requests.length - 1;
    expect(received.subarray(0, ns).toString()).toBe("N".repeat(ns));
    connection.client.received = received.subarray(ns);
    await expectRefused(wire, connection);
  });

  it.each([
    ["a StartupMessage", STARTUP],
    ["a single byte", Buffer.of(0)],
    ["another request", GSSENC_REQUEST],
  ])("with %s behind them in one segment are refused", async (_name, behind) => {
    const wire = openWire();
    const connection = wire.connect();
    connection.client.send(bytes(SSL_REQUEST, behind));
    await expectRefused(wire, connection);
    expect(wire.upstreams).toEqual([]);
  });
});

describe("behind the StartupMessage", () => {
  it.each([
    ["a Query", EVIL],
    ["a password that nobody asked for", frontend.password("evil")],
    ["a second StartupMessage", startupMessage({ user: "evil.evil" })],
    ["a CancelRequest", cancelRequest(1, Buffer.from("evil"))],
    ["Terminate", frontend.terminate],
    ["a single byte", Buffer.of(0)],
  ])("%s in the same segment is refused before anything is dialled", async (_name, behind) => {
    const wire = openWire({ upstream: { auth: "cleartext" } });
    const connection = wire.connect({ answers: false });
    connection.client.send(bytes(STARTUP, behind));
    await expectRefused(wire, connection);
    expect(wire.upstreams).toEqual([]);
  });

  it.each([
    ["a Query", EVIL],
    ["a password", frontend.password("evil")],
    ["the first byte of a password", Buffer.from("p")],
  ])("%s in the next segment is refused", async (_name, behind) => {
    const wire = openWire({ upstream: { play: async () => {} } });
    const connection = wire.connect({ answers: false });
    connection.client.send(STARTUP);
    await quiescence();
    connection.client.send(behind);
    await expectRefused(wire, connection);
  });

  it("a Query is refused, byte by byte", async () => {
    const wire = openWire({ upstream: { auth: "scram" } });
    const connection = wire.connect({ segment: byteByByte });
    connection.client.send(STARTUP, EVIL);
    await expectRefused(wire, connection);
  });

  it("a megabyte is refused, and the client can still read why", async () => {
    const wire = openWire();
    const connection = wire.connect();
    connection.client.send(STARTUP);
    connection.client.send(bytes(EVIL, Buffer.alloc(1024 * 1024, "evil")));
    await expectRefused(wire, connection);
    expect(connection.client.socket.writableLength).toBe(0);
    connection.client.socket.end();
    await quiescence();
    expect(connection.session.state).toBe("closed");
  });
});

describe("behind an answer", () => {
  const ways = [
    { auth: "cleartext", behindAnswer: 0, what: "the password" },
    { auth: "scram", behindAnswer: 0, what: "SASLInitialResponse" },
    { auth: "scram", behindAnswer: 1, what: "the last SASLResponse" },
  ] as const;
  const extras: [string, Buffer][] = [
    ["a Query", EVIL],
    ["a Parse", message("P", 0, cstring("select evil"), 0, 0)],
    ["a second answer", frontend.password("evil")],
    ["a single byte", Buffer.from("Q")],
    ["half a Query", EVIL.subarray(0, 12)],
  ];

  describe.each(ways)("$what", ({ auth, behindAnswer }) => {
    it.each(extras)("%s in the same segment is refused", async (_name, extra) => {
      const wire = openWire({ upstream: { auth } });
      const connection = await wire.logIn({ pipelined: { behindAnswer, bytes: extra } });
      await expectRefused(wire, connection);
    });

    it.each(extras)("%s in the next segments is refused", async (_name, extra) => {
      const wire = openWire({ upstream: { auth } });
      const connection = await wire.logIn({ pipelined: { behindAnswer, bytes: extra }, segment: byteByByte });
      await expectRefused(wire, connection);
    });
  });

  it("a Query that comes while the context is injected is refused, and never sent", async () => {
    const wire = openWire({
      upstream: {
        play: async (upstream) => {
          await upstream.logIn();
          await upstream.readMessage(); // our Parse; no answer ever comes
        },
      },
    });
    const connection = await wire.logIn();
    expect(connection.session.state).toBe("injecting");
    connection.client.send(EVIL);
    await quiescence();
    expect(connection.client.sqlstate).toBe("08P01");
    expect(wire.upstream.received.includes("evil")).toBe(false);
  });
});

describe("in place of the password", () => {
  it.each([
    ["a Query", EVIL],
    ["a second StartupMessage", startupMessage({ user: "evil.evil" })],
    ["an SSLRequest", SSL_REQUEST],
    ["Terminate", frontend.terminate],
    ["a Sync", frontend.sync],
    ["a message of type 0", message("\0", "evil")],
    ["a password of length -1", header("p", -1)],
    ["a password of length 0", header("p", 0)],
    ["a password of length 3", header("p", 3)],
    ["a password of length 2^31-1", header("p", 0x7fff_ffff)],
    ["a password of length 65,536", header("p", 65_536)],
    ["a password of 100,000 bytes", frontend.password("evil".repeat(25_000))],
  ])("%s is refused", async (_name, answer) => {
    const wire = openWire({ upstream: { auth: "cleartext" } });
    const connection = wire.connect({ answers: false });
    connection.client.send(STARTUP);
    await quiescence();
    connection.client.send(answer);
    await expectRefused(wire, connection);
  });

  it("a password of length 65,535 reaches the upstream whole", async () => {
    const password = "x".repeat(65_535 - 4 - 1);
    const wire = openWire({ upstream: { auth: "cleartext", password } });
    const { client } = await wire.logIn({ password });
    expect(client.isReady).toBe(true);
  });
});

describe("a refusal", () => {
  it("is counted by its code and blame, and logged with the connection", async () => {
    const wire = openWire();
    await wire.logIn({}, { role: "postgres" });
    expect(await wire.metric("pgvpd_errors_total", { code: "parameter_protected", blame: "client" })).toBe(1);
    expect(wire.log).toContainEqual(expect.objectContaining({ code: "parameter_protected", conn: 1, level: "info" }));
  });

  it("of an identity happens before anything is dialled", async () => {
    const wire = openWire();
    for (const [user, parameters, sqlstate] of [
      ["app_user", {}, "28000"],
      ["app_user.acme", { options: "-c role=postgres" }, "42501"],
      ["app_user.acme", { options: "-c user=postgres" }, "42501"],
      ["app_user.acme", { replication: "database" }, "42501"],
      ["app_user.acme", { options: "--" }, "22023"],
      ["app_user.acme", { database: "d".repeat(64) }, "28000"],
    ] as const) {
      await expectRefused(wire, await wire.logIn({ user }, parameters), sqlstate);
    }
    expect(wire.upstreams).toEqual([]);
  });

  it("closes a client that neither reads nor leaves within two seconds", async () => {
    const wire = openWire({ pair: { capacity: 16 } });
    const { client, session } = wire.connect();
    client.socket.pause();
    client.send(int32(4));
    await quiescence();
    expect(session.state).toBe("closing");
    wire.clock.advance(1_999);
    await quiescence();
    expect(session.state).toBe("closing");
    wire.clock.advance(1);
    await quiescence();
    expect(session.state).toBe("closed");
  });
});
