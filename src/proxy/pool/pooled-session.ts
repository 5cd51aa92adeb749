/**
 * One upstream session of a pool: who reads it now, and what is known of it.
 */
import type { Duplex } from "node:stream";
import type { BackendKey } from "../../protocol/backend-messages.ts";
import { MessageStream } from "../message-stream.ts";
import type { UpstreamAddress } from "../upstream/dial.ts";

export class PooledSession {
  readonly address: UpstreamAddress;
  readonly key: BackendKey | undefined;
  /** What the server has reported: latest value of each parameter. */
  readonly parameters: Map<string, string>;
  readonly #socket: Duplex;
  /** Reads the session while it is not lent. */
  #stream: MessageStream;

  constructor(
    stream: MessageStream,
    { address, key, parameters }: Pick<PooledSession, "address" | "key" | "parameters">,
  ) {
    this.#stream = stream;
    this.#socket = stream.socket;
    this.address = address;
    this.key = key;
    this.parameters = parameters;
  }

  get stream(): MessageStream {
    return this.#stream;
  }

  get isOpen(): boolean {
    return !this.#socket.destroyed && this.#socket.readable && this.#socket.writable;
  }

  /** Takes the reader off, for forwarding. Returns what had come and was not read. */
  lend(): { readonly socket: Duplex; readonly unread: Buffer } {
    return { socket: this.#socket, unread: this.#stream.detach() };
  }

  /** @param bytesLeft of the message that the borrower has not seen to its end. */
  takeBack(bytesLeft: number): void {
    this.#stream = new MessageStream(this.#socket, { skipBytes: bytesLeft });
  }

  destroy(): void {
    this.#socket.destroy();
  }
}
