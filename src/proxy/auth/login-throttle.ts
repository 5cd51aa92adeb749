/**
 * Slows down who guesses: after five failed logins in a minute, each further login of that address and user waits before
 * it begins - a right one too, or the wait would tell the two apart. Logins that have begun are not held back, so that
 * many at once get through once; each failure of theirs counts for what comes after.
 */
import { createHash } from "node:crypto";
import type { Clock } from "../../lib/clock.ts";

const WINDOW_MS = 60_000;
/** Failures, each less than a minute after the last, that cost nothing. */
const FREE_FAILURES = 5;
const FIRST_DELAY_MS = 100;

/** What a flood of made-up names can take up, in each of the two tables. */
const MAX_PAIRS = 10_000;

interface Failures {
  readonly failures: number;
  readonly lastAt: number;
}

/** By address and user, the pair that failed last at the end. */
type Table = Map<string, Failures>;

/**
 * Pairs that have to wait are kept apart from those that do not yet. A flood of made-up names, which fail once each,
 * fills and renews the table of those that do not: a pair that waits stays. To push one out takes five failures of each
 * of 10,000 others, and to be forgotten before that takes 10,000 failures of others for four guesses: both are slower
 * than to wait.
 */
export class LoginThrottle {
  readonly #clock: Clock;
  readonly #maxDelayMs: number;
  readonly #free: Table = new Map();
  readonly #waiting: Table = new Map();

  /** @param maxDelayMs 0: nobody waits. */
  constructor(clock: Clock, maxDelayMs: number) {
    this.#clock = clock;
    this.#maxDelayMs = maxDelayMs;
  }

  /**
   * Milliseconds that a login has to wait before it begins.
   *
   * @param address of the client, without its port; undefined for a Unix-domain socket, where all clients are one.
   */
  delayFor(address: string | undefined, user: string): number {
    if (this.#waiting.size === 0) return 0;
    const failures = this.#failuresIn(this.#waiting, nameOf(address, user));
    return failures === 0 ? 0 : Math.min(FIRST_DELAY_MS * 2 ** (failures - FREE_FAILURES), this.#maxDelayMs);
  }

  /** A login has failed for want of the right password (28P01). */
  failed(address: string | undefined, user: string): void {
    if (this.#maxDelayMs === 0) return;
    const name = nameOf(address, user);
    const failures = 1 + (this.#failuresIn(this.#waiting, name) || this.#failuresIn(this.#free, name));
    this.#free.delete(name);
    this.#waiting.delete(name);
    const table = failures < FREE_FAILURES ? this.#free : this.#waiting;
    table.set(name, { failures, lastAt: this.#clock.now() });
    const [oldest] = table.keys();
    if (table.size > MAX_PAIRS && oldest !== undefined) table.delete(oldest);
  }

  /** 0 where the last failure is forgotten. */
  #failuresIn(table: Table, name: string): number {
    const record = table.get(name);
    return record !== undefined && this.#clock.now() - record.lastAt < WINDOW_MS ? record.failures : 0;
  }
}

/** A digest: a user name may have 10,000 bytes. */
function nameOf(address: string | undefined, user: string): string {
  return createHash("sha256")
    .update(JSON.stringify([address, user]))
    .digest("base64");
}
