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
import { encodeErrorResponse, sqlstateOf } from "../../protocol/backend-messages.ts";
import { backend, frontend, IDLE, tableOf } from "../../protocol/message-types.ts";
import { encodeMessage } from "../../protocol/message.ts";
import { MAX_MESSAGE_LENGTH } from "../../protocol/limits.ts";
import type { Borrower } from "../pool/borrower.ts";
import type { Applicant, Pool, Request } from "../pool/pool.ts";
import type { Holder, PooledSession } from "../pool/pooled-session.ts";
import { moveToDirectRead } from "../socket/direct-read.ts";
import { encodeCloseStatement, encodeParse, serverNameOf, type Prepared } from "../pool/prepared.ts";
import { effects, type Effects, type PinReason } from "../pool/sql-effects.ts";
import { UpstreamRefusal } from "../upstream/await-ready.ts";
import type { CancelSubject, HeldTarget } from "../upstream/cancel-keys.ts";
import type { Activity } from "./activity.ts";
import { asked, ExpectedAnswers, type About, type Asked } from "./expected-answers.ts";
import type { ForwardEvents } from "./forward.ts";
import { Turns } from "./turns.ts";

const LAST_WORD_MS = 2_000;
const HEADER_BYTES = 5;
/** A message is read whole up to this; of a longer one its beginning, and the rest is passed on unread. */
const MAX_READ_BYTES = 64 * 1024;
/** More requests than these without an answer, and the client is not read further. */
const MAX_OUTSTANDING = 4_096;
/** What a client's prepared statements may take here; beyond it the client keeps its session. */
const MAX_STATEMENT_BYTES = 1024 * 1024;
const MAX_STATEMENTS = 5_000;
/** SETs and RESETs that are noted until their answer. */
const MAX_NOTED = 100;

const PARSE_COMPLETE = encodeMessage(backend.parseComplete, Buffer.alloc(0));
const READY_IDLE = encodeMessage(backend.readyForQuery, Buffer.of(IDLE));
const EMPTY_DEFINITION = Buffer.alloc(3);
const UNNAMED = Buffer.of(0);
const FAILED = 0x45;
const STATEMENT = 0x53;

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

/** The answers to an Execute. */
const ENDS_EXECUTE = tableOf([
  backend.commandComplete,
  backend.emptyQueryResponse,
  backend.errorResponse,
  backend.portalSuspended,
]);

const BODY_FROM_CLIENT = tableOf([frontend.bind, frontend.close, frontend.describe, frontend.parse, frontend.query]);
const KNOWN_FROM_CLIENT = tableOf(Object.values(frontend).filter((type) => type !== frontend.password));

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

/** No more of the client's messages may be taken now. */
const STALLED = -1;

/** The client's unnamed statement. */
interface Unnamed {
  readonly definition: Buffer;
  readonly effects: Effects;
}

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
  readonly #isTransactionMode: boolean;
  #resolve!: (error: ProxyError | undefined) => void;
  #error: ProxyError | undefined;
  #isClosing = false;
  #timer: Disposable | undefined;

  #session: PooledSession | undefined;
  /** What was asked of the pool and has not come. */
  #request: Request | undefined;
  /** Ends what is done to give the client its context back. */
  #restoring: AbortController | undefined;
  /** Values of parameters that the client knows. */
  readonly #told = new Map<string, string>();
  /** All of them, as the session before reported them. */
  #lastReported = "";
  readonly #answers = new ExpectedAnswers((kind, about, wasRead) => this.#onFailed(kind, about, wasRead));

  // The client's side.
  /** Bytes of the current message that are passed on unread. */
  #clientLeft = 0;
  /** What is not whole yet, or has to wait. */
  #held: Buffer | undefined;
  #isStalled = false;
  #out: Buffer[] = [];
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
  readonly #statements = new Map<string, Prepared>();
  #statementBytes = 0;
  #unnamed: Unnamed | undefined;

  // The server's side.
  #serverLeft = 0;
  #serverTail: Buffer | undefined;
  #status = IDLE;
  #isInCopy = false;
  /** Extended messages have been sent since the last Sync. */
  #isUnsynced = false;
  /** And a Flush behind the last of them. */
  #isFlushed = false;
  /** A message of either side is lost in part: nothing that is read or sent there means what it says. */
  #isCutApart = false;
  /** The session is ended from outside. */
  #mustStop = false;

  // What keeps the session, or has to be done before it goes.
  #pinReason: PinReason | undefined;
  /** Answers cannot be told apart any more: nothing of ours is put between the client's messages. */
  #isBlind = false;
  /** Whose turn it is then, as far as that can be told. */
  #turns: Turns | undefined;
  /** The client has ended a COPY before the server has asked for its data. */
  #hasEndedEarly = false;
  #isTainted = false;
  #resetsUnsynced = false;
  #mustRestore = false;
  readonly #resetNames: string[] = [];
  #settings: { readonly name: string; readonly value: string | undefined }[] = [];
  #clientReads = 0;
  #upstreamReads = 0;
  /** How often a request was answered, or an Execute without a Sync. */
  #answered = 0;
  #transactions = 0;
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
    this.#isTransactionMode = services.config.poolMode === "transaction";
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    for (const [name, value] of first.parameters) this.#told.set(name, value);
    this.#session = first;
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
    if (this.#session !== undefined) return "active";
    return this.#request === undefined ? "idle" : "waiting";
  }

  /** Why the client keeps its session, where it does. */
  get pinReason(): PinReason | undefined {
    return this.#pinReason;
  }

  start(greeting: Buffer): void {
    this.client.write(greeting);
    this.#adopt(this.#session as PooledSession);
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
    this.#leave(this.#serverLeft === 0 ? encodeErrorResponse(error) : undefined);
  }

  /** What a CancelRequest with the client's key means now. */
  readonly cancelSubject: CancelSubject = {
    hold: (): HeldTarget | undefined => {
      const session = this.#session;
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
    else this.#end(new ProxyError("upstream_lost"));
  }

  get activity(): Activity {
    return {
      state: this.#activityState,
      clientReads: this.#clientReads,
      upstreamReads: this.#upstreamReads,
      answers: this.#answered + (this.#turns?.activity.answers ?? 0),
      transactions: this.#transactions,
    };
  }

  get #activityState(): Activity["state"] {
    if (this.#session === undefined) return this.#isStalled || this.#request !== undefined ? "waiting" : "idle";
    if (this.#restoring !== undefined) return "waiting";
    if (this.#turns !== undefined) return this.#turns.activity.state;
    if (this.#isInCopy) return "held";
    if (this.#answers.outstandingReady > 0) return "busy";
    // What is done stays with the server until somebody asks for it.
    if (this.#isUnsynced && this.#answers.size > 0) return this.#isFlushed ? "busy" : "unclear";
    if (this.#mustRestore && !this.#isUnsynced) return "waiting";
    const isInside = this.#status !== IDLE || this.#isUnsynced || this.#answers.isSkipping || this.#clientLeft > 0;
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
    else if (this.#session === undefined || !this.#session.stream.socket.writableNeedDrain) this.client.resume();
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
      this.#chunk = bytes;
      this.#passFrom = from;
      this.#readAt = at;
      const next = this.#take(type, bytes, at, available, end);
      if (next === STALLED) {
        this.#isStalled = true;
        break;
      }
      if (this.#isClosing) return;
      from = next > at ? Math.min(next, available) : this.#passFrom;
      if (next === end) this.#dropLeft = end - available;
      else this.#clientLeft = end - available;
      at = available;
    }
    this.#pass(bytes, from, at);
    this.#flush();
    this.#chunk = UNNAMED;
    if (at < length) this.#held = this.#isBorrowed ? Buffer.from(bytes.subarray(at)) : bytes.subarray(at);
  }

  /** What is being read: bytes, from where they are to be passed on, and where the message begins. */
  #chunk: Buffer = UNNAMED;
  #passFrom = 0;
  #readAt = 0;

  /** Passes on what stands before the message that is read now, and then `replacement`. */
  #replace(...replacement: Buffer[]): void {
    this.#pass(this.#chunk, this.#passFrom, this.#readAt);
    this.#passFrom = this.#readAt;
    this.#out.push(...replacement);
  }

  #pass(bytes: Buffer, from: number, to: number): void {
    if (to > from) this.#out.push(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }

  #flush(): void {
    const out = this.#out;
    if (out.length === 0) return;
    this.#out = [];
    const session = this.#session;
    if (session === undefined) return; // CopyData of nobody's COPY: PostgreSQL drops it too
    const { socket } = session.stream;
    this.#written = socket;
    const takesMore = socket.write(out.length === 1 ? (out[0] as Buffer) : Buffer.concat(out));
    if (takesMore || this.#isUpstreamFull) return;
    this.#isUpstreamFull = true;
    this.client.pause();
    socket.once("drain", () => {
      this.#isUpstreamFull = false;
      if (this.#session === session && !this.#isStalled && !this.#isClosing) this.client.resume();
    });
  }

  /**
   * Reads a message: the first bytes of it, up to `available`; it ends at `end`.
   *
   * @returns where the bytes begin that are passed on as they are, or STALLED.
   */
  #take(type: number, bytes: Buffer, at: number, available: number, end: number): number {
    if (KNOWN_FROM_CLIENT[type] !== 1) {
      throw new ProxyError("unknown_message", { params: { type } });
    }
    if (type === frontend.terminate) {
      this.#replace();
      this.#flush();
      this.#leave(undefined);
      return at;
    }
    if (type === frontend.copyData || type === frontend.copyDone || type === frontend.copyFail) {
      if (type !== frontend.copyData) {
        this.#hasEndedEarly ||= !this.#isInCopy && this.#answers.size > 0;
        this.#isInCopy = false;
        this.#follow(type);
      }
      if (this.#session !== undefined) return at;
      this.#replace();
      return end;
    }
    if (this.#session === undefined && !this.#want()) return STALLED;
    if (this.#mustWait()) return STALLED;
    const session = this.#session as PooledSession;
    if (this.#isInCopy) this.#becomeBlind();
    this.#follow(type);
    const isWhole = available === end;
    switch (type) {
      case frontend.query:
        return this.#takeQuery(session, bytes, at, available, end);
      case frontend.parse:
        return this.#takeParse(session, bytes, at, available, isWhole);
      case frontend.bind: {
        const portalEnd = endOfString(bytes, at + HEADER_BYTES, available);
        const nameEnd = endOfString(bytes, portalEnd, available);
        return this.#takeReference(session, asked.bind, bytes, at, { before: portalEnd, nameEnd, end });
      }
      case frontend.describe:
        if (bytes[at + HEADER_BYTES] !== STATEMENT) return this.#expect(asked.describe, at);
        return this.#takeReference(session, asked.describe, bytes, at, {
          before: at + HEADER_BYTES + 1,
          nameEnd: endOfString(bytes, at + HEADER_BYTES + 1, available),
          end,
        });
      case frontend.close:
        return this.#takeClose(session, bytes, at, available);
      case frontend.execute:
        return this.#expect(asked.execute, at);
      case frontend.sync:
        this.#isUnsynced = false;
        this.#isFlushed = false;
        if (this.#resetsUnsynced) this.#restoreLater();
        this.#push(asked.sync);
        return at;
      case frontend.functionCall:
        this.#isTainted = true;
        this.#push(asked.call);
        return at;
      default: // Flush
        this.#isUnsynced = true;
        this.#isFlushed = true;
        return at;
    }
  }

  #expect(kind: Asked, at: number): number {
    this.#isUnsynced = true;
    this.#push(kind);
    return at;
  }

  #push(kind: Asked, about?: About): void {
    if (kind < asked.sync) this.#isFlushed = false;
    if (!this.#isBlind) this.#answers.push(kind, about);
  }

  /** What is counted no more is followed all the same, for the timers. */
  #follow(type: number): void {
    const turns = this.#turns?.fromClient;
    if (turns?.types[type] === 1) turns.onMessage(type, -1);
  }

  /** Whether the next message has to wait for an answer to what was sent before. */
  #mustWait(): boolean {
    if (this.#isBlind || this.#answers.isSkipping) return false;
    if (this.#mustRestore || this.#answers.size > MAX_OUTSTANDING) return true;
    const mayGo = this.#isTransactionMode && this.#pinReason === undefined;
    return (
      mayGo && this.#answers.outstandingReady > 0 && this.#services.pool.hasWaiters(this.#session as PooledSession)
    );
  }

  #takeQuery(session: PooledSession, bytes: Buffer, at: number, available: number, end: number): number {
    const isWhole = available === end;
    const textEnd = isWhole ? available - 1 : available;
    const found = this.#services.pool.reader.read(bytes, at + HEADER_BYTES, textEnd);
    if (!isWhole) this.#isTainted = true;
    this.#isUnsynced = false;
    if (this.#mustRefuse(found)) {
      this.#push(asked.query);
      this.#replace(encodeMessage(frontend.query, Buffer.from(`${refusal(found)}\0`)));
      return end;
    }
    if (found.bits !== 0) this.#apply(session, found);
    const about = (found.bits & effects.deallocates) === 0 ? undefined : this.#deallocate(session, found);
    if (this.#resetsUnsynced) this.#restoreLater();
    this.#unnamed = undefined;
    session.unnamedOf = undefined;
    this.#push(asked.query, about);
    return at;
  }

  #takeParse(session: PooledSession, bytes: Buffer, at: number, available: number, isWhole: boolean): number {
    this.#isUnsynced = true;
    const { pool, config } = this.#services;
    const nameEnd = endOfString(bytes, at + HEADER_BYTES, available);
    const definition = bytes.subarray(nameEnd, available);
    const isUnnamed = nameEnd === at + HEADER_BYTES + 1;
    if (!isWhole) {
      // Too long to be kept: the client keeps the session that has it.
      this.#apply(session, pool.reader.read(definition, 0, definition.length));
      this.#isTainted = true;
      this.#pin("statement_memory");
      if (isUnnamed) this.#unnamed = undefined;
      if (isUnnamed) session.unnamedOf = this;
      this.#push(asked.parse);
      return at;
    }
    if (isUnnamed) {
      const found = pool.reader.read(definition, 0, Math.max(definition.indexOf(0), 0));
      if (this.#mustRefuse(found))
        return this.#refuseParse(bytes.subarray(at + HEADER_BYTES, nameEnd), found, available);
      const previous = this.#unnamed;
      this.#unnamed = { definition: Buffer.from(definition), effects: found };
      session.unnamedOf = this;
      if (found.bits !== 0) this.#apply(session, found);
      this.#push(asked.parse, { undo: (wasRead) => this.#restoreUnnamed(wasRead ? undefined : previous) });
      return at;
    }
    const name = bytes.toString("latin1", at + HEADER_BYTES, nameEnd - 1);
    const isTaken = this.#statements.has(name);
    const prepared = pool.statements.find(definition, this.#borrower.settings.get("search_path") ?? "");
    if (this.#mustRefuse(prepared.effects)) {
      return this.#refuseParse(bytes.subarray(at + HEADER_BYTES, nameEnd), prepared.effects, available);
    }
    this.#apply(session, prepared.effects);
    if (!this.#isTransactionMode) {
      if (this.#statements.size < MAX_STATEMENTS) this.#statements.set(name, prepared);
      this.#push(asked.parse);
      return at;
    }
    if (isTaken) {
      // The server itself says that there is one of this name: it gets one.
      this.#isTainted = true;
      this.#push(asked.ourParse);
      this.#replace(encodeParse(bytes.subarray(at + HEADER_BYTES, nameEnd), EMPTY_DEFINITION));
      this.#push(asked.parse);
      return at;
    }
    if (
      this.#statements.size >= MAX_STATEMENTS ||
      this.#statementBytes + definition.length + name.length > MAX_STATEMENT_BYTES
    ) {
      this.#pin("statement_memory");
      this.#push(asked.parse);
      return at;
    }
    this.#remember(name, prepared);
    const about = { prepared, name };
    const isThere = session.statements.get(prepared) === prepared.number;
    if (isThere && this.#status === FAILED)
      session.hasLeftovers = true; // the server refuses it in its own words
    else if (isThere && !this.#isBlind) {
      this.#replace();
      this.#push(asked.skippedParse, about);
      if (this.#serverLeft === 0) this.#answerSkipped();
      return available;
    }
    this.#makeRoom(session, config.maxPreparedStatements);
    this.#replace(...this.#parseAs(session, prepared));
    this.#push(asked.parse, about);
    return available;
  }

  #refuseParse(name: Buffer, found: Effects, end: number): number {
    this.#push(asked.parse);
    this.#replace(encodeParse(name, Buffer.from(`${refusal(found)}\0\0\0`)));
    return end;
  }

  /**
   * Parse under our name. Behind a DEALLOCATE that may have failed the name may still be taken, and what the statement was
   * called before is of no use any more.
   */
  #parseAs({ statements, hasLeftovers }: PooledSession, prepared: Prepared): Buffer[] {
    const parse = encodeParse(prepared.serverName, prepared.definition);
    const before = statements.get(prepared);
    statements.set(prepared, prepared.number);
    const isReplaced = before !== undefined && before !== prepared.number;
    if (!isReplaced && !hasLeftovers) return [parse];
    this.#push(asked.ourClose);
    return [encodeCloseStatement(isReplaced ? serverNameOf(before) : prepared.serverName), parse];
  }

  /** Closes what was used longest ago. */
  #makeRoom({ statements }: PooledSession, most: number): void {
    if (this.#isBlind) return;
    for (const [prepared, number] of statements) {
      if (statements.size < most) return;
      statements.delete(prepared);
      this.#push(asked.ourClose, { undo: () => this.#noteLeftovers() });
      this.#replace(encodeCloseStatement(serverNameOf(number)));
    }
  }

  #noteLeftovers(): void {
    if (this.#session !== undefined) this.#session.hasLeftovers = true;
  }

  /** Bind, or Describe of a statement: it is there, under the name that the server knows it by. */
  #takeReference(
    session: PooledSession,
    kind: Asked,
    bytes: Buffer,
    at: number,
    { before, nameEnd, end }: { readonly before: number; readonly nameEnd: number; readonly end: number },
  ): number {
    this.#isUnsynced = true;
    if (nameEnd === before + 1) {
      if (this.#isTransactionMode && session.unnamedOf !== this) this.#bringUnnamed(session);
      const found = kind === asked.bind ? this.#unnamed?.effects : undefined;
      this.#push(kind, found === undefined ? undefined : this.#applyBound(session, found));
      return at;
    }
    const prepared =
      this.#statements.size === 0 ? undefined : this.#statements.get(bytes.toString("latin1", before, nameEnd - 1));
    if (prepared === undefined) {
      this.#push(kind);
      return at;
    }
    const done = kind === asked.bind ? this.#applyBound(session, prepared.effects) : undefined;
    if (!this.#isTransactionMode) {
      this.#push(kind, done);
      return at;
    }
    this.#bring(session, prepared);
    this.#push(kind, done === undefined ? { prepared } : { ...done, prepared });
    const head = bytes.subarray(at + HEADER_BYTES, before);
    const length = end - at - 1 - (nameEnd - before) + prepared.serverName.length;
    const renamed = Buffer.allocUnsafe(HEADER_BYTES);
    renamed[0] = bytes[at] as number;
    renamed.writeInt32BE(length, 1);
    this.#replace(renamed, head, prepared.serverName);
    return nameEnd;
  }

  /** What a statement does that is bound now, and so will be executed. */
  #applyBound(session: PooledSession, found: Effects): About | undefined {
    if (found.bits === 0) return undefined;
    this.#apply(session, found);
    if ((found.bits & effects.deallocates) === 0) return undefined;
    this.#isTainted = true; // nobody knows whether it is executed
    return this.#deallocate(session, found);
  }

  #bring(session: PooledSession, prepared: Prepared): void {
    const { statements } = session;
    const { maxPreparedStatements } = this.#services.config;
    if (statements.get(prepared) === prepared.number) {
      if (statements.size >= maxPreparedStatements) {
        statements.delete(prepared);
        statements.set(prepared, prepared.number);
      }
      return;
    }
    if (this.#isBlind) throw new ProxyError("copy_ambiguous");
    this.#makeRoom(session, maxPreparedStatements);
    this.#replace(...this.#parseAs(session, prepared));
    this.#push(asked.ourParse, { prepared });
  }

  /** The unnamed statement follows the client; who has none finds none, and not somebody else's. */
  #bringUnnamed(session: PooledSession): void {
    if (this.#isBlind) throw new ProxyError("copy_ambiguous");
    session.unnamedOf = this;
    if (this.#unnamed === undefined) {
      this.#push(asked.ourClose);
      this.#replace(encodeCloseStatement(UNNAMED));
    } else {
      this.#push(asked.ourParse);
      this.#replace(encodeParse(UNNAMED, this.#unnamed.definition));
    }
  }

  /** The server's statement stays for others: what has the client's name there is nothing, and is closed in its place. */
  #takeClose(session: PooledSession, bytes: Buffer, at: number, available: number): number {
    this.#isUnsynced = true;
    if (bytes[at + HEADER_BYTES] !== STATEMENT) return this.#expect(asked.close, at);
    const name = bytes.toString("latin1", at + HEADER_BYTES + 1, available - 1);
    if (name === "") {
      const previous = this.#unnamed;
      this.#unnamed = undefined;
      session.unnamedOf = undefined;
      this.#push(asked.close, { undo: () => this.#restoreUnnamed(previous) });
    } else this.#push(asked.close, this.#forget(name));
    return at;
  }

  #restoreUnnamed(previous: Unnamed | undefined): void {
    this.#unnamed = previous;
    if (this.#session !== undefined) this.#session.unnamedOf = undefined;
  }

  /** @returns how to have it again. */
  #forget(name: string): About | undefined {
    const prepared = this.#statements.get(name);
    if (prepared === undefined) return undefined;
    this.#statements.delete(name);
    this.#statementBytes -= prepared.definition.length + name.length;
    return { undo: () => this.#remember(name, prepared) };
  }

  #remember(name: string, prepared: Prepared): void {
    if (this.#statements.has(name)) return;
    this.#statements.set(name, prepared);
    this.#statementBytes += prepared.definition.length + name.length;
  }

  #deallocate(session: PooledSession, { deallocated }: Effects): About | undefined {
    if (deallocated === undefined) {
      const forgotten = [...this.#statements];
      this.#statements.clear();
      this.#statementBytes = 0;
      session.statements.clear();
      session.hasLeftovers = true;
      this.#isTainted = true;
      return { undo: () => forgotten.forEach(([name, prepared]) => this.#remember(name, prepared)) };
    }
    const about = this.#forget(deallocated);
    if (about === undefined || !this.#isTransactionMode || this.#isBlind) return about;
    // The server knows it by another name, and says what it says of the client's: it gets one of that.
    const name = Buffer.from(`${deallocated}\0`, "latin1");
    this.#push(asked.ourClose);
    this.#push(asked.ourParse);
    this.#replace(encodeCloseStatement(name), encodeParse(name, EMPTY_DEFINITION));
    return {
      undo: () => {
        this.#isTainted = true; // it has one of that name now, which nobody may find
        about.undo?.(true);
      },
    };
  }

  // What statements leave behind.

  #mustRefuse({ bits }: Effects): boolean {
    const { sessionState } = this.#services.config;
    if (!this.#isTransactionMode || sessionState !== "refuse") return false;
    return (bits & (effects.pins | effects.sets)) !== 0;
  }

  #apply(_session: PooledSession, found: Effects): void {
    const { bits } = found;
    if (bits === 0) return;
    if ((bits & effects.taints) !== 0) this.#isTainted = true;
    if ((bits & effects.resets) !== 0) {
      this.#resetsUnsynced = true;
      this.#resetNames.push(...found.reset);
      if (this.#resetNames.length > MAX_NOTED) this.#resetNames.splice(0, Infinity, "*");
    }
    if (!this.#isTransactionMode) return;
    if ((bits & effects.pins) !== 0) this.#pin(found.pinReason ?? "set");
    if ((bits & effects.sets) !== 0) {
      if (this.#services.config.sessionState === "follow" && this.#settings.length < MAX_NOTED) {
        this.#settings.push(...found.settings);
      } else this.#pin("set");
    }
  }

  #pin(reason: PinReason): void {
    if (!this.#isTransactionMode || this.#pinReason !== undefined) return;
    this.#pinReason = reason;
    this.#services.countPin(reason);
  }

  #becomeBlind(): void {
    if (this.#isBlind) return;
    this.#isBlind = true;
    this.#isTainted = true;
    this.#pin("copy");
    const turns = new Turns(() => ({ client: this.#clientReads, upstream: this.#upstreamReads }), this.#status);
    for (const kind of this.#answers.pending) turns.fromClient.onMessage(SENT_AS[kind], -1);
    if (this.#hasEndedEarly) turns.fromClient.onMessage(frontend.copyDone, -1);
    turns.fromUpstream.onMessage(backend.copyInResponse, -1);
    this.#turns = turns;
  }

  #restoreLater(): void {
    this.#resetsUnsynced = false;
    this.#mustRestore = true;
  }

  /** Neither the client nor the server has the statement, or it has it still. */
  #onFailed(kind: Asked, { prepared, name, undo }: About, wasRead: boolean): void {
    if (prepared !== undefined && (kind === asked.parse || kind === asked.ourParse)) {
      this.#session?.statements.delete(prepared);
      this.#noteLeftovers();
    }
    if (name !== undefined && this.#statements.get(name) === prepared) this.#forget(name);
    undo?.(wasRead);
  }

  // From the server.

  #serverSaidFatal = false;

  #readServer(bytes: Buffer): void {
    this.#serverTail = undefined;
    const { length } = bytes;
    let at = Math.min(this.#serverLeft, length);
    this.#serverLeft -= at;
    let from = 0;
    if (this.#serverLeft === 0 && this.#answers.next === asked.skippedParse) {
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
        if (end <= length && this.#answers.next === asked.skippedParse) {
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
    const turns = this.#turns?.fromUpstream;
    if (turns?.types[type] === 1) turns.onMessage(type, bytes[at + HEADER_BYTES] ?? -1);
    const isWithoutReady = !this.#isBlind && this.#answers.outstandingReady === 0;
    if (isWithoutReady && ENDS_EXECUTE[type] === 1) this.#answered += 1;
    switch (type) {
      case backend.parameterStatus:
        this.#learn(bytes, at, end);
        return true;
      case backend.notificationResponse:
        // Who listens is pinned: what comes without that is for somebody else.
        return !this.#isTransactionMode || this.#pinReason !== undefined;
      case backend.copyInResponse:
      case backend.copyBothResponse:
        // What stands behind it already may be dropped by the server: nobody knows how many answers come.
        if (this.#answers.size > 1) this.#becomeBlind();
        this.#isInCopy = true;
        return true;
      case backend.errorResponse: {
        this.#isInCopy = false;
        const body = bytes.subarray(at + HEADER_BYTES, end);
        this.#serverSaidFatal = body.includes("SFATAL\0") || body.includes("VFATAL\0") || body.includes("VPANIC\0");
        this.#settings = [];
        this.#onError(body);
        break;
      }
      case backend.readyForQuery:
        this.#isInCopy = false; // what a client sends of a COPY may have come before the server asked for it
        this.#status = bytes[at + HEADER_BYTES] as number;
        this.#hasNewReady = true;
        this.#answered += 1;
        if (this.#answers.size <= 1) this.#hasEndedEarly = false;
        if (this.#status === IDLE) this.#transactions += 1;
        break;
      default:
    }
    if (this.#isBlind) return true;
    const verdict = this.#answers.answer(type);
    if (verdict === "wrong") throw new ProxyError("upstream_stream", { detail: `'${String.fromCharCode(type)}'` });
    return verdict === "pass";
  }

  /** A statement that was prepared for others may not fit any more: nobody uses it again. */
  #onError(body: Buffer): void {
    const prepared = this.#answers.nextAbout?.prepared;
    if (prepared === undefined) return;
    const sqlstate = sqlstateOf(body);
    if (sqlstate === "0A000" || sqlstate === "26000") this.#services.pool.statements.rename(prepared);
  }

  #learn(bytes: Buffer, at: number, end: number): void {
    const [name = "", value = ""] = bytes.toString("latin1", at + HEADER_BYTES, end).split("\0");
    const session = this.#session as PooledSession;
    session.report(name, value);
    this.#told.set(name, value);
    if (this.#borrower.learn(name, value)) session.applied.set(name.toLowerCase(), value);
  }

  #answerSkipped(): void {
    while (this.#answers.takeSkipped()) this.#write(PARSE_COMPLETE);
  }

  #toClient(bytes: Buffer, from: number, to: number): void {
    if (to > from) this.#write(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }

  /** What a client does not read slows down its own server only. */
  #write(bytes: Buffer): void {
    if (!this.client.writable || this.client.write(bytes)) return;
    this.#session?.stream.socket.pause();
    if (this.#isClientFull) return;
    this.#isClientFull = true;
    this.client.once("drain", () => {
      this.#isClientFull = false;
      if (!this.#isClosing) this.#session?.stream.socket.resume();
    });
  }

  // When a session comes, and goes.

  /** @returns true where there is one at once. */
  #want(): boolean {
    const { pool } = this.#services;
    const session = pool.take(this.#borrower, this);
    if (session !== undefined) {
      this.#session = session;
      this.#adopt(session);
      return true;
    }
    if (this.#request === undefined) {
      const request = pool.request(this.#borrower, this, this);
      if (this.#session === undefined && !this.#isClosing) this.#request = request;
    }
    return this.#session !== undefined;
  }

  // Applicant: what becomes of the request. Either may be called before `request` has returned.

  onGranted(session: PooledSession): void {
    this.#session = session;
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
    this.#status = IDLE;
    this.#isTainted = false;
    this.#serverSaidFatal = false;
    if (session.reported !== this.#lastReported) {
      this.#tell(session);
      this.#lastReported = session.reported;
    }
    const unread = session.lendTo(this);
    if (unread.length > 0) this.onUpstreamBytes(unread);
  }

  /** What this session reports otherwise than the one before. */
  #tell(session: PooledSession): void {
    for (const [name, value] of session.parameters) {
      if (this.#told.get(name) === value) continue;
      this.#told.set(name, value);
      this.#write(encodeMessage(backend.parameterStatus, Buffer.from(`${name}\0${value}\0`, "latin1")));
    }
  }

  /** All that was asked may be answered now: the session goes, or is made good, and what waits goes on. */
  #settle(): void {
    const session = this.#session;
    if (session === undefined || this.#isClosing || this.#isBlind || this.#answers.size > 0) {
      if (this.#isStalled && !this.#isClosing && session !== undefined) this.#resume();
      return;
    }
    this.#settleSettings(session);
    if (this.#mustRestore && !this.#isUnsynced) {
      if (this.#status !== FAILED) {
        void this.#restore(session);
        return;
      }
      this.#mustRestore = false; // the RESET is rolled back with its transaction
      this.#resetNames.length = 0;
    }
    if (this.#isReleasable()) {
      this.#session = undefined;
      this.#services.pool.release(session, this.#borrower, this.#isTainted);
    }
    if (this.#isStalled) this.#resume();
  }

  #isReleasable(): boolean {
    return (
      this.#isTransactionMode &&
      this.#pinReason === undefined &&
      this.#status === IDLE &&
      !this.#isUnsynced &&
      !this.#isInCopy &&
      !this.#answers.isSkipping &&
      this.#clientLeft === 0 &&
      this.#serverLeft === 0 &&
      this.#serverTail === undefined
    );
  }

  /** What SET statements of their own have set, now that they have worked. In a transaction they may not last. */
  #settleSettings({ applied }: PooledSession): void {
    if (this.#settings.length === 0 || this.#isUnsynced) return;
    const set = this.#settings;
    this.#settings = [];
    if (this.#status !== IDLE) {
      this.#pin("set");
      return;
    }
    for (const { name, value } of set) {
      if (value === undefined) {
        this.#borrower.settings.delete(name);
        applied.delete(name);
        continue;
      }
      this.#borrower.settings.set(name, value);
      applied.set(name, value);
    }
  }

  async #restore(session: PooledSession): Promise<void> {
    const { pool } = this.#services;
    session.takeBack(0);
    session.unnamedOf = undefined; // our own statements are unnamed
    for (const name of this.#resetNames.splice(0)) {
      this.#borrower.resetSetting(name);
      if (name === "*") session.applied.clear();
      else session.applied.delete(name);
    }
    this.#restoring = new AbortController();
    try {
      await pool.restore(session, this.#borrower, this.#status !== IDLE, this.#restoring.signal);
    } catch (failure) {
      if (!this.#isClosing) this.#onFailure(failure);
      return;
    }
    this.#restoring = undefined;
    this.#mustRestore = false;
    if (this.#isClosing) return;
    const [status, isTainted] = [this.#status, this.#isTainted];
    this.#adopt(session);
    [this.#status, this.#isTainted] = [status, isTainted];
    this.#settle();
  }

  // The end.

  readonly #onFailure = (failure: unknown): void => {
    if (this.#isClosing) return;
    if (failure instanceof UpstreamRefusal) this.#leave(failure.response.bytes);
    else this.#end(failure instanceof ProxyError ? failure : new ProxyError("internal", { cause: failure }));
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
    const session = this.#session;
    if (session === undefined) return;
    this.#session = undefined;
    const { pool } = this.#services;
    const isAtRest = this.#answers.size === 0 && !this.#isBlind && this.#restoring === undefined;
    if (this.#isCutApart || (this.#mustStop && !isAtRest)) {
      pool.destroy(session); // what the server has of a pipeline would go on, whatever is cancelled of it
    } else if (isAtRest && session.isOpen && this.#isReleasable()) {
      pool.release(session, this.#borrower, this.#isTainted);
    } else if (this.#clientLeft > 0) {
      pool.destroy(session); // half a message of the client's has reached the server
    } else {
      pool.reclaim(session, this.#serverLeft, this.#serverTail);
    }
  }
}

/** Where the string that begins at `at` ends, its zero included. @throws ProxyError message_length where it does not. */
function endOfString(bytes: Buffer, at: number, end: number): number {
  const zero = bytes.indexOf(0, at);
  if (zero === -1 || zero >= end) throw new ProxyError("message_length");
  return zero + 1;
}

/** A statement that fails on the server as the refused one has to, so that its transaction fails as well. */
function refusal({ pinReason }: Effects): string {
  const what = pinReason ?? "set";
  return `DO $pgvpd$BEGIN RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = 'session state is refused in transaction mode (${what})', HINT = 'SET LOCAL inside of the transaction works; session_state = follow or pin allows the rest.'; END$pgvpd$`;
}

function ignore(): void {}
