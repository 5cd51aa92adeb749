/**
 * Ctrl-C, SIGTERM, a closed terminal: the first one asks the demo to clean up and end, the second one ends it now.
 * Belongs to the demo's command; the proxy itself knows nothing of it.
 */
import { raceAbort } from "../lib/deadline.ts";
import { systemClock } from "../lib/clock.ts";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const echoMs = 500; // npm passes a Ctrl-C on that the terminal has given to us already

/** What a wait is ended with when somebody wants the demo to end. */
export class Interrupted extends Error {}

export class Interruption implements Disposable {
  readonly #controller = new AbortController();
  readonly #listener = (signal: NodeJS.Signals): void => this.#receive(signal);
  #firstAt: number | undefined;
  /** What the second signal does before it ends the process. */
  onSecond: () => void = () => {};

  constructor() {
    for (const name of signals) process.on(name, this.#listener);
    process.stdout.on("error", this.#stop); // nobody reads on: `npm start | head`
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Throws Interrupted when a signal has come. */
  check(): void {
    this.signal.throwIfAborted();
  }

  /** As `work`, or rejects with Interrupted as soon as a signal comes. */
  race<T>(work: Promise<T>): Promise<T> {
    return raceAbort(work, this.signal);
  }

  [Symbol.dispose](): void {
    for (const name of signals) process.off(name, this.#listener);
  }

  readonly #stop = (): void => {
    this.#firstAt ??= systemClock.now();
    this.#controller.abort(new Interrupted("interrupted"));
  };

  #receive(signal: NodeJS.Signals): void {
    if (this.#firstAt === undefined) return this.#stop();
    if (systemClock.now() - this.#firstAt < echoMs) return;
    this.onSecond();
    this[Symbol.dispose]();
    process.kill(process.pid, signal); // as if we had never listened
  }
}
