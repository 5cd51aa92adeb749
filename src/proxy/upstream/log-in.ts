/**
 * Logs in upstream with what pgvpd has itself: the keys that a client's SCRAM proof gave, a password, or nothing where
 * the server trusts the connection or its certificate. The server is held to `upstream_require_auth`.
 * It ends with AuthenticationOk, which it keeps for the client.
 */
import { serialize } from "pg-protocol";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { raceAbort } from "../../lib/deadline.ts";
import {
  decodeAuthentication,
  decodeNegotiateProtocolVersion,
  decodeSaslMechanisms,
  describeErrorResponse,
  sqlstateOf,
} from "../../protocol/backend-messages.ts";
import { encodeMd5Response, hashMd5Password } from "../../protocol/frontend-messages.ts";
import { authentication, backend } from "../../protocol/message-types.ts";
import type { Message } from "../../protocol/message.ts";
import type { ScramKeys } from "../../protocol/scram/keys.ts";
import { ScramClient } from "../../protocol/scram/scram-client.ts";
import { readUpstream, unexpected, UpstreamRefusal, type Greeting } from "./await-ready.ts";
import type { OpeningUpstream } from "./open-upstream.ts";
import type { KeyCache } from "./key-cache.ts";

/** What a client's proof is worth upstream. */
export interface UpstreamSecrets {
  /** Keys of a verifier: they open a server whose role has the same one. */
  readonly keys?: ScramKeys & { readonly salt: Buffer; readonly iterations: number };
  /** The client's password, where it gave it in clear text. */
  readonly password?: Buffer;
  /** A role's password as `md5` and the hash of password and role name: it opens a server that asks for MD5. */
  readonly md5?: string;
}

export interface UpstreamLogin {
  readonly role: string;
  /** The protocol version asked for: 3.minor. */
  readonly minor: number;
  readonly secrets: UpstreamSecrets;
}

type LoginConfig = Pick<Config, "upstreamPassword" | "upstreamRequireAuth" | "upstreamTlsCert">;

export interface LoginServices {
  readonly config: LoginConfig;
  readonly keyCache: KeyCache;
}

/** The methods of `upstream_require_auth`, by the request that the server makes. */
const METHODS = {
  [authentication.cleartextPassword]: "password",
  [authentication.md5Password]: "md5",
  [authentication.sasl]: "scram-sha-256",
} as const;

/**
 * [PG protocol-flow/START-UP], [PG sasl-authentication]. The StartupMessage has been sent.
 *
 * @returns the minor version of protocol 3 that the server agreed to.
 * @throws ProxyError upstream_login (28000), upstream_protocol, upstream_login_lost; UpstreamRefusal for what is not about
 *   the credential, as a database that does not exist.
 */
export async function logIn(
  upstream: OpeningUpstream,
  login: UpstreamLogin,
  services: LoginServices,
  greeting: Greeting,
  signal: AbortSignal,
): Promise<number> {
  const allowed = allowedMethods(services.config);
  let minor = login.minor;
  let method: string | undefined;
  for (;;) {
    const message = await readReply(upstream, greeting, signal);
    if (message.type === backend.negotiateProtocolVersion && method === undefined) {
      minor = Math.min(minor, decodeNegotiateProtocolVersion(message.body).minor);
      continue;
    }
    const kind = authenticationOf(message);
    if (kind === authentication.ok) {
      if (method === undefined && !allowed.includes("none")) {
        throw notAllowed("none", allowed);
      }
      greeting.keep(message);
      return minor;
    }
    if (method !== undefined) throw refused("it asks for a second password");
    method = METHODS[kind as keyof typeof METHODS] ?? `method ${kind}`;
    if (!allowed.includes(method)) throw notAllowed(method, allowed);
    if (kind === authentication.sasl) await answerSasl(upstream, login, message, services, greeting, signal);
    else upstream.stream.write(answerPassword(upstream, login, message, kind, services.config));
  }
}

function allowedMethods(config: LoginConfig): readonly string[] {
  if (config.upstreamRequireAuth.length > 0) return config.upstreamRequireAuth;
  const isTrusted = config.upstreamPassword === undefined || config.upstreamTlsCert !== undefined;
  return isTrusted ? ["scram-sha-256", "none"] : ["scram-sha-256"];
}

async function answerSasl(
  upstream: OpeningUpstream,
  login: UpstreamLogin,
  request: Message,
  { config, keyCache }: LoginServices,
  greeting: Greeting,
  signal: AbortSignal,
): Promise<void> {
  const { stream, channel } = upstream;
  const scram = new ScramClient(decodeSaslMechanisms(request.body), channel.endPoint(), (salt, iterations) => {
    const { keys } = login.secrets;
    if (keys !== undefined && keys.iterations === iterations && keys.salt.equals(salt)) return Promise.resolve(keys);
    const password = passwordOf(login, config);
    if (password === undefined) throw refused(withoutPassword(login));
    return keyCache.derive(password, salt, iterations);
  });
  stream.write(serialize.sendSASLInitialResponseMessage(scram.mechanism, scram.first()));
  const serverFirst = await readSasl(upstream, authentication.saslContinue, greeting, signal);
  const final = await raceAbort(scram.final(serverFirst), signal);
  stream.write(serialize.sendSCRAMClientFinalMessage(final));
  scram.verify(await readSasl(upstream, authentication.saslFinal, greeting, signal));
}

async function readSasl(
  upstream: OpeningUpstream,
  expected: number,
  greeting: Greeting,
  signal: AbortSignal,
): Promise<string> {
  const message = await readReply(upstream, greeting, signal);
  if (authenticationOf(message) !== expected) throw refused("it broke off the SASL exchange");
  return message.body.toString("latin1", 4);
}

/** The answer to AuthenticationCleartextPassword or AuthenticationMD5Password. */
function answerPassword(
  { channel }: OpeningUpstream,
  login: UpstreamLogin,
  request: Message,
  kind: number,
  config: LoginConfig,
): Buffer {
  const password = passwordOf(login, config);
  if (kind === authentication.md5Password) {
    const salt = request.body.subarray(4);
    if (salt.length !== 4) throw refused("its MD5 salt does not have 4 bytes");
    const stored = password === undefined ? login.secrets.md5 : hashMd5Password(password, login.role);
    if (stored !== undefined) return encodeMd5Response(stored, salt);
  }
  if (password === undefined) throw refused(withoutPassword(login));
  if (!channel.isPrivate) throw refused("it asks for the password in clear text, without TLS: set upstream_tls");
  return serialize.password(password.toString());
}

function passwordOf({ secrets }: UpstreamLogin, { upstreamPassword }: LoginConfig): Buffer | undefined {
  return upstreamPassword === undefined ? secrets.password : Buffer.from(upstreamPassword.reveal());
}

function withoutPassword({ role, secrets }: UpstreamLogin): string {
  return secrets.keys === undefined
    ? `it asks for the password of ${role}: set upstream_password, or upstream_tls_cert`
    : `the client's verifier is not the one that the server has for ${role}: copy that, or set upstream_password`;
}

/** The next message that matters. What the server says about a credential is for the log: the client's own was right. */
async function readReply(upstream: OpeningUpstream, greeting: Greeting, signal: AbortSignal): Promise<Message> {
  for (;;) {
    const message = await readUpstream(upstream.stream, signal);
    if (message.type === backend.noticeResponse) {
      greeting.keep(message);
      continue;
    }
    if (message.type !== backend.errorResponse) return message;
    if (sqlstateOf(message.body).startsWith("28")) throw refused(describeErrorResponse(message.body));
    throw new UpstreamRefusal(message);
  }
}

function authenticationOf(message: Message): number {
  if (message.type !== backend.authentication) throw unexpected(message);
  return decodeAuthentication(message.body);
}

function notAllowed(method: string, allowed: readonly string[]): ProxyError {
  return refused(`it asks for ${method}, and upstream_require_auth allows ${allowed.join(", ")}`);
}

function refused(detail: string): ProxyError {
  return new ProxyError("upstream_login", { detail });
}
