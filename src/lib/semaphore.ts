/** Lets so many do something at the same time; the others wait in the order in which they came. */
import { raceAbort } from "./deadline.ts";

export class Semaphore {
  readonly #limit: number;
  #taken = 0;
  readonly #waiting = new Set<() => void>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Waits for a place, and keeps it until the result is disposed of. @throws whatever aborts `signal`. */
  async enter(signal: AbortSignal): Promise<Disposable> {
    if (this.#taken < this.#limit) this.#taken += 1;
    else await this.#wait(signal);
    return { [Symbol.dispose]: () => this.#leave() };
  }

  async #wait(signal: AbortSignal): Promise<void> {
    let isMine = false;
    let take: () => void = () => {};
    const turn = new Promise<void>((resolve) => {
      take = () => {
        isMine = true;
        resolve();
      };
    });
    this.#waiting.add(take);
    try {
      await raceAbort(turn, signal);
    } catch (error) {
      this.#waiting.delete(take);
      if (isMine) this.#leave();
      throw error;
    }
  }

  /** The place goes to the next one who waits, without becoming free in between. */
  #leave(): void {
    const [next] = this.#waiting;
    if (next === undefined) {
      this.#taken -= 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}
