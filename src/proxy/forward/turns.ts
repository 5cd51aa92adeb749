/**
 * Whose turn it is in a session whose messages are passed on unread: followed by the types of a few messages and by the
 * transaction status in ReadyForQuery. Each Query, FunctionCall and Sync has one ReadyForQuery for its answer.
 */
import type { Watch } from "../../protocol/boundary-scanner.ts";
import { backend, frontend, IDLE, tableOf } from "../../protocol/message-types.ts";
import type { Activity } from "./activity.ts";

const FROM_CLIENT = tableOf([
  frontend.bind,
  frontend.close,
  frontend.copyDone,
  frontend.copyFail,
  frontend.describe,
  frontend.execute,
  frontend.flush,
  frontend.functionCall,
  frontend.parse,
  frontend.query,
  frontend.sync,
]);
const FROM_UPSTREAM = tableOf([
  backend.copyBothResponse,
  backend.copyInResponse,
  backend.errorResponse,
  backend.readyForQuery,
]);

/** How often something was read from each side. */
export interface Reads {
  readonly client: number;
  readonly upstream: number;
}

export class Turns {
  readonly fromClient: Watch = { types: FROM_CLIENT, onMessage: (type) => this.#onFrontend(type) };
  readonly fromUpstream: Watch = { types: FROM_UPSTREAM, onMessage: (type, first) => this.#onBackend(type, first) };
  readonly #reads: () => Reads;
  /** Requests whose ReadyForQuery has not come. */
  #outstanding = 0;
  #answers = 0;
  #transactions = 0;
  #status = IDLE;
  /** Extended messages have been sent since the last Sync. */
  #isUnsynced = false;
  /** What had been read from the server when the last of them came. */
  #upstreamReadsBefore = 0;
  #isInCopy = false;
  /** A COPY has begun since the last ReadyForQuery. */
  #hasCopied = false;
  #copyIsExtended = false;
  #lastRequest = 0;
  /** Requests behind the COPY's data. */
  #behindCopy = 0;

  constructor(reads: () => Reads) {
    this.#reads = reads;
  }

  get activity(): Activity {
    const { client, upstream } = this.#reads();
    // Before a Sync each answer is one on its own.
    const answered = this.#isUnsynced ? upstream : 0;
    return {
      state: this.#state(upstream),
      clientReads: client,
      upstreamReads: upstream,
      answers: this.#answers + answered,
      transactions: this.#transactions,
    };
  }

  #state(upstreamReads: number): Activity["state"] {
    if (this.#isInCopy) return "held";
    if (this.#outstanding > 0) return "busy";
    // Nothing says when the server is done with what stands before a Flush: the word is with who has not spoken last.
    if (this.#isUnsynced) return upstreamReads === this.#upstreamReadsBefore ? "busy" : "held";
    return this.#status === IDLE ? "idle" : "held";
  }

  #onFrontend(type: number): void {
    if (type === frontend.copyDone || type === frontend.copyFail) {
      this.#isInCopy = false;
      this.#behindCopy = 0;
    } else if (type === frontend.query || type === frontend.sync || type === frontend.functionCall) {
      this.#outstanding += 1;
      this.#behindCopy += 1;
      this.#isUnsynced = false;
      this.#lastRequest = type;
    } else {
      this.#isUnsynced = true;
      this.#lastRequest = type;
      this.#upstreamReadsBefore = this.#reads().upstream;
    }
  }

  #onBackend(type: number, first: number): void {
    if (type === backend.readyForQuery) {
      this.#onReady(first);
    } else if (type === backend.errorResponse) {
      this.#isInCopy = false;
    } else {
      this.#isInCopy = true;
      this.#hasCopied = true;
      this.#copyIsExtended = this.#lastRequest !== frontend.query;
      this.#behindCopy = 0;
    }
  }

  #onReady(status: number): void {
    this.#answers += 1;
    this.#status = status;
    this.#isInCopy = false;
    if (status === IDLE) this.#transactions += 1;
    // A Sync that comes while the server waits for the COPY's data is dropped: only what stands behind the data counts.
    if (this.#hasCopied) this.#outstanding = this.#behindCopy + (this.#copyIsExtended ? 0 : 1);
    this.#hasCopied = false;
    this.#outstanding = Math.max(this.#outstanding - 1, 0);
  }
}
