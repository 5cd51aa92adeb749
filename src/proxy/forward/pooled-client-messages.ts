/**
 * What each message of a client of a pool means for its session: whether it needs one, has to wait, or changes something
 * on its way; which answer is expected; and what it leaves behind. The messages of prepared statements are read in
 * pooled-statements.ts.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import { encodeMessage, HEADER_BYTES } from "../../protocol/message.ts";
import { frontend, tableOf } from "../../protocol/message-types.ts";
import type { Pool } from "../pool/pool.ts";
import type { PooledSession } from "../pool/pooled-session.ts";
import { effects } from "../pool/sql-effects.ts";
import { asked } from "./expected-answers.ts";
import type { Conversation } from "./pooled-conversation.ts";
import type { Passage } from "./pooled-passage.ts";
import type { ClientStatements } from "./pooled-statements.ts";
import { refusalOf, type Traces } from "./pooled-traces.ts";

/** More requests than these without an answer, and the client is not read further. */
const MAX_OUTSTANDING = 4_096;
const KNOWN = tableOf(Object.values(frontend).filter((type) => type !== frontend.password));

/** No more of the client's messages may be taken now. */
export const STALLED = -1;

/** Messages whose body is read. */
export const READ_WITH_BODY = tableOf([
  frontend.bind,
  frontend.close,
  frontend.describe,
  frontend.parse,
  frontend.query,
]);

export class ClientMessages {
  readonly #pool: Pick<Pool, "reader" | "hasWaiters">;
  readonly #traces: Traces;
  readonly #conversation: Conversation;
  readonly #statements: ClientStatements;
  readonly #passage: Passage;
  readonly #borrow: () => boolean;

  /** @param borrow gets a session for the client; true where there is one at once. */
  constructor(
    pool: Pick<Pool, "reader" | "hasWaiters">,
    traces: Traces,
    conversation: Conversation,
    statements: ClientStatements,
    passage: Passage,
    borrow: () => boolean,
  ) {
    this.#pool = pool;
    this.#traces = traces;
    this.#conversation = conversation;
    this.#statements = statements;
    this.#passage = passage;
    this.#borrow = borrow;
  }

  /** Whether the next message has to wait for an answer to what was sent before. */
  get mustWait(): boolean {
    const { isBlind, answers, session } = this.#conversation;
    if (isBlind || answers.isSkipping) return false;
    if (this.#traces.mustRestore || answers.size > MAX_OUTSTANDING) return true;
    if (this.#traces.keepsSession || answers.outstandingReady === 0) return false;
    return this.#pool.hasWaiters(session as PooledSession);
  }

  /**
   * Takes the message that stands in the passage, or what is here of it.
   *
   * @returns where the bytes begin that are passed on as they are, or STALLED.
   * @throws ProxyError unknown_message, message_length, copy_ambiguous
   */
  take(type: number): number {
    if (KNOWN[type] !== 1) throw new ProxyError("unknown_message", { params: { type } });
    if (type === frontend.copyData || type === frontend.copyDone || type === frontend.copyFail) {
      return this.#takeCopy(type);
    }
    const conversation = this.#conversation;
    if (conversation.session === undefined && !this.#borrow()) return STALLED;
    if (this.mustWait) return STALLED;
    const session = conversation.session as PooledSession;
    if (conversation.isInCopy) conversation.becomeBlind();
    conversation.onSent(type);
    switch (type) {
      case frontend.query:
        return this.#takeQuery(session);
      case frontend.parse:
        return this.#statements.takeParse(session);
      case frontend.bind:
        return this.#statements.takeBind(session);
      case frontend.describe:
        return this.#statements.takeDescribe(session);
      case frontend.close:
        return this.#statements.takeClose(session);
      case frontend.execute:
        conversation.isUnsynced = true;
        conversation.ask(asked.execute);
        break;
      case frontend.sync:
        conversation.sync(asked.sync);
        break;
      case frontend.functionCall:
        this.#traces.isTainted = true;
        conversation.ask(asked.call);
        break;
      default: // Flush
        conversation.isUnsynced = true;
        conversation.isFlushed = true;
    }
    return this.#passage.at;
  }

  /** Without a session it is nobody's COPY: PostgreSQL drops it too. */
  #takeCopy(type: number): number {
    const { at, end } = this.#passage;
    if (this.#conversation.isRestoring) return STALLED;
    if (type !== frontend.copyData) this.#conversation.onCopyEnd(type);
    if (this.#conversation.session !== undefined) return at;
    this.#passage.put();
    return end;
  }

  #takeQuery(session: PooledSession): number {
    const conversation = this.#conversation;
    const { bytes, at, available, end, isWhole } = this.#passage;
    const found = this.#pool.reader.read(bytes, at + HEADER_BYTES, isWhole ? available - 1 : available);
    if (!isWhole) this.#traces.isTainted = true;
    if (this.#traces.mustRefuse(found)) {
      conversation.sync(asked.query);
      this.#passage.put(encodeMessage(frontend.query, Buffer.from(`${refusalOf(found)}\0`)));
      return end;
    }
    this.#traces.note(found);
    const about = (found.bits & effects.deallocates) === 0 ? undefined : this.#statements.deallocate(session, found);
    this.#statements.dropUnnamed(session);
    conversation.sync(asked.query, about);
    return at;
  }
}
