/**
 * Looks at many things again and again, each in its own interval, with one timer for all of them. Coarse: a look comes up
 * to a tick late, and intervals are whole ticks. While there is nothing to look at there is no timer.
 */
import type { Clock } from "./clock.ts";

const TICK_MS = 50;
const SLOTS = 64;

interface Entry {
  readonly ticks: number;
  readonly look: () => void;
  slot: Set<Entry>;
}

export class TimerWheel {
  readonly #clock: Clock;
  readonly #slots: readonly Set<Entry>[] = Array.from({ length: SLOTS }, () => new Set());
  #at = 0;
  #size = 0;
  /** Spreads those of one interval over its ticks. */
  #offset = 0;
  #timer: Disposable | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Calls `look`, which must not throw, every `intervalMs`, at most three seconds, until the result is disposed of. */
  every(intervalMs: number, look: () => void): Disposable {
    const ticks = Math.min(Math.max(Math.ceil(intervalMs / TICK_MS), 1), SLOTS - 1);
    this.#offset = (this.#offset + 1) % SLOTS;
    const entry: Entry = { ticks, look, slot: this.#slotIn(1 + (this.#offset % ticks)) };
    entry.slot.add(entry);
    this.#size += 1;
    this.#timer ??= this.#clock.after(TICK_MS, this.#onTick);
    return { [Symbol.dispose]: () => this.#remove(entry) };
  }

  #slotIn(ticks: number): Set<Entry> {
    return this.#slots[(this.#at + ticks) % SLOTS] as Set<Entry>;
  }

  #remove(entry: Entry): void {
    if (!entry.slot.delete(entry)) return;
    this.#size -= 1;
    if (this.#size > 0) return;
    this.#timer?.[Symbol.dispose]();
    this.#timer = undefined;
  }

  readonly #onTick = (): void => {
    this.#at = (this.#at + 1) % SLOTS;
    const due = this.#slotIn(0);
    this.#timer = this.#clock.after(TICK_MS, this.#onTick);
    for (const entry of due) {
      due.delete(entry);
      entry.slot = this.#slotIn(entry.ticks);
      entry.slot.add(entry);
      entry.look();
    }
  };
}
