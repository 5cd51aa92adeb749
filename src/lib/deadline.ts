/**
 * One limit over a chain of awaits: every step takes the same `signal`, and whatever ends the chain early - the time is
 * up, the peer is gone, the peer broke the protocol - aborts it once, with its reason.
 * Used with `using`, so that no path leaves the timer behind.
 */
import type { Clock } from "./clock.ts";

export class Deadline implements Disposable {
  readonly #controller = new AbortController();
  readonly #timer: Disposable;

  /** Aborts with what `expired()` returns when `limitMs` milliseconds have passed. */
  constructor(clock: Clock, limitMs: number, expired: () => Error) {
    this.#timer = clock.after(limitMs, () => this.abort(expired()));
  }

  /** Aborted when the chain must end; `signal.reason` is always an Error. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Ends the chain now. Only the first reason counts. */
  abort(reason: Error): void {
    this.#timer[Symbol.dispose]();
    this.#controller.abort(reason);
  }

  [Symbol.dispose](): void {
    this.#timer[Symbol.dispose]();
  }
}

/** Settles as `work` does, unless `signal` aborts first: then rejects with its reason. */
export function raceAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => reject(signal.reason as Error);
    if (signal.aborted) {
      work.catch(() => {});
      abort();
      return;
    }
    signal.addEventListener("abort", abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** Waits `delayMs` milliseconds; not at all for 0. @throws whatever aborts `signal`. */
export function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  if (delayMs <= 0) return Promise.resolve();
  let timer: Disposable | undefined;
  const over = new Promise<void>((resolve) => {
    timer = clock.after(delayMs, resolve);
  });
  return raceAbort(over, signal).finally(() => timer?.[Symbol.dispose]());
}
