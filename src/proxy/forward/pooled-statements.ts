/**
 * A client's prepared statements, by the client's names, as they follow it from session to session: what Parse, Bind,
 * Describe, Close and DEALLOCATE make of them. They are noted as they are sent, and put back where the server then says
 * that it has not done it. In session mode the server keeps them, and only what they do is remembered.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { sqlstateOf } from "../../protocol/backend-messages.ts";
import { HEADER_BYTES } from "../../protocol/message.ts";
import type { Borrower } from "../pool/borrower.ts";
import type { Pool } from "../pool/pool.ts";
import type { PooledSession } from "../pool/pooled-session.ts";
import { encodeParse, type Prepared } from "../pool/prepared.ts";
import { effects, type Effects } from "../pool/sql-effects.ts";
import { asked, type About, type Asked } from "./expected-answers.ts";
import type { Conversation } from "./pooled-conversation.ts";
import type { Passage } from "./pooled-passage.ts";
import { Preparation } from "./pooled-preparation.ts";
import { refusalOf, type Traces } from "./pooled-traces.ts";

/** What a client's prepared statements may take here; beyond it the client keeps its session. */
const MAX_STATEMENT_BYTES = 1024 * 1024;
const MAX_STATEMENTS = 5_000;
const STATEMENT = 0x53;
const UNNAMED = Buffer.of(0);

/** The client's unnamed statement. */
interface Unnamed {
  readonly definition: Buffer;
  readonly effects: Effects;
}

export class ClientStatements {
  readonly #pool: Pick<Pool, "reader" | "statements">;
  readonly #borrower: Borrower;
  readonly #traces: Traces;
  readonly #conversation: Conversation;
  readonly #passage: Passage;
  readonly #preparation: Preparation;
  readonly #named = new Map<string, Prepared>();
  #namedBytes = 0;
  #unnamed: Unnamed | undefined;

  constructor(
    pool: Pick<Pool, "reader" | "statements">,
    { maxPreparedStatements }: Pick<Config, "maxPreparedStatements">,
    borrower: Borrower,
    traces: Traces,
    conversation: Conversation,
    passage: Passage,
  ) {
    this.#pool = pool;
    this.#borrower = borrower;
    this.#traces = traces;
    this.#conversation = conversation;
    this.#passage = passage;
    this.#preparation = new Preparation(conversation, passage, maxPreparedStatements);
  }

  // What the client sends. Each returns where in the message the bytes begin that are passed on as they are.

  takeParse(session: PooledSession): number {
    this.#conversation.isUnsynced = true;
    const { bytes, at, available, isWhole } = this.#passage;
    const nameEnd = endOfString(bytes, at + HEADER_BYTES, available);
    const definition = bytes.subarray(nameEnd, available);
    const name = bytes.subarray(at + HEADER_BYTES, nameEnd);
    if (!isWhole) return this.#takeLongParse(session, name, definition);
    return name.length === 1
      ? this.#takeUnnamedParse(session, definition)
      : this.#takeNamedParse(session, name, definition);
  }

  /** Too long to be kept: the client keeps the session that has it. */
  #takeLongParse(session: PooledSession, nameAndZero: Buffer, beginning: Buffer): number {
    const found = this.#pool.reader.read(beginning, 0, beginning.length);
    if (this.#traces.mustRefuse(found)) return this.#refuseParse(nameAndZero, found);
    this.#traces.note(found);
    this.#traces.isTainted = true;
    this.#traces.pin("statement_memory");
    if (nameAndZero.length === 1) {
      this.#unnamed = undefined;
      session.unnamedOf = this;
    }
    return this.#pass(asked.parse);
  }

  #takeUnnamedParse(session: PooledSession, definition: Buffer): number {
    const found = this.#pool.reader.read(definition, 0, Math.max(definition.indexOf(0), 0));
    if (this.#traces.mustRefuse(found)) return this.#refuseParse(UNNAMED, found);
    const previous = this.#unnamed;
    this.#unnamed = { definition: Buffer.from(definition), effects: found };
    session.unnamedOf = this;
    this.#traces.note(found);
    return this.#pass(asked.parse, { undo: (wasRead) => this.#restoreUnnamed(wasRead ? undefined : previous) });
  }

  /** @param nameAndZero as it stands in the message. */
  #takeNamedParse(session: PooledSession, nameAndZero: Buffer, definition: Buffer): number {
    const conversation = this.#conversation;
    const name = nameAndZero.toString("latin1", 0, nameAndZero.length - 1);
    const isTaken = this.#named.has(name);
    const prepared = this.#pool.statements.find(definition, this.#borrower.settings.get("search_path") ?? "");
    if (this.#traces.mustRefuse(prepared.effects)) return this.#refuseParse(nameAndZero, prepared.effects);
    this.#traces.note(prepared.effects);
    if (!this.#traces.isTransactionMode) {
      if ((prepared.effects.bits & (effects.resets | effects.deallocates)) !== 0) {
        this.#forget(name);
        if (this.#hasRoomFor(name, definition)) this.#remember(name, prepared);
      }
      return this.#pass(asked.parse);
    }
    if (conversation.isBlind) {
      // The server has it under the client's name from now on, but what the client calls so already is not there.
      if (isTaken) throw new ProxyError("copy_ambiguous");
      return this.#pass(asked.parse);
    }
    if (isTaken) {
      // The server itself says that there is one of this name: it gets one.
      this.#traces.isTainted = true;
      this.#preparation.parseEmpty(nameAndZero);
      return this.#pass(asked.parse);
    }
    if (!this.#hasRoomFor(name, definition)) {
      this.#traces.pin("statement_memory");
      return this.#pass(asked.parse);
    }
    this.#remember(name, prepared);
    const about = { prepared, name };
    const isThere = session.statements.get(prepared) === prepared.number;
    if (isThere && conversation.isFailed) {
      session.hasLeftovers = true; // the server refuses it in its own words
    } else if (isThere) {
      this.#passage.put();
      conversation.ask(asked.skippedParse, about);
      return this.#passage.end;
    }
    this.#preparation.parse(session, prepared);
    conversation.ask(asked.parse, about);
    return this.#passage.end;
  }

  #refuseParse(name: Buffer, found: Effects): number {
    this.#conversation.ask(asked.parse);
    this.#passage.put(encodeParse(name, Buffer.from(`${refusalOf(found)}\0\0\0`)));
    return this.#passage.end;
  }

  takeBind(session: PooledSession): number {
    const { bytes, at, available } = this.#passage;
    const portalEnd = endOfString(bytes, at + HEADER_BYTES, available);
    return this.#takeReference(session, asked.bind, portalEnd, endOfString(bytes, portalEnd, available));
  }

  takeDescribe(session: PooledSession): number {
    const { bytes, at, available } = this.#passage;
    const nameAt = at + HEADER_BYTES + 1;
    if (bytes[nameAt - 1] === STATEMENT) {
      return this.#takeReference(session, asked.describe, nameAt, endOfString(bytes, nameAt, available));
    }
    this.#conversation.isUnsynced = true;
    return this.#pass(asked.describe);
  }

  /** Bind, or Describe of a statement: it is there, under the name that the server knows it by. */
  #takeReference(session: PooledSession, kind: Asked, nameAt: number, nameEnd: number): number {
    this.#conversation.isUnsynced = true;
    const { bytes, at, end } = this.#passage;
    if (nameEnd === nameAt + 1) {
      if (this.#traces.isTransactionMode && session.unnamedOf !== this) {
        this.#preparation.bringUnnamed(this.#unnamed?.definition);
        session.unnamedOf = this;
      }
      const found = kind === asked.bind ? this.#unnamed?.effects : undefined;
      return this.#pass(kind, found === undefined ? undefined : this.#noteBound(session, found));
    }
    const prepared =
      this.#named.size === 0 ? undefined : this.#named.get(bytes.toString("latin1", nameAt, nameEnd - 1));
    if (prepared === undefined) return this.#pass(kind);
    const done = kind === asked.bind ? this.#noteBound(session, prepared.effects) : undefined;
    if (!this.#traces.isTransactionMode) return this.#pass(kind, done);
    this.#preparation.bring(session, prepared);
    this.#conversation.ask(kind, done === undefined ? { prepared } : { ...done, prepared });
    const renamed = Buffer.allocUnsafe(HEADER_BYTES);
    renamed[0] = bytes[at] as number;
    renamed.writeInt32BE(end - at - 1 - (nameEnd - nameAt) + prepared.serverName.length, 1);
    this.#passage.put(renamed, bytes.subarray(at + HEADER_BYTES, nameAt), prepared.serverName);
    return nameEnd;
  }

  /** What a statement does that is bound now, and so will be executed. */
  #noteBound(session: PooledSession, found: Effects): About | undefined {
    if (found.bits === 0) return undefined;
    this.#traces.note(found);
    if ((found.bits & effects.deallocates) === 0) return undefined;
    this.#traces.isTainted = true; // nobody knows whether it is executed
    return this.deallocate(session, found);
  }

  /** The server's statement stays for others: what has the client's name there is nothing, and is closed in its place. */
  takeClose(session: PooledSession): number {
    this.#conversation.isUnsynced = true;
    const { bytes, at, available } = this.#passage;
    if (bytes[at + HEADER_BYTES] !== STATEMENT) return this.#pass(asked.close);
    const name = bytes.toString("latin1", at + HEADER_BYTES + 1, available - 1);
    if (name !== "") return this.#pass(asked.close, this.#forget(name));
    const previous = this.#unnamed;
    this.dropUnnamed(session);
    return this.#pass(asked.close, { undo: () => this.#restoreUnnamed(previous) });
  }

  /** DEALLOCATE is sent, as SQL. @returns how to take it back. */
  deallocate(session: PooledSession, { deallocated }: Effects): About | undefined {
    if (deallocated === undefined) {
      const forgotten = [...this.#named];
      this.#named.clear();
      this.#namedBytes = 0;
      session.statements.clear();
      session.hasLeftovers = true;
      this.#traces.isTainted = true;
      return { undo: () => forgotten.forEach(([name, prepared]) => this.#remember(name, prepared)) };
    }
    const about = this.#forget(deallocated);
    if (about === undefined || !this.#traces.isTransactionMode || this.#conversation.isBlind) return about;
    // The server knows it by another name, and says what it says of the client's: it gets one of that.
    this.#preparation.replaceByEmpty(Buffer.from(`${deallocated}\0`, "latin1"));
    return {
      undo: () => {
        this.#traces.isTainted = true; // it has one of that name now, which nobody may find
        about.undo?.(true);
      },
    };
  }

  /** A Query drops it on the server, a Close too. */
  dropUnnamed(session: PooledSession): void {
    this.#unnamed = undefined;
    session.unnamedOf = undefined;
  }

  /** The message is passed on as it is. */
  #pass(kind: Asked, about?: About): number {
    this.#conversation.ask(kind, about);
    return this.#passage.at;
  }

  // What the server says to it.

  /** It has not done what was asked: neither has it the statement, or it has it still. */
  onFailed(kind: Asked, { prepared, name, undo }: About, wasRead: boolean): void {
    if (prepared !== undefined && (kind === asked.parse || kind === asked.ourParse)) {
      this.#preparation.onNotPrepared(prepared);
    }
    if (name !== undefined && this.#named.get(name) === prepared) this.#forget(name);
    undo?.(wasRead);
  }

  /** A statement that was prepared for others may not fit any more: nobody uses it again. @param body of ErrorResponse. */
  onError(body: Buffer): void {
    const prepared = this.#conversation.answers.nextAbout?.prepared;
    if (prepared === undefined) return;
    const sqlstate = sqlstateOf(body);
    if (sqlstate === "0A000" || sqlstate === "26000") this.#pool.statements.rename(prepared);
  }

  #restoreUnnamed(previous: Unnamed | undefined): void {
    this.#unnamed = previous;
    const { session } = this.#conversation;
    if (session !== undefined) session.unnamedOf = undefined;
  }

  /** @returns how to have it again. */
  #forget(name: string): About | undefined {
    const prepared = this.#named.get(name);
    if (prepared === undefined) return undefined;
    this.#named.delete(name);
    this.#namedBytes -= prepared.definition.length + name.length;
    return { undo: () => this.#remember(name, prepared) };
  }

  #hasRoomFor(name: string, definition: Buffer): boolean {
    if (this.#named.size >= MAX_STATEMENTS) return false;
    return this.#namedBytes + definition.length + name.length <= MAX_STATEMENT_BYTES;
  }

  #remember(name: string, prepared: Prepared): void {
    if (this.#named.has(name)) return;
    this.#named.set(name, prepared);
    this.#namedBytes += prepared.definition.length + name.length;
  }
}

/** Where the string that begins at `at` ends, its zero included. @throws ProxyError message_length where it does not. */
function endOfString(bytes: Buffer, at: number, end: number): number {
  const zero = bytes.indexOf(0, at);
  if (zero === -1 || zero >= end) throw new ProxyError("message_length");
  return zero + 1;
}
