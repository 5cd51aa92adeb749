/**
 * Reads what the server sends to the client of a pool, and passes it on: types of messages, so that it is known what has
 * been answered, and the bodies of a few. Answers to messages of ours are left out, and the client hears ParseComplete
 * where the server need not be asked.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import { MAX_MESSAGE_LENGTH } from "../../protocol/limits.ts";
import { encodeMessage, HEADER_BYTES } from "../../protocol/message.ts";
import { backend, tableOf } from "../../protocol/message-types.ts";
import type { PooledSession } from "../pool/pooled-session.ts";
import { asked } from "./expected-answers.ts";
import type { ClientWriter } from "./pooled-client-writer.ts";
import type { Conversation } from "./pooled-conversation.ts";
import type { ClientParameters } from "./pooled-parameters.ts";
import type { ClientStatements } from "./pooled-statements.ts";
import type { Traces } from "./pooled-traces.ts";

/** A message is read whole up to this; of a longer one its beginning, and the rest is passed on unread. */
const MAX_READ_BYTES = 64 * 1024;
const PARSE_COMPLETE = encodeMessage(backend.parseComplete, Buffer.alloc(0));

/** Messages that are read; all others are passed on. */
const READ = tableOf([
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
/** These are read whole: for what they say, or to be left out as a whole. */
const READ_WHOLE = tableOf([
  backend.errorResponse,
  backend.notificationResponse,
  backend.parameterStatus,
  backend.readyForQuery,
]);

export class ServerReader {
  /** How often something has come, and how many bytes in all. */
  reads = 0;
  bytesRead = 0;
  readonly #conversation: Conversation;
  readonly #traces: Traces;
  readonly #statements: ClientStatements;
  readonly #parameters: ClientParameters;
  readonly #client: ClientWriter;
  /** Bytes of the current message that are still to come. */
  #left = 0;
  /** The beginning of a message that is not whole yet, and that the client has not got. */
  #tail: Buffer | undefined;
  #saidFatal = false;
  #farewell: Buffer | undefined;
  #hasNewReady = false;

  constructor(
    conversation: Conversation,
    traces: Traces,
    statements: ClientStatements,
    parameters: ClientParameters,
    client: ClientWriter,
  ) {
    this.#conversation = conversation;
    this.#traces = traces;
    this.#statements = statements;
    this.#parameters = parameters;
    this.#client = client;
  }

  get left(): number {
    return this.#left;
  }

  get tail(): Buffer | undefined {
    return this.#tail;
  }

  /** Whether the last message has been read to its end. */
  get isAtBoundary(): boolean {
    return this.#left === 0 && this.#tail === undefined;
  }

  /** The server has said that it ends the session: that is its last word. */
  get saidFatal(): boolean {
    return this.#saidFatal;
  }

  /** How it has said so, where that answers nothing that the client has asked; the client has not got it. */
  get farewell(): Buffer | undefined {
    return this.#farewell;
  }

  /** It is another session now. */
  begin(): void {
    this.#saidFatal = false;
    this.#farewell = undefined;
  }

  /** @returns true where a ReadyForQuery has come, and nothing is left behind it. @throws ProxyError upstream_stream */
  read(received: Buffer): boolean {
    this.reads += 1;
    this.bytesRead += received.length;
    const bytes = this.#tail === undefined ? received : Buffer.concat([this.#tail, received]);
    this.#tail = undefined;
    const { length } = bytes;
    let at = Math.min(this.#left, length);
    this.#left -= at;
    let from = 0;
    if (this.#left === 0 && this.#conversation.answers.next === asked.skippedParse) {
      this.#client.writePart(bytes, from, at);
      from = at;
      this.answerSkipped();
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
      if (READ[type] === 1) {
        if (end > length && READ_WHOLE[type] === 1 && field <= MAX_READ_BYTES) break;
        if (!this.#readMessage(type, bytes, at, Math.min(end, length))) {
          this.#client.writePart(bytes, from, at);
          from = end;
        }
        if (end <= length && this.#conversation.answers.next === asked.skippedParse) {
          this.#client.writePart(bytes, from, end);
          from = end;
          this.answerSkipped();
        }
      }
      if (end > length) {
        this.#left = end - length;
        at = length;
        break;
      }
      at = end;
    }
    this.#client.writePart(bytes, from, at);
    if (at < length) this.#tail = Buffer.from(bytes.subarray(at));
    if (!this.#hasNewReady || !this.isAtBoundary) return false;
    this.#hasNewReady = false;
    return true;
  }

  /** A Parse that the server has not been sent is answered, where it is its turn. */
  answerSkipped(): void {
    if (this.#left > 0) return;
    while (this.#conversation.answers.takeSkipped()) this.#client.write(PARSE_COMPLETE);
  }

  /** @returns whether the client sees it. */
  #readMessage(type: number, bytes: Buffer, at: number, end: number): boolean {
    const conversation = this.#conversation;
    conversation.onReceived(type, bytes[at + HEADER_BYTES] ?? -1);
    switch (type) {
      case backend.parameterStatus:
        this.#readParameter(bytes, at, end);
        return true;
      case backend.notificationResponse:
        // Who listens is pinned: what comes without that is for somebody else.
        return this.#traces.keepsSession;
      case backend.copyInResponse:
      case backend.copyBothResponse:
        // What stands behind it already may be dropped by the server: nobody knows how many answers come.
        if (conversation.answers.size > 1) conversation.becomeBlind();
        conversation.isInCopy = true;
        return true;
      case backend.errorResponse:
        this.#readError(bytes.subarray(at + HEADER_BYTES, end));
        if (this.#farewell !== undefined) return false;
        break;
      case backend.readyForQuery:
        conversation.onReady(bytes[at + HEADER_BYTES] as number);
        this.#hasNewReady = true;
        break;
      default:
    }
    if (conversation.isBlind) return true;
    const verdict = conversation.answers.answer(type);
    if (verdict === "wrong") throw new ProxyError("upstream_stream", { detail: `'${String.fromCharCode(type)}'` });
    return verdict === "pass";
  }

  #readError(body: Buffer): void {
    const { answers, isBlind, isUnsynced } = this.#conversation;
    this.#saidFatal = body.includes("SFATAL\0") || body.includes("VFATAL\0") || body.includes("VPANIC\0");
    if (this.#saidFatal && !isBlind && answers.size === 0) {
      this.#farewell = encodeMessage(backend.errorResponse, body);
      return;
    }
    this.#conversation.isInCopy = false;
    this.#traces.onError(answers.outstandingReady + (isUnsynced ? 1 : 0) > 1);
    this.#statements.onError(body);
  }

  #readParameter(bytes: Buffer, at: number, end: number): void {
    const [name = "", value = ""] = bytes.toString("latin1", at + HEADER_BYTES, end).split("\0");
    this.#parameters.learn(this.#conversation.session as PooledSession, name, value);
  }
}
