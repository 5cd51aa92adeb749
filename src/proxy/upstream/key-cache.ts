/**
 * Keys of passwords that pgvpd logs in upstream with: PBKDF2 costs milliseconds, and a role's salt rarely changes.
 */
import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import { deriveKeys, type ScramKeys } from "../../protocol/scram/keys.ts";

const MAX_KEYS = 1_000;

export class KeyCache {
  readonly #keys = new LRUCache<string, Promise<ScramKeys>>({ max: MAX_KEYS });

  /** Logins that need the same keys at the same time share one computation. */
  derive(password: Buffer, salt: Buffer, iterations: number): Promise<ScramKeys> {
    const name = createHash("sha256").update(salt).update(`\0${iterations}\0`).update(password).digest("base64");
    const known = this.#keys.get(name);
    if (known !== undefined) return known;
    const derived = deriveKeys(password, salt, iterations);
    this.#keys.set(name, derived);
    return derived;
  }
}
