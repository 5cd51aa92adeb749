/**
 * The keys of SCRAM-SHA-256 [RFC 5802 section 3]. PBKDF2, the slow part, runs on libuv's thread pool.
 */
import { createHash, createHmac, pbkdf2, randomBytes } from "node:crypto";
import { promisify } from "node:util";
import { saslprep } from "@mongodb-js/saslprep";
import { formatVerifier, type ScramVerifier } from "./verifier.ts";

const SALT_BYTES = 16;

/** What a password becomes under one salt and iteration count. */
export interface ScramKeys {
  readonly clientKey: Buffer;
  readonly serverKey: Buffer;
}

/** @param data a message or a part of one, each character a byte of the wire. */
export function hmac(key: Buffer, data: string): Buffer {
  return createHmac("sha256", key).update(data, "latin1").digest();
}

export function sha256(data: Buffer): Buffer {
  return createHash("sha256").update(data).digest();
}

/** Of two buffers of the same length. */
export function xor(one: Buffer, other: Buffer): Buffer {
  return Buffer.from(one.map((byte, index) => byte ^ (other[index] as number)));
}

/** Costs about 0.4 us for each iteration, off the event loop. */
export async function deriveKeys(password: string | Buffer, salt: Buffer, iterations: number): Promise<ScramKeys> {
  const salted = await promisify(pbkdf2)(normalizePassword(password), salt, iterations, 32, "sha256");
  return { clientKey: hmac(salted, "Client Key"), serverKey: hmac(salted, "Server Key") };
}

/** What PostgreSQL would store for the password, with a salt of its own. */
export async function createVerifier(password: string, iterations: number): Promise<string> {
  return formatVerifier(await deriveVerifier(password, randomBytes(SALT_BYTES), iterations));
}

export async function deriveVerifier(password: string, salt: Buffer, iterations: number): Promise<ScramVerifier> {
  const { clientKey, serverKey } = await deriveKeys(password, salt, iterations);
  return { iterations, salt, storedKey: sha256(clientKey), serverKey };
}

/** Longer passwords are taken as they are: preparing one costs time with the square of its length, on the event loop. */
const MAX_PREPARED = 1_024;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * SASLprep, and the password as it is where SASLprep prohibits it or where it is no UTF-8, as PostgreSQL does.
 */
function normalizePassword(password: string | Buffer): string | Buffer {
  if (password.length > MAX_PREPARED) return password;
  try {
    const text = typeof password === "string" ? password : utf8.decode(password);
    return saslprep(text) || password;
  } catch {
    return password;
  }
}
