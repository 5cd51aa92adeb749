/**
 * Two sockets in memory, connected to each other, that behave as TCP sockets do in Node: a bounded buffer in between
 * stands for the kernel's, a write is accepted at once while there is room, each write arrives in a turn of the event
 * loop of its own, `end()` half-closes, and `destroy()` closes: the peer sees an end, or ECONNRESET when bytes were left
 * unread. Writing to a peer that is gone fails with EPIPE.
 */
import { Duplex } from "node:stream";

export interface PairOptions {
  /** Room between the two sockets, in bytes, for each direction. */
  readonly capacity?: number;
}

/** Both ends of a connection. */
export function duplexPair(options: PairOptions = {}): [MemorySocket, MemorySocket] {
  const { capacity = 64 * 1024 } = options;
  const there = new Pipe(capacity);
  const back = new Pipe(capacity);
  const near = new MemorySocket(back, there);
  const far = new MemorySocket(there, back);
  there.receiver = far;
  back.receiver = near;
  return [near, far];
}

let moves = 0;

/** Resolves when nothing has moved in any pair for a while: everybody waits for somebody else, or for a clock. */
export async function quiescence(): Promise<void> {
  for (let before = -1; before !== moves;) {
    before = moves;
    for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
}

/** One direction: what was accepted from the sender and not yet given to the receiver. */
class Pipe {
  receiver: MemorySocket | undefined;
  readonly #capacity: number;
  readonly #chunks: Buffer[] = [];
  #size = 0;
  #end: "open" | "ended" | "reset" = "open";
  #isWanted = false;
  #isScheduled = false;
  #waiting: { rest: Buffer; accepted: (error?: Error) => void } | undefined;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  get isEmpty(): boolean {
    return this.#size === 0;
  }

  /** Copies `bytes` as far as there is room, and calls back when all of them were taken. */
  accept(bytes: Buffer, accepted: (error?: Error) => void): void {
    moves++;
    if (this.receiver?.destroyed !== false) {
      accepted(socketError("EPIPE"));
      return;
    }
    const taken = bytes.subarray(0, this.#capacity - this.#size);
    if (taken.length > 0) {
      this.#chunks.push(Buffer.from(taken));
      this.#size += taken.length;
    }
    if (taken.length < bytes.length) this.#waiting = { rest: bytes.subarray(taken.length), accepted };
    this.#schedule();
    if (taken.length === bytes.length) accepted();
  }

  /** Nothing more will come. A reset overtakes an end, not the bytes before it. */
  finish(how: "ended" | "reset"): void {
    moves++;
    if (this.#end !== "reset") this.#end = how;
    if (how === "reset") this.#isWanted = true;
    this.#refuseWaiting();
    this.#schedule();
  }

  /** The receiver is gone: what waits for room will never get it. */
  break(): void {
    this.#chunks.length = 0;
    this.#size = 0;
    this.#refuseWaiting();
  }

  want(): void {
    this.#isWanted = true;
    this.#schedule();
  }

  #refuseWaiting(): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.accepted(socketError("EPIPE"));
  }

  #schedule(): void {
    if (this.#isScheduled || !this.#isWanted) return;
    if (this.#chunks.length === 0 && this.#end === "open") return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    const receiver = this.receiver;
    if (receiver === undefined || receiver.destroyed) return;
    moves++;
    const chunk = this.#chunks.shift();
    if (chunk === undefined) {
      this.#isWanted = false;
      if (this.#end === "reset") receiver.destroy(socketError("ECONNRESET"));
      else receiver.push(null);
      return;
    }
    this.#size -= chunk.length;
    this.#isWanted = receiver.push(chunk);
    const waiting = this.#waiting;
    if (waiting !== undefined) {
      this.#waiting = undefined;
      this.accept(waiting.rest, waiting.accepted);
    }
    if (this.#end === "reset") this.#isWanted = true;
    this.#schedule();
  }
}

export class MemorySocket extends Duplex {
  readonly #incoming: Pipe;
  readonly #outgoing: Pipe;
  /** Bytes that were accepted for the other side. */
  bytesWritten = 0;

  constructor(incoming: Pipe, outgoing: Pipe) {
    super({ allowHalfOpen: true });
    this.#incoming = incoming;
    this.#outgoing = outgoing;
  }

  override _read(): void {
    this.#incoming.want();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error) => void): void {
    this.#outgoing.accept(chunk, (error) => {
      if (error === undefined) this.bytesWritten += chunk.length;
      callback(error);
    });
  }

  override _final(callback: () => void): void {
    this.#outgoing.finish("ended");
    callback();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    const hasUnread = this.readableLength > 0 || !this.#incoming.isEmpty;
    this.#incoming.break();
    this.#outgoing.finish(hasUnread ? "reset" : "ended");
    callback(error);
  }
}

function socketError(code: "EPIPE" | "ECONNRESET"): Error {
  return Object.assign(new Error(code), { code });
}
