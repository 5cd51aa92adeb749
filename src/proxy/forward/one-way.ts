/**
 * One direction of a session after login: bytes go from one socket to the other as they come, while message boundaries
 * are followed. Synchronous, and nothing is allocated for a message. When the destination does not take all at once, the source is
 * not read until it has: memory is bounded by one read, and what a client does not read slows down its own server only.
 */
import type { Duplex } from "node:stream";
import { BoundaryScanner } from "../../protocol/boundary-scanner.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { ErrorCode } from "../../errors/catalogue.ts";
import { moveToDirectRead } from "../socket/direct-read.ts";

const NOTHING = Buffer.alloc(0);

export class OneWay {
  readonly scanner = new BoundaryScanner();
  #source: Duplex;
  #destination: Duplex | undefined;
  readonly #invalidCode: ErrorCode;
  readonly #onFailure: (failure: unknown) => void;
  readonly #beforePassing: ((bytes: Uint8Array, length: number) => number) | undefined;
  #isDiscarding = false;

  /**
   * Takes over `source`, which is paused and has no other reader. Nothing moves before `start`.
   *
   * @param onFailure called once, when the source breaks the framing (a ProxyError `invalidCode`) or something throws;
   *   nothing more is passed on then.
   * @param beforePassing sees bytes whose boundaries have been followed, and says how many of them are passed on.
   */
  constructor(
    source: Duplex,
    directRead: boolean,
    invalidCode: ErrorCode,
    onFailure: (failure: unknown) => void,
    beforePassing?: (bytes: Uint8Array, length: number) => number,
  ) {
    this.#beforePassing = beforePassing;
    this.#invalidCode = invalidCode;
    this.#onFailure = onFailure;
    const moved = directRead ? moveToDirectRead(source, this.#onBytes) : undefined;
    this.#source = moved ?? source;
    if (moved === undefined) {
      source.on("data", this.#onData);
      source.pause();
    }
  }

  /** The socket that the source has become: its old object may be an empty shell. */
  get source(): Duplex {
    return this.#source;
  }

  /** Begins to read, and to write to `destination`; `first` are bytes of the source that were read before. */
  start(destination: Duplex, first: Buffer): void {
    this.#destination = destination;
    if (first.length === 0 || this.#onBytes(first, first.length)) this.#source.resume();
  }

  /** From now on what comes is read and thrown away, so that the source's end is seen. */
  discard(): void {
    this.#isDiscarding = true;
    this.#source.resume();
  }

  /** Takes this reader off a socket that has stayed what it is. What comes from now on is somebody else's. */
  detach(): void {
    this.#isDiscarding = true;
    this.#source.pause();
    this.#source.off("data", this.#onData);
  }

  readonly #onData = (chunk: Buffer): void => {
    if (!this.#onBytes(chunk, chunk.length)) this.#source.pause();
  };

  readonly #onBytes = (bytes: Uint8Array, length: number): boolean => {
    if (this.#isDiscarding) return true;
    try {
      return this.#pass(bytes, length);
    } catch (failure) {
      this.#isDiscarding = true;
      this.#onFailure(failure);
      return true;
    }
  };

  /** Returns whether the source may be read on, that is, whether nothing refers to `bytes` any more. */
  #pass(bytes: Uint8Array, received: number): boolean {
    if (!this.scanner.advance(bytes, received)) throw new ProxyError(this.#invalidCode);
    const length = this.#beforePassing === undefined ? received : this.#beforePassing(bytes, received);
    if (length === 0) return true;
    const destination = this.#destination as Duplex;
    if (!destination.writable) return true;
    destination.write(length === bytes.length ? bytes : bytes.subarray(0, length));
    if (destination.writableLength === 0) return true;
    // An empty write is called back when all before it has left the process: then `bytes` may be overwritten.
    destination.write(NOTHING, this.#onFlushed);
    return false;
  }

  readonly #onFlushed = (error?: Error | null): void => {
    if (!this.#isDiscarding && (error === null || error === undefined)) this.#source.resume();
  };
}
