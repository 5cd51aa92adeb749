/**
 * The last stage: two OneWays, from the ReadyForQuery that the client sees until both sockets are closed. It decides how
 * a session ends: who closed, what is still flushed, which error may still be put at a message boundary.
 */
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { encodeErrorResponse } from "../../protocol/backend-messages.ts";
import { backend, frontend } from "../../protocol/message-types.ts";
import type { Activity } from "./activity.ts";
import { OneWay } from "./one-way.ts";
import { Turns } from "./turns.ts";

const NOTHING = Buffer.alloc(0);

/** How long a client may take to read the error that ends its session. */
const LAST_WORD_MS = 2_000;

export interface ForwardServices {
  readonly config: Pick<Config, "halfCloseTimeoutMs">;
  readonly clock: Clock;
  /** Whether sockets may be moved to direct reads (direct-read.ts). */
  readonly directRead: boolean;
}

export interface ForwardEvents {
  /** The client has sent its last byte; the upstream is still answering. */
  onHalfClosed(): void;
  /** The session is over, but for what is still flushed; `error` is what ended it, if it was one. */
  onClosing(error: ProxyError | undefined): void;
}

export class Forwarding {
  readonly #fromClient: OneWay;
  readonly #fromUpstream: OneWay;
  readonly #turns: Turns;
  readonly #services: ForwardServices;
  readonly #events: ForwardEvents;
  /** Resolves when both sockets are closed: with the error that ended the session, or nothing. */
  readonly ended: Promise<ProxyError | undefined>;
  #resolve!: (error: ProxyError | undefined) => void;
  #error: ProxyError | undefined;
  #timer: Disposable | undefined;
  #clientHasEnded = false;
  #isClosing = false;

  /** Takes both sockets over. The client's first bytes are read after `start`. */
  constructor(client: Duplex, upstream: Duplex, services: ForwardServices, events: ForwardEvents) {
    this.#services = services;
    this.#events = events;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    const { directRead } = services;
    this.#turns = new Turns(() => ({ client: this.#fromClient.chunks, upstream: this.#fromUpstream.chunks }));
    const { fromClient, fromUpstream } = this.#turns;
    this.#fromClient = new OneWay(client, directRead, "message_length", this.#onFailure, fromClient);
    this.#fromUpstream = new OneWay(upstream, directRead, "upstream_stream", this.#onFailure, fromUpstream);
    this.#watch();
  }

  get client(): Duplex {
    return this.#fromClient.source;
  }

  get upstream(): Duplex {
    return this.#fromUpstream.source;
  }

  get activity(): Activity {
    return this.#turns.activity;
  }

  /** Bytes read from either side since the connection was opened, where the socket counts them. */
  get bytes(): { fromClient: number | undefined; fromUpstream: number | undefined } {
    return { fromClient: bytesRead(this.client), fromUpstream: bytesRead(this.upstream) };
  }

  /** Sends `greeting` to the client, then `unread`, bytes of the upstream that came during login, and lets bytes flow. */
  start(greeting: Buffer, unread: Buffer): void {
    this.client.write(greeting);
    this.#fromUpstream.start(this.client, unread);
    this.#fromClient.start(this.upstream, NOTHING);
  }

  /** Ends the session with `error`: the client hears of it where a message of ours may stand, the upstream is closed. */
  terminate(error: ProxyError): void {
    if (this.#isClosing) return;
    this.#error = error;
    const { isAtBoundary } = this.#fromUpstream.scanner;
    this.#close(isAtBoundary ? encodeErrorResponse(error) : undefined, LAST_WORD_MS);
  }

  readonly #onFailure = (failure: unknown): void => {
    this.terminate(failure instanceof ProxyError ? failure : new ProxyError("internal", { cause: failure }));
  };

  #watch(): void {
    this.#on(this.client, "end", () => this.#onClientEnd());
    this.#on(this.client, "close", () => this.#destroy());
    this.#on(this.upstream, "end", () => this.#onUpstreamGone());
    this.#on(this.upstream, "close", () => this.#onUpstreamGone());
    // A socket that fails closes, too.
    this.client.on("error", ignore);
    this.upstream.on("error", ignore);
  }

  /** A throw in a handler ends this session, and no other. */
  #on(socket: Duplex, event: "end" | "close", handler: () => void): void {
    socket.on(event, () => {
      try {
        handler();
      } catch (failure) {
        this.#onFailure(failure);
      }
    });
  }

  /** PostgreSQL executes what was sent before a FIN, so its answers are still passed on, for a limited time. */
  #onClientEnd(): void {
    this.#clientHasEnded = true;
    if (this.#isClosing) return this.#destroyWhenFlushed();
    this.#events.onHalfClosed();
    this.upstream.end();
    this.#timer = this.#limit(this.#services.config.halfCloseTimeoutMs);
  }

  /** A server that goes without a word was lost; after Terminate, or an error of its own, that is how it ends. */
  #onUpstreamGone(): void {
    if (this.#isClosing) return;
    const wasExpected =
      this.#clientHasEnded ||
      this.#fromClient.scanner.lastType === frontend.terminate ||
      this.#fromUpstream.scanner.lastType === backend.errorResponse;
    if (wasExpected) this.#close(undefined, this.#services.config.halfCloseTimeoutMs);
    else this.terminate(new ProxyError("upstream_lost"));
  }

  /** Closes the upstream now, and the client when it has taken what was written and has closed its own side. */
  #close(lastWord: Buffer | undefined, limitMs: number): void {
    this.#beginClosing();
    this.upstream.destroy();
    this.#timer?.[Symbol.dispose]();
    this.#timer = this.#limit(limitMs);
    if (!this.client.writable) return this.#destroy();
    if (lastWord === undefined) this.client.end();
    else this.client.end(lastWord);
    if (this.#clientHasEnded) this.#destroyWhenFlushed();
    else this.#fromClient.discard();
  }

  #destroyWhenFlushed(): void {
    if (this.client.writableFinished) this.#destroy();
    else this.client.once("finish", () => this.#destroy());
  }

  #destroy(): void {
    if (!this.#isClosing) this.#beginClosing();
    this.#timer?.[Symbol.dispose]();
    this.client.destroy();
    this.upstream.destroy();
    this.#resolve(this.#error);
  }

  #beginClosing(): void {
    this.#isClosing = true;
    this.#events.onClosing(this.#error);
  }

  #limit(limitMs: number): Disposable {
    return this.#services.clock.after(limitMs, () => this.#destroy());
  }
}

function ignore(): void {}

function bytesRead(socket: Duplex): number | undefined {
  return (socket as Partial<Socket>).bytesRead;
}
