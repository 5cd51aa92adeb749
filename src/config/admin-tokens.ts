/**
 * `admin_tokens_file`: who may ask the HTTP API what. A line for each token, `name:scopes:hash`, as `pgvpd token` makes it:
 *
 *     prometheus:metrics:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
 *     on-call:metrics,read,operate:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752
 *
 * The hash is the SHA-256 of the token, so that the file gives no token away.
 */
import { appendFileSync, existsSync } from "node:fs";
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { ConfigError } from "./config-error.ts";
import { oneLine, quoted } from "./one-line.ts";
import { readSecretText } from "./secret-file.ts";

export const SCOPES = ["metrics", "read", "operate"] as const;

/** metrics: /metrics. read: everything that is shown. operate: everything that changes something. */
export type Scope = (typeof SCOPES)[number];

export interface AdminToken {
  readonly name: string;
  readonly scopes: ReadonlySet<Scope>;
}

interface HashedToken extends AdminToken {
  readonly digest: Buffer;
}

const TOKEN_BYTES = 32;
/** Makes a token that has leaked recognizable, in a repository say. */
const TOKEN_PREFIX = "pgvpd_";

const MAX_TOKENS = 1_000;
/** Of a file that is wrong from top to bottom the first lines are enough. */
const MAX_PROBLEMS = 20;

export class AdminTokens {
  readonly #tokens: readonly HashedToken[];

  constructor(tokens: readonly HashedToken[] = []) {
    this.#tokens = tokens;
  }

  get isEmpty(): boolean {
    return this.#tokens.length === 0;
  }

  /** Whose token it is. Every hash is compared, so that the time tells nothing. */
  find(secret: string): AdminToken | undefined {
    const digest = digestOf(secret);
    let found: HashedToken | undefined;
    for (const token of this.#tokens) if (timingSafeEqual(token.digest, digest)) found ??= token;
    return found;
  }
}

/** @throws Error naming the file and what is wrong: ConfigError with every line that is, up to twenty. */
export function loadAdminTokens(path: string | undefined): AdminTokens {
  if (path === undefined) return new AdminTokens();
  const name = `admin_tokens_file: ${oneLine(path)}`;
  let text: string;
  try {
    text = readSecretText(path);
  } catch (cause) {
    throw new Error(`admin_tokens_file: ${(cause as Error).message}`, { cause });
  }
  return parseAdminTokens(text, name);
}

/** @param name of the file, for messages. @throws ConfigError. */
export function parseAdminTokens(text: string, name: string): AdminTokens {
  const tokens: HashedToken[] = [];
  const problems: string[] = [];
  const lineOf = new Map<string, number>();
  for (const [index, line] of text.split(/\r\n|\n|\r/).entries()) {
    if (problems.length === MAX_PROBLEMS) break;
    if (/^\s*(#|$)/.test(line)) continue;
    const token = parseLine(line.trim());
    const before = typeof token === "string" ? undefined : lineOf.get(token.name);
    if (typeof token === "string") problems.push(`${name}:${index + 1}: ${token}`);
    else if (before !== undefined) {
      problems.push(`${name}:${index + 1}: ${quoted(token.name)} has a token already, in line ${before}`);
    } else {
      lineOf.set(token.name, index + 1);
      tokens.push(token);
    }
  }
  if (tokens.length > MAX_TOKENS) problems.push(`${name}: it has more than ${MAX_TOKENS} tokens`);
  if (problems.length === 0 && tokens.length === 0) {
    problems.push(`${name}: it holds no token: make one with pgvpd token`);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return new AdminTokens(tokens);
}

/** What is wrong with it where it is none. The hash is not repeated: it may be the token itself. */
function parseLine(line: string): HashedToken | string {
  const [name = "", list = "", hash = "", ...rest] = line.split(":");
  if (rest.length > 0 || !/^[0-9a-f]{64}$/i.test(hash)) {
    return "expected name:scopes:hash, where the hash is the SHA-256 of the token, 64 hexadecimal digits";
  }
  const problem = checkTokenName(name);
  if (problem !== undefined) return problem;
  const scopes = parseScopes(list);
  if (typeof scopes === "string") return scopes;
  return { name, scopes, digest: Buffer.from(hash, "hex") };
}

/** What is wrong with the name of a token; undefined where nothing is. */
export function checkTokenName(name: string): string | undefined {
  return /^[\w.@-]{1,64}$/.test(name)
    ? undefined
    : `the name of a token has letters, digits, _ . @ and -, at most 64, not ${quoted(name)}`;
}

/** The scopes of a list with commas; what is wrong with it where something is. */
export function parseScopes(list: string): ReadonlySet<Scope> | string {
  const scopes = new Set<Scope>();
  for (const word of list.split(",")) {
    const scope = SCOPES.find((candidate) => candidate === word.trim());
    if (scope === undefined) return `expected scopes of ${SCOPES.join(", ")}, not ${quoted(word)}`;
    scopes.add(scope);
  }
  return scopes;
}

/**
 * Adds a new token to `file`, which is made where there is none.
 *
 * @returns the token: the file does not have it, and nobody can get it again.
 * @throws Error naming what is wrong with the file.
 */
export function addAdminToken(file: string, name: string, scopes: ReadonlySet<Scope>): string {
  const before = existsSync(file) ? readSecretText(file) : "";
  const token = TOKEN_PREFIX + randomBytes(TOKEN_BYTES).toString("base64url");
  const line = `${name}:${[...scopes].join(",")}:${digestOf(token).toString("hex")}\n`;
  const added = before === "" || before.endsWith("\n") ? line : `\n${line}`;
  parseAdminTokens(before + added, oneLine(file));
  appendFileSync(file, added, { mode: 0o600 });
  return token;
}

function digestOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}
