/**
 * What goes on to the server of the bytes that a client has sent: all of it as it is, but for messages that are replaced,
 * and those of ours that are put before one. Nothing is copied until it is written.
 */
const NOTHING = Buffer.alloc(0);

export class Passage {
  /** The message that is read now: `bytes` from `at` to `end`, of which as much is here as up to `available`. */
  bytes: Buffer = NOTHING;
  at = 0;
  available = 0;
  end = 0;
  /** What is passed on next begins here. */
  #from = 0;
  #out: Buffer[] = [];

  /** A message is read now; what stands between `from` and it is passed on. */
  begin(bytes: Buffer, from: number, at: number, available: number, end: number): void {
    this.bytes = bytes;
    this.#from = from;
    this.at = at;
    this.available = available;
    this.end = end;
  }

  get isWhole(): boolean {
    return this.available === this.end;
  }

  get from(): number {
    return this.#from;
  }

  /** Puts `messages` before the message that is read now, or in its place, by what of it is passed on. */
  put(...messages: Buffer[]): void {
    this.pass(this.bytes, this.#from, this.at);
    this.#from = this.at;
    this.#out.push(...messages);
  }

  pass(bytes: Buffer, from: number, to: number): void {
    if (to > from) this.#out.push(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }

  /** All of it, to be written; undefined where there is nothing. */
  take(): Buffer | undefined {
    const out = this.#out;
    this.bytes = NOTHING;
    if (out.length === 0) return undefined;
    this.#out = [];
    return out.length === 1 ? out[0] : Buffer.concat(out);
  }
}
