/**
 * One upstream session of a pool: who has it now, and what is known of its state. Its socket is read here for as long as
 * it lives; the bytes go to whoever holds it, or, while it is being prepared or cleaned, to the message stream.
 */
import type { BackendKey } from "../../protocol/backend-messages.ts";
import { decodeParameterStatus } from "../../protocol/backend-messages.ts";
import { backend } from "../../protocol/message-types.ts";
import { ByteQueue, takeMessage } from "../../protocol/message-splitter.ts";
import { MessageStream } from "../message-stream.ts";
import { moveToDirectRead } from "../socket/direct-read.ts";
import type { UpstreamAddress } from "../upstream/dial.ts";
import type { Row } from "../upstream/pipeline.ts";
import type { Bucket } from "./bucket.ts";
import type { Prepared } from "./prepared.ts";

const NOTHING = Buffer.alloc(0);
const MAX_IDLE_MESSAGE = 64 * 1024;

/** Who a session is lent to. */
export interface Holder {
  /** Bytes of the server. @returns whether nobody refers to them any more. */
  onUpstreamBytes(bytes: Buffer): boolean;
  onUpstreamLost(): void;
}

export interface OpenedSession {
  readonly stream: MessageStream;
  readonly address: UpstreamAddress;
  readonly key: BackendKey | undefined;
  /** What the server has reported: latest value of each parameter. */
  readonly parameters: Map<string, string>;
  readonly openedAt: number;
  /** When its backend began, as the server writes it; with the pid it is a backend's name. */
  readonly backendStart: string | undefined;
}

export class PooledSession {
  readonly stream: MessageStream;
  readonly address: UpstreamAddress;
  readonly key: BackendKey | undefined;
  readonly parameters: Map<string, string>;
  /** What `parameters` was behind the login: DISCARD ALL brings it back. */
  readonly baseline: ReadonlyMap<string, string>;
  readonly openedAt: number;
  readonly backendStart: string | undefined;
  /** Settings of clients that are in force, by folded name. */
  readonly applied = new Map<string, string>();
  /** Statements that are there, by the number that names them; the one that was used last is at the end. */
  readonly statements = new Map<Prepared, number>();
  /** A name of ours may be taken on the server although `statements` does not have it. */
  hasLeftovers = false;
  /** The identity whose context is in force; undefined where it is clean, or of doubtful state. */
  warmFor: string | undefined;
  warmSince = 0;
  /** The barrier has run, and nobody has used it since. */
  isClean = true;
  /** The database has the functions of the seal. */
  isSealed = false;
  /** What pgvpd.hello() has said behind the barrier. */
  hello: readonly Row[] | undefined;
  /** The client that used it last. */
  lastHolder: object | undefined;
  /** Whose unnamed statement is there. */
  unnamedOf: object | undefined;
  idleSince = 0;
  readonly bucket: Bucket;
  /** Who has it, or had it last. */
  tenant = "";
  #holder: Holder | undefined;
  #isLost = false;
  #isDiverted = false;
  /** Who hears that it is lost while it is idle. */
  #onIdleLost: ((session: PooledSession) => void) | undefined;
  readonly #idle = new ByteQueue();
  #reported: string | undefined;
  /** CancelRequests for it that the server has not taken yet. */
  #cancels = 0;
  #wasCancelled = false;
  #afterCancels: (() => void) | undefined;

  /** @param directRead whether its socket may be moved to direct reads. */
  constructor(
    bucket: Bucket,
    { stream, address, key, parameters, openedAt, backendStart }: OpenedSession,
    directRead: boolean,
  ) {
    this.bucket = bucket;
    const moved =
      directRead && !stream.hasUnread ? moveToDirectRead(stream.socket, this.#onDirectBytes, "replace") : undefined;
    if (moved !== undefined) stream.detach();
    this.stream = moved === undefined ? stream : new MessageStream(moved, { isFed: true });
    this.address = address;
    this.key = key;
    this.parameters = parameters;
    this.baseline = new Map(parameters);
    this.openedAt = openedAt;
    this.backendStart = backendStart;
    const onLost = (): void => {
      if (this.#isLost) return;
      this.#isLost = true;
      this.#holder?.onUpstreamLost();
      this.#onIdleLost?.(this);
    };
    const { socket } = this.stream;
    socket.on("end", onLost);
    socket.on("close", onLost);
    socket.on("error", onLost);
  }

  get isOpen(): boolean {
    return !this.#isLost && !this.stream.socket.destroyed;
  }

  /** Somebody has sent a CancelRequest since the session was cleaned last. */
  get wasCancelled(): boolean {
    return this.#wasCancelled;
  }

  get holder(): Holder | undefined {
    return this.#holder;
  }

  /** All parameters in one text, to see at a glance whether two sessions report the same. */
  get reported(): string {
    this.#reported ??= [...this.parameters].flat().join("\0");
    return this.#reported;
  }

  /** The server has reported a value. */
  report(name: string, value: string): void {
    this.parameters.set(name, value);
    this.#reported = undefined;
  }

  /** Gives the bytes to `holder`. @returns what had come before. */
  lendTo(holder: Holder): Buffer {
    this.#holder = holder;
    this.lastHolder = holder;
    this.isClean = false;
    return this.#divert();
  }

  /**
   * The holder is gone.
   *
   * @param bytesLeft of the server's message that it has seen the beginning of.
   * @param unread what has come before those that come now, and nobody has read.
   */
  takeBack(bytesLeft: number, unread?: Buffer): void {
    this.#holder = undefined;
    this.#isDiverted = false;
    this.stream.undivert(bytesLeft, unread);
    this.stream.socket.resume();
  }

  /** Nobody has it: what the server says by itself is read, and anything but parameters and notices is its end. */
  rest(onLost: (session: PooledSession) => void): void {
    this.#holder = undefined;
    this.#onIdleLost = onLost;
    const before = this.#divert();
    if (before.length > 0) this.#onBytes(before);
  }

  /** Ends `rest`. @returns whether the session is good to be used. */
  wake(): boolean {
    this.#onIdleLost = undefined;
    return this.#idle.length === 0 && this.isOpen;
  }

  /** What the server says while the session is being prepared is read message by message. */
  readMessages(): void {
    if (!this.#isDiverted) return;
    this.#isDiverted = false;
    this.stream.undivert();
  }

  #divert(): Buffer {
    if (this.#isDiverted) {
      this.stream.socket.resume();
      return NOTHING;
    }
    this.#isDiverted = true;
    return this.stream.divert(this.#onBytes);
  }

  readonly #onBytes = (bytes: Buffer): boolean => {
    if (this.#holder !== undefined) return this.#holder.onUpstreamBytes(bytes);
    this.#idle.push(Buffer.from(bytes));
    if (!this.#readIdle(this.#idle)) this.#onIdleLost?.(this);
    return true;
  };

  readonly #onDirectBytes = (bytes: Uint8Array, length: number): boolean => {
    const read = (bytes as Buffer).subarray(0, length);
    if (this.#isDiverted) return this.#onBytes(read);
    this.stream.feed(Buffer.from(read));
    return true;
  };

  /** A CancelRequest is on its way to this session's server, until the result is disposed of. */
  holdForCancel(): Disposable {
    this.#cancels += 1;
    this.#wasCancelled = true;
    return {
      [Symbol.dispose]: () => {
        this.#cancels -= 1;
        if (this.#cancels > 0) return;
        const then = this.#afterCancels;
        this.#afterCancels = undefined;
        then?.();
      },
    };
  }

  /** Calls `then` when no CancelRequest is on its way any more: now, where there is none. */
  whenNotCancelled(then: () => void): void {
    if (this.#cancels === 0) then();
    else this.#afterCancels = then;
  }

  /** What the barrier leaves. */
  becomeClean(hello: readonly Row[] | undefined): void {
    this.isClean = true;
    this.#wasCancelled = false;
    this.hasLeftovers = false;
    this.warmFor = undefined;
    this.hello = hello;
    this.applied.clear();
    this.statements.clear();
    this.unnamedOf = undefined;
  }

  destroy(): void {
    this.#holder = undefined;
    this.#onIdleLost = undefined;
    this.#isLost = true;
    this.stream.socket.destroy();
  }

  #readIdle(queue: ByteQueue): boolean {
    try {
      for (let message = takeMessage(queue, MAX_IDLE_MESSAGE); message !== undefined;) {
        if (message.type === backend.parameterStatus) {
          const { name, value } = decodeParameterStatus(message.body);
          this.report(name, value);
        } else if (message.type !== backend.noticeResponse) {
          return false;
        }
        message = takeMessage(queue, MAX_IDLE_MESSAGE);
      }
      return true;
    } catch {
      return false;
    }
  }
}
