/**
 * Ends a client's authentication at the proxy: SCRAM as PostgreSQL's own server speaks it, or the password in clear text
 * over TLS. Whatever is wrong - password, name, tenant, an expired role - takes the same steps and gives the same bytes.
 */
import { timingSafeEqual } from "node:crypto";
import { ProxyError } from "../../errors/proxy-error.ts";
import { raceAbort } from "../../lib/deadline.ts";
import {
  encodeCleartextPasswordRequest,
  encodeNegotiateProtocolVersion,
  encodeSaslContinue,
  encodeSaslFinal,
  encodeSaslRequest,
} from "../../protocol/backend-messages.ts";
import { decodePassword, decodeSaslInitialResponse, hashMd5Password } from "../../protocol/frontend-messages.ts";
import { MAX_AUTHENTICATION_MESSAGE } from "../../protocol/limits.ts";
import { frontend } from "../../protocol/message-types.ts";
import { deriveKeys, sha256 } from "../../protocol/scram/keys.ts";
import { ScramServer } from "../../protocol/scram/scram-server.ts";
import { LATEST_MINOR } from "../../protocol/startup.ts";
import type { MessageStream } from "../message-stream.ts";
import type { Identity } from "../tenant/identity.ts";
import type { UpstreamSecrets } from "../upstream/log-in.ts";
import { isScram, type FoundCredential } from "./credential.ts";

export interface EndedLogin {
  readonly client: MessageStream;
  readonly identity: Identity;
  readonly credential: FoundCredential;
  /** What a client can bind its login to; undefined in plain text, and where the certificate has no digest. */
  readonly endPoint: Buffer | undefined;
}

/**
 * @param method how the password is asked for.
 * @returns what the proof is worth upstream; AuthenticationOk is not sent yet.
 * @throws ProxyError password_failed (28P01), scram_* or login_message (08P01, 28000); whatever aborts `signal`.
 */
export async function endAuthentication(
  login: EndedLogin,
  method: "scram" | "cleartext",
  signal: AbortSignal,
): Promise<UpstreamSecrets> {
  negotiateVersion(login);
  const secrets = await (method === "scram" ? proveByScram(login, signal) : proveByCleartext(login, signal));
  if (secrets !== undefined && login.credential.problem === undefined) {
    return login.credential.isForeign ? {} : secrets;
  }
  throw new ProxyError("password_failed", {
    params: { user: login.identity.user },
    detail: login.credential.problem ?? "wrong password",
  });
}

/** SCRAM-SHA-256, or SCRAM-SHA-256-PLUS where there is an end point. [PG sasl-authentication] */
async function proveByScram(
  { client, credential: { verifier, problem }, endPoint }: EndedLogin,
  signal: AbortSignal,
): Promise<UpstreamSecrets | undefined> {
  if (!isScram(verifier)) throw new TypeError("SCRAM needs a verifier of its own");
  const server = new ScramServer(verifier, endPoint);
  client.write(encodeSaslRequest(server.mechanisms));
  const { mechanism, data } = decodeSaslInitialResponse(await readAnswer(client, signal));
  client.write(encodeSaslContinue(server.first(mechanism, data)));
  const proof = server.final((await readAnswer(client, signal)).toString("latin1"));
  if (proof === undefined || problem !== undefined) return undefined;
  client.write(encodeSaslFinal(proof.serverFinal));
  return { keys: { ...verifier, clientKey: proof.clientKey } };
}

/** Salt and iterations for a password that is stored as MD5: so that it takes as long as any other. */
const NO_SALT = Buffer.alloc(16);
const NO_SALT_ITERATIONS = 4_096;

/** A role may store what it likes as its own verifier: more iterations than these are not computed for it. */
const MAX_ITERATIONS = 100_000;

async function proveByCleartext(
  { client, identity, credential: { verifier } }: EndedLogin,
  signal: AbortSignal,
): Promise<UpstreamSecrets | undefined> {
  client.write(encodeCleartextPasswordRequest());
  const password = decodePassword(await readAnswer(client, signal));
  const isComputed = isScram(verifier) && verifier.iterations <= MAX_ITERATIONS;
  const { salt, iterations } = isComputed ? verifier : { salt: NO_SALT, iterations: NO_SALT_ITERATIONS };
  const keys = await raceAbort(deriveKeys(password, salt, iterations), signal);
  if (isScram(verifier)) {
    const isRight = timingSafeEqual(sha256(keys.clientKey), verifier.storedKey);
    return isRight ? { keys: { salt, iterations, ...keys }, password } : undefined;
  }
  return isEqual(hashMd5Password(password, identity.loginRole), verifier.md5) ? { password } : undefined;
}

function isEqual(one: string, other: string): boolean {
  return one.length === other.length && timingSafeEqual(Buffer.from(one), Buffer.from(other));
}

/** Exactly one `p` message, as in relay-authentication.ts. */
async function readAnswer(client: MessageStream, signal: AbortSignal): Promise<Buffer> {
  const { body } = await client.readMessage(MAX_AUTHENTICATION_MESSAGE, signal, frontend.password);
  if (client.hasUnread) throw new ProxyError("login_message");
  return body;
}

/**
 * The upstream's version is not known yet, and need not be: what differs between 3.0 and 3.2 is the length of a cancel
 * key, and the one of an older server is valid in both.
 */
function negotiateVersion({ client, identity }: EndedLogin): void {
  const { unknownOptions } = identity;
  const minor = Math.min(identity.minor, LATEST_MINOR);
  if (minor < identity.minor || unknownOptions.length > 0) {
    client.write(encodeNegotiateProtocolVersion({ minor, unknownOptions }));
  }
}
