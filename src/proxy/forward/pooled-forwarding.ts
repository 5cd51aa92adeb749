/**
 * The last stage for a session whose upstream belongs to a pool (`pool_mode = session`): bytes go both ways as in
 * forward.ts, but when the client leaves, in whatever way, the upstream session is given back instead of being closed.
 * Terminate is not passed on.
 */
import type { Duplex } from "node:stream";
import { ProxyError } from "../../errors/proxy-error.ts";
import { encodeErrorResponse } from "../../protocol/backend-messages.ts";
import { frontend } from "../../protocol/message-types.ts";
import type { Lease } from "../upstream/open-upstream.ts";
import type { ForwardEvents, ForwardServices } from "./forward.ts";
import { OneWay } from "./one-way.ts";

const NOTHING = Buffer.alloc(0);
const LAST_WORD_MS = 2_000;
/** `Byte1('X') Int32 4`. */
const TERMINATE_BYTES = 5;

export class PooledForwarding {
  readonly #lease: Lease;
  readonly #fromClient: OneWay;
  readonly #fromUpstream: OneWay;
  readonly #services: ForwardServices;
  readonly #events: ForwardEvents;
  /** Resolves when the client's socket is closed: with the error that ended the session, or nothing. */
  readonly ended: Promise<ProxyError | undefined>;
  #resolve!: (error: ProxyError | undefined) => void;
  #error: ProxyError | undefined;
  #timer: Disposable | undefined;
  #isClosing = false;

  constructor(client: Duplex, upstream: Duplex, lease: Lease, services: ForwardServices, events: ForwardEvents) {
    this.#lease = lease;
    this.#services = services;
    this.#events = events;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.#fromClient = new OneWay(client, services.directRead, "message_length", this.#onFailure, (bytes, length) =>
      this.#beforePassing(bytes, length),
    );
    // Its socket comes back, so it stays what it is.
    this.#fromUpstream = new OneWay(upstream, false, "upstream_stream", this.#onFailure);
    this.client.on("end", this.#onClientGone);
    this.client.on("close", this.#onClientClosed);
    this.client.on("error", ignore);
    upstream.on("end", this.#onUpstreamGone);
    upstream.on("close", this.#onUpstreamGone);
    upstream.on("error", ignore);
  }

  get client(): Duplex {
    return this.#fromClient.source;
  }

  get upstream(): Duplex {
    return this.#fromUpstream.source;
  }

  get bytes(): { fromClient: number | undefined; fromUpstream: number | undefined } {
    return { fromClient: (this.client as { bytesRead?: number }).bytesRead, fromUpstream: undefined };
  }

  start(greeting: Buffer, unread: Buffer): void {
    this.client.write(greeting);
    this.#fromUpstream.start(this.client, unread);
    this.#fromClient.start(this.upstream, NOTHING);
  }

  /** Ends the session with `error`: the client hears of it where a message of ours may stand. */
  terminate(error: ProxyError): void {
    if (this.#isClosing) return;
    this.#error = error;
    const { isAtBoundary } = this.#fromUpstream.scanner;
    this.#leave(isAtBoundary ? encodeErrorResponse(error) : undefined);
  }

  readonly #onFailure = (failure: unknown): void => {
    this.terminate(failure instanceof ProxyError ? failure : new ProxyError("internal", { cause: failure }));
  };

  /** Terminate is the last thing that a client sends: what stands before it is passed on, and it is taken for its end. */
  #beforePassing(bytes: Uint8Array, length: number): number {
    const { lastType, isAtBoundary } = this.#fromClient.scanner;
    if (lastType !== frontend.terminate || !isAtBoundary || length < TERMINATE_BYTES) return length;
    if (bytes[length - TERMINATE_BYTES] !== frontend.terminate) return length;
    queueMicrotask(this.#onClientGone);
    return length - TERMINATE_BYTES;
  }

  readonly #onClientGone = (): void => {
    if (!this.#isClosing) this.#leave(undefined);
  };

  readonly #onClientClosed = (): void => {
    this.#onClientGone();
    this.#timer?.[Symbol.dispose]();
    this.#resolve(this.#error);
  };

  readonly #onUpstreamGone = (): void => {
    if (!this.#isClosing) this.terminate(new ProxyError("upstream_lost"));
  };

  /** Gives the upstream session back, and closes the client when it has taken what was written. */
  #leave(lastWord: Buffer | undefined): void {
    this.#isClosing = true;
    this.#events.onClosing(this.#error);
    const { upstream } = this;
    upstream.off("end", this.#onUpstreamGone);
    upstream.off("close", this.#onUpstreamGone);
    this.#fromUpstream.detach();
    this.#lease.giveBack(this.#fromClient.scanner.isAtBoundary ? this.#fromUpstream.scanner.bytesLeft : undefined);
    this.#timer = this.#services.clock.after(LAST_WORD_MS, () => this.client.destroy());
    if (!this.client.writable) return void this.client.destroy();
    if (lastWord === undefined) this.client.end();
    else this.client.end(lastWord);
    this.client.once("finish", () => {
      if (this.client.readableEnded) this.client.destroy();
    });
    this.#fromClient.discard();
  }
}

function ignore(): void {}
