/**
 * `context_key_file`: the keys that the context is sealed with, one a line. The last one is in use; those before it are
 * kept until no instance of pgvpd uses them any more.
 *
 *     # comment
 *     1 <32 bytes in base64>
 *     2 <32 bytes in base64>
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  fchownSync,
  fsyncSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { readSecretFile } from "./secret-file.ts";

export const KEY_BYTES = 32;
const BLOCK_BYTES = 64;
const MAX_KEYS = 100;
const MAX_KID = 999_999_999;
const COMMENT = /^\s*(#|$)/;

export interface SealKey {
  /** What the database calls it. */
  readonly kid: number;
  readonly bytes: Buffer;
}

/** @throws Error with a text for the operator: the file, the line, and what is wrong with it. */
export function readSealKeys(path: string): readonly SealKey[] {
  const keys: SealKey[] = [];
  for (const [index, line] of readSecretFile(path).toString().split("\n").entries()) {
    if (COMMENT.test(line)) continue;
    const key = parseLine(line);
    if (key === undefined || keys.some(({ kid }) => kid === key.kid)) {
      throw new Error(`${path}:${index + 1}: expected a number of its own and ${KEY_BYTES} bytes in base64`);
    }
    keys.push(key);
  }
  if (keys.length === 0) throw new Error(`${path}: it holds no key: pgvpd key create --file ${path}`);
  if (keys.length > MAX_KEYS) throw new Error(`${path}: it holds more than ${MAX_KEYS} keys`);
  return keys;
}

function parseLine(line: string): SealKey | undefined {
  const [, number = "", text = ""] = /^\s*(\d{1,9})\s+([A-Za-z0-9+/]+={0,2})\s*$/.exec(line) ?? [];
  const kid = Number(number);
  const bytes = Buffer.from(text, "base64");
  return kid >= 1 && bytes.length === KEY_BYTES ? { kid, bytes } : undefined;
}

/** A new file with one key, which its owner alone can read. @throws the system's error, also where there is one. */
export function createKeyFile(path: string): void {
  const head = "# Keys that pgvpd seals the context with. The last one is in use.\n";
  writeFileSync(path, `${head}${createLine(1)}`, { mode: 0o600, flag: "wx" });
}

/** Adds a new key, which is the last one then. @returns its number. @throws Error with a text for the operator. */
export function addKey(path: string): number {
  const keys = readSealKeys(path);
  const kid = Math.max(...keys.map((key) => key.kid)) + 1;
  if (keys.length === MAX_KEYS || kid > MAX_KID) {
    throw new Error(`${path}: there is no room for another key: pgvpd key retire --file ${path}`);
  }
  const text = readFileSync(path, "utf8");
  replaceFile(path, `${text}${text.endsWith("\n") ? "" : "\n"}${createLine(kid)}`);
  return kid;
}

/** Removes all keys but the last. @returns its number. @throws Error with a text for the operator. */
export function keepLastKey(path: string): number {
  const last = readSealKeys(path).at(-1) as SealKey;
  const lines = readFileSync(path, "utf8").split("\n");
  const kept = lines.filter((line) => COMMENT.test(line) || parseLine(line)?.kid === last.kid);
  replaceFile(path, kept.join("\n"));
  return last.kid;
}

function createLine(kid: number): string {
  return `${kid} ${randomBytes(KEY_BYTES).toString("base64")}\n`;
}

/** At once, for whoever reads it, and even when the disk is full; owner and mode stay. No copy of a key is left behind. */
function replaceFile(path: string, text: string): void {
  const target = realpathSync(path);
  const { mode, uid, gid } = statSync(target);
  const next = `${target}.new`;
  const descriptor = openSync(next, "wx", mode & 0o777);
  try {
    try {
      fchownSync(descriptor, uid, gid);
      writeFileSync(descriptor, text);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    renameSync(next, target);
  } catch (error) {
    rmSync(next);
    throw error;
  }
}

/** A superuser keeps the statement with the keys out of the server's log, where a failed one would stand in any case. */
const UNLOGGED = `DO $$ BEGIN
  IF pg_catalog.current_setting('is_superuser') = 'on' THEN
    SET LOCAL log_statement = 'none';
    SET LOCAL log_min_duration_statement = -1;
    SET LOCAL log_min_duration_sample = -1;
    SET LOCAL log_transaction_sample_rate = 0;
    SET LOCAL log_min_error_statement = 'panic';
    SET LOCAL auto_explain.log_min_duration = -1;
  END IF;
END $$;`;

/**
 * SQL by which the database of sql/seal.sql accepts these keys and no others.
 * Numbers and hexadecimal digits only: there is nothing to quote.
 */
export function renderKeyInstallation(keys: readonly SealKey[]): string {
  const rows = keys.map((key) => `  (${key.kid}, '\\x${padKey(key).inner}', '\\x${padKey(key).outer}')`);
  const kids = keys.map(({ kid }) => kid).join(", ");
  return [
    "BEGIN;",
    UNLOGGED,
    "INSERT INTO pgvpd.context_keys (kid, ipad, opad) VALUES",
    rows.join(",\n"),
    "ON CONFLICT (kid) DO UPDATE SET ipad = excluded.ipad, opad = excluded.opad, active = true;",
    `UPDATE pgvpd.context_keys SET active = false WHERE kid NOT IN (${kids});`,
    "COMMIT;",
    "",
  ].join("\n");
}

/** A key, padded to a block, with the constants of HMAC (RFC 2104): what the database keeps of it, in hexadecimal digits. */
export function padKey({ bytes }: SealKey): { readonly inner: string; readonly outer: string } {
  const block = Buffer.alloc(BLOCK_BYTES);
  bytes.copy(block);
  const pad = (constant: number): string => Buffer.from(block.map((byte) => byte ^ constant)).toString("hex");
  return { inner: pad(0x36), outer: pad(0x5c) };
}
