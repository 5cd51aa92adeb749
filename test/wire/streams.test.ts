/** Much data in either direction: it arrives byte for byte, and who does not read slows down his own session only. */
import { describe, expect, it } from "vitest";
import { bytes, header, message } from "../support/bytes.ts";
import { quiescence, type MemorySocket } from "../support/duplex-pair.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { openWire, type WireConnection, type WireOptions } from "../support/wire-session.ts";

const MIB = 1024 * 1024;

/** More than this is never held for a peer that does not read: four buffers of 64 KiB in this test's pairs, and slack. */
const HELD = MIB / 2;

async function forwarding(options: WireOptions = {}): Promise<WireConnection & { upstream: MemorySocket }> {
  const wire = openWire({
    ...options,
    config: { allowUnsafeRoles: true },
    upstream: { play: async (upstream) => void (await upstream.logIn()) },
  });
  const connection = await wire.logIn({ answers: false });
  const upstream = wire.upstream.socket;
  for (const socket of [connection.client.socket, upstream]) socket.removeAllListeners("data").pause();
  return { ...connection, upstream };
}

/** Messages of random sizes, `size` bytes together. */
function randomMessages(random: SeededRandom, size: number): Buffer {
  const parts: Buffer[] = [];
  for (let left = size; left > 0;) {
    const length = random.oneIn(10) ? random.below(100_000) : random.below(300);
    const part = message("D", random.bytes(Math.min(length, 64)), Buffer.alloc(length, length));
    parts.push(part);
    left -= part.length;
  }
  return Buffer.concat(parts);
}

function writeInChunks(socket: MemorySocket, whole: Buffer, random: SeededRandom): void {
  for (let at = 0; at < whole.length;) {
    const length = random.oneIn(5) ? random.below(100_000) + 1 : random.below(2_000) + 1;
    socket.write(whole.subarray(at, at + length));
    at += length;
  }
}

function collect(socket: MemorySocket): Buffer[] {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk)).resume();
  return chunks;
}

describe("8 MiB in random chunks, both ways at once", () => {
  it.each([64, 4_096, 64 * 1024])("arrive byte for byte through sockets with room for %i bytes", async (capacity) => {
    const { client, upstream } = await forwarding({ pair: { capacity } });
    const random = new SeededRandom(capacity);
    const size = capacity === 64 ? MIB / 4 : 8 * MIB;
    const [up, down] = [randomMessages(random, size), randomMessages(random, size)];
    const [gotUp, gotDown] = [collect(upstream), collect(client.socket)];
    writeInChunks(client.socket, up, random);
    writeInChunks(upstream, down, random);
    await quiescence();
    expect(Buffer.concat(gotUp).equals(up)).toBe(true);
    expect(Buffer.concat(gotDown).equals(down)).toBe(true);
  });
});

describe("a peer that does not read", () => {
  const ways = ["client", "upstream"] as const;

  it.each(ways)("as %s stops the other side after half a MiB, and gets all of it later", async (slow) => {
    const { client, upstream } = await forwarding();
    const [reader, writer] = slow === "client" ? [client.socket, upstream] : [upstream, client.socket];
    const before = writer.bytesWritten;
    const all = randomMessages(new SeededRandom(1), 16 * MIB);
    writeInChunks(writer, all, new SeededRandom(2));
    await quiescence();
    expect(writer.bytesWritten - before).toBeLessThan(HELD);

    const got = collect(reader);
    await quiescence();
    expect(Buffer.concat(got).equals(all)).toBe(true);
  });

  it.each(ways)("as %s does not stop the other direction", async (slow) => {
    const { client, upstream } = await forwarding();
    const [reader, writer] = slow === "client" ? [client.socket, upstream] : [upstream, client.socket];
    writer.write(randomMessages(new SeededRandom(1), 4 * MIB));
    const got = collect(writer);
    const back = randomMessages(new SeededRandom(2), MIB);
    reader.write(back);
    await quiescence();
    expect(Buffer.concat(got).equals(back)).toBe(true);
  });

  it("gets the end only behind the data", async () => {
    const { client, upstream, session } = await forwarding();
    const all = randomMessages(new SeededRandom(1), 2 * MIB);
    client.socket.write(all);
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("forwarding");
    const got = collect(upstream);
    await quiescence();
    expect(session.state).toBe("half_closed");
    expect(Buffer.concat(got).equals(all)).toBe(true);
    expect(upstream.readableEnded).toBe(true);
  });

  it("holds a message of 1 GiB no more than any other", async () => {
    const { client, upstream } = await forwarding();
    const before = client.socket.bytesWritten;
    client.socket.write(bytes(header("B", 0x3fff_ffff), Buffer.alloc(4 * MIB)));
    await quiescence();
    expect(client.socket.bytesWritten - before).toBeLessThan(HELD);
    expect(upstream.destroyed).toBe(false);
  });

  it("and a client that is reset meanwhile leave nothing behind", async () => {
    const { client, upstream, session } = await forwarding();
    upstream.write(randomMessages(new SeededRandom(1), 4 * MIB));
    upstream.on("error", () => {});
    await quiescence();
    client.socket.destroy();
    await quiescence();
    expect(session.state).toBe("closed");
  });
});
