/** SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides, just large enough for a scripted login. Nonces are fixed. */
import { createHash, createHmac, pbkdf2Sync } from "node:crypto";

const SALT = Buffer.from("a fixed salt");
const ITERATIONS = 16;
const CLIENT_NONCE = "client-nonce-0123456789";
const SERVER_NONCE = "server-nonce-9876543210";

export const SCRAM_SHA_256 = "SCRAM-SHA-256";

const hmac = (key: Buffer, text: string): Buffer => createHmac("sha256", key).update(text).digest();
const sha256 = (bytes: Buffer): Buffer => createHash("sha256").update(bytes).digest();
const xor = (one: Buffer, other: Buffer): Buffer => Buffer.from(one.map((byte, index) => byte ^ (other[index] ?? 0)));
const attribute = (text: string, name: string): string =>
  text
    .split(",")
    .find((part) => part.startsWith(`${name}=`))
    ?.slice(2) ?? "";

interface Keys {
  readonly client: Buffer;
  readonly server: Buffer;
}

/** Many logins with one password derive its keys once: a suite that has hundreds at the same time is not held up. */
const known = new Map<string, Keys>();

function keys(password: string, salt: Buffer, iterations: number): Keys {
  const name = JSON.stringify([password, salt.toString("base64"), iterations]);
  let found = known.get(name);
  if (found === undefined) {
    const salted = pbkdf2Sync(password, salt, iterations, 32, "sha256");
    found = { client: hmac(salted, "Client Key"), server: hmac(salted, "Server Key") };
    known.set(name, found);
  }
  return found;
}

/** The client's part of one login. */
export class ScramClient {
  readonly #password: string;
  #authMessage = "";

  constructor(password: string) {
    this.#password = password;
  }

  first(): string {
    return `n,,n=,r=${CLIENT_NONCE}`;
  }

  final(serverFirst: string): string {
    const withoutProof = `c=biws,r=${attribute(serverFirst, "r")}`;
    this.#authMessage = `n=,r=${CLIENT_NONCE},${serverFirst},${withoutProof}`;
    const salt = Buffer.from(attribute(serverFirst, "s"), "base64");
    const { client } = keys(this.#password, salt, Number(attribute(serverFirst, "i")));
    const proof = xor(client, hmac(sha256(client), this.#authMessage));
    return `${withoutProof},p=${proof.toString("base64")}`;
  }
}

/** The server's part of one login. */
export class ScramServer {
  readonly #password: string;
  readonly #salt: Buffer;
  readonly #iterations: number;
  #firstBare = "";
  #serverFirst = "";

  /** Few iterations unless told: pgvpd itself logs in with 4,096 or more, and with keys of a verifier of that salt. */
  constructor(password: string, iterations = ITERATIONS, salt = SALT) {
    this.#password = password;
    this.#iterations = iterations;
    this.#salt = salt;
  }

  first(clientFirst: string): string {
    this.#firstBare = clientFirst.replace(/^n,,/, "");
    const nonce = attribute(this.#firstBare, "r") + SERVER_NONCE;
    this.#serverFirst = `r=${nonce},s=${this.#salt.toString("base64")},i=${this.#iterations}`;
    return this.#serverFirst;
  }

  /** The server-final message, or undefined when the proof is wrong. */
  final(clientFinal: string): string | undefined {
    const [withoutProof = ""] = clientFinal.split(",p=");
    const authMessage = `${this.#firstBare},${this.#serverFirst},${withoutProof}`;
    const { client, server } = keys(this.#password, this.#salt, this.#iterations);
    const expected = xor(client, hmac(sha256(client), authMessage)).toString("base64");
    if (attribute(clientFinal, "p") !== expected) return undefined;
    return `v=${hmac(server, authMessage).toString("base64")}`;
  }
}
