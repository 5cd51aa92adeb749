/** Writes to the client of a pool. What it does not read slows down its own server, and nobody else's. */
import type { Duplex } from "node:stream";
import type { Conversation } from "./pooled-conversation.ts";

export class ClientWriter {
  readonly #client: Duplex;
  readonly #conversation: Conversation;
  /** It takes no more now, and says when it does. */
  #isFull = false;

  constructor(client: Duplex, conversation: Conversation) {
    this.#client = client;
    this.#conversation = conversation;
  }

  readonly write = (bytes: Buffer): void => {
    const client = this.#client;
    if (!client.writable || client.write(bytes)) return;
    this.#conversation.session?.stream.socket.pause();
    if (this.#isFull) return;
    this.#isFull = true;
    client.once("drain", () => {
      this.#isFull = false;
      this.#conversation.session?.stream.socket.resume();
    });
  };

  /** The part of `bytes` between `from` and `to`. */
  writePart(bytes: Buffer, from: number, to: number): void {
    if (to > from) this.write(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }
}
