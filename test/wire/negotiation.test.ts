/** Protocol 3.0 and 3.2, and NegotiateProtocolVersion in both directions. */
import { describe, expect, it } from "vitest";
import { server, startupMessage } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import type { UpstreamScript } from "../support/scripted-upstream.ts";
import { openWire, type Wire, type WireConnection } from "../support/wire-session.ts";

const V3_0 = 196_608;
const V3_2 = 196_610;

async function logIn(
  minor: number,
  upstream: UpstreamScript = {},
  parameters: Readonly<Record<string, string>> = {},
): Promise<WireConnection & { wire: Wire }> {
  const wire = openWire({ upstream });
  const connection = wire.connect();
  connection.client.send(startupMessage({ user: "app_user.acme", ...parameters }, minor));
  await quiescence();
  return { ...connection, wire };
}

/** The NegotiateProtocolVersions that the client received. */
const negotiations = ({ client }: WireConnection): Buffer[] =>
  client.messages.filter(({ type }) => type === "v").map(({ bytes }) => bytes);

describe("a client of protocol 3.0", () => {
  it("hears nothing of versions, and 3.0 is spoken upstream", async () => {
    const session = await logIn(0);
    expect(session.client.isReady).toBe(true);
    expect(negotiations(session)).toEqual([]);
    expect(session.wire.upstream.startup?.minor).toBe(0);
  });

  it("hears nothing of an upstream's own negotiation", async () => {
    const session = await logIn(0, { beforeAuthentication: server.negotiateProtocolVersion(V3_0) });
    expect(session.client.isReady).toBe(true);
    expect(negotiations(session)).toEqual([]);
  });
});

describe("a client of protocol 3.2", () => {
  it("gets 3.2 from an upstream that speaks it, and a key of 32 bytes", async () => {
    const key = { processId: 9, secret: Buffer.alloc(32, 0xaa) };
    const session = await logIn(2, { key });
    expect(session.client.isReady).toBe(true);
    expect(negotiations(session)).toEqual([]);
    expect(session.wire.upstream.startup?.minor).toBe(2);
    expect(session.client.received.includes(server.backendKeyData(9, key.secret))).toBe(true);
  });

  it("gets a key of 256 bytes; one of 257 ends the login with 08001", async () => {
    const long = await logIn(2, { key: { processId: 9, secret: Buffer.alloc(256, 1) } });
    expect(long.client.isReady).toBe(true);
    const tooLong = await logIn(2, { key: { processId: 9, secret: Buffer.alloc(257, 1) } });
    expect(tooLong.client.sqlstate).toBe("08001");
  });

  it("hears of 3.0 when the upstream speaks no more", async () => {
    const session = await logIn(2, { beforeAuthentication: server.negotiateProtocolVersion(V3_0) });
    expect(session.client.isReady).toBe(true);
    expect(negotiations(session)).toEqual([server.negotiateProtocolVersion(V3_0)]);
  });

  it("then gets a key of exactly 4 bytes: a longer one ends the login with 08001", async () => {
    const session = await logIn(2, {
      beforeAuthentication: server.negotiateProtocolVersion(V3_0),
      key: { processId: 9, secret: Buffer.alloc(32, 1) },
    });
    expect(session.client.sqlstate).toBe("08001");
  });
});

describe("a client of a later protocol 3", () => {
  it("hears of 3.2, which is what goes upstream", async () => {
    const session = await logIn(9);
    expect(session.client.isReady).toBe(true);
    expect(negotiations(session)).toEqual([server.negotiateProtocolVersion(V3_2)]);
    expect(session.wire.upstream.startup?.minor).toBe(2);
  });

  it("hears of it once, before the first authentication request", async () => {
    const session = await logIn(9, { auth: "scram", beforeAuthentication: server.negotiateProtocolVersion(V3_0) });
    expect(session.client.types).toMatch(/^vR[^v]*Z$/);
    expect(negotiations(session)).toEqual([server.negotiateProtocolVersion(V3_0)]);
  });
});

describe("_pq_. parameters", () => {
  it("are listed in NegotiateProtocolVersion and never forwarded", async () => {
    const session = await logIn(0, {}, { "_pq_.command_tag": "on", "_pq_.other": "" });
    expect(session.client.isReady).toBe(true);
    expect(negotiations(session)).toEqual([server.negotiateProtocolVersion(V3_0, "_pq_.command_tag", "_pq_.other")]);
    expect(session.wire.upstream.received.includes("_pq_.")).toBe(false);
  });

  it("and a version that both sides must lower are one message", async () => {
    const session = await logIn(2, { beforeAuthentication: server.negotiateProtocolVersion(V3_0) }, { "_pq_.x": "1" });
    expect(negotiations(session)).toEqual([server.negotiateProtocolVersion(V3_0, "_pq_.x")]);
  });

  it("that an upstream invents are not passed on", async () => {
    const session = await logIn(2, { beforeAuthentication: server.negotiateProtocolVersion(V3_2, "_pq_.invented") });
    expect(session.client.received.includes("invented")).toBe(false);
    expect(session.client.isReady).toBe(true);
  });
});

describe("an upstream that claims a later version than it was asked for", () => {
  it("changes nothing", async () => {
    const session = await logIn(2, { beforeAuthentication: server.negotiateProtocolVersion(V3_2 + 7) });
    expect(session.client.isReady).toBe(true);
    expect(negotiations(session)).toEqual([]);
  });
});
