/**
 * The two readers of message boundaries: takeMessage, which login uses, and BoundaryScanner, which forwarding uses. Both
 * see the same messages, wherever a stream is cut into chunks.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BoundaryScanner } from "../../../src/protocol/boundary-scanner.ts";
import { encodeMessage } from "../../../src/protocol/message.ts";
import { ByteQueue, takeMessage } from "../../../src/protocol/message-splitter.ts";
import { bytes, header, message } from "../../support/bytes.ts";
import { sqlstateOf } from "../../support/proxy-error-of.ts";

const ONE_GIB = 0x3fff_ffff;

/** Messages of all small sizes: an empty one, two behind each other, one that holds a header's bytes. */
const STREAM = bytes(
  message("S"), // 5 bytes, no body
  message("S"),
  message("Q", "x"),
  message("D", Buffer.of(0, 0, 0, 4, 0x5a, 0, 0, 0, 5)), // a body that looks like a message
  message("Z", "I"),
);
const MESSAGES = ["S", "S", "Q", "D", "Z"];

function chunksAt(stream: Buffer, cuts: readonly number[]): Buffer[] {
  const edges = [0, ...cuts.toSorted((a, b) => a - b), stream.length];
  return edges.slice(1).map((end, index) => stream.subarray(edges[index], end));
}

function split(chunks: readonly Buffer[], maxLength = 65_536): string[] {
  const queue = new ByteQueue();
  const types: string[] = [];
  for (const chunk of chunks) {
    queue.push(chunk);
    for (let next = takeMessage(queue, maxLength); next !== undefined; next = takeMessage(queue, maxLength)) {
      expect(next.bytes).toEqual(encodeMessage(next.type, next.body));
      types.push(String.fromCharCode(next.type));
    }
  }
  return types;
}

/** The offsets in the stream at which the scanner says it stands between two messages, one for each chunk. */
function boundaries(chunks: readonly Buffer[]): number[] {
  const scanner = new BoundaryScanner();
  const found: number[] = [];
  let offset = 0;
  for (const chunk of chunks) {
    expect(scanner.advance(chunk, chunk.length)).toBe(true);
    offset += chunk.length;
    if (scanner.isAtBoundary) found.push(offset);
  }
  return found;
}

describe("a stream that is cut", () => {
  it("at any two bytes gives the same messages", () => {
    for (let first = 0; first <= STREAM.length; first++) {
      for (let second = first; second <= STREAM.length; second++) {
        expect(split(chunksAt(STREAM, [first, second]))).toEqual(MESSAGES);
      }
    }
  });

  it("into single bytes gives the same messages", () => {
    expect(split([...STREAM].map((byte) => Buffer.of(byte)))).toEqual(MESSAGES);
  });

  it("into single bytes is at a boundary behind each message and nowhere else", () => {
    expect(boundaries([...STREAM].map((byte) => Buffer.of(byte)))).toEqual([5, 10, 16, 30, 36]);
  });

  it("at any two bytes is at a boundary where a cut is one", () => {
    const all = [0, 5, 10, 16, 30, 36];
    for (let first = 1; first <= STREAM.length; first++) {
      for (let second = first; second <= STREAM.length; second++) {
        const chunks = chunksAt(STREAM, [first, second]);
        const ends = [first, second, STREAM.length];
        expect(boundaries(chunks)).toEqual(ends.filter((end) => all.includes(end)));
      }
    }
  });

  it("anywhere gives both readers the same answer", () => {
    const body = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
    const messages = fc.array(fc.record({ type: fc.nat({ max: 255 }), body }), { minLength: 1, maxLength: 12 });
    fc.assert(
      fc.property(messages, fc.array(fc.nat({ max: 3_000 }), { maxLength: 20 }), (list, cuts) => {
        const stream = Buffer.concat(list.map(({ type, body: content }) => encodeMessage(type, content)));
        const chunks = chunksAt(
          stream,
          cuts.map((cut) => cut % (stream.length + 1)),
        ).filter((chunk) => chunk.length > 0);
        const types = list.map(({ type }) => String.fromCharCode(type));
        expect(split(chunks)).toEqual(types);
        expect(boundaries(chunks).at(-1)).toBe(stream.length);
      }),
    );
  });
});

describe("takeMessage", () => {
  const take = (stream: Buffer, maxLength: number): unknown => {
    const queue = new ByteQueue();
    queue.push(stream);
    return takeMessage(queue, maxLength);
  };

  it.each([3, 0, -1, -0x8000_0000, 65_536, 0x7fff_ffff])(
    "refuses a length of %i with 08P01 as soon as its 5 bytes of header are there",
    (length) => {
      expect(sqlstateOf(() => take(header("p", length), 65_535))).toBe("08P01");
    },
  );

  it.each([4, 65_535])("waits for the rest of a message of length %i", (length) => {
    expect(take(header("p", length), 65_535)).toEqual(
      length === 4 ? expect.objectContaining({ body: Buffer.alloc(0) }) : undefined,
    );
  });

  it("refuses a type that is not the only one with 08P01, as soon as its byte is there", () => {
    const takeOnly = (stream: Buffer): unknown => {
      const queue = new ByteQueue();
      queue.push(stream);
      return takeMessage(queue, 100, "p".charCodeAt(0));
    };
    expect(takeOnly(Buffer.alloc(0))).toBeUndefined();
    expect(takeOnly(Buffer.from("p"))).toBeUndefined();
    expect(takeOnly(message("p"))).toMatchObject({ bytes: message("p") });
    expect(sqlstateOf(() => takeOnly(Buffer.from("Q")))).toBe("08P01");
    expect(sqlstateOf(() => takeOnly(Buffer.alloc(1)))).toBe("08P01");
  });

  it("says nothing before the header is whole, whatever its bytes are", () => {
    for (let length = 0; length < 5; length++) expect(take(Buffer.alloc(length, 0xff), 65_535)).toBeUndefined();
  });

  it("leaves what is behind the message in the queue", () => {
    const queue = new ByteQueue();
    queue.push(bytes(message("p", "x"), "rest"));
    takeMessage(queue, 100);
    expect(queue.length).toBe(4);
    expect(queue.takeAll().toString()).toBe("rest");
    expect(queue.length).toBe(0);
  });
});

describe("BoundaryScanner", () => {
  const scan = (...chunks: Buffer[]): { scanner: BoundaryScanner; accepted: boolean } => {
    const scanner = new BoundaryScanner();
    const accepted = chunks.every((chunk) => scanner.advance(chunk, chunk.length));
    return { scanner, accepted };
  };

  it("begins at a boundary, without a type", () => {
    const { scanner } = scan();
    expect(scanner.isAtBoundary).toBe(true);
    expect(scanner.lastType).toBe(0);
  });

  it("tells the type of the message that began last, from its first byte on", () => {
    const { scanner } = scan(bytes(message("Q", "abc"), "X"));
    expect(scanner.lastType).toBe("X".charCodeAt(0));
    expect(scanner.isAtBoundary).toBe(false);
  });

  it("reads only the first `length` bytes of the chunk", () => {
    const scanner = new BoundaryScanner();
    expect(scanner.advance(bytes(message("S"), header("S", 0)), 5)).toBe(true);
    expect(scanner.isAtBoundary).toBe(true);
  });

  it.each([3, 0, -1, ONE_GIB + 1, 0x7fff_ffff, -0x8000_0000])(
    "refuses a length of %i, whole or cut anywhere",
    (length) => {
      const bad = bytes(message("S"), header("Q", length));
      expect(scan(bad).accepted).toBe(false);
      for (let cut = 1; cut < bad.length; cut++) expect(scan(...chunksAt(bad, [cut])).accepted).toBe(false);
    },
  );

  it("follows a message of the largest size without holding it", () => {
    const scanner = new BoundaryScanner();
    const first = header("d", ONE_GIB);
    expect(scanner.advance(first, first.length)).toBe(true);
    const chunk = Buffer.alloc(1024 * 1024);
    let left = ONE_GIB - 4;
    while (left > 0) {
      expect(scanner.isAtBoundary).toBe(false);
      const length = Math.min(left, chunk.length);
      expect(scanner.advance(chunk, length)).toBe(true);
      left -= length;
    }
    expect(scanner.isAtBoundary).toBe(true);
  });

  // What was scanned before has been passed on already. A header that is cut by a chunk's end is half a message for
  // the receiver, even when its other half turns out to be invalid: nothing may be put behind it.
  it("is not at a boundary when a cut header turns out to be invalid", () => {
    for (let cut = 1; cut < 5; cut++) {
      const { scanner, accepted } = scan(...chunksAt(header("D", 3), [cut]));
      expect(accepted).toBe(false);
      expect(scanner.isAtBoundary).toBe(false);
    }
  });

  it("is not at a boundary when a message behind a cut header is invalid", () => {
    for (let cut = 1; cut < 5; cut++) {
      const { scanner, accepted } = scan(...chunksAt(bytes(message("D", "x"), header("D", 3)), [cut]));
      expect(accepted).toBe(false);
      expect(scanner.isAtBoundary).toBe(false);
    }
  });

  it("is not at a boundary when a message behind a cut body is invalid", () => {
    const { scanner, accepted } = scan(...chunksAt(bytes(message("D", "xyz"), header("D", 3)), [6]));
    expect(accepted).toBe(false);
    expect(scanner.isAtBoundary).toBe(false);
  });

  it("is still at the boundary before the chunk when all of the invalid chunk is behind it", () => {
    const { scanner, accepted } = scan(message("D", "x"), bytes(message("D", "x"), header("D", 3)));
    expect(accepted).toBe(false);
    expect(scanner.isAtBoundary).toBe(true);
  });
});
