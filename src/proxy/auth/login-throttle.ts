/**
 * Slows down who guesses: after five failed logins in a minute, each further login of that address and user waits before
 * it begins - a right one too, or the wait would tell the two apart.
 */
import type { Clock } from "../../lib/clock.ts";

const WINDOW_MS = 60_000;
/** Failures in a row, each less than a minute after the last, that cost nothing. */
const FREE_FAILURES = 5;
const FIRST_DELAY_MS = 100;

/** What a flood of names can take up; beyond it the pair that failed longest ago is forgotten. */
const MAX_PAIRS = 10_000;

interface Failures {
  failures: number;
  lastAt: number;
}

export class LoginThrottle {
  readonly #clock: Clock;
  readonly #maxDelayMs: number;
  /** By address and user, the one that failed last at the end. */
  readonly #records = new Map<string, Failures>();

  /** @param maxDelayMs 0: nobody waits. */
  constructor(clock: Clock, maxDelayMs: number) {
    this.#clock = clock;
    this.#maxDelayMs = maxDelayMs;
  }

  /** Milliseconds that a login has to wait before it begins. */
  delayFor(address: string | undefined, user: string): number {
    const record = this.#find(nameOf(address, user));
    if (record === undefined || record.failures < FREE_FAILURES) return 0;
    return Math.min(FIRST_DELAY_MS * 2 ** (record.failures - FREE_FAILURES), this.#maxDelayMs);
  }

  /** A login has failed for want of the right password (28P01). */
  failed(address: string | undefined, user: string): void {
    if (this.#maxDelayMs === 0) return;
    const name = nameOf(address, user);
    const failures = (this.#find(name)?.failures ?? 0) + 1;
    this.#records.delete(name);
    this.#records.set(name, { failures, lastAt: this.#clock.now() });
    const [oldest] = this.#records.keys();
    if (this.#records.size > MAX_PAIRS && oldest !== undefined) this.#records.delete(oldest);
  }

  #find(name: string): Failures | undefined {
    const record = this.#records.get(name);
    return record !== undefined && this.#clock.now() - record.lastAt < WINDOW_MS ? record : undefined;
  }
}

function nameOf(address: string | undefined, user: string): string {
  return `${address ?? ""}\0${user}`;
}
