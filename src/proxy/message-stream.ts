/**
 * A socket during login: bytes in, whole messages out, one reader at a time, every wait under the login's deadline.
 * It holds no more than one message of the size that its reader allows, or 128 KiB, and one socket read. When the login is over, `detach` gives the socket back
 * for forwarding, where nobody waits for single messages any more.
 */
import type { Duplex } from "node:stream";
import { startupPacketLength } from "../protocol/startup.ts";
import type { Message } from "../protocol/message.ts";
import { ByteQueue, takeMessage } from "../protocol/message-splitter.ts";

/** Beyond this the socket is paused until somebody reads; who reads says how large a message may be. */
const PAUSE_ABOVE_BYTES = 128 * 1024;

export interface MessageStreamEvents {
  /** Bytes came although nobody reads. Without this handler they wait for the next read. */
  onUnexpectedBytes?: () => void;
  /** The peer has closed, or the socket failed. Without this handler the next read says so. */
  onLost?: (error: Error) => void;
  /** True where the socket does not emit its bytes: they come by `feed`. */
  isFed?: boolean;
}

/** The peer closed its socket, or the socket failed (then with the failure as cause). */
export class PeerGone extends Error {
  constructor(cause?: unknown) {
    super("the peer closed the connection", cause === undefined ? {} : { cause });
    this.name = "PeerGone";
  }
}

export class MessageStream {
  readonly socket: Duplex;
  readonly #events: MessageStreamEvents;
  readonly #queue = new ByteQueue();
  #bytesToSkip = 0;
  #lost: PeerGone | undefined;
  /** Tries to satisfy the pending read; undefined while nobody reads. */
  #retry: (() => void) | undefined;
  #diverted: ((bytes: Buffer) => unknown) | undefined;

  constructor(socket: Duplex, events: MessageStreamEvents = {}) {
    this.socket = socket;
    this.#events = events;
    if (events.isFed !== true) socket.on("data", this.feed);
    socket.on("end", this.#onEnd);
    socket.on("error", this.#onError);
    socket.on("close", this.#onEnd);
  }

  /** True when bytes have come that nobody has read. */
  get hasUnread(): boolean {
    return this.#queue.length > 0;
  }

  /** True while somebody waits for the peer. */
  get isReading(): boolean {
    return this.#retry !== undefined;
  }

  /** Sends `bytes`, which must not change afterwards. What is written after the peer is gone is dropped. */
  write(bytes: Buffer): void {
    if (this.socket.writable) this.socket.write(bytes);
  }

  /**
   * The next packet of the startup phase, whole; or, where the first byte is `tlsByte`, everything that has come so far.
   *
   * @throws as readStartupPacket does.
   */
  readStartupPacketOrTls(tlsByte: number, signal: AbortSignal): Promise<Buffer> {
    return this.#read(() => {
      if (this.#queue.peek(1)?.[0] === tlsByte) return this.#queue.takeAll();
      return this.#takeStartupPacket();
    }, signal);
  }

  /**
   * The next packet of the startup phase, whole.
   *
   * @throws ProxyError startup_length (08P01) as soon as the length is there; PeerGone; whatever aborts `signal`.
   */
  readStartupPacket(signal: AbortSignal): Promise<Buffer> {
    return this.#read(() => this.#takeStartupPacket(), signal);
  }

  /**
   * The next message, whole.
   *
   * @param maxLength the largest length field accepted, in bytes.
   * @param onlyType the only type accepted, where there is only one.
   * @throws ProxyError message_length or login_message (08P01); PeerGone; whatever aborts `signal`.
   */
  readMessage(maxLength: number, signal: AbortSignal, onlyType?: number): Promise<Message> {
    return this.#read(() => takeMessage(this.#queue, maxLength, onlyType), signal);
  }

  /**
   * From now on bytes go to `to` as they come, and nobody reads messages here; the socket flows.
   *
   * @returns what has come and was not read.
   */
  divert(to: (bytes: Buffer) => unknown): Buffer {
    this.#diverted = to;
    this.socket.resume();
    return this.#queue.takeAll();
  }

  /**
   * Messages are read here again.
   *
   * @param bytesToSkip the rest of a message whose beginning has gone the other way.
   * @param unread what has gone the other way and was not read there.
   */
  undivert(bytesToSkip = 0, unread?: Buffer): void {
    this.#diverted = undefined;
    if (unread !== undefined) this.#queue.push(unread);
    this.#bytesToSkip = bytesToSkip;
  }

  /** The same without a wait: undefined where it has not come yet. @throws as readMessage does. */
  takeMessage(maxLength: number): Message | undefined {
    return takeMessage(this.#queue, maxLength);
  }

  /** Takes this reader off the socket, which is left paused. Returns the bytes that have come and were not read. */
  detach(): Buffer {
    this.socket.pause();
    this.socket.off("data", this.feed);
    this.socket.off("end", this.#onEnd);
    this.socket.off("error", this.#onError);
    this.socket.off("close", this.#onEnd);
    return this.#queue.takeAll();
  }

  #takeStartupPacket(): Buffer | undefined {
    const lengthField = this.#queue.peek(4);
    return lengthField === undefined ? undefined : this.#queue.take(startupPacketLength(lengthField));
  }

  #read<T>(attempt: () => T | undefined, signal: AbortSignal): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const settle = (deliver: () => void): void => {
        this.#retry = undefined;
        signal.removeEventListener("abort", abort);
        deliver();
      };
      const abort = (): void => settle(() => reject(signal.reason as Error));
      const retry = (): void => {
        try {
          const result = attempt();
          if (result !== undefined) settle(() => resolve(result));
          else if (this.#lost !== undefined) settle(() => reject(this.#lost));
        } catch (error) {
          settle(() => reject(error));
        }
      };
      if (signal.aborted) return abort();
      signal.addEventListener("abort", abort);
      this.#retry = retry;
      this.socket.resume();
      retry();
    });
  }

  /** Bytes have come; they must not change any more. */
  readonly feed = (bytes: Buffer): void => {
    if (this.#diverted !== undefined) {
      this.#diverted(bytes);
      return;
    }
    const chunk = bytes.subarray(this.#bytesToSkip);
    this.#bytesToSkip = Math.max(this.#bytesToSkip - bytes.length, 0);
    if (chunk.length === 0) return;
    this.#queue.push(chunk);
    if (this.#retry !== undefined) {
      this.#retry();
      if (this.#retry === undefined && this.hasUnread) this.#events.onUnexpectedBytes?.();
    } else {
      this.#events.onUnexpectedBytes?.();
    }
    if (this.#retry === undefined && this.#queue.length > PAUSE_ABOVE_BYTES) this.socket.pause();
  };

  readonly #onEnd = (): void => this.#lose(new PeerGone());

  readonly #onError = (cause: Error): void => this.#lose(new PeerGone(cause));

  #lose(error: PeerGone): void {
    if (this.#lost !== undefined) return;
    this.#lost = error;
    this.#retry?.();
    this.#events.onLost?.(error);
  }
}
