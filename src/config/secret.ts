/**
 * A secret: it prints `[redacted]` wherever it is printed, and only `reveal` gives it away.
 */
import { inspect } from "node:util";

const REDACTED = "[redacted]";

export class Secret {
  #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  /** The secret itself; never for a log, an error or a status page. */
  reveal(): string {
    return this.#value;
  }

  /** From now on it is `other`, for all who have it: a reload of the configuration. */
  replace(other: Secret): void {
    this.#value = other.#value;
  }

  toString(): string {
    return REDACTED;
  }

  toJSON(): string {
    return REDACTED;
  }

  [inspect.custom](): string {
    return REDACTED;
  }
}
