/**
 * Time grows with the size of the input and no faster. Nothing is timed: bytes that are looked at or copied are counted,
 * for one input and for one of twice its size.
 */
import { describe, expect, it, vi } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import { BoundaryScanner } from "../../src/protocol/boundary-scanner.ts";
import { ByteQueue, takeMessage } from "../../src/protocol/message-splitter.ts";
import { parseStartupOptions } from "../../src/protocol/startup-options.ts";
import { decodeStartupPacket } from "../../src/protocol/startup.ts";
import { header, int32, message, startupPacket } from "../support/bytes.ts";

/** `buffer`, and how often one of its bytes was read by index. */
function counted(buffer: Buffer): { view: Buffer; reads: () => number } {
  let reads = 0;
  const view = new Proxy(buffer, {
    get(target, key) {
      if (typeof key === "string" && /^\d+$/.test(key)) reads++;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value as () => unknown).bind(target) : value;
    },
  });
  return { view, reads: () => reads };
}

function unlessRefused(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof ProxyError)) throw error;
  }
}

const SIZE = 4_096;

describe("the options parser", () => {
  it.each(["\\", " ", "-", "=", "-c a=b ", "\\ ", "-c ", "a", "--a=", "-c a=\\"])(
    "looks at each byte of repeated %j at most four times",
    (piece) => {
      for (const size of [SIZE, 2 * SIZE]) {
        const options = Buffer.from(piece.repeat(Math.ceil(size / piece.length)));
        const { view, reads } = counted(options);
        unlessRefused(() => parseStartupOptions(view));
        expect(reads()).toBeLessThanOrEqual(4 * options.length);
      }
    },
  );
});

describe("the startup decoder", () => {
  it.each(["a\0", "a\0b\0", "\0", "ab", "aaaaaaaaaaaaaaa\0"])("scans each byte of repeated %j once", (piece) => {
    const packet = startupPacket(int32(196_608), piece.repeat(Math.floor(9_900 / piece.length)));
    let scanned = 0;
    const indexOf = packet.indexOf.bind(packet);
    const counting = (value: number, from: number): number => {
      const found = indexOf(value, from);
      scanned += (found === -1 ? packet.length : found + 1) - from;
      return found;
    };
    packet.indexOf = counting as Buffer["indexOf"];
    unlessRefused(() => decodeStartupPacket(packet));
    expect(scanned).toBeLessThanOrEqual(packet.length + 1);
  });
});

describe("the boundary scanner", () => {
  const streams: [string, Buffer][] = [
    ["empty messages", Buffer.concat(Array.from({ length: 2_000 }, () => message("S")))],
    ["one message", message("d", Buffer.alloc(10_000))],
    ["a message that does not end", header("d", 1_000_000)],
  ];
  it.each(streams)("reads five bytes for each message of %s, however they are cut", (_name, stream) => {
    for (const size of [1, 3, 1_000]) {
      const scanner = new BoundaryScanner();
      let total = 0;
      for (let at = 0; at < stream.length; at += size) {
        const { view, reads } = counted(stream.subarray(at, at + size));
        scanner.advance(view, view.length);
        total += reads();
      }
      expect(total).toBeLessThanOrEqual(stream.length);
    }
  });
});

describe("the splitter", () => {
  it.each([1, 7, 4_096])("copies each byte of a message that comes in pieces of %i at most twice", (size) => {
    const stream = message("p", Buffer.alloc(60_000));
    let copied = 0;
    const concat = Buffer.concat.bind(Buffer);
    const spy = vi.spyOn(Buffer, "concat").mockImplementation((list, total) => {
      const joined = concat(list, total);
      copied += joined.length;
      return joined;
    });
    try {
      const queue = new ByteQueue();
      let taken = 0;
      for (let at = 0; at < stream.length; at += size) {
        queue.push(stream.subarray(at, at + size));
        if (takeMessage(queue, 65_535) !== undefined) taken++;
      }
      expect(taken).toBe(1);
      expect(copied).toBeLessThanOrEqual(2 * stream.length);
    } finally {
      spy.mockRestore();
    }
  });
});
