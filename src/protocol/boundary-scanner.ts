/**
 * Follows message boundaries through a stream of chunks on the hot path: it reads each message's type and length and
 * skips the body, without copying, decoding or allocating. One instance for each direction of a session.
 *
 *     Byte1 type  Int32 length (counts itself, not the type)  body
 */
import { MAX_MESSAGE_LENGTH } from "./limits.ts";

export class BoundaryScanner {
  /** Bytes of the current message's body that are still to come. */
  #bodyLeft = 0;
  /** How many of the current message's 5 header bytes are there, while they are cut apart by a chunk's end. */
  #headerLength = 0;
  #lengthField = 0;
  #type = 0;

  /** Type byte of the message that began last; 0 before the first. */
  get lastType(): number {
    return this.#type;
  }

  /** True between two messages: the only place where a message of our own may be put. */
  get isAtBoundary(): boolean {
    return this.#bodyLeft === 0 && this.#headerLength === 0;
  }

  /** Bytes of the current message that are still to come; undefined while its header is cut apart. */
  get bytesLeft(): number | undefined {
    return this.#headerLength === 0 ? this.#bodyLeft : undefined;
  }

  /**
   * Moves over `length` bytes at the start of `chunk`.
   *
   * @returns false when a length field is below 4 or above 1 GiB: the stream is lost, and the scanner with it;
   *   `isAtBoundary` then still tells where the stream stood before this chunk.
   */
  advance(chunk: Uint8Array, length: number): boolean {
    const cutHeaderLength = this.#headerLength;
    let at = this.#bodyLeft;
    if (at > length) {
      this.#bodyLeft = at - length;
      return true;
    }
    if (this.#headerLength !== 0) {
      at = this.#finishHeader(chunk, at, length);
      if (at < 0) return this.#lose(cutHeaderLength);
    }
    while (at + 5 <= length) {
      const field =
        ((chunk[at + 1] as number) << 24) |
        ((chunk[at + 2] as number) << 16) |
        ((chunk[at + 3] as number) << 8) |
        (chunk[at + 4] as number);
      if (field < 4 || field > MAX_MESSAGE_LENGTH) return this.#lose(cutHeaderLength);
      this.#type = chunk[at] as number;
      at += field + 1;
    }
    if (at >= length) {
      this.#bodyLeft = at - length;
      return true;
    }
    this.#bodyLeft = 0;
    return this.#finishHeader(chunk, at, length) >= 0;
  }

  #lose(cutHeaderLength: number): false {
    this.#headerLength = cutHeaderLength;
    return false;
  }

  /** Takes header bytes one by one; returns where the message ends (it may lie behind the chunk), or -1. */
  #finishHeader(chunk: Uint8Array, start: number, length: number): number {
    let at = start;
    while (at < length) {
      const byte = chunk[at++] as number;
      if (this.#headerLength++ === 0) {
        this.#type = byte;
        this.#lengthField = 0;
        continue;
      }
      this.#lengthField = (this.#lengthField << 8) | byte;
      if (this.#headerLength === 5) {
        this.#headerLength = 0;
        if (this.#lengthField < 4 || this.#lengthField > MAX_MESSAGE_LENGTH) return -1;
        return at + this.#lengthField - 4;
      }
    }
    return at;
  }
}
