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
  backend.commandComplete,
  backend.copyBothResponse,
  backend.copyInResponse,
  backend.emptyQueryResponse,
  backend.errorResponse,
  backend.portalSuspended,
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
  #status: number;
  /** Extended messages have been sent since the last Sync. */
  #isUnsynced = false;
  /** And a Flush behind the last of them. */
  #isFlushed = false;
  /** Executes among them that have no answer. */
  #executes = 0;
  /** What had been read from the server when the last of them came. */
  #upstreamReadsBefore = 0;
  /** After an error in them the server reads no further than the next Sync. */
  #isSkipping = false;
  /** A Query stands behind extended messages: should one of those fail, it is dropped. */
  #isMixed = false;
  #isInCopy = false;
  /** The client has ended a COPY before the server has asked for its data. */
  #hasEndedEarly = false;
  #lastRequest = 0;
  /** How many answers come is not known any more. */
  #isLost = false;

  /** @param status of the transaction that the client is in. */
  constructor(reads: () => Reads, status = IDLE) {
    this.#reads = reads;
    this.#status = status;
  }

  get activity(): Activity {
    const { client, upstream } = this.#reads();
    return {
      state: this.#state(upstream),
      clientReads: client,
      upstreamReads: upstream,
      answers: this.#answers,
      transactions: this.#transactions,
    };
  }

  #state(upstreamReads: number): Activity["state"] {
    if (this.#isLost) return "unclear";
    if (this.#isInCopy) return "held";
    if (this.#outstanding > 0) return "busy";
    if (this.#isSkipping) return "held";
    if (this.#isUnsynced) {
      // What is done stays with the server until somebody asks for it.
      if (!this.#isFlushed) return "unclear";
      return this.#executes > 0 || upstreamReads === this.#upstreamReadsBefore ? "busy" : "held";
    }
    return this.#status === IDLE ? "idle" : "held";
  }

  #onFrontend(type: number): void {
    switch (type) {
      case frontend.copyDone:
      case frontend.copyFail:
        if (!this.#isInCopy && (this.#outstanding > 0 || this.#isUnsynced)) this.#hasEndedEarly = true;
        this.#isInCopy = false;
        break;
      case frontend.flush:
        if (this.#isUnsynced) this.#isFlushed = true;
        break;
      case frontend.sync:
        if (this.#isInCopy) break; // the server drops it
        this.#isSkipping = false;
        this.#expectReady(type);
        break;
      case frontend.query:
      case frontend.functionCall:
        this.#isLost ||= this.#isInCopy; // the server ends the COPY with an error, and may drop it
        if (this.#isSkipping) break;
        this.#isMixed ||= this.#isUnsynced;
        this.#expectReady(type);
        break;
      default:
        this.#isLost ||= this.#isInCopy;
        if (this.#isSkipping) break;
        this.#isUnsynced = true;
        this.#isFlushed = false;
        this.#lastRequest = type;
        this.#upstreamReadsBefore = this.#reads().upstream;
        if (type === frontend.execute) this.#executes += 1;
    }
  }

  #expectReady(type: number): void {
    this.#outstanding += 1;
    this.#lastRequest = type;
    this.#isUnsynced = false;
    this.#isFlushed = false;
    this.#executes = 0;
  }

  #onBackend(type: number, first: number): void {
    switch (type) {
      case backend.readyForQuery:
        this.#onReady(first);
        break;
      case backend.errorResponse:
        this.#isInCopy = false;
        this.#isLost ||= this.#isMixed;
        if (this.#outstanding > 0 || !this.#isUnsynced) break;
        this.#isSkipping = true;
        this.#executes = 0;
        this.#answers += 1;
        break;
      case backend.copyInResponse:
      case backend.copyBothResponse:
        this.#onCopy();
        break;
      default: // an Execute is done; where a ReadyForQuery is to come, that counts
        if (this.#outstanding > 0 || this.#executes === 0) break;
        this.#executes -= 1;
        this.#answers += 1;
    }
  }

  /** What stands behind the COPY already is data for the server: it drops a Sync, and fails at anything else. */
  #onCopy(): void {
    const isAlone = this.#outstanding + (this.#isUnsynced ? 1 : 0) <= 1;
    this.#isLost ||= !isAlone || this.#isMixed || this.#hasEndedEarly;
    this.#isInCopy = true;
    if (this.#lastRequest !== frontend.sync) return;
    this.#outstanding = 0;
    this.#isUnsynced = true;
    this.#executes = 1;
  }

  #onReady(status: number): void {
    this.#answers += 1;
    this.#status = status;
    this.#isInCopy = false;
    if (status === IDLE) this.#transactions += 1;
    this.#outstanding = Math.max(this.#outstanding - 1, 0);
    if (this.#outstanding > 0) return;
    this.#isMixed = false;
    this.#hasEndedEarly = false;
  }
}
