/**
 * Brings the statements that a client uses to the session that it has: named ones under a name of ours, of which a session
 * keeps so many, and the unnamed one. The messages for it go before the client's own, and their answers are not passed on.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import { encodeCloseStatement, encodeParse, serverNameOf, type Prepared } from "../pool/prepared.ts";
import type { PooledSession } from "../pool/pooled-session.ts";
import { asked } from "./expected-answers.ts";
import type { Conversation } from "./pooled-conversation.ts";
import type { Passage } from "./pooled-passage.ts";

const UNNAMED = Buffer.of(0);
/** Behind the name in Parse: an empty statement. */
const EMPTY_DEFINITION = Buffer.alloc(3);

export class Preparation {
  readonly #conversation: Conversation;
  readonly #passage: Passage;
  readonly #mostStatements: number;

  constructor(conversation: Conversation, passage: Passage, mostStatements: number) {
    this.#conversation = conversation;
    this.#passage = passage;
    this.#mostStatements = mostStatements;
  }

  /** The client uses `prepared`: it is there. @throws ProxyError copy_ambiguous */
  bring(session: PooledSession, prepared: Prepared): void {
    const { statements } = session;
    if (statements.get(prepared) === prepared.number) {
      if (statements.size >= this.#mostStatements) {
        statements.delete(prepared);
        statements.set(prepared, prepared.number);
      }
      return;
    }
    if (this.#conversation.isBlind) throw new ProxyError("copy_ambiguous");
    this.parse(session, prepared);
    this.#conversation.ask(asked.ourParse, { prepared });
  }

  /**
   * Puts a Parse under our name; whether its answer is the client's says the caller. Behind a DEALLOCATE that may have
   * failed the name may still be taken, and what the statement was called before is of no use any more.
   */
  parse(session: PooledSession, prepared: Prepared): void {
    this.#makeRoom(session);
    const { statements, hasLeftovers } = session;
    const parse = encodeParse(prepared.serverName, prepared.definition);
    const before = statements.get(prepared);
    statements.set(prepared, prepared.number);
    const isReplaced = before !== undefined && before !== prepared.number;
    if (!isReplaced && !hasLeftovers) return this.#passage.put(parse);
    this.#conversation.ask(asked.ourClose);
    this.#passage.put(encodeCloseStatement(isReplaced ? serverNameOf(before) : prepared.serverName), parse);
  }

  /** Closes what was used longest ago. */
  #makeRoom(session: PooledSession): void {
    if (this.#conversation.isBlind) return;
    const { statements } = session;
    for (const [prepared, number] of statements) {
      if (statements.size < this.#mostStatements) return;
      statements.delete(prepared);
      this.#conversation.ask(asked.ourClose, { undo: () => this.noteLeftovers() });
      this.#passage.put(encodeCloseStatement(serverNameOf(number)));
    }
  }

  /** Who has no unnamed statement finds none, and not somebody else's. @throws ProxyError copy_ambiguous */
  bringUnnamed(definition: Buffer | undefined): void {
    if (this.#conversation.isBlind) throw new ProxyError("copy_ambiguous");
    if (definition === undefined) {
      this.#conversation.ask(asked.ourClose);
      this.#passage.put(encodeCloseStatement(UNNAMED));
    } else {
      this.#conversation.ask(asked.ourParse);
      this.#passage.put(encodeParse(UNNAMED, definition));
    }
  }

  /** Puts an empty statement under the client's own name, so that the server itself says what it says of that name. */
  parseEmpty(name: Buffer): void {
    this.#conversation.ask(asked.ourParse);
    this.#passage.put(encodeParse(name, EMPTY_DEFINITION));
  }

  /** The same, where there may be one already. */
  replaceByEmpty(name: Buffer): void {
    this.#conversation.ask(asked.ourClose);
    this.#passage.put(encodeCloseStatement(name));
    this.parseEmpty(name);
  }

  /** The server has not prepared it. */
  onNotPrepared(prepared: Prepared): void {
    this.#conversation.session?.statements.delete(prepared);
    this.noteLeftovers();
  }

  noteLeftovers(): void {
    const { session } = this.#conversation;
    if (session !== undefined) session.hasLeftovers = true;
  }
}
