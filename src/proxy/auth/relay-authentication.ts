/**
 * Relays the upstream's authentication requests to the client and the client's answers back: one answer to each
 * request, framed, never a byte more. The password is never seen, except where MD5 forces a detour (see below).
 * It ends with AuthenticationOk, which it keeps for the client.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import {
  decodeAuthentication,
  decodeNegotiateProtocolVersion,
  encodeCleartextPasswordRequest,
  encodeNegotiateProtocolVersion,
} from "../../protocol/backend-messages.ts";
import { decodePassword, encodeMd5Response, hashMd5Password } from "../../protocol/frontend-messages.ts";
import { MAX_AUTHENTICATION_MESSAGE } from "../../protocol/limits.ts";
import { authentication, backend, frontend } from "../../protocol/message-types.ts";
import type { Message } from "../../protocol/message.ts";
import { LATEST_MINOR } from "../../protocol/startup.ts";
import type { MessageStream } from "../message-stream.ts";
import type { Identity } from "../tenant/identity.ts";
import { assertNoChannelBinding, withoutChannelBinding } from "./sasl-relay.ts";
import { readUpstream, unexpected, UpstreamRefusal, type Greeting } from "../upstream/await-ready.ts";

/** Authentication messages before AuthenticationOk: SCRAM takes three, everything else one. */
const MAX_REQUESTS = 8;

export interface RelayedLogin {
  readonly client: MessageStream;
  readonly upstream: MessageStream;
  readonly identity: Identity;
  /** True when nobody between client and proxy can read a password: TLS, loopback or a Unix-domain socket. */
  readonly isPrivate: boolean;
  /** True where pgvpd shows the upstream a certificate of its own, which that may take for a proof. */
  readonly hasOwnCertificate: boolean;
}

interface Relaying extends RelayedLogin {
  readonly replies: Replies;
}

/**
 * [PG protocol-flow/START-UP], [PG sasl-authentication].
 *
 * @returns the minor version of protocol 3 that upstream and client have agreed on.
 * @throws UpstreamRefusal with the upstream's own error; ProxyError 28000, 08P01, 08001 or 08006.
 */
export async function relayAuthentication(
  relayed: RelayedLogin,
  greeting: Greeting,
  signal: AbortSignal,
): Promise<number> {
  const login = { ...relayed, replies: new Replies(relayed.upstream, signal) };
  const { client, replies } = login;
  let minor: number | undefined;
  for (let requests = 0; ;) {
    const message = await replies.next();
    switch (message.type) {
      case backend.negotiateProtocolVersion:
        if (minor !== undefined) throw unexpected(message);
        minor = negotiateVersion(login, message);
        continue;
      case backend.errorResponse:
        throw new UpstreamRefusal(message);
      case backend.noticeResponse:
        greeting.keep(message);
        continue;
      case backend.authentication:
        break;
      default:
        throw unexpected(message);
    }

    minor ??= negotiateVersion(login, undefined);
    switch (decodeAuthentication(message.body)) {
      case authentication.ok:
        // With `cert` in pg_hba.conf it was pgvpd who has proved something, and not the client.
        if (requests === 0 && relayed.hasOwnCertificate) throw new ProxyError("relay_certificate");
        greeting.keep(message);
        return minor;
      case authentication.saslFinal:
        client.write(message.bytes);
        break;
      case authentication.md5Password:
        if (login.identity.kind === "tenant") await answerMd5(login, message, greeting, signal);
        else await relayOne(login, message, greeting, signal);
        break;
      case authentication.sasl:
        await relaySasl(login, message, greeting, signal);
        break;
      case authentication.cleartextPassword:
      case authentication.saslContinue:
        await relayOne(login, message, greeting, signal);
        break;
      default:
        throw new ProxyError("authentication_method", { params: { method: decodeAuthentication(message.body) } });
    }
    if (++requests === MAX_REQUESTS) throw new ProxyError("authentication_rounds");
  }
}

async function relayOne(login: Relaying, request: Message, greeting: Greeting, signal: AbortSignal): Promise<void> {
  login.client.write(request.bytes);
  login.upstream.write((await readAnswer(login, greeting, signal)).bytes);
}

/** The client's and the upstream's TLS are two connections: what would tie the login to one of them is left out. */
async function relaySasl(login: Relaying, request: Message, greeting: Greeting, signal: AbortSignal): Promise<void> {
  const { bytes, wasOffered } = withoutChannelBinding(request);
  login.client.write(bytes);
  const answer = await readAnswer(login, greeting, signal);
  if (wasOffered) assertNoChannelBinding(answer);
  login.upstream.write(answer.bytes);
}

/**
 * The client would hash `app_user.acme`, the server expects `app_user`: no right password could ever match. Where nobody
 * listens, the client is asked for the password itself, and the hash is made here.
 */
async function answerMd5(login: Relaying, request: Message, greeting: Greeting, signal: AbortSignal): Promise<void> {
  if (!login.isPrivate) throw new ProxyError("md5_relay");
  const salt = request.body.subarray(4);
  if (salt.length !== 4) throw new ProxyError("upstream_protocol", { detail: "an MD5 salt that is not 4 bytes" });
  login.client.write(encodeCleartextPasswordRequest());
  const answer = await readAnswer(login, greeting, signal);
  login.upstream.write(encodeMd5Response(hashMd5Password(decodePassword(answer.body), login.identity.loginRole), salt));
}

/**
 * Exactly one `p` message. What else comes, before or behind it, ends the login: session.ts guards the gaps. So does an
 * upstream that gives up waiting: while the client is asked, it has nothing to say but why it goes.
 */
async function readAnswer(login: Relaying, greeting: Greeting, signal: AbortSignal): Promise<Message> {
  const { client, replies } = login;
  const answered = client
    .readMessage(MAX_AUTHENTICATION_MESSAGE, signal, frontend.password)
    .then((answer) => ({ answer }));
  for (;;) {
    const first = await Promise.race([answered, replies.peek()]);
    if ("answer" in first) {
      if (client.hasUnread) throw new ProxyError("login_message");
      return first.answer;
    }
    const message = await replies.next();
    if (message.type === backend.errorResponse) throw new UpstreamRefusal(message);
    if (message.type !== backend.noticeResponse) throw unexpected(message);
    greeting.keep(message);
  }
}

/** The upstream's messages, one after the other. The next one can be waited for before it is taken. */
class Replies {
  readonly #upstream: MessageStream;
  readonly #signal: AbortSignal;
  #peeked: Promise<Message> | undefined;

  constructor(upstream: MessageStream, signal: AbortSignal) {
    this.#upstream = upstream;
    this.#signal = signal;
  }

  peek(): Promise<Message> {
    return (this.#peeked ??= readUpstream(this.#upstream, this.#signal));
  }

  next(): Promise<Message> {
    const next = this.peek();
    this.#peeked = undefined;
    return next;
  }
}

/**
 * Settles the protocol version before the first authentication request. The client hears of it only when it asked for
 * more than it gets: a higher minor version, or `_pq_.` parameters, which pgvpd never passes on for a tenant.
 */
function negotiateVersion({ client, identity }: RelayedLogin, answer: Message | undefined): number {
  const theirs = answer === undefined ? undefined : decodeNegotiateProtocolVersion(answer.body);
  if (identity.kind === "bypass") {
    if (answer !== undefined) client.write(answer.bytes);
    return Math.min(identity.minor, theirs?.minor ?? identity.minor);
  }
  const minor = Math.min(identity.minor, LATEST_MINOR, theirs?.minor ?? LATEST_MINOR);
  if (minor < identity.minor || identity.unknownOptions.length > 0) {
    client.write(encodeNegotiateProtocolVersion({ minor, unknownOptions: identity.unknownOptions }));
  }
  return minor;
}
