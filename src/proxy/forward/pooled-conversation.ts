/**
 * Where a client stands with the session that it has now: what it has asked and not heard yet, and what it is in the
 * middle of. The readers of both sides note it here, and the session goes back to the pool by what stands here.
 */
import { backend, frontend, IDLE, tableOf } from "../../protocol/message-types.ts";
import type { PooledSession } from "../pool/pooled-session.ts";
import type { Activity } from "./activity.ts";
import { asked, ExpectedAnswers, type About, type Asked, type FailedAnswer } from "./expected-answers.ts";
import type { Traces } from "./pooled-traces.ts";
import { Turns, type Reads } from "./turns.ts";

const FAILED = 0x45;

/** The answers to an Execute. */
const ENDS_EXECUTE = tableOf([
  backend.commandComplete,
  backend.emptyQueryResponse,
  backend.errorResponse,
  backend.portalSuspended,
]);

/** What a message looks like that was asked with. */
const SENT_AS: Readonly<Record<Asked, number>> = {
  [asked.parse]: frontend.parse,
  [asked.ourParse]: frontend.parse,
  [asked.skippedParse]: frontend.parse,
  [asked.bind]: frontend.bind,
  [asked.close]: frontend.close,
  [asked.ourClose]: frontend.close,
  [asked.describe]: frontend.describe,
  [asked.execute]: frontend.execute,
  [asked.sync]: frontend.sync,
  [asked.query]: frontend.query,
  [asked.call]: frontend.functionCall,
};

export class Conversation {
  /** The session that the client has now. */
  session: PooledSession | undefined;
  readonly answers: ExpectedAnswers;
  /** The transaction's, as the last ReadyForQuery says. */
  status = IDLE;
  isInCopy = false;
  /** Extended messages have been sent since the last Sync. */
  isUnsynced = false;
  /** And a Flush behind the last of them. */
  isFlushed = false;
  /** Our own messages are under way: nothing of the client's goes between them. */
  isRestoring = false;
  /** How many transactions have ended. */
  transactions = 0;
  readonly #traces: Traces;
  readonly #reads: () => Reads;
  #answered = 0;
  /** The client has ended a COPY before the server has asked for its data. */
  #hasEndedEarly = false;
  /** Once answers cannot be told apart: whose turn it is, as far as that can be told. */
  #turns: Turns | undefined;

  /** @param reads how often something has come from either side. */
  constructor(first: PooledSession, traces: Traces, onFailed: FailedAnswer, reads: () => Reads) {
    this.session = first;
    this.#traces = traces;
    this.#reads = reads;
    this.answers = new ExpectedAnswers(onFailed);
  }

  /** Answers cannot be told apart any more: nothing of ours is put between the client's messages. */
  get isBlind(): boolean {
    return this.#turns !== undefined;
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

  /** How often a request was answered, or an Execute without a Sync. */
  get answered(): number {
    return this.#answered + (this.#turns?.activity.answers ?? 0);
  }

  /** Whose turn it is, as timers see it. */
  get turn(): Activity["state"] {
    if (this.#turns !== undefined) return this.#turns.activity.state;
    if (this.isInCopy) return "held";
    if (this.answers.outstandingReady > 0) return "busy";
    // What is done stays with the server until somebody asks for it.
    if (this.isUnsynced && this.answers.size > 0) return this.isFlushed ? "busy" : "unclear";
    return this.isInside ? "held" : "idle";
  }

  /** A message is sent that has an answer. */
  ask(kind: Asked, about?: About): void {
    if (kind < asked.sync) this.isFlushed = false;
    if (!this.isBlind) this.answers.push(kind, about);
  }

  /** A Sync is sent, or a Query, which ends what is unsynced too. */
  sync(kind: typeof asked.sync | typeof asked.query, about?: About): void {
    this.isUnsynced = false;
    this.isFlushed = false;
    this.#traces.onSync();
    this.ask(kind, about);
  }

  /** A message goes to the server: what is counted no more is followed all the same. */
  onSent(type: number): void {
    const turns = this.#turns?.fromClient;
    if (turns?.types[type] === 1) turns.onMessage(type, -1);
  }

  /** CopyDone or CopyFail goes to the server. */
  onCopyEnd(type: number): void {
    this.#hasEndedEarly ||= !this.isInCopy && this.answers.size > 0;
    this.isInCopy = false;
    this.onSent(type);
  }

  /** @param first byte of the body of a message that has come from the server. */
  onReceived(type: number, first: number): void {
    const turns = this.#turns?.fromUpstream;
    if (turns?.types[type] === 1) turns.onMessage(type, first);
    if (!this.isBlind && this.answers.outstandingReady === 0 && ENDS_EXECUTE[type] === 1) this.#answered += 1;
  }

  /** @param status of the ReadyForQuery that has come. */
  onReady(status: number): void {
    this.isInCopy = false; // what a client sends of a COPY may have come before the server asked for it
    this.status = status;
    this.#answered += 1;
    if (this.answers.size <= 1) this.#hasEndedEarly = false;
    if (status === IDLE) this.transactions += 1;
  }

  becomeBlind(): void {
    if (this.isBlind) return;
    this.#turns = new Turns(this.#reads, this.status);
    for (const kind of this.answers.pending) this.onSent(SENT_AS[kind]);
    if (this.#hasEndedEarly) this.onSent(frontend.copyDone);
    this.#turns.fromUpstream.onMessage(backend.copyInResponse, -1);
    this.#traces.isTainted = true;
    this.#traces.pin("copy");
  }
}
