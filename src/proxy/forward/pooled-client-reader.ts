/**
 * Reads what the client of a pool sends, message by message, and writes it to its session. Where a message has to wait -
 * for a session, for an answer - it is kept with what stands behind it, and the client is not read until it goes on.
 */
import type { Duplex } from "node:stream";
import { ProxyError } from "../../errors/proxy-error.ts";
import { encodeErrorResponse } from "../../protocol/backend-messages.ts";
import { MAX_MESSAGE_LENGTH } from "../../protocol/limits.ts";
import { encodeMessage, HEADER_BYTES } from "../../protocol/message.ts";
import { backend, frontend, IDLE } from "../../protocol/message-types.ts";
import { READ_WITH_BODY, STALLED, type ClientMessages } from "./pooled-client-messages.ts";
import type { ClientWriter } from "./pooled-client-writer.ts";
import type { Conversation } from "./pooled-conversation.ts";
import type { Passage } from "./pooled-passage.ts";
import type { ServerReader } from "./pooled-server-reader.ts";

/** A message is read whole up to this; of a longer one its beginning, and the rest is passed on unread. */
const MAX_READ_BYTES = 64 * 1024;
const READY_IDLE = encodeMessage(backend.readyForQuery, Buffer.of(IDLE));

/** Who hears of what the client does. */
export interface ClientReaderEvents {
  onTerminate(): void;
  /** A message that the server has had the beginning of has gone to its end. */
  onMessageEnd(): void;
  /** @param isCutApart a message has been sent in part, and its end will not be. */
  onFailure(failure: unknown, isCutApart: boolean): void;
}

export class ClientReader {
  /** How often something has come. */
  reads = 0;
  readonly #client: Duplex;
  readonly #conversation: Conversation;
  readonly #messages: ClientMessages;
  readonly #passage: Passage;
  readonly #server: ServerReader;
  readonly #writer: ClientWriter;
  readonly #events: ClientReaderEvents;
  #isClosed = false;
  /** Bytes of the current message that are passed on unread. */
  #left = 0;
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
  /** It takes no more now, and says when it does. */
  #fullUpstream: Duplex | undefined;

  constructor(
    client: Duplex,
    conversation: Conversation,
    messages: ClientMessages,
    passage: Passage,
    server: ServerReader,
    writer: ClientWriter,
    events: ClientReaderEvents,
  ) {
    this.#client = client;
    this.#conversation = conversation;
    this.#messages = messages;
    this.#passage = passage;
    this.#server = server;
    this.#writer = writer;
    this.#events = events;
  }

  /** Whether what the client has sent waits here. */
  get isStalled(): boolean {
    return this.#isStalled;
  }

  /** Whether the client is in the middle of a message of which the server has the beginning. */
  get isInsideMessage(): boolean {
    return this.#left > 0;
  }

  /** @returns whether nobody refers to `bytes` any more. */
  readDirect(bytes: Buffer): boolean {
    this.#written = undefined;
    this.#isBorrowed = true;
    this.read(bytes);
    this.#isBorrowed = false;
    return this.#written === undefined || (this.#written as Duplex).writableLength === 0;
  }

  read(bytes: Buffer): void {
    if (this.#isClosed) return;
    this.reads += 1;
    if (this.#isStalled) {
      this.#held = this.#held === undefined ? Buffer.from(bytes) : Buffer.concat([this.#held, bytes]);
      return;
    }
    this.#held = this.#held === undefined ? bytes : Buffer.concat([this.#held, bytes]);
    this.#goOn();
  }

  /** What has waited goes on. */
  resume(): void {
    if (this.#isStalled) this.#goOn();
  }

  /** The same, unless it still has to wait. */
  resumeIfAnswered(): void {
    if (this.#isStalled && !this.#messages.mustWait) this.#goOn();
  }

  /** The client has cancelled what waits for a session: it hears so, and what it has sent of it is dropped. */
  cancelWait(): void {
    const type = this.#held?.[0];
    this.#dropping = type === frontend.query || type === frontend.functionCall ? "message" : "to_sync";
    this.#writer.write(encodeErrorResponse(new ProxyError("query_canceled")));
    this.#goOn();
  }

  /** The session is somebody else's: whether it takes more is not the client's matter any more. */
  onReleased(): void {
    if (this.#fullUpstream !== undefined) this.#readOn();
  }

  close(): void {
    this.#isClosed = true;
    this.#held = undefined;
  }

  #goOn(): void {
    const bytes = this.#held;
    this.#held = undefined;
    this.#isStalled = false;
    const wasInside = this.#left > 0;
    try {
      if (bytes !== undefined) this.#readMessages(bytes);
      if (wasInside && this.#left === 0 && !this.#isClosed) this.#events.onMessageEnd();
    } catch (failure) {
      this.#events.onFailure(failure, wasInside);
      return;
    }
    if (this.#isClosed) return;
    const { session } = this.#conversation;
    if (this.#isStalled) this.#client.pause();
    else if (session === undefined || !session.stream.socket.writableNeedDrain) this.#client.resume();
  }

  #readMessages(bytes: Buffer): void {
    const { length } = bytes;
    let at = Math.min(this.#left, length);
    this.#left -= at;
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
      if (available < Math.min(end, at + MAX_READ_BYTES) && READ_WITH_BODY[type] === 1) break;
      if (this.#dropping !== undefined) {
        from = available;
        this.#dropLeft = end - available;
        if (this.#dropping === "message" || type === frontend.sync) this.#finishDropping();
        at = available;
        continue;
      }
      this.#passage.begin(bytes, from, at, available, end);
      if (type === frontend.terminate) {
        this.#passage.put();
        this.#flush();
        this.#events.onTerminate();
        return;
      }
      const next = this.#messages.take(type);
      if (next === STALLED) {
        this.#isStalled = true;
        break;
      }
      this.#server.answerSkipped();
      from = next > at ? Math.min(next, available) : this.#passage.from;
      if (next === end) this.#dropLeft = end - available;
      else this.#left = end - available;
      at = available;
    }
    this.#passage.pass(bytes, from, at);
    this.#flush();
    if (at < length) this.#held = this.#isBorrowed ? Buffer.from(bytes.subarray(at)) : bytes.subarray(at);
  }

  #finishDropping(): void {
    this.#dropping = undefined;
    this.#writer.write(READY_IDLE);
  }

  #flush(): void {
    const bytes = this.#passage.take();
    const { session } = this.#conversation;
    if (bytes === undefined || session === undefined) return; // CopyData of nobody's COPY: PostgreSQL drops it too
    const { socket } = session.stream;
    this.#written = socket;
    if (socket.write(bytes) || this.#fullUpstream === socket) return;
    this.#fullUpstream = socket;
    this.#client.pause();
    socket.once("drain", () => {
      if (this.#fullUpstream === socket) this.#readOn();
    });
  }

  #readOn(): void {
    this.#fullUpstream = undefined;
    if (!this.#isStalled && !this.#isClosed) this.#client.resume();
  }
}
