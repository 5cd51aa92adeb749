/**
 * Where a client stands with the session that it has now: what it has asked and not heard yet, and what it is in the
 * middle of. The readers of both sides note it here, and the session goes back to the pool by what stands here.
 */
import { IDLE } from "../../protocol/message-types.ts";
import type { PooledSession } from "../pool/pooled-session.ts";
import { asked, ExpectedAnswers, type About, type Asked, type FailedAnswer } from "./expected-answers.ts";
import type { Traces } from "./pooled-traces.ts";

const FAILED = 0x45;

export class Conversation {
  /** The session that the client has now. */
  session: PooledSession | undefined;
  readonly answers: ExpectedAnswers;
  /** The transaction's, as the last ReadyForQuery says. */
  status = IDLE;
  isInCopy = false;
  /** Extended messages have been sent since the last Sync. */
  isUnsynced = false;
  /** And a Flush behind some of them. */
  isFlushed = false;
  /** Our own messages are under way: nothing of the client's goes between them. */
  isRestoring = false;
  /** The client has sent something since the last ReadyForQuery. */
  hasSentSinceReady = false;
  /** How many ReadyForQuery have come, and how many of them outside of a transaction. */
  readies = 0;
  transactions = 0;
  readonly #traces: Traces;
  #isBlind = false;

  constructor(first: PooledSession, traces: Traces, onFailed: FailedAnswer) {
    this.session = first;
    this.#traces = traces;
    this.answers = new ExpectedAnswers(onFailed);
  }

  /** Answers cannot be told apart any more: nothing of ours is put between the client's messages. */
  get isBlind(): boolean {
    return this.#isBlind;
  }

  get isInTransaction(): boolean {
    return this.status !== IDLE;
  }

  get isFailed(): boolean {
    return this.status === FAILED;
  }

  /** Whether the server waits for more: the end of a transaction, or a Sync. */
  get isInside(): boolean {
    return this.status !== IDLE || this.isUnsynced || this.answers.isSkipping;
  }

  /** Whether the server has more to say: without a Sync or a Flush it answers extended messages late or not at all. */
  get owesAnswer(): boolean {
    if (this.#isBlind) return this.hasSentSinceReady;
    return this.isFlushed ? this.answers.size > 0 : this.answers.outstandingReady > 0;
  }

  /** A message is sent that has an answer. */
  ask(kind: Asked, about?: About): void {
    if (!this.#isBlind) this.answers.push(kind, about);
  }

  /** A Sync is sent, or a Query, which ends what is unsynced too. */
  sync(kind: typeof asked.sync | typeof asked.query, about?: About): void {
    this.isUnsynced = false;
    this.isFlushed = false;
    this.#traces.onSync();
    this.ask(kind, about);
  }

  /** @param status of the ReadyForQuery that has come. */
  onReady(status: number): void {
    this.isInCopy = false; // what a client sends of a COPY may have come before the server asked for it
    this.status = status;
    this.hasSentSinceReady = false;
    this.readies += 1;
    if (status === IDLE) this.transactions += 1;
  }

  becomeBlind(): void {
    if (this.#isBlind) return;
    this.#isBlind = true;
    this.#traces.isTainted = true;
    this.#traces.pin("copy");
  }
}
