/**
 * The server's side of one SCRAM-SHA-256 exchange, as a client of PostgreSQL expects it. It knows no socket: messages in,
 * messages out. A verifier that belongs to nobody takes the same steps, and fails at the same place.
 * [RFC 5802], [PG sasl-authentication]
 */
import { randomBytes, timingSafeEqual } from "node:crypto";
import { ProxyError } from "../../errors/proxy-error.ts";
import { decodeBase64, isNonce, readAttributes } from "./attributes.ts";
import { hmac, sha256, xor } from "./keys.ts";
import { SCRAM_SHA_256, SCRAM_SHA_256_PLUS, type ScramVerifier } from "./verifier.ts";

const NONCE_BYTES = 18;

/** What a right proof gives. */
export interface ScramProof {
  /** The server-final-message: shows the client that the server knows the verifier. */
  readonly serverFinal: string;
  /** What the proof was made with: it opens the upstream server, where that has the same verifier. */
  readonly clientKey: Buffer;
}

export class ScramServer {
  readonly #verifier: ScramVerifier;
  readonly #endPoint: Buffer | undefined;
  #gs2Header = "";
  #isBound = false;
  #nonce = "";
  #firstMessages = "";

  /** @param endPoint the hash that a client may bind to; undefined where it cannot: plain text, or no digest. */
  constructor(verifier: ScramVerifier, endPoint: Buffer | undefined) {
    this.#verifier = verifier;
    this.#endPoint = endPoint;
  }

  /** Most wanted first. */
  get mechanisms(): readonly string[] {
    return this.#endPoint === undefined ? [SCRAM_SHA_256] : [SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
  }

  /**
   * client-first-message in, server-first-message out.
   *
   * @throws ProxyError scram_message (08P01), scram_downgrade (28000).
   */
  first(mechanism: string, message: string): string {
    if (!this.mechanisms.includes(mechanism)) throw malformed("a mechanism that was not offered");
    const [, gs2Header, flag, bare] = /^((n|y|p=tls-server-end-point),,)(.*)$/s.exec(message) ?? [];
    if (gs2Header === undefined || flag === undefined || bare === undefined) throw malformed("the GS2 header");
    this.#isBound = mechanism === SCRAM_SHA_256_PLUS;
    if (this.#isBound !== flag.startsWith("p")) throw malformed("mechanism and channel binding contradict each other");
    // The client can bind and was told that the server cannot: somebody in between has changed the list.
    if (flag === "y" && this.#endPoint !== undefined) throw new ProxyError("scram_downgrade");

    const nonce = readAttributes(bare, "nr", true)?.[1];
    if (nonce === undefined || !isNonce(nonce)) throw malformed("the client's first message");
    this.#gs2Header = gs2Header;
    this.#nonce = nonce + randomBytes(NONCE_BYTES).toString("base64");
    const answer = `r=${this.#nonce},s=${this.#verifier.salt.toString("base64")},i=${this.#verifier.iterations}`;
    this.#firstMessages = `${bare},${answer}`;
    return answer;
  }

  /**
   * client-final-message in; undefined when the proof is wrong.
   *
   * @throws ProxyError scram_message (08P01), scram_binding (28000).
   */
  final(message: string): ScramProof | undefined {
    const end = message.lastIndexOf(",p=");
    const withoutProof = message.slice(0, Math.max(end, 0));
    const [binding, nonce] = readAttributes(withoutProof, "cr", true) ?? [];
    const proof = decodeBase64(message.slice(end + ",p=".length));
    if (end === -1 || binding === undefined || proof?.length !== 32) throw malformed("the client's final message");
    if (nonce !== this.#nonce) throw malformed("another nonce");

    const endPoint = this.#isBound ? (this.#endPoint as Buffer) : Buffer.alloc(0);
    const expected = Buffer.concat([Buffer.from(this.#gs2Header), endPoint]).toString("base64");
    if (binding !== expected) throw new ProxyError("scram_binding");

    const { storedKey, serverKey } = this.#verifier;
    const authMessage = `${this.#firstMessages},${withoutProof}`;
    const clientKey = xor(proof, hmac(storedKey, authMessage));
    const isRight = timingSafeEqual(sha256(clientKey), storedKey);
    const serverFinal = `v=${hmac(serverKey, authMessage).toString("base64")}`;
    return isRight ? { serverFinal, clientKey } : undefined;
  }
}

function malformed(detail: string): ProxyError {
  return new ProxyError("scram_message", { detail });
}
