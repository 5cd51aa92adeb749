/**
 * Random and damaged streams for the two readers of message boundaries, in random chunks. A parser of whole streams that
 * is too simple to be wrong says what must come out.
 */
import { expect, it } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import { BoundaryScanner } from "../../src/protocol/boundary-scanner.ts";
import { ByteQueue, takeMessage } from "../../src/protocol/message-splitter.ts";
import { FUZZ_RUNS, fuzz, type SeededRandom } from "../support/seeded-random.ts";

const RUNS = Math.ceil(FUZZ_RUNS * 0.3);
const MAX_LENGTH = 0x3fff_ffff;

interface Expected {
  /** Offsets behind each whole message. */
  readonly ends: number[];
  /** Offset of the first header that is whole and invalid, or -1. */
  readonly invalidAt: number;
}

function parse(stream: Buffer, maxLength: number): Expected {
  const ends: number[] = [];
  let at = 0;
  while (at + 5 <= stream.length) {
    const length = stream.readInt32BE(at + 1);
    if (length < 4 || length > maxLength) return { ends, invalidAt: at };
    if (at + 1 + length > stream.length) return { ends, invalidAt: -1 };
    at += 1 + length;
    ends.push(at);
  }
  return { ends, invalidAt: -1 };
}

function randomStream(random: SeededRandom): Buffer {
  if (random.oneIn(8)) return random.bytes(random.below(60));
  const parts: Buffer[] = [];
  for (let count = random.below(6); count > 0; count--) {
    const body = random.bytes(random.oneIn(20) ? random.below(600) : random.below(24));
    const header = Buffer.alloc(5);
    header[0] = random.below(256);
    const length = random.oneIn(12)
      ? random.pick([3, 0, -1, 5, 300, MAX_LENGTH, MAX_LENGTH + 1, 2 ** 31 - 1])
      : body.length + 4;
    header.writeInt32BE(length | 0, 1);
    parts.push(header, body);
  }
  const stream = Buffer.concat(parts);
  return random.oneIn(2) ? random.mutate(stream) : stream;
}

function* chunksOf(stream: Buffer, random: SeededRandom): Generator<Buffer> {
  const largest = random.pick([1, 3, 8, 64, 1_000]);
  for (let at = 0; at < stream.length;) {
    const end = Math.min(stream.length, at + 1 + random.below(largest));
    yield stream.subarray(at, end);
    at = end;
  }
}

function check(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

function checkScanner(stream: Buffer, random: SeededRandom): void {
  const { ends, invalidAt } = parse(stream, MAX_LENGTH);
  const isEnd = new Set([0, ...ends]);
  const scanner = new BoundaryScanner();
  let offset = 0;
  for (const chunk of chunksOf(stream, random)) {
    const before = offset;
    offset += chunk.length;
    const accepted = scanner.advance(chunk, chunk.length);
    const mustRefuse = invalidAt >= 0 && offset >= invalidAt + 5;
    check(accepted === !mustRefuse, `advance to byte ${offset} gave ${accepted}`);
    const boundary = accepted ? offset : before;
    check(scanner.isAtBoundary === isEnd.has(boundary), `isAtBoundary at byte ${boundary} is ${scanner.isAtBoundary}`);
    if (!accepted) return;
  }
}

function checkSplitter(stream: Buffer, random: SeededRandom): void {
  const maxLength = random.pick([4, 100, 65_535]);
  const { ends, invalidAt } = parse(stream, maxLength);
  const queue = new ByteQueue();
  let offset = 0;
  let taken = 0;
  let start = 0;
  try {
    for (const chunk of chunksOf(stream, random)) {
      queue.push(chunk);
      offset += chunk.length;
      for (let next = takeMessage(queue, maxLength); next !== undefined; next = takeMessage(queue, maxLength)) {
        const end = ends[taken++] ?? -1;
        check(end <= offset, "a message before its last byte");
        check(next.bytes.equals(stream.subarray(start, end)), `message ${taken} has other bytes`);
        check(next.type === stream[start] && next.body.equals(stream.subarray(start + 5, end)), "other type or body");
        start = end;
      }
      check(queue.length === offset - start, "bytes got lost");
      check(queue.length < maxLength + 1 || invalidAt >= 0, "a whole message was left");
    }
  } catch (error) {
    check(error instanceof ProxyError, `threw ${String(error)}`);
    check(
      invalidAt === start && offset >= invalidAt + 5,
      `refused at byte ${offset}, the stream is invalid at ${invalidAt}`,
    );
    return;
  }
  check(invalidAt < 0 || offset < invalidAt + 5, "an invalid header was accepted");
  check(taken === ends.length, `${taken} of ${ends.length} messages`);
}

it(
  `follows ${RUNS.toLocaleString("en")} random streams as a parser of the whole stream does`,
  { timeout: 600_000 },
  () => {
    fuzz(RUNS, (random) => {
      const stream = randomStream(random);
      if (random.oneIn(2)) checkScanner(stream, random);
      else checkSplitter(stream, random);
    });
    expect(RUNS).toBeGreaterThan(0);
  },
);
