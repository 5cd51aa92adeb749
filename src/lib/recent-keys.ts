/** Keys that were added a short while ago; a bounded number of them. */
import type { Clock } from "./clock.ts";

export class RecentKeys {
  readonly #clock: Clock;
  readonly #rememberedMs: number;
  readonly #max: number;
  readonly #until = new Map<string, number>();

  /** @param max beyond it all are forgotten, so that keys have to be few. */
  constructor(clock: Clock, rememberedMs: number, max: number) {
    this.#clock = clock;
    this.#rememberedMs = rememberedMs;
    this.#max = max;
  }

  has(key: string): boolean {
    const until = this.#until.get(key);
    return until !== undefined && this.#clock.now() < until;
  }

  add(key: string): void {
    if (this.#until.size >= this.#max) this.#until.clear();
    this.#until.set(key, this.#clock.now() + this.#rememberedMs);
  }
}
