/**
 * The memory that a socket is read into: small while it carries small messages, so that an idle client costs little;
 * as large as one read of the kernel can be while it carries more. Buffers are used again, since making one for each
 * connection keeps the garbage collector busy.
 */
const SMALL_BYTES = 2 * 1024;
const LARGE_BYTES = 64 * 1024;

/** A large buffer goes back after so many reads in a row that the small one would have held. */
const QUIET_READS = 64;

/** How many buffers of each size wait to be used again: 4 MiB of each. */
const MAX_FREE_SMALL = 2048;
const MAX_FREE_LARGE = 64;

const freeSmall: Buffer[] = [];
const freeLarge: Buffer[] = [];

export class ReadBuffer {
  #current: Buffer = freeSmall.pop() ?? Buffer.allocUnsafeSlow(SMALL_BYTES);
  #quietReads = 0;

  /** What the socket reads into now. */
  get current(): Buffer {
    return this.#current;
  }

  /**
   * Chooses the buffer of the next read.
   *
   * @param length how many bytes the last read has brought.
   * @param isFree whether nobody refers to those bytes any more; else the buffer is left to whoever does.
   * @returns the buffer, when it is another one.
   */
  afterRead(length: number, isFree: boolean): Buffer | undefined {
    if (this.#current.length === SMALL_BYTES) {
      if (length < SMALL_BYTES) return undefined;
      return this.#change(freeLarge.pop() ?? Buffer.allocUnsafeSlow(LARGE_BYTES), isFree);
    }
    this.#quietReads = length < SMALL_BYTES ? this.#quietReads + 1 : 0;
    if (this.#quietReads < QUIET_READS || !isFree) return undefined;
    return this.#change(freeSmall.pop() ?? Buffer.allocUnsafeSlow(SMALL_BYTES), isFree);
  }

  /** Leaves the buffer to whoever refers to it. @returns another one of the same size. */
  replace(): Buffer {
    const isSmall = this.#current.length === SMALL_BYTES;
    const next = (isSmall ? freeSmall : freeLarge).pop() ?? Buffer.allocUnsafeSlow(this.#current.length);
    this.#change(next, false);
    return next;
  }

  /** Gives the buffer back when the socket reads no more. */
  release(isFree: boolean): void {
    this.#change(NONE, isFree);
  }

  #change(next: Buffer, isFree: boolean): Buffer {
    const last = this.#current;
    this.#current = next;
    this.#quietReads = 0;
    if (isFree && last.length === SMALL_BYTES && freeSmall.length < MAX_FREE_SMALL) freeSmall.push(last);
    if (isFree && last.length === LARGE_BYTES && freeLarge.length < MAX_FREE_LARGE) freeLarge.push(last);
    return next;
  }
}

const NONE = Buffer.alloc(0);
