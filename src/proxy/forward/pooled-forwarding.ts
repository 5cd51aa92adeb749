/**
 * The last stage for a client of a pool. With `pool_mode = transaction` an upstream session is lent from the first message
 * of a transaction to its end; with `session`, until the client leaves. Messages are passed on as they come; here their
 * types and names are read, so that the session is given back at the right point, and the client does not notice that it
 * is another one the next time.
 */
import type { Duplex } from "node:stream";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { encodeErrorResponse } from "../../protocol/backend-messages.ts";
import { backend, frontend, IDLE, tableOf } from "../../protocol/message-types.ts";
import { encodeMessage, HEADER_BYTES } from "../../protocol/message.ts";
import { MAX_MESSAGE_LENGTH } from "../../protocol/limits.ts";
import type { Borrower } from "../pool/borrower.ts";
import type { Applicant, Pool, Request } from "../pool/pool.ts";
import type { Holder, PooledSession } from "../pool/pooled-session.ts";
import { moveToDirectRead } from "../socket/direct-read.ts";
import { effects, type PinReason } from "../pool/sql-effects.ts";
import { UpstreamRefusal } from "../upstream/await-ready.ts";
import type { CancelSubject, HeldTarget } from "../upstream/cancel-keys.ts";
import type { Activity } from "./activity.ts";
import { asked, type FailedAnswer } from "./expected-answers.ts";
import type { ForwardEvents } from "./forward.ts";
import { Conversation } from "./pooled-conversation.ts";
import { ClientParameters } from "./pooled-parameters.ts";
import { Passage } from "./pooled-passage.ts";
import { ClientStatements } from "./pooled-statements.ts";
import { refusalOf, Traces } from "./pooled-traces.ts";

const LAST_WORD_MS = 2_000;
/** A message is read whole up to this; of a longer one its beginning, and the rest is passed on unread. */
const MAX_READ_BYTES = 64 * 1024;
/** More requests than these without an answer, and the client is not read further. */
const MAX_OUTSTANDING = 4_096;
const PARSE_COMPLETE = encodeMessage(backend.parseComplete, Buffer.alloc(0));
const READY_IDLE = encodeMessage(backend.readyForQuery, Buffer.of(IDLE));
/** Messages of the server that are read; all others are passed on. */
const READ_FROM_SERVER = tableOf([
  backend.bindComplete,
  backend.closeComplete,
  backend.commandComplete,
  backend.copyBothResponse,
  backend.copyInResponse,
  backend.emptyQueryResponse,
  backend.errorResponse,
  backend.functionCallResponse,
  backend.noData,
  backend.notificationResponse,
  backend.parameterStatus,
  backend.parseComplete,
  backend.portalSuspended,
  backend.readyForQuery,
  backend.rowDescription,
]);
/** Of these the body too. */
const BODY_FROM_SERVER = tableOf([backend.errorResponse, backend.parameterStatus, backend.readyForQuery]);

const BODY_FROM_CLIENT = tableOf([frontend.bind, frontend.close, frontend.describe, frontend.parse, frontend.query]);
const KNOWN_FROM_CLIENT = tableOf(Object.values(frontend).filter((type) => type !== frontend.password));

/** No more of the client's messages may be taken now. */
const STALLED = -1;

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
  #resolve!: (error: ProxyError | undefined) => void;
  #error: ProxyError | undefined;
  #isClosing = false;
  #timer: Disposable | undefined;

  /** What was asked of the pool and has not come. */
  #request: Request | undefined;
  /** Ends what is done to give the client its context back. */
  #restoring: AbortController | undefined;
  readonly #conversation: Conversation;
  readonly #passage = new Passage();
  readonly #statements: ClientStatements;

  // The client's side.
  /** Bytes of the current message that are passed on unread. */
  #clientLeft = 0;
  /** What is not whole yet, or has to wait. */
  #held: Buffer | undefined;
  #isStalled = false;
  /** What the last bytes of the client have been written to. */
  #written: Duplex | undefined;
  /** What is read now is overwritten by the next read. */
  #isBorrowed = false;
  /** After a cancelled wait: what is dropped of what the client has sent. */
  #dropping: "message" | "to_sync" | undefined;
  #dropLeft = 0;
  /** They take no more now, and say when they do. */
  #isUpstreamFull = false;
  #isClientFull = false;

  // The server's side.
  #serverLeft = 0;
  #serverTail: Buffer | undefined;
  /** A message of either side is lost in part: nothing that is read or sent there means what it says. */
  #isCutApart = false;

  #clientReads = 0;
  #upstreamReads = 0;
  #fromUpstream = 0;

  /** @param first the session that the client has logged in with. */
  constructor(
    client: Duplex,
    first: PooledSession,
    borrower: Borrower,
    services: PooledForwardServices,
    events: ForwardEvents,
  ) {
    this.#borrower = borrower;
    this.#services = services;
    this.#events = events;
    this.#traces = new Traces(borrower, services.config, (reason) => services.countPin(reason));
    this.#parameters = new ClientParameters(borrower, first);
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    const onFailed: FailedAnswer = (kind, about, wasRead) => this.#statements.onFailed(kind, about, wasRead);
    this.#conversation = new Conversation(first, this.#traces, onFailed);
    this.#statements = new ClientStatements(
      services.pool,
      services.config,
      borrower,
      this.#traces,
      this.#conversation,
      this.#passage,
    );
    const moved = services.directRead ? moveToDirectRead(client, this.#onDirectBytes, "replace") : undefined;
    this.client = moved ?? client;
    if (moved === undefined) client.on("data", this.#onClientBytes);
    this.client.on("end", this.#onClientGone);
    this.client.on("close", this.#onClientClosed);
    this.client.on("error", ignore);
    this.client.pause();
  }

  /** Bytes read from the client since its connection was opened, where the socket counts them; of the upstream its own. */
  get bytes(): { fromClient: number | undefined; fromUpstream: number } {
    return { fromClient: (this.client as { bytesRead?: number }).bytesRead, fromUpstream: this.#fromUpstream };
  }

  get poolState(): PoolState {
    if (this.#conversation.session !== undefined) return "active";
    return this.#request === undefined ? "idle" : "waiting";
  }

  /** Why the client keeps its session, where it does. */
  get pinReason(): PinReason | undefined {
    return this.#traces.pinReason;
  }

  start(greeting: Buffer): void {
    this.client.write(greeting);
    this.#adopt(this.#conversation.session as PooledSession);
    this.#settle();
    if (!this.#isClosing) this.client.resume();
  }

  /** Ends the session with `error`: the client hears of it where a message of ours may stand. */
  terminate(error: ProxyError): void {
    if (this.#isClosing) return;
    this.#error = error;
    this.#leave(this.#serverLeft === 0 ? encodeErrorResponse(error) : undefined);
  }

  /** What a CancelRequest with the client's key means now. */
  readonly cancelSubject: CancelSubject = {
    hold: (): HeldTarget | undefined => {
      const session = this.#conversation.session;
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

  // Holder: what the session says.

  onUpstreamBytes(bytes: Buffer): boolean {
    if (this.#isClosing) return true;
    this.#upstreamReads += 1;
    this.#fromUpstream += bytes.length;
    try {
      this.#readServer(this.#serverTail === undefined ? bytes : Buffer.concat([this.#serverTail, bytes]));
    } catch (failure) {
      this.#isCutApart = true; // where its next message begins is not known any more
      this.#onFailure(failure);
    }
    return this.client.writableLength === 0;
  }

  onUpstreamLost(): void {
    if (this.#isClosing) return;
    // A server that ends a session has said why; what it said is the last word.
    if (this.#serverSaidFatal) this.#leave(undefined);
    else this.terminate(new ProxyError("upstream_lost"));
  }

  get activity(): Activity {
    return {
      state: this.#activityState,
      clientReads: this.#clientReads,
      upstreamReads: this.#upstreamReads,
      // Before a Sync each answer is one on its own.
      answers: this.#conversation.readies + (this.#conversation.isUnsynced ? this.#upstreamReads : 0),
      transactions: this.#conversation.transactions,
    };
  }

  get #activityState(): Activity["state"] {
    if (this.#conversation.session === undefined)
      return this.#isStalled || this.#request !== undefined ? "waiting" : "idle";
    if (this.#restoring !== undefined) return "waiting";
    if (this.#conversation.isInCopy) return "held";
    if (this.#conversation.owesAnswer) return "busy";
    if (this.#traces.mustRestore && !this.#conversation.isUnsynced) return "waiting";
    const isInside =
      this.#conversation.isInTransaction ||
      this.#conversation.isUnsynced ||
      this.#conversation.answers.isSkipping ||
      this.#clientLeft > 0;
    return isInside ? "held" : "idle";
  }

  // From the client.

  readonly #onDirectBytes = (bytes: Uint8Array, length: number): boolean => {
    this.#written = undefined;
    this.#isBorrowed = true;
    this.#onClientBytes((bytes as Buffer).subarray(0, length));
    this.#isBorrowed = false;
    return this.#written === undefined || (this.#written as Duplex).writableLength === 0;
  };

  readonly #onClientBytes = (bytes: Buffer): void => {
    if (this.#isClosing) return;
    this.#clientReads += 1;
    this.#conversation.hasSentSinceReady = true;
    if (this.#isStalled) {
      this.#held = this.#held === undefined ? Buffer.from(bytes) : Buffer.concat([this.#held, bytes]);
      return;
    }
    this.#held = this.#held === undefined ? bytes : Buffer.concat([this.#held, bytes]);
    this.#resume();
  };

  /** Goes on with what the client has sent. */
  #resume(): void {
    const bytes = this.#held;
    this.#held = undefined;
    this.#isStalled = false;
    const wasInside = this.#clientLeft > 0;
    try {
      if (bytes !== undefined) this.#readClient(bytes);
    } catch (failure) {
      this.#isCutApart ||= wasInside; // the end of that message has not been sent
      this.#onFailure(failure);
      return;
    }
    if (this.#isClosing) return;
    if (this.#isStalled) this.client.pause();
    else if (this.#conversation.session === undefined || !this.#conversation.session.stream.socket.writableNeedDrain)
      this.client.resume();
  }

  #readClient(bytes: Buffer): void {
    const { length } = bytes;
    let at = Math.min(this.#clientLeft, length);
    this.#clientLeft -= at;
    let from = 0;
    if (this.#dropLeft > 0) {
      at = Math.min(this.#dropLeft, length);
      this.#dropLeft -= at;
      from = at;
    }
    while (at + HEADER_BYTES <= length) {
      const type = bytes[at] as number;
      const field = bytes.readInt32BE(at + 1);
      if (field < 4 || field > MAX_MESSAGE_LENGTH) throw new ProxyError("message_length");
      const end = at + 1 + field;
      const available = Math.min(end, length);
      if (available < Math.min(end, at + MAX_READ_BYTES) && BODY_FROM_CLIENT[type] === 1) break;
      if (this.#dropping !== undefined) {
        from = available;
        this.#dropLeft = end - available;
        if (this.#dropping === "message" || type === frontend.sync) this.#finishDropping();
        at = available;
        continue;
      }
      this.#passage.begin(bytes, from, at, available, end);
      const next = this.#take(type);
      if (next === STALLED) {
        this.#isStalled = true;
        break;
      }
      if (this.#isClosing) return;
      from = next > at ? Math.min(next, available) : this.#passage.from;
      if (next === end) this.#dropLeft = end - available;
      else this.#clientLeft = end - available;
      at = available;
    }
    this.#passage.pass(bytes, from, at);
    this.#flush();
    if (at < length) this.#held = this.#isBorrowed ? Buffer.from(bytes.subarray(at)) : bytes.subarray(at);
  }

  #flush(): void {
    const bytes = this.#passage.take();
    if (bytes === undefined) return;
    const session = this.#conversation.session;
    if (session === undefined) return; // CopyData of nobody's COPY: PostgreSQL drops it too
    const { socket } = session.stream;
    this.#written = socket;
    const takesMore = socket.write(bytes);
    if (takesMore || this.#isUpstreamFull) return;
    this.#isUpstreamFull = true;
    this.client.pause();
    socket.once("drain", () => {
      this.#isUpstreamFull = false;
      if (this.#conversation.session === session && !this.#isStalled && !this.#isClosing) this.client.resume();
    });
  }

  /**
   * Reads a message, or what is here of it.
   *
   * @returns where the bytes begin that are passed on as they are, or STALLED.
   */
  #take(type: number): number {
    const { at, end } = this.#passage;
    if (KNOWN_FROM_CLIENT[type] !== 1) {
      throw new ProxyError("unknown_message", { params: { type } });
    }
    if (type === frontend.terminate) {
      this.#passage.put();
      this.#flush();
      this.#leave(undefined);
      return at;
    }
    if (type === frontend.copyData || type === frontend.copyDone || type === frontend.copyFail) {
      if (type !== frontend.copyData) this.#conversation.isInCopy = false;
      if (this.#conversation.session !== undefined) return at;
      this.#passage.put();
      return end;
    }
    if (this.#conversation.session === undefined && !this.#want()) return STALLED;
    if (this.#mustWait()) return STALLED;
    const session = this.#conversation.session as PooledSession;
    if (this.#conversation.isInCopy) this.#conversation.becomeBlind();
    switch (type) {
      case frontend.query:
        return this.#takeQuery(session);
      case frontend.parse: {
        const next = this.#statements.takeParse(session);
        if (this.#serverLeft === 0) this.#answerSkipped();
        return next;
      }
      case frontend.bind:
        return this.#statements.takeBind(session);
      case frontend.describe:
        return this.#statements.takeDescribe(session);
      case frontend.close:
        return this.#statements.takeClose(session);
      case frontend.execute:
        this.#conversation.isUnsynced = true;
        this.#conversation.ask(asked.execute);
        return at;
      case frontend.sync:
        this.#conversation.sync();
        return at;
      case frontend.functionCall:
        this.#traces.isTainted = true;
        this.#conversation.ask(asked.call);
        return at;
      default: // Flush
        this.#conversation.isUnsynced = true;
        this.#conversation.isFlushed = true;
        return at;
    }
  }

  /** Whether the next message has to wait for an answer to what was sent before. */
  #mustWait(): boolean {
    if (this.#conversation.isBlind || this.#conversation.answers.isSkipping) return false;
    if (this.#traces.mustRestore || this.#conversation.answers.size > MAX_OUTSTANDING) return true;
    if (this.#traces.keepsSession || this.#conversation.answers.outstandingReady === 0) return false;
    return this.#services.pool.hasWaiters(this.#conversation.session as PooledSession);
  }

  #takeQuery(session: PooledSession): number {
    const conversation = this.#conversation;
    const { bytes, at, available, end, isWhole } = this.#passage;
    const textEnd = isWhole ? available - 1 : available;
    const found = this.#services.pool.reader.read(bytes, at + HEADER_BYTES, textEnd);
    if (!isWhole) this.#traces.isTainted = true;
    conversation.isUnsynced = false;
    if (this.#traces.mustRefuse(found)) {
      conversation.ask(asked.query);
      this.#passage.put(encodeMessage(frontend.query, Buffer.from(`${refusalOf(found)}\0`)));
      return end;
    }
    this.#traces.note(found);
    const about = (found.bits & effects.deallocates) === 0 ? undefined : this.#statements.deallocate(session, found);
    this.#traces.onSync();
    this.#statements.dropUnnamed(session);
    conversation.ask(asked.query, about);
    return at;
  }

  // From the server.

  #serverSaidFatal = false;

  #readServer(bytes: Buffer): void {
    this.#serverTail = undefined;
    const { length } = bytes;
    let at = Math.min(this.#serverLeft, length);
    this.#serverLeft -= at;
    let from = 0;
    if (this.#serverLeft === 0 && this.#conversation.answers.next === asked.skippedParse) {
      this.#toClient(bytes, from, at);
      from = at;
      this.#answerSkipped();
    }
    while (at + HEADER_BYTES <= length) {
      const type = bytes[at] as number;
      const field =
        ((bytes[at + 1] as number) << 24) |
        ((bytes[at + 2] as number) << 16) |
        ((bytes[at + 3] as number) << 8) |
        (bytes[at + 4] as number);
      if (field < 4 || field > MAX_MESSAGE_LENGTH) throw new ProxyError("upstream_stream");
      const end = at + 1 + field;
      if (READ_FROM_SERVER[type] === 1) {
        if (end > length && BODY_FROM_SERVER[type] === 1 && field <= MAX_READ_BYTES) break;
        if (!this.#readAnswer(type, bytes, at, Math.min(end, length))) {
          this.#toClient(bytes, from, at);
          from = end;
        }
        if (end <= length && this.#conversation.answers.next === asked.skippedParse) {
          this.#toClient(bytes, from, end);
          from = end;
          this.#answerSkipped();
        }
      }
      if (end > length) {
        this.#serverLeft = end - length;
        at = length;
        break;
      }
      at = end;
    }
    this.#toClient(bytes, from, at);
    if (at < length) this.#serverTail = Buffer.from(bytes.subarray(at));
    if (this.#hasNewReady && this.#serverLeft === 0 && this.#serverTail === undefined) {
      this.#hasNewReady = false;
      this.#settle();
    } else if (this.#isStalled && !this.#mustWait()) this.#resume();
  }

  #hasNewReady = false;

  /** @returns whether the client sees it. */
  #readAnswer(type: number, bytes: Buffer, at: number, end: number): boolean {
    switch (type) {
      case backend.parameterStatus:
        this.#learn(bytes, at, end);
        return true;
      case backend.notificationResponse:
        // Who listens is pinned: what comes without that is for somebody else.
        return this.#traces.keepsSession;
      case backend.copyInResponse:
      case backend.copyBothResponse:
        // What stands behind it already may be dropped by the server: nobody knows how many answers come.
        if (this.#conversation.answers.size > 1) this.#conversation.becomeBlind();
        this.#conversation.isInCopy = true;
        return true;
      case backend.errorResponse: {
        this.#conversation.isInCopy = false;
        const body = bytes.subarray(at + HEADER_BYTES, end);
        this.#serverSaidFatal = body.includes("SFATAL\0") || body.includes("VFATAL\0") || body.includes("VPANIC\0");
        this.#traces.onError();
        this.#statements.onError(body);
        break;
      }
      case backend.readyForQuery:
        this.#conversation.onReady(bytes[at + HEADER_BYTES] as number);
        this.#hasNewReady = true;
        break;
      default:
    }
    if (this.#conversation.isBlind) return true;
    const verdict = this.#conversation.answers.answer(type);
    if (verdict === "wrong") throw new ProxyError("upstream_stream", { detail: `'${String.fromCharCode(type)}'` });
    return verdict === "pass";
  }

  #learn(bytes: Buffer, at: number, end: number): void {
    const [name = "", value = ""] = bytes.toString("latin1", at + HEADER_BYTES, end).split("\0");
    this.#parameters.learn(this.#conversation.session as PooledSession, name, value);
  }

  #answerSkipped(): void {
    while (this.#conversation.answers.takeSkipped()) this.#write(PARSE_COMPLETE);
  }

  #toClient(bytes: Buffer, from: number, to: number): void {
    if (to > from) this.#write(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }

  /** What a client does not read slows down its own server only. */
  readonly #write = (bytes: Buffer): void => {
    if (!this.client.writable || this.client.write(bytes)) return;
    this.#conversation.session?.stream.socket.pause();
    if (this.#isClientFull) return;
    this.#isClientFull = true;
    this.client.once("drain", () => {
      this.#isClientFull = false;
      if (!this.#isClosing) this.#conversation.session?.stream.socket.resume();
    });
  };

  // When a session comes, and goes.

  /** @returns true where there is one at once. */
  #want(): boolean {
    const { pool } = this.#services;
    const session = pool.take(this.#borrower, this);
    if (session !== undefined) {
      this.#conversation.session = session;
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
    this.#conversation.session = session;
    this.#adopt(session);
    this.#request = undefined;
    if (this.#isStalled) this.#resume();
  }

  onRefused(error: unknown): void {
    this.#request = undefined;
    this.#onFailure(error);
  }

  onLate(): void {
    this.#notify();
  }

  #notify(): void {
    const text = "no pooled connection is free: waiting for one";
    const fields = ["SNOTICE", "VNOTICE", "C00000", `M${text}`].map((field) => `${field}\0`).join("");
    this.#write(encodeMessage(backend.noticeResponse, Buffer.from(`${fields}\0`)));
  }

  /** The client has cancelled what waits: it hears so, and what it has sent of it is dropped. */
  #cancelWait(): void {
    if (this.#request === undefined) return;
    this.#request.cancel();
    this.#request = undefined;
    const type = this.#held?.[0];
    this.#dropping = type === frontend.query || type === frontend.functionCall ? "message" : "to_sync";
    this.#write(encodeErrorResponse(new ProxyError("query_canceled")));
    this.#resume();
  }

  #finishDropping(): void {
    this.#dropping = undefined;
    this.#write(READY_IDLE);
  }

  /** The session is the client's: what it says differently from the one before is told. */
  #adopt(session: PooledSession): void {
    this.#conversation.status = IDLE;
    this.#traces.isTainted = false;
    this.#serverSaidFatal = false;
    this.#parameters.tell(session, this.#write);
    const unread = session.lendTo(this);
    if (unread.length > 0) this.onUpstreamBytes(unread);
  }

  /** All that was asked may be answered now: the session goes, or is made good, and what waits goes on. */
  #settle(): void {
    const session = this.#conversation.session;
    if (session === undefined || this.#isClosing || this.#conversation.isBlind || this.#conversation.answers.size > 0) {
      if (this.#isStalled && !this.#isClosing && session !== undefined) this.#resume();
      return;
    }
    if (!this.#conversation.isUnsynced) this.#traces.applySettings(session, this.#conversation.isInTransaction);
    if (this.#traces.mustRestore && !this.#conversation.isUnsynced) {
      if (!this.#conversation.isFailed) {
        void this.#restore(session);
        return;
      }
      this.#traces.onResetUndone();
    }
    if (this.#isReleasable()) {
      this.#conversation.session = undefined;
      this.#services.pool.release(session, this.#borrower, this.#traces.isTainted);
    }
    if (this.#isStalled) this.#resume();
  }

  #isReleasable(): boolean {
    return (
      !this.#traces.keepsSession &&
      !this.#conversation.isInTransaction &&
      !this.#conversation.isUnsynced &&
      !this.#conversation.isInCopy &&
      !this.#conversation.answers.isSkipping &&
      this.#clientLeft === 0 &&
      this.#serverLeft === 0 &&
      this.#serverTail === undefined
    );
  }

  async #restore(session: PooledSession): Promise<void> {
    const { pool } = this.#services;
    session.takeBack(0);
    session.unnamedOf = undefined; // our own statements are unnamed
    this.#traces.applyResets(session);
    this.#restoring = new AbortController();
    try {
      await pool.restore(session, this.#borrower, this.#conversation.isInTransaction, this.#restoring.signal);
    } catch (failure) {
      if (!this.#isClosing) this.#onFailure(failure);
      return;
    }
    this.#restoring = undefined;
    this.#traces.mustRestore = false;
    if (this.#isClosing) return;
    const [status, isTainted] = [this.#conversation.status, this.#traces.isTainted];
    this.#adopt(session);
    [this.#conversation.status, this.#traces.isTainted] = [status, isTainted];
    this.#settle();
  }

  // The end.

  readonly #onFailure = (failure: unknown): void => {
    if (this.#isClosing) return;
    if (failure instanceof UpstreamRefusal) this.#leave(failure.response.bytes);
    else this.terminate(failure instanceof ProxyError ? failure : new ProxyError("internal", { cause: failure }));
  };

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
    this.#events.onClosing(this.#error);
    this.#request?.cancel();
    this.#restoring?.abort(new Error("the client is gone"));
    this.#giveBack();
    this.#timer = this.#services.clock.after(LAST_WORD_MS, () => this.client.destroy());
    this.#held = undefined;
    if (!this.client.writable) return void this.client.destroy();
    if (lastWord === undefined) this.client.end();
    else this.client.end(lastWord);
    this.client.once("finish", () => {
      if (this.client.readableEnded) this.client.destroy();
    });
    this.client.resume();
  }

  #giveBack(): void {
    const session = this.#conversation.session;
    if (session === undefined) return;
    this.#conversation.session = undefined;
    const { pool } = this.#services;
    const isAtRest =
      this.#conversation.answers.size === 0 && !this.#conversation.isBlind && this.#restoring === undefined;
    if (this.#isCutApart) {
      pool.destroy(session);
    } else if (isAtRest && session.isOpen && this.#isReleasable()) {
      pool.release(session, this.#borrower, this.#traces.isTainted);
    } else if (this.#clientLeft > 0) {
      pool.destroy(session); // half a message of the client's has reached the server
    } else {
      pool.reclaim(session, this.#serverLeft, this.#serverTail);
    }
  }
}

function ignore(): void {}
