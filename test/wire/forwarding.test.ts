/** From the client's ReadyForQuery on: bytes both ways, and every way in which a session ends. */
import { describe, expect, it } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import { bytes, client as frontend, cstring, header, int32, message, server } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import type { ScriptedClient } from "../support/scripted-client.ts";
import type { ScriptedUpstream } from "../support/scripted-upstream.ts";
import { openWire, type Wire, type WireConnection, type WireOptions } from "../support/wire-session.ts";

interface Forwarding extends WireConnection {
  readonly wire: Wire;
  readonly upstream: ScriptedUpstream;
}

/** A session whose login is over, in front of a server that from now on says only what the test says. */
async function forwarding(options: WireOptions = {}): Promise<Forwarding> {
  const wire = openWire({
    ...options,
    config: { allowUnsafeRoles: true, ...options.config },
    upstream: { play: async (upstream) => void (await upstream.logIn()), ...options.upstream },
  });
  const connection = await wire.logIn();
  expect(connection.session.state).toBe("forwarding");
  connection.client.received = Buffer.alloc(0);
  wire.upstream.received = Buffer.alloc(0);
  return { ...connection, wire, upstream: wire.upstream };
}

const QUERY = frontend.query("select 1");
const ROW = server.dataRow("a value");
/** A DataRow without its last two bytes. */
const HALF_ROW = ROW.subarray(0, -2);

/** All that the client got is one ErrorResponse, and then the end. */
function expectLastWord(client: ScriptedClient, sqlstate: string): void {
  expect(client.types).toBe("E");
  expect(client.errorResponse).toMatchObject({ S: "FATAL", V: "FATAL", C: sqlstate });
  expect(client.hasEnded).toBe(true);
}

describe("bytes", () => {
  it("pass both ways as they are, message boundaries or not", async () => {
    const { client, upstream } = await forwarding();
    client.send(QUERY.subarray(0, 3));
    await quiescence();
    expect(upstream.received).toEqual(QUERY.subarray(0, 3));
    client.send(QUERY.subarray(3), message("?", "a type that nobody knows"));
    upstream.send(HALF_ROW);
    await quiescence();
    expect(upstream.received).toEqual(bytes(QUERY, message("?", "a type that nobody knows")));
    expect(client.received).toEqual(HALF_ROW);
  });

  it("that came in one piece with the upstream's ReadyForQuery pass", async () => {
    const { client, session } = await forwarding({ upstream: { afterReady: HALF_ROW } });
    expect(session.state).toBe("forwarding");
    const whole = await forwarding({ upstream: { afterReady: ROW } });
    whole.upstream.send(ROW);
    await quiescence();
    expect(whole.client.received).toEqual(ROW);
    expect(client.hasEnded).toBe(false);
  });

  it("of one session never reach another", async () => {
    const one = await forwarding();
    const other = await forwarding();
    one.client.send(QUERY);
    one.upstream.send(ROW);
    await quiescence();
    expect(other.upstream.received).toHaveLength(0);
    expect(other.client.received).toHaveLength(0);
  });
});

describe("the client's end", () => {
  it("is passed on behind its bytes, and the answers still reach it", async () => {
    const { client, upstream, session } = await forwarding();
    client.send(QUERY);
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("half_closed");
    expect(upstream.received).toEqual(QUERY);
    expect(upstream.hasEnded).toBe(true);
    upstream.send(ROW, server.readyForQuery());
    await quiescence();
    expect(client.received).toEqual(bytes(ROW, server.readyForQuery()));
    expect(client.hasEnded).toBe(false);
    upstream.socket.end();
    await quiescence();
    expect(client.hasEnded).toBe(true);
    expect(session.state).toBe("closed");
  });

  it("leaves the other direction open for half_close_timeout, and no longer", async () => {
    const { client, session, wire, upstream } = await forwarding({ config: { halfCloseTimeoutMs: 7_000 } });
    client.socket.end();
    await quiescence();
    expect(wire.clock.openTimers).toEqual([7_000]);
    wire.clock.advance(6_999);
    await quiescence();
    upstream.send(ROW);
    await quiescence();
    expect(client.received).toEqual(ROW);
    wire.clock.advance(1);
    await quiescence();
    expect(session.state).toBe("closed");
    expect(client.hasEnded).toBe(true);
    expect(upstream.socket.destroyed || upstream.hasEnded).toBe(true);
  });

  it("in the middle of a message is passed on all the same", async () => {
    const { client, upstream } = await forwarding();
    client.send(QUERY.subarray(0, 6));
    client.socket.end();
    await quiescence();
    expect(upstream.received).toEqual(QUERY.subarray(0, 6));
    expect(upstream.hasEnded).toBe(true);
  });

  it("followed by the upstream's sudden end is no error", async () => {
    const { client, upstream, session, wire } = await forwarding();
    client.socket.end();
    await quiescence();
    upstream.send(HALF_ROW);
    upstream.socket.destroy();
    await quiescence();
    expect(client.received).toEqual(HALF_ROW);
    expect(session.state).toBe("closed");
    expect(await wire.metric("pgvpd_errors_total")).toBe(0);
  });

  it("by Terminate lets the upstream close, without an error", async () => {
    const { client, upstream, session, wire } = await forwarding();
    client.send(frontend.terminate);
    await quiescence();
    expect(upstream.received).toEqual(frontend.terminate);
    upstream.socket.end();
    await quiescence();
    expect(client.received).toHaveLength(0);
    expect(client.hasEnded).toBe(true);
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("closed");
    expect(await wire.metric("pgvpd_errors_total")).toBe(0);
  });

  it("by a reset closes the upstream at once", async () => {
    const { client, upstream, session, wire } = await forwarding();
    client.socket.pause();
    upstream.send(ROW);
    await quiescence();
    client.socket.destroy();
    await quiescence();
    expect(session.state).toBe("closed");
    expect(upstream.hasEnded).toBe(true);
    expect(wire.clock.openTimers).toEqual([]);
  });
});

describe("a client message with an impossible length", () => {
  it.each([3, 0, -1, 0x4000_0000, 0x7fff_ffff])("%i is FATAL 08P01, and the upstream is closed", async (length) => {
    const { client, upstream, wire } = await forwarding();
    client.send(QUERY, header("Q", length), Buffer.alloc(100, "evil"));
    await quiescence();
    expectLastWord(client, "08P01");
    expect(upstream.hasEnded).toBe(true);
    expect(upstream.received.includes("evil")).toBe(false);
    client.socket.end();
    await quiescence();
    expect(await wire.metric("pgvpd_errors_total", { code: "message_length" })).toBe(1);
  });

  it("that is cut into bytes is found too", async () => {
    const { client, upstream } = await forwarding();
    for (const byte of header("Q", 3)) {
      client.send(Buffer.of(byte));
      await quiescence();
    }
    expectLastWord(client, "08P01");
    expect(upstream.hasEnded).toBe(true);
  });

  it("is answered by a close alone while the client is in the middle of a message", async () => {
    const { client, upstream } = await forwarding();
    upstream.send(HALF_ROW);
    await quiescence();
    client.send(header("Q", -1));
    await quiescence();
    expect(client.received).toEqual(HALF_ROW);
    expect(client.hasEnded).toBe(true);
    expect(upstream.hasEnded).toBe(true);
  });

  it("closes a client that goes on sending and never reads after two seconds", async () => {
    const { client, session, wire } = await forwarding({ pair: { capacity: 64 } });
    client.socket.pause();
    client.send(header("Q", 3));
    await quiescence();
    client.send(Buffer.alloc(100_000));
    await quiescence();
    expect(session.state).toBe("closing");
    wire.clock.advance(2_000);
    await quiescence();
    expect(session.state).toBe("closed");
  });
});

describe("an upstream that is lost", () => {
  it("between two messages is FATAL 08006", async () => {
    const { client, upstream, session } = await forwarding();
    upstream.send(ROW);
    await quiescence();
    client.received = Buffer.alloc(0);
    upstream.socket.end();
    await quiescence();
    expectLastWord(client, "08006");
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("closed");
  });

  it("by a reset is FATAL 08006", async () => {
    const { client, upstream } = await forwarding();
    upstream.socket.pause();
    client.send(QUERY);
    await quiescence();
    upstream.socket.destroy();
    await quiescence();
    expectLastWord(client, "08006");
  });

  it("at any byte of a message is answered by a close alone", async () => {
    for (let cut = 1; cut < ROW.length; cut++) {
      const { client, upstream } = await forwarding();
      upstream.send(ROW.subarray(0, cut));
      upstream.socket.end();
      await quiescence();
      expect(client.received).toEqual(ROW.subarray(0, cut));
      expect(client.hasEnded).toBe(true);
    }
  });

  it("after a FATAL of its own leaves the client with that", async () => {
    const said = server.error("57P01", "terminating connection due to administrator command");
    const { client, upstream, wire } = await forwarding();
    upstream.send(said);
    upstream.socket.end();
    await quiescence();
    expect(client.received).toEqual(said);
    expect(client.hasEnded).toBe(true);
    expect(await wire.metric("pgvpd_errors_total")).toBe(0);
  });

  it("does not lose what it said before", async () => {
    const rows = Buffer.concat(Array.from({ length: 5_000 }, () => ROW));
    const { client, upstream } = await forwarding();
    upstream.send(rows, server.error("53100", "disk full"));
    upstream.socket.end();
    await quiescence();
    expect(client.received).toEqual(bytes(rows, server.error("53100", "disk full")));
  });
});

describe("an upstream message with an impossible length", () => {
  it.each([3, -1, 0x7fff_ffff])("%i is FATAL 08006", async (length) => {
    const { client, upstream } = await forwarding();
    upstream.send(header("D", length));
    await quiescence();
    expectLastWord(client, "08006");
    expect(upstream.hasEnded).toBe(true);
  });

  // The first half of the header is with the client already: an ErrorResponse behind it would be read as its length.
  it("whose header is cut anywhere is answered by a close alone", async () => {
    for (let cut = 1; cut < 5; cut++) {
      const { client, upstream } = await forwarding();
      upstream.send(header("D", 3).subarray(0, cut));
      await quiescence();
      upstream.send(header("D", 3).subarray(cut));
      await quiescence();
      expect(client.received).toEqual(header("D", 3).subarray(0, cut));
      expect(client.hasEnded).toBe(true);
    }
  });
});

describe("terminate", () => {
  it("between two messages says 57P01, and closes both sides", async () => {
    const { client, upstream, session, wire } = await forwarding();
    session.terminate(new ProxyError("shutdown"));
    session.terminate(new ProxyError("shutdown"));
    await quiescence();
    expectLastWord(client, "57P01");
    expect(upstream.hasEnded).toBe(true);
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("closed");
    expect(await wire.metric("pgvpd_errors_total", { code: "shutdown" })).toBe(1);
  });

  it("in the middle of a message closes without a word", async () => {
    for (let cut = 1; cut < ROW.length; cut++) {
      const { client, session, upstream } = await forwarding();
      upstream.send(ROW.subarray(0, cut));
      await quiescence();
      session.terminate(new ProxyError("shutdown"));
      await quiescence();
      expect(client.received).toEqual(ROW.subarray(0, cut));
      expect(client.hasEnded).toBe(true);
      expect(upstream.hasEnded).toBe(true);
    }
  });

  it("does not wait for a client that does not leave", async () => {
    const { session, wire } = await forwarding();
    session.terminate(new ProxyError("shutdown"));
    await quiescence();
    wire.clock.advance(1_999);
    await quiescence();
    expect(session.state).toBe("closing");
    wire.clock.advance(1);
    await quiescence();
    expect(session.state).toBe("closed");
  });

  it("when half closed still reaches the client", async () => {
    const { client, session } = await forwarding();
    client.socket.end();
    await quiescence();
    session.terminate(new ProxyError("shutdown"));
    await quiescence();
    expectLastWord(client, "57P01");
    expect(session.state).toBe("closed");
  });

  it("of a session that is over does nothing", async () => {
    const { client, session } = await forwarding({
      upstream: { play: async (u) => void ((await u.logIn()) && (await u.serve())) },
    });
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("closed");
    session.terminate(new ProxyError("shutdown"));
    await quiescence();
    expect(session.state).toBe("closed");
  });
});

describe("a bug of ours while forwarding", () => {
  it("ends that session with XX000 and no other", async () => {
    const good = await forwarding();
    const inner = openWire({ config: { allowUnsafeRoles: true } });
    const wire = openWire({
      config: { allowUnsafeRoles: true },
      dial: async (signal) => {
        const dialed = await inner.services.dial(signal);
        const write = dialed.socket.write.bind(dialed.socket);
        dialed.socket.write = (chunk: Uint8Array, ...rest: never[]) => {
          if (Buffer.from(chunk).includes("trigger")) throw new TypeError("a bug");
          return write(chunk, ...rest);
        };
        return dialed;
      },
    });
    const bad = await wire.logIn();
    expect(bad.client.isReady).toBe(true);
    bad.client.received = Buffer.alloc(0);
    bad.client.send(frontend.query("trigger"));
    await quiescence();
    expectLastWord(bad.client, "XX000");
    bad.client.socket.end();
    await quiescence();
    expect(await wire.metric("pgvpd_errors_total", { code: "internal" })).toBe(1);
    expect(inner.upstream.hasEnded).toBe(true);
    good.client.send(QUERY);
    await quiescence();
    expect(good.upstream.received).toEqual(QUERY);
    await wire.assertNothingLeft();
  });
});

describe("the log", () => {
  it("tells how a session ended, without what was said", async () => {
    const { client, wire } = await forwarding();
    client.send(frontend.query("select 'private'"), header("Q", 3), cstring("private"), int32(1));
    await quiescence();
    client.socket.end();
    await quiescence();
    expect(wire.log).toContainEqual(
      expect.objectContaining({ msg: "disconnected", code: "message_length", tenant: "acme" }),
    );
    expect(JSON.stringify(wire.log)).not.toContain("private");
  });
});
