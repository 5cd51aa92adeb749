/**
 * The last stage for a client of a pool. With `pool_mode = transaction` an upstream session is lent from the first message
 * of a transaction to its end; with `session`, until the client leaves. Messages are passed on as they come, and read on
 * the way, so that the session is given back at the right point and the client does not notice that it is another one the
 * next time. Here is when a session comes and goes; the rest is in the files named pooled-*:
 *
 *     client-reader -> client-messages -> statements -> preparation      what the client sends, put into the passage
 *     server-reader -> client-writer                                     what the server answers
 *     conversation, traces, parameters                                   what is known meanwhile
 */
import type { Duplex } from "node:stream";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { encodeErrorResponse } from "../../protocol/backend-messages.ts";
import { encodeMessage } from "../../protocol/message.ts";
import { backend, IDLE } from "../../protocol/message-types.ts";
import type { Borrower } from "../pool/borrower.ts";
import type { Applicant, Pool, Request } from "../pool/pool.ts";
import type { Holder, PooledSession } from "../pool/pooled-session.ts";
import type { PinReason } from "../pool/sql-effects.ts";
import { moveToDirectRead } from "../socket/direct-read.ts";
import { UpstreamRefusal } from "../upstream/await-ready.ts";
import type { CancelSubject, HeldTarget } from "../upstream/cancel-keys.ts";
import type { Activity } from "./activity.ts";
import type { FailedAnswer } from "./expected-answers.ts";
import type { ForwardEvents } from "./forward.ts";
import { ClientMessages } from "./pooled-client-messages.ts";
import { ClientReader } from "./pooled-client-reader.ts";
import { ClientWriter } from "./pooled-client-writer.ts";
import { Conversation } from "./pooled-conversation.ts";
import { ClientParameters } from "./pooled-parameters.ts";
import { Passage } from "./pooled-passage.ts";
import { ServerReader } from "./pooled-server-reader.ts";
import { ClientStatements } from "./pooled-statements.ts";
import { Traces } from "./pooled-traces.ts";

const LAST_WORD_MS = 2_000;

export interface PooledForwardServices {
  readonly config: Pick<Config, "poolMode" | "sessionState" | "maxPreparedStatements" | "queryWaitNotifyMs">;
  readonly clock: Clock;
  readonly pool: Pool;
  /** Whether sockets may be moved to direct reads: see socket/direct-read.ts. */
  readonly directRead: boolean;
  /** Counts a client that keeps its session, by the reason. */
  countPin(reason: PinReason): void;
}

/** Whether the client has a session now, waits for one, or needs none. */
export type PoolState = "active" | "waiting" | "idle";

export class PooledForwarding implements Holder, Applicant {
  readonly client: Duplex;
  /** Resolves when the client's socket is closed: with the error that ended the session, or nothing. */
  readonly ended: Promise<ProxyError | undefined>;
  readonly #borrower: Borrower;
  readonly #services: PooledForwardServices;
  readonly #events: ForwardEvents;
  readonly #traces: Traces;
  readonly #parameters: ClientParameters;
  readonly #conversation: Conversation;
  readonly #toClient: ClientWriter;
  readonly #fromServer: ServerReader;
  readonly #fromClient: ClientReader;

  /** What was asked of the pool and has not come. */
  #request: Request | undefined;
  /** Ends what is done to give the client its context back. */
  #restoring: AbortController | undefined;
  /** A message of either side is lost in part: nothing that is read or sent there means what it says. */
  #isCutApart = false;
  /** The session is ended from outside. */
  #mustStop = false;
  #resolve!: (error: ProxyError | undefined) => void;
  #error: ProxyError | undefined;
  #isClosing = false;
  #timer: Disposable | undefined;

  /** @param first the session that the client has logged in with. */
  constructor(
    client: Duplex,
    first: PooledSession,
    borrower: Borrower,
    services: PooledForwardServices,
    events: ForwardEvents,
  ) {
    const { pool, config } = services;
    this.#borrower = borrower;
    this.#services = services;
    this.#events = events;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    const moved = services.directRead ? moveToDirectRead(client, this.#onDirectBytes, "replace") : undefined;
    this.client = moved ?? client;

    const traces = new Traces(borrower, config, (reason) => services.countPin(reason));
    const parameters = new ClientParameters(borrower, first);
    const onFailed: FailedAnswer = (kind, about, wasRead) => statements.onFailed(kind, about, wasRead);
    const conversation = new Conversation(first, traces, onFailed, () => ({
      client: this.#fromClient.reads,
      upstream: this.#fromServer.reads,
    }));
    const passage = new Passage();
    const statements = new ClientStatements(pool, config, borrower, traces, conversation, passage);
    const messages = new ClientMessages(pool, traces, conversation, statements, passage, () => this.#borrow());
    this.#traces = traces;
    this.#parameters = parameters;
    this.#conversation = conversation;
    this.#toClient = new ClientWriter(this.client, conversation);
    this.#fromServer = new ServerReader(conversation, traces, statements, parameters, this.#toClient);
    this.#fromClient = new ClientReader(
      this.client,
      conversation,
      messages,
      passage,
      this.#fromServer,
      this.#toClient,
      {
        onTerminate: () => this.#leave(undefined),
        onMessageEnd: () => this.#settle(),
        onFailure: (failure, isCutApart) => {
          this.#isCutApart ||= isCutApart;
          this.#onFailure(failure);
        },
      },
    );

    if (moved === undefined) client.on("data", (bytes: Buffer) => this.#fromClient.read(bytes));
    this.client.on("end", this.#onClientGone);
    this.client.on("close", this.#onClientClosed);
    this.client.on("error", ignore);
    this.client.pause();
  }

  /** Bytes read from the client since its connection was opened, where the socket counts them; of the upstream its own. */
  get bytes(): { fromClient: number | undefined; fromUpstream: number } {
    const { bytesRead } = this.client as { bytesRead?: number };
    return { fromClient: bytesRead, fromUpstream: this.#fromServer.bytesRead };
  }

  get poolState(): PoolState {
    if (this.#conversation.session !== undefined) return "active";
    return this.#request === undefined ? "idle" : "waiting";
  }

  /** Why the client keeps its session, where it does. */
  get pinReason(): PinReason | undefined {
    return this.#traces.pinReason;
  }

  get activity(): Activity {
    const { answered: answers, transactions } = this.#conversation;
    const { reads: clientReads } = this.#fromClient;
    const { reads: upstreamReads } = this.#fromServer;
    return { state: this.#activityState, clientReads, upstreamReads, answers, transactions };
  }

  get #activityState(): Activity["state"] {
    const conversation = this.#conversation;
    if (conversation.session === undefined) {
      return this.#fromClient.isStalled || this.#request !== undefined ? "waiting" : "idle";
    }
    if (conversation.isRestoring) return "waiting";
    const { turn, isBlind, isInCopy, isUnsynced } = conversation;
    if (isBlind || isInCopy || turn === "busy" || turn === "unclear") return turn;
    if (this.#fromClient.isInsideMessage) return "held";
    return this.#traces.mustRestore && !isUnsynced ? "waiting" : turn;
  }

  start(greeting: Buffer): void {
    this.client.write(greeting);
    this.#adopt(this.#conversation.session as PooledSession);
    this.#settle();
    if (!this.#isClosing) this.client.resume();
  }

  /** Ends the session with `error`, and all that it does: the client hears of it where a message of ours may stand. */
  terminate(error: ProxyError): void {
    if (this.#isClosing) return;
    this.#mustStop = true;
    this.#end(error);
  }

  #end(error: ProxyError): void {
    this.#error = error;
    this.#leave(this.#fromServer.left === 0 ? encodeErrorResponse(error) : undefined);
  }

  /** What a CancelRequest with the client's key means now. */
  readonly cancelSubject: CancelSubject = {
    hold: (): HeldTarget | undefined => {
      const { session } = this.#conversation;
      if (session === undefined) {
        this.#cancelWait();
        return undefined;
      }
      const { address, key } = session;
      if (key === undefined) return undefined;
      const held = session.holdForCancel();
      return { target: { address, key }, [Symbol.dispose]: () => held[Symbol.dispose]() };
    },
  };

  // What the sockets say.

  readonly #onDirectBytes = (bytes: Uint8Array, length: number): boolean =>
    this.#fromClient.readDirect((bytes as Buffer).subarray(0, length));

  onUpstreamBytes(bytes: Buffer): boolean {
    if (this.#isClosing) return true;
    try {
      const isReady = this.#fromServer.read(bytes);
      const { farewell } = this.#fromServer;
      if (farewell !== undefined) this.#onFarewell(farewell);
      else if (isReady) this.#settle();
      else this.#fromClient.resumeIfAnswered();
    } catch (failure) {
      this.#isCutApart = true; // where its next message begins is not known any more
      this.#onFailure(failure);
    }
    return this.client.writableLength === 0;
  }

  onUpstreamLost(): void {
    if (this.#isClosing) return;
    // A server that ends a session has said why; what it said is the last word.
    if (this.#fromServer.saidFatal) this.#leave(undefined);
    else this.#end(new ProxyError("upstream_lost"));
  }

  // A session comes.

  /** @returns true where there is one at once. */
  #borrow(): boolean {
    const { pool } = this.#services;
    const session = pool.take(this.#borrower, this);
    if (session !== undefined) {
      this.#adopt(session);
      return true;
    }
    if (this.#request === undefined) {
      const request = pool.request(this.#borrower, this, this);
      if (this.#conversation.session === undefined && !this.#isClosing) this.#request = request;
    }
    return this.#conversation.session !== undefined;
  }

  // Applicant: what becomes of the request. Either may be called before `request` has returned.

  onGranted(session: PooledSession): void {
    this.#adopt(session);
    this.#request = undefined;
    this.#fromClient.resume();
  }

  onRefused(error: unknown): void {
    this.#request = undefined;
    this.#onFailure(error);
  }

  onLate(): void {
    const text = "no pooled connection is free: waiting for one";
    const fields = ["SNOTICE", "VNOTICE", "C00000", `M${text}`].map((field) => `${field}\0`).join("");
    this.#toClient.write(encodeMessage(backend.noticeResponse, Buffer.from(`${fields}\0`)));
  }

  #cancelWait(): void {
    if (this.#request === undefined) return;
    this.#request.cancel();
    this.#request = undefined;
    this.#fromClient.cancelWait();
  }

  /** The session is the client's: what it reports differently from the one before is told. */
  #adopt(session: PooledSession): void {
    this.#conversation.session = session;
    this.#conversation.status = IDLE;
    this.#traces.isTainted = false;
    this.#fromServer.begin();
    this.#parameters.tell(session, this.#toClient.write);
    const unread = session.lendTo(this);
    if (unread.length > 0) this.onUpstreamBytes(unread);
  }

  // And goes.

  /** All that was asked may be answered now: the session goes, or is made good, and what waits goes on. */
  #settle(): void {
    const conversation = this.#conversation;
    const { session } = conversation;
    if (session === undefined || this.#isClosing) return;
    if (!conversation.isBlind && conversation.answers.size === 0) {
      if (!conversation.isUnsynced) {
        this.#traces.applySettings(session, conversation.isInTransaction);
        if (this.#traces.mustRestore && conversation.isFailed) this.#traces.onResetUndone();
        else if (this.#traces.mustRestore && !this.#fromClient.isInsideMessage) return void this.#restore(session);
      }
      if (this.#isReleasable) this.#release(session);
    }
    this.#fromClient.resume();
  }

  get #isReleasable(): boolean {
    return (
      !this.#traces.keepsSession &&
      !this.#conversation.isInside &&
      !this.#conversation.isInCopy &&
      !this.#fromClient.isInsideMessage &&
      this.#fromServer.isAtBoundary
    );
  }

  #release(session: PooledSession): void {
    this.#conversation.session = undefined;
    this.#services.pool.release(session, this.#borrower, this.#traces.isTainted);
    this.#fromClient.onReleased();
  }

  /** Behind a RESET the context is set again, and what the client has connected with. */
  async #restore(session: PooledSession): Promise<void> {
    const conversation = this.#conversation;
    session.takeBack(0);
    session.unnamedOf = undefined; // our own statements are unnamed
    this.#traces.applyResets(session);
    this.#restoring = new AbortController();
    conversation.isRestoring = true;
    try {
      const { pool } = this.#services;
      await pool.restore(session, this.#borrower, conversation.isInTransaction, this.#restoring.signal);
    } catch (failure) {
      this.#onFailure(failure);
      return;
    }
    this.#restoring = undefined;
    conversation.isRestoring = false;
    this.#traces.mustRestore = false;
    if (this.#isClosing) return;
    const { status } = conversation;
    const { isTainted } = this.#traces;
    this.#adopt(session);
    conversation.status = status;
    this.#traces.isTainted = isTainted;
    this.#settle();
  }

  /** The server ends the session unasked: a client that was through with it gets another one, and need not know. */
  #onFarewell(farewell: Buffer): void {
    const { session } = this.#conversation;
    if (session === undefined || !this.#isReleasable) return this.#leave(farewell);
    this.#traces.applySettings(session, false);
    if (this.#traces.mustRestore) this.#traces.applyResets(session);
    this.#traces.mustRestore = false;
    this.#conversation.session = undefined;
    session.destroy();
    this.#services.pool.destroy(session);
    this.#fromClient.onReleased();
    this.#fromClient.resume();
  }

  // The end.

  #onFailure(failure: unknown): void {
    if (this.#isClosing) return;
    if (failure instanceof UpstreamRefusal) this.#leave(failure.response.bytes);
    else this.#end(failure instanceof ProxyError ? failure : new ProxyError("internal", { cause: failure }));
  }

  readonly #onClientGone = (): void => {
    if (!this.#isClosing) this.#leave(undefined);
  };

  readonly #onClientClosed = (): void => {
    this.#onClientGone();
    this.#timer?.[Symbol.dispose]();
    this.#resolve(this.#error);
  };

  /** Gives the session back, and closes the client when it has taken what was written. */
  #leave(lastWord: Buffer | undefined): void {
    this.#isClosing = true;
    this.#fromClient.close();
    this.#events.onClosing(this.#error);
    this.#request?.cancel();
    this.#restoring?.abort(new Error("the client is gone"));
    this.#giveBack();
    this.#timer = this.#services.clock.after(LAST_WORD_MS, () => this.client.destroy());
    if (!this.client.writable) return void this.client.destroy();
    if (lastWord === undefined) this.client.end();
    else this.client.end(lastWord);
    this.client.once("finish", () => {
      if (this.client.readableEnded) this.client.destroy();
    });
    this.client.resume();
  }

  #giveBack(): void {
    const { session, answers, isBlind } = this.#conversation;
    if (session === undefined) return;
    const { pool } = this.#services;
    const isAtRest = answers.size === 0 && !isBlind && this.#restoring === undefined;
    if (!this.#isCutApart && isAtRest && session.isOpen && this.#isReleasable) {
      this.#release(session);
      return;
    }
    this.#conversation.session = undefined;
    // What the server has of a pipeline would go on, whatever is cancelled of it; and half a message may have reached it.
    const mustDie = (this.#mustStop && !isAtRest) || this.#fromClient.isInsideMessage;
    if (this.#isCutApart || mustDie) pool.destroy(session);
    else pool.reclaim(session, this.#fromServer.left, this.#fromServer.tail);
  }
}

function ignore(): void {}
