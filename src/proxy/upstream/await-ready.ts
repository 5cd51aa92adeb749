/**
 * From AuthenticationOk to the upstream's first ReadyForQuery: collects what the client must see, learns what pgvpd must
 * know. Nothing reaches the client from here; session.ts sends it once the context is confirmed.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import {
  assertIdle,
  decodeBackendKeyData,
  decodeParameterStatus,
  describeErrorResponse,
  type BackendKey,
} from "../../protocol/backend-messages.ts";
import { MAX_LOGIN_MESSAGE } from "../../protocol/limits.ts";
import { backend, IDLE } from "../../protocol/message-types.ts";
import { encodeMessage, type Message } from "../../protocol/message.ts";
import { PeerGone, type MessageStream } from "../message-stream.ts";

/** More than this before ReadyForQuery is not a login: PostgreSQL sends about 500 bytes. */
const MAX_GREETING_BYTES = 1024 * 1024;

const AUTHENTICATION_OK = encodeMessage(backend.authentication, Buffer.alloc(4));
const READY_FOR_QUERY = encodeMessage(backend.readyForQuery, Buffer.of(IDLE));

/** The upstream said no in its own words; they reach the client byte for byte. */
export class UpstreamRefusal extends Error {
  /** The ErrorResponse, whole. */
  readonly response: Message;

  constructor(response: Message) {
    super("the upstream server refused");
    this.name = "UpstreamRefusal";
    this.response = response;
  }
}

/** Why a session of pgvpd's own has failed, for the log: in the words of the server where it has said something. */
export function describeFailure(error: unknown): string {
  if (error instanceof UpstreamRefusal) return describeErrorResponse(error.response.body);
  return error instanceof ProxyError ? (error.detail ?? error.message) : (error as Error).message;
}

/** What the upstream has said since AuthenticationOk, in its order. */
export class Greeting {
  readonly #messages: Buffer[] = [];
  /** Latest value of each parameter that the server reports. */
  readonly parameters = new Map<string, string>();
  key: BackendKey | undefined;
  #bytes = 0;

  /** Of a session that is there already: what the server has reported, without a key. */
  static of(parameters: ReadonlyMap<string, string>): Greeting {
    const greeting = new Greeting();
    greeting.#messages.push(AUTHENTICATION_OK);
    for (const [name, value] of parameters) {
      greeting.parameters.set(name, value);
      greeting.#messages.push(encodeMessage(backend.parameterStatus, Buffer.from(`${name}\0${value}\0`, "latin1")));
    }
    return greeting;
  }

  /** Adds the key that the client is to cancel with. */
  addKey(key: BackendKey): void {
    const body = Buffer.alloc(4 + key.secret.length);
    body.writeInt32BE(key.processId);
    key.secret.copy(body, 4);
    this.key = key;
    this.#messages.push(encodeMessage(backend.backendKeyData, body));
  }

  /** Keeps a message for the client. @throws ProxyError upstream_protocol beyond 1 MiB. */
  keep(message: Message): void {
    this.#bytes += message.bytes.length;
    if (this.#bytes > MAX_GREETING_BYTES) throw new ProxyError("upstream_protocol", { detail: "an endless login" });
    this.#messages.push(message.bytes);
  }

  /** All that was kept, and the ReadyForQuery behind it: what the client sees once the context is confirmed. */
  encode(): Buffer {
    return Buffer.concat([...this.#messages, READY_FOR_QUERY]);
  }

  /** Keeps a ParameterStatus and remembers its value. */
  keepParameter(message: Message): void {
    const { name, value } = decodeParameterStatus(message.body);
    this.parameters.set(name, value);
    this.keep(message);
  }
}

/**
 * [PG protocol-flow/START-UP]: BackendKeyData, ParameterStatus and NoticeResponse may come, then ReadyForQuery.
 *
 * @param minor the protocol version in force, 3.minor.
 * @throws UpstreamRefusal, ProxyError upstream_protocol or upstream_login_lost.
 */
export async function awaitReady(
  upstream: MessageStream,
  greeting: Greeting,
  minor: number,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    const message = await readUpstream(upstream, signal);
    switch (message.type) {
      case backend.parameterStatus:
        greeting.keepParameter(message);
        break;
      case backend.noticeResponse:
        greeting.keep(message);
        break;
      case backend.backendKeyData:
        greeting.key = decodeBackendKeyData(message.body, minor);
        greeting.keep(message);
        break;
      case backend.readyForQuery:
        assertIdle(message.body);
        return;
      case backend.errorResponse:
        throw new UpstreamRefusal(message);
      default:
        throw unexpected(message);
    }
  }
}

/** The upstream's next message during login. A limit or an end that it breaks is its own fault, not the client's. */
export async function readUpstream(
  upstream: MessageStream,
  signal: AbortSignal,
  maxLength: number = MAX_LOGIN_MESSAGE,
): Promise<Message> {
  try {
    return await upstream.readMessage(maxLength, signal);
  } catch (cause) {
    throw asUpstreamFault(cause);
  }
}

/** The same where it has come already; undefined where it has not. */
export function takeUpstream(
  upstream: MessageStream,
  signal: AbortSignal,
  maxLength: number = MAX_LOGIN_MESSAGE,
): Message | undefined {
  signal.throwIfAborted();
  try {
    return upstream.takeMessage(maxLength);
  } catch (cause) {
    throw asUpstreamFault(cause);
  }
}

function asUpstreamFault(cause: unknown): unknown {
  if (cause instanceof PeerGone) return new ProxyError("upstream_login_lost", { cause: cause.cause });
  if (cause instanceof ProxyError && cause.code === "message_length") {
    return new ProxyError("upstream_protocol", { detail: cause.detail ?? "message length" });
  }
  return cause;
}

export function unexpected(message: Message): ProxyError {
  return new ProxyError("upstream_protocol", {
    detail: `unexpected message '${String.fromCharCode(message.type)}' during login`,
  });
}
