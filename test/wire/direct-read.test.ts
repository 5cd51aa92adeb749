/**
 * Forwarding between real sockets of this machine, read straight into one buffer: what the buffer holds may be
 * overwritten as soon as a socket is read again, so slow readers on both sides are where bytes would be lost.
 */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import { Deadline } from "../../src/lib/deadline.ts";
import { isDirectReadSafe } from "../../src/proxy/socket/direct-read-check.ts";
import { Forwarding } from "../../src/proxy/forward/forward.ts";
import { bytes, errorFields, header, message, readMessages, server } from "../support/bytes.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { testConfig } from "../support/test-config.ts";

const MIB = 1024 * 1024;
const ROW = server.dataRow("a value");

/** Both ends of a TCP connection, paused, as the listener and the dialer make them. */
async function tcpPair(): Promise<[Socket, Socket]> {
  const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  const { port } = listener.address() as AddressInfo;
  const near = connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
  const [[far]] = (await Promise.all([once(listener, "connection"), once(near, "connect")])) as [[Socket], unknown];
  listener.close();
  for (const socket of [near, far]) socket.on("error", () => {});
  onTestFinished(() => {
    near.destroy();
    far.destroy();
  });
  return [near, far];
}

interface Forwarded {
  readonly client: Socket;
  readonly upstream: Socket;
  readonly forwarding: Forwarding;
  readonly ended: Promise<ProxyError | undefined>;
  readonly clock: FakeClock;
  readonly states: string[];
}

async function forward(
  greeting: Buffer = server.readyForQuery(),
  unread: Buffer = Buffer.alloc(0),
): Promise<Forwarded> {
  const [client, clientSide] = await tcpPair();
  const [upstreamSide, upstream] = await tcpPair();
  const clock = new FakeClock();
  const states: string[] = [];
  const services = { config: testConfig(), clock, directRead: true };
  const forwarding = new Forwarding(clientSide, upstreamSide, services, {
    onHalfClosed: () => void states.push("half_closed"),
    onClosing: () => {},
  });
  expect(forwarding.client).not.toBe(clientSide);
  expect(forwarding.upstream).not.toBe(upstreamSide);
  onTestFinished(() => {
    expect(clock.openTimers).toEqual([]);
    expect([forwarding.client.destroyed, forwarding.upstream.destroyed]).toEqual([true, true]);
  });
  forwarding.start(greeting, unread);
  return { client, upstream, forwarding, clock, states, ended: forwarding.ended };
}

/** Everything that comes until the end; reads in fits and starts when it is given random numbers. */
async function readAll(socket: Socket, random?: SeededRandom): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    if (random?.oneIn(3) !== true) return;
    socket.pause();
    let turns = random.below(40);
    const wait = (): void => void (turns-- > 0 ? setImmediate(wait) : socket.resume());
    wait();
  });
  socket.resume();
  if (!socket.readableEnded) await Promise.race([once(socket, "end"), once(socket, "close")]);
  return Buffer.concat(chunks);
}

function randomMessages(random: SeededRandom, size: number): Buffer {
  const parts: Buffer[] = [];
  for (let left = size; left > 0;) {
    const length = random.oneIn(10) ? random.below(300_000) : random.below(300);
    const part = message("D", random.bytes(16), Buffer.alloc(length, random.below(256)));
    parts.push(part);
    left -= part.length;
  }
  return Buffer.concat(parts);
}

it("works with the Node.js that runs this test", async () => {
  using deadline = new Deadline(new FakeClock(), 1_000, () => new Error("too slow"));
  expect(await isDirectReadSafe(deadline.signal)).toBe(true);
});

describe("with direct reads", () => {
  it.each([1, 2, 3])("16 MiB each way arrive byte for byte at readers in fits and starts (seed %i)", async (seed) => {
    const random = new SeededRandom(seed);
    const { client, upstream, ended } = await forward(Buffer.alloc(0));
    const [up, down] = [randomMessages(random, 16 * MIB), randomMessages(random, 16 * MIB)];
    const readers = Promise.all([readAll(client, random), readAll(upstream, random)]);
    upstream.write(down);
    client.end(up);
    upstream.once("end", () => upstream.end());
    const [gotDown, gotUp] = await readers;
    expect(gotUp.equals(up)).toBe(true);
    expect(gotDown.equals(down)).toBe(true);
    expect(await ended).toBeUndefined();
  });

  it("greeting, bytes left of the login and what follows arrive in this order", async () => {
    const { client, upstream, ended } = await forward(server.readyForQuery(), ROW);
    upstream.end(bytes(ROW, server.error("57P01", "the end")));
    expect(await readAll(client)).toEqual(bytes(server.readyForQuery(), ROW, ROW, server.error("57P01", "the end")));
    client.end();
    expect(await ended).toBeUndefined();
  });

  it("the client's end is passed on, and answers still reach it", async () => {
    const { client, upstream, ended, states } = await forward(Buffer.alloc(0));
    client.end(message("Q", "x\0"));
    expect(await readAll(upstream)).toEqual(message("Q", "x\0"));
    expect(states).toEqual(["half_closed"]);
    upstream.end(ROW);
    expect(await readAll(client)).toEqual(ROW);
    expect(await ended).toBeUndefined();
  });

  it("an impossible length of the client is FATAL 08P01, and the upstream is closed", async () => {
    const { client, upstream, ended } = await forward(Buffer.alloc(0));
    client.write(header("Q", 3));
    const said = await readAll(client);
    expect(errorFields(readMessages(said).messages[0]?.body ?? Buffer.alloc(0))["C"]).toBe("08P01");
    await readAll(upstream);
    client.end();
    expect((await ended)?.code).toBe("message_length");
  });

  it("a lost upstream is FATAL 08006 between two messages, and a close in the middle of one", async () => {
    for (const [sent, sqlstate] of [
      [ROW, "08006"],
      [ROW.subarray(0, 7), undefined],
    ] as const) {
      const { client, upstream, ended } = await forward(Buffer.alloc(0));
      upstream.end(sent);
      const said = await readAll(client);
      expect(said.subarray(0, sent.length)).toEqual(sent);
      const after = readMessages(said.subarray(sent.length)).messages[0];
      expect(after === undefined ? undefined : errorFields(after.body)["C"]).toBe(sqlstate);
      client.end();
      expect((await ended)?.code).toBe("upstream_lost");
    }
  });

  it("a client that is reset closes the upstream", async () => {
    const { client, upstream, ended } = await forward();
    client.resetAndDestroy();
    await readAll(upstream);
    expect(await ended).toBeUndefined();
  });

  it("terminate says 57P01 and closes both", async () => {
    const { client, upstream, forwarding, ended } = await forward(Buffer.alloc(0));
    forwarding.terminate(new ProxyError("shutdown"));
    const said = await readAll(client);
    expect(errorFields(readMessages(said).messages[0]?.body ?? Buffer.alloc(0))["C"]).toBe("57P01");
    await readAll(upstream);
    client.end();
    expect((await ended)?.code).toBe("shutdown");
  });
});
