/**
 * CancelRequests. Their way upstream begins with a connection of its own, so the server behind them is a real listener on
 * this machine; the client's side is in memory.
 */
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { alwaysTo } from "../../src/proxy/upstream/cancel-keys.ts";
import { cancelRequest, SSL_REQUEST, startupMessage } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { openWire, type WireConnection } from "../support/wire-session.ts";

const SECRET = Buffer.from("key!");
const KNOWN = cancelRequest(4711, SECRET);

interface CancelTarget {
  readonly address: { host: string; port: number };
  /** What each connection has sent, in order of the connections. */
  readonly received: Buffer[];
  /** Resolves when a connection has ended. */
  readonly ended: () => Promise<void>;
}

/** Takes connections, keeps what they send, and closes each when it has a whole CancelRequest. */
async function openTarget(closes = true): Promise<CancelTarget> {
  const received: Buffer[] = [];
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    const index = sockets.push(socket) - 1;
    received.push(Buffer.alloc(0));
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      const all = Buffer.concat([received[index] ?? Buffer.alloc(0), chunk]);
      received[index] = all;
      if (closes && all.length >= 16) socket.end();
      server.emit("cancelled");
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return {
    address: { host: "127.0.0.1", port: (server.address() as AddressInfo).port },
    received,
    ended: async () => void (await once(server, "cancelled")),
  };
}

/** Resolves when the session has ended. */
async function closed({ session, client }: WireConnection): Promise<void> {
  if (!client.socket.readableEnded) await once(client.socket, "end");
  await quiescence();
  expect(session.state).toBe("closed");
}

describe("a CancelRequest", () => {
  it("with a session's key reaches its upstream byte for byte, and is answered by a close", async () => {
    const target = await openTarget();
    const wire = openWire({ address: target.address });
    await wire.logIn();
    const cancelling = wire.connect();
    cancelling.client.send(KNOWN);
    await closed(cancelling);
    expect(target.received).toEqual([KNOWN]);
    expect(cancelling.client.received).toHaveLength(0);
    expect(await wire.metric("pgvpd_cancel_requests_total", { outcome: "forwarded" })).toBe(1);
  });

  it("after an SSLRequest that was answered N reaches the upstream", async () => {
    const target = await openTarget();
    const wire = openWire({ address: target.address });
    await wire.logIn();
    const cancelling = wire.connect({ answers: false });
    cancelling.client.send(SSL_REQUEST);
    await quiescence();
    cancelling.client.send(KNOWN);
    await closed(cancelling);
    expect(target.received).toEqual([KNOWN]);
  });

  // Some drivers close as soon as they have written it, and PostgreSQL cancels all the same.
  it("reaches the upstream when its client is gone before the upstream is connected", { timeout: 5_000 }, async () => {
    const target = await openTarget();
    // A name has to be looked up first, which takes longer than the client's end.
    const wire = openWire({ address: { ...target.address, host: "localhost" } });
    await wire.logIn();
    const cancelled = target.ended();
    const cancelling = wire.connect();
    cancelling.client.send(KNOWN);
    cancelling.client.socket.end();
    await cancelled;
    await closed(cancelling);
    expect(target.received).toEqual([KNOWN]);
  });

  it.each([
    ["another secret", cancelRequest(4711, Buffer.from("yek!"))],
    ["another process id", cancelRequest(4712, SECRET)],
    ["a longer secret", cancelRequest(4711, Buffer.from("key!!"))],
    ["a secret of 256 bytes", cancelRequest(4711, Buffer.alloc(256))],
  ])("with %s is met with silence", async (_name, request) => {
    const target = await openTarget();
    const wire = openWire({ address: target.address });
    await wire.logIn();
    const cancelling = wire.connect();
    cancelling.client.send(request);
    await closed(cancelling);
    expect(cancelling.client.received).toHaveLength(0);
    expect(target.received).toEqual([]);
    expect(await wire.metric("pgvpd_cancel_requests_total", { outcome: "unknown" })).toBe(1);
  });

  it("with the key of a session that has ended is met with silence", async () => {
    const target = await openTarget();
    const wire = openWire({ address: target.address });
    const { client } = await wire.logIn();
    client.socket.end();
    await quiescence();
    const cancelling = wire.connect();
    cancelling.client.send(KNOWN);
    await closed(cancelling);
    expect(target.received).toEqual([]);
  });

  it("with the key of a session that is not logged in yet is met with silence", async () => {
    const target = await openTarget();
    const wire = openWire({
      address: target.address,
      upstream: { play: async (upstream) => void (await upstream.logIn()) },
    });
    const { session } = await wire.logIn();
    expect(session.state).toBe("injecting");
    const cancelling = wire.connect();
    cancelling.client.send(KNOWN);
    await closed(cancelling);
    expect(target.received).toEqual([]);
  });

  it("with a key of 256 bytes, of a client of protocol 3.2, reaches the upstream", async () => {
    const target = await openTarget();
    const secret = Buffer.alloc(256, 0xfe);
    const wire = openWire({ address: target.address, upstream: { key: { processId: -1, secret } } });
    wire.connect().client.send(startupMessage({ user: "app_user.acme" }, 2));
    await quiescence();
    const cancelling = wire.connect();
    cancelling.client.send(cancelRequest(-1, secret));
    await closed(cancelling);
    expect(target.received).toEqual([cancelRequest(-1, secret)]);
  });

  it("of two sessions reaches its own upstream alone", async () => {
    const [one, other] = [await openTarget(), await openTarget()];
    const first = openWire({ address: one.address });
    const keys = first.services.cancelKeys;
    using _second = keys.register(
      { processId: 1, secret: Buffer.from("abcd") },
      alwaysTo({ address: other.address, key: { processId: 1, secret: Buffer.from("abcd") } }),
    );
    await first.logIn();
    const cancelling = first.connect();
    cancelling.client.send(cancelRequest(1, Buffer.from("abcd")));
    await closed(cancelling);
    expect(one.received).toEqual([]);
    expect(other.received).toHaveLength(1);
  });

  it("to an upstream that cannot be reached is met with silence", async () => {
    const target = await openTarget();
    const wire = openWire({ address: { host: "127.0.0.1", port: 1 } });
    await wire.logIn();
    const cancelling = wire.connect();
    cancelling.client.send(KNOWN);
    await closed(cancelling);
    expect(cancelling.client.received).toHaveLength(0);
    expect(target.received).toEqual([]);
    expect(await wire.metric("pgvpd_cancel_requests_total", { outcome: "failed" })).toBe(1);
  });

  it("to an upstream that does not close ends at handshake_timeout, in silence", async () => {
    const target = await openTarget(false);
    const wire = openWire({ address: target.address });
    await wire.logIn();
    const arrived = target.ended();
    const cancelling = wire.connect();
    cancelling.client.send(KNOWN);
    await arrived;
    expect(cancelling.session.state).toBe("cancelling");
    wire.clock.advance(30_000);
    await closed(cancelling);
    expect(cancelling.client.received).toHaveLength(0);
  });

  it("beyond the rate is dropped in silence until time has passed", async () => {
    const target = await openTarget();
    const wire = openWire({ address: target.address, cancelRate: [1, 2] });
    await wire.logIn();
    const cancel = async (): Promise<void> => {
      const cancelling = wire.connect();
      cancelling.client.send(KNOWN);
      await closed(cancelling);
      expect(cancelling.client.received).toHaveLength(0);
    };
    for (let i = 0; i < 4; i++) await cancel();
    expect(target.received).toHaveLength(2);
    expect(await wire.metric("pgvpd_cancel_requests_total", { outcome: "limited" })).toBe(2);
    wire.clock.advance(1_000);
    await cancel();
    expect(target.received).toHaveLength(3);
  });
});
