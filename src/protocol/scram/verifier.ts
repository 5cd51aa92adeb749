/**
 * SCRAM verifiers as PostgreSQL stores them: what proves a password without being one.
 *
 *     SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
 *
 * [PG catalog-pg-authid], [RFC 5803]
 */

export const SCRAM_SHA_256 = "SCRAM-SHA-256";
export const SCRAM_SHA_256_PLUS = "SCRAM-SHA-256-PLUS";

/** Length of each key, in bytes: that of SHA-256. */
const KEY_BYTES = 32;

const MAX_ITERATIONS = 2 ** 31 - 1;
const MAX_SALT_BYTES = 1_024;

export interface ScramVerifier {
  readonly iterations: number;
  readonly salt: Buffer;
  /** SHA-256 of the ClientKey: checks the client's proof. */
  readonly storedKey: Buffer;
  /** Signs the server's answer. */
  readonly serverKey: Buffer;
}

const BASE64 = "([A-Za-z0-9+/]+={0,2})";
const PATTERN = new RegExp(`^SCRAM-SHA-256\\$([0-9]{1,10}):${BASE64}\\$${BASE64}:${BASE64}$`);

/** Undefined for a text that PostgreSQL would not take for a verifier. */
export function parseVerifier(text: string): ScramVerifier | undefined {
  const [, count = "", salt = "", stored = "", server = ""] = PATTERN.exec(text) ?? [];
  const iterations = Number(count);
  const verifier = {
    iterations,
    salt: Buffer.from(salt, "base64"),
    storedKey: Buffer.from(stored, "base64"),
    serverKey: Buffer.from(server, "base64"),
  };
  const isWhole =
    iterations >= 1 &&
    iterations <= MAX_ITERATIONS &&
    verifier.salt.length > 0 &&
    verifier.salt.length <= MAX_SALT_BYTES &&
    verifier.storedKey.length === KEY_BYTES &&
    verifier.serverKey.length === KEY_BYTES;
  return isWhole ? verifier : undefined;
}

export function formatVerifier({ iterations, salt, storedKey, serverKey }: ScramVerifier): string {
  const [saltText, stored, server] = [salt, storedKey, serverKey].map((bytes) => bytes.toString("base64"));
  return `${SCRAM_SHA_256}$${iterations}:${saltText}$${stored}:${server}`;
}
