/**
 * Time, as everything in pgvpd asks for it: a monotonic reading and a timer that is given back with `using`.
 * Tests hand in a clock of their own; no other file calls setTimeout or Date.
 */

export interface Clock {
  /** Milliseconds since an arbitrary start; never goes back. */
  now(): number;
  /** Calls `callback` once after `delayMs`; disposing of the timer before then cancels it. */
  after(delayMs: number, callback: () => void): Disposable;
}

/** The process's real clock. Its timers keep the process alive until they are disposed of. */
export const systemClock: Clock = {
  now: () => performance.now(),
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return { [Symbol.dispose]: () => clearTimeout(timer) };
  },
};
