/**
 * The parameters that the server reports (TimeZone, client_encoding, ...) as the client knows them. A client that gets
 * another session is told where that one differs; what it sets itself goes with it.
 */
import { encodeMessage } from "../../protocol/message.ts";
import { backend } from "../../protocol/message-types.ts";
import type { Borrower } from "../pool/borrower.ts";
import type { PooledSession } from "../pool/pooled-session.ts";

export class ClientParameters {
  readonly #borrower: Borrower;
  readonly #told: Map<string, string>;
  /** All of them, as the session before reported them. */
  #lastReported = "";

  /** @param first the session that the client has logged in with, and heard the parameters of. */
  constructor(borrower: Borrower, first: PooledSession) {
    this.#borrower = borrower;
    this.#told = new Map(first.parameters);
  }

  /** The server reports to the client. */
  learn(session: PooledSession, name: string, value: string): void {
    session.report(name, value);
    this.#told.set(name, value);
    if (this.#borrower.learn(name, value)) session.applied.set(name.toLowerCase(), value);
  }

  /** Tells what `session` reports otherwise than the one before. */
  tell(session: PooledSession, write: (message: Buffer) => void): void {
    if (session.reported === this.#lastReported) return;
    for (const [name, value] of session.parameters) {
      if (this.#told.get(name) === value) continue;
      this.#told.set(name, value);
      write(encodeMessage(backend.parameterStatus, Buffer.from(`${name}\0${value}\0`, "latin1")));
    }
    this.#lastReported = session.reported;
  }
}
