/** A clock that stands still until a test moves it, and knows the timers that are open. */
import type { Clock } from "../../src/lib/clock.ts";

interface Timer {
  readonly at: number;
  readonly callback: () => void;
}

export class FakeClock implements Clock {
  #now = 1_000;
  readonly #timers = new Set<Timer>();

  /** Delays, from now, of the timers that nobody has disposed of and that have not fired. */
  get openTimers(): number[] {
    return [...this.#timers].map(({ at }) => at - this.#now);
  }

  now(): number {
    return this.#now;
  }

  after(delayMs: number, callback: () => void): Disposable {
    const timer = { at: this.#now + delayMs, callback };
    this.#timers.add(timer);
    return { [Symbol.dispose]: () => void this.#timers.delete(timer) };
  }

  /** Moves on by `ms` milliseconds and fires what is due, in order. */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(({ at }) => at <= end).toSorted((a, b) => a.at - b.at)[0];
      if (due === undefined) break;
      this.#timers.delete(due);
      this.#now = Math.max(this.#now, due.at);
      due.callback();
    }
    this.#now = end;
  }
}
