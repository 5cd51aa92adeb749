/**
 * Cuts a stream into whole messages during login, however the bytes arrive. It holds at most one incomplete message,
 * and says no to a length field before it holds anything of that message.
 * The hot path does not use it: see boundary-scanner.ts.
 */
import { ProxyError } from "../errors/proxy-error.ts";
import type { Message } from "./message.ts";

/** Bytes in the order of their arrival, taken from the front. */
export class ByteQueue {
  #chunks: Buffer[] = [];
  #length = 0;

  /** How many bytes wait to be taken. */
  get length(): number {
    return this.#length;
  }

  /** Appends `chunk`, which must not change any more. */
  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** The first `count` bytes, at least one, without taking them, or undefined while there are fewer. */
  peek(count: number): Buffer | undefined {
    if (this.#length < count) return undefined;
    let first = this.#chunks[0] as Buffer;
    if (first.length < count) {
      first = Buffer.concat(this.#chunks);
      this.#chunks = [first];
    }
    return first.subarray(0, count);
  }

  /** Takes the first `count` bytes, or nothing while there are fewer. */
  take(count: number): Buffer | undefined {
    const taken = this.peek(count);
    if (taken === undefined) return undefined;
    const first = this.#chunks[0] as Buffer;
    if (first.length === count) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(count);
    this.#length -= count;
    return taken;
  }

  /** Takes everything. */
  takeAll(): Buffer {
    const all = Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#length = 0;
    return all;
  }
}

/**
 * Takes the next complete message out of `queue`, or undefined while it is incomplete.
 *
 * @param maxLength the largest length field accepted, in bytes.
 * @param onlyType the only type accepted, where there is only one.
 * @throws ProxyError message_length (08P01) as soon as the length field is there; login_message (08P01) as soon as the
 *   type is.
 */
export function takeMessage(queue: ByteQueue, maxLength: number, onlyType?: number): Message | undefined {
  if (onlyType !== undefined && queue.length > 0 && queue.peek(1)?.[0] !== onlyType) {
    throw new ProxyError("login_message", { detail: `type ${queue.peek(1)?.[0]}` });
  }
  const header = queue.peek(5);
  if (header === undefined) return undefined;
  const length = header.readInt32BE(1);
  if (length < 4 || length > maxLength) {
    throw new ProxyError("message_length", { detail: `type ${header[0]}, length ${length}` });
  }
  const bytes = queue.take(length + 1);
  if (bytes === undefined) return undefined;
  return { type: bytes[0] as number, body: bytes.subarray(5), bytes };
}
