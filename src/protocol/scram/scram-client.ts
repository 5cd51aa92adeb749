/**
 * The client's side of one SCRAM-SHA-256 exchange: how pgvpd logs in upstream. The server is not trusted: what it may
 * cost is bounded, and it must prove that it knows the verifier. [RFC 5802], [PG sasl-authentication]
 */
import { randomBytes, timingSafeEqual } from "node:crypto";
import { ProxyError } from "../../errors/proxy-error.ts";
import { decodeBase64, isNonce, readAttributes } from "./attributes.ts";
import { hmac, sha256, xor, type ScramKeys } from "./keys.ts";
import { SCRAM_SHA_256, SCRAM_SHA_256_PLUS } from "./verifier.ts";

const NONCE_BYTES = 18;
const MAX_NONCE_LENGTH = 1_024;
const MAX_SALT_BYTES = 1_024;
const MIN_ITERATIONS = 4_096;
const MAX_ITERATIONS = 100_000;

/** Finds the keys for what the server asks: by PBKDF2 over a password, or keys that are there already. */
export type FindKeys = (salt: Buffer, iterations: number) => Promise<ScramKeys>;

export class ScramClient {
  readonly mechanism: string;
  readonly #gs2Header: string;
  readonly #endPoint: Buffer;
  readonly #nonce = randomBytes(NONCE_BYTES).toString("base64");
  readonly #findKeys: FindKeys;
  #serverSignature: Buffer | undefined;

  /**
   * @param endPoint the hash that the login can be bound to; undefined in plain text, and where the certificate has none.
   * @throws ProxyError upstream_login when the server offers no mechanism that pgvpd speaks.
   */
  constructor(offered: readonly string[], endPoint: Buffer | undefined, findKeys: FindKeys) {
    this.#findKeys = findKeys;
    const canBind = endPoint !== undefined && offered.includes(SCRAM_SHA_256_PLUS);
    if (!canBind && !offered.includes(SCRAM_SHA_256)) {
      throw refused("it offers no SASL mechanism that pgvpd speaks");
    }
    this.mechanism = canBind ? SCRAM_SHA_256_PLUS : SCRAM_SHA_256;
    this.#endPoint = canBind ? endPoint : Buffer.alloc(0);
    // "y": could bind, but was not offered it. A server that did offer it learns of whoever took it off the list.
    const flag = canBind ? "p=tls-server-end-point" : endPoint === undefined ? "n" : "y";
    this.#gs2Header = `${flag},,`;
  }

  /** The client-first-message. The user name stands in the StartupMessage; PostgreSQL ignores this one. */
  first(): string {
    return `${this.#gs2Header}${this.#firstBare}`;
  }

  /**
   * server-first-message in, client-final-message out.
   *
   * @throws ProxyError upstream_login for a nonce, a salt or an iteration count outside of the limits; whatever
   *   `findKeys` throws.
   */
  async final(serverFirst: string): Promise<string> {
    const [nonce = "", saltText = "", count = ""] = readAttributes(serverFirst, "rsi", true) ?? [];
    const isOurs = nonce.startsWith(this.#nonce) && nonce.length > this.#nonce.length && isNonce(nonce);
    if (!isOurs || nonce.length > MAX_NONCE_LENGTH) throw refused("its nonce is not valid");
    const salt = decodeBase64(saltText);
    if (salt === undefined || salt.length === 0 || salt.length > MAX_SALT_BYTES) throw refused("its salt is not valid");
    const iterations = /^[0-9]{1,10}$/.test(count) ? Number(count) : 0;
    if (iterations < MIN_ITERATIONS || iterations > MAX_ITERATIONS) {
      throw refused(`it asks for ${count.slice(0, 20)} iterations: ${MIN_ITERATIONS} to ${MAX_ITERATIONS} are allowed`);
    }

    const { clientKey, serverKey } = await this.#findKeys(salt, iterations);
    const binding = Buffer.concat([Buffer.from(this.#gs2Header), this.#endPoint]).toString("base64");
    const withoutProof = `c=${binding},r=${nonce}`;
    const authMessage = `${this.#firstBare},${serverFirst},${withoutProof}`;
    this.#serverSignature = hmac(serverKey, authMessage);
    const proof = xor(clientKey, hmac(sha256(clientKey), authMessage));
    return `${withoutProof},p=${proof.toString("base64")}`;
  }

  /** server-final-message in. @throws ProxyError upstream_login unless the server has proved that it knows the verifier. */
  verify(serverFinal: string): void {
    const signature = decodeBase64(readAttributes(serverFinal, "v", true)?.[0] ?? "");
    const expected = this.#serverSignature;
    const isRight =
      expected !== undefined && signature?.length === expected.length && timingSafeEqual(signature, expected);
    if (!isRight) throw refused("its signature is wrong: it does not know the role's password");
  }

  get #firstBare(): string {
    return `n=,r=${this.#nonce}`;
  }
}

function refused(detail: string): ProxyError {
  return new ProxyError("upstream_login", { detail });
}
