/**
 * `credentials_file`: verifiers of clients, in the format of PgBouncer's auth_file, with tenants behind them where a
 * credential is bound to some.
 *
 *     "app_user" "SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>"
 *     "app_user" "SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>" tenants=acme,globex*
 *
 * A password in clear text or as MD5 is taken for a role that pgvpd itself logs in as, and for no client.
 */
import { ConfigError } from "../../config/config-error.ts";
import { hasUpstreamCredential } from "../../config/login-method.ts";
import { oneLine, quoted } from "../../config/one-line.ts";
import { readSecretText } from "../../config/secret-file.ts";
import { Secret } from "../../config/secret.ts";
import type { Config } from "../../config/settings.ts";
import { parseVerifier, SCRAM_SHA_256, type ScramVerifier } from "../../protocol/scram/verifier.ts";
import { LineError, parseCredentialsLine } from "./credentials-line.ts";
import type { TenantPattern } from "../../config/tenant-pattern.ts";

const MAX_LINES = 1_000_000;
/** A login that no exact value fits looks at each pattern of its role. */
const MAX_PATTERNS_OF_ROLE = 1_000;
/** Of a file that is wrong from top to bottom the first lines are enough. */
const MAX_PROBLEMS = 20;

type CredentialsFileConfig = Pick<
  Config,
  "credentialsFile" | "authUser" | "upstreamPassword" | "upstreamTlsCert" | "upstreamRequireAuth"
>;

/** What the file says about one login. */
export interface FileCredential {
  readonly verifier: ScramVerifier;
  /** True for one of some tenants alone: it is not the role's own. */
  readonly isBound: boolean;
}

/** The password of a role that pgvpd logs in as itself; md5: `md5` and the hash of password and role name. */
export type OwnPassword = { readonly password: Secret } | { readonly md5: string };

interface Line extends FileCredential {
  readonly number: number;
}

interface PatternLine extends Line {
  readonly pattern: TenantPattern;
}

/** The credentials of one login role. */
interface RoleCredentials {
  unbound: Line | undefined;
  readonly exact: Map<string, Line>;
  /** By what is written; the most specific first once the file is read, of equals the one that stands first. */
  patterns: Map<string, PatternLine>;
}

export class CredentialsFile {
  readonly #roles: ReadonlyMap<string, RoleCredentials>;
  readonly #own: ReadonlyMap<string, OwnPassword>;
  /** True where a line has `tenants=`. */
  readonly hasBound: boolean;

  constructor(roles: ReadonlyMap<string, RoleCredentials>, own: ReadonlyMap<string, OwnPassword>) {
    this.#roles = roles;
    this.#own = own;
    this.hasBound = [...roles.values()].some(({ exact, patterns }) => exact.size > 0 || patterns.size > 0);
  }

  /**
   * An exact tenant beats the pattern with the most characters of its own, and that beats a line without tenants.
   *
   * @param tenant undefined for a user without one: only a line without tenants is for it.
   */
  find(role: string, tenant: string | undefined): FileCredential | undefined {
    const credentials = this.#roles.get(role);
    if (credentials === undefined) return undefined;
    return (tenant === undefined ? undefined : findBound(credentials, tenant)) ?? credentials.unbound;
  }

  /** What pgvpd itself logs in with as this role. */
  ownPassword(role: string): OwnPassword | undefined {
    return this.#own.get(role);
  }
}

function findBound({ exact, patterns }: RoleCredentials, tenant: string): FileCredential | undefined {
  const line = exact.get(tenant);
  if (line !== undefined) return line;
  for (const candidate of patterns.values()) if (candidate.pattern.matches(tenant)) return candidate;
  return undefined;
}

/**
 * The file that the configuration names; undefined where it names none.
 *
 * @throws Error naming the file and what is wrong: ConfigError with every line that is, up to twenty.
 */
export function loadCredentialsFile(config: CredentialsFileConfig): CredentialsFile | undefined {
  const { credentialsFile: path, authUser } = config;
  if (path === undefined) return undefined;
  const name = `credentials_file: ${oneLine(path)}`;
  let text: string;
  try {
    text = readSecretText(path);
  } catch (cause) {
    throw new Error(`credentials_file: ${(cause as Error).message}`, { cause });
  }
  const file = parseCredentialsFile(text, new Set(authUser === undefined ? [] : [authUser]), name);
  if (file.hasBound && !hasUpstreamCredential(config)) {
    throw new Error(
      `${name}: a line with tenants= does not open PostgreSQL: set upstream_password (or upstream_tls_cert)`,
    );
  }
  return file;
}

/**
 * @param ownRoles roles that pgvpd logs in as itself: their lines may hold a password.
 * @param name of the file, for messages.
 * @throws ConfigError as loadCredentialsFile.
 */
export function parseCredentialsFile(text: string, ownRoles: ReadonlySet<string>, name: string): CredentialsFile {
  const reader = new FileReader(ownRoles);
  const problems: string[] = [];
  const lines = text.split(/\r\n|\n|\r/, MAX_LINES + 1);
  if (lines.length > MAX_LINES) throw new ConfigError([`${name}: it has more than ${MAX_LINES} lines`]);
  for (const [index, line] of lines.entries()) {
    try {
      reader.read(line, index + 1);
    } catch (error) {
      if (!(error instanceof LineError)) throw error;
      problems.push(`${name}:${index + 1}: ${error.message}`);
    }
  }
  if (problems.length > MAX_PROBLEMS) {
    const left = problems.splice(MAX_PROBLEMS).length;
    problems.push(`${name}: ${left} more ${left === 1 ? "line is" : "lines are"} wrong`);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return reader.finish();
}

/** Takes the lines in, one after the other. */
class FileReader {
  readonly #ownRoles: ReadonlySet<string>;
  readonly #roles = new Map<string, RoleCredentials>();
  readonly #own = new Map<string, OwnPassword>();
  /** The lines of passwords, by role. */
  readonly #ownLines = new Map<string, number>();

  constructor(ownRoles: ReadonlySet<string>) {
    this.#ownRoles = ownRoles;
  }

  /** @throws LineError. */
  read(text: string, number: number): void {
    const line = parseCredentialsLine(text);
    if (line === undefined) return;
    const { name, secret, tenants } = line;
    if (name === "") throw new LineError("the name of the role is empty");
    const verifier = parseVerifier(secret);
    if (verifier !== undefined) {
      const role = this.#roleOf(name);
      if (tenants === undefined)
        role.unbound = notTwice(role.unbound, { verifier, isBound: false, number }, quoted(name));
      else for (const tenant of tenants) bind(role, tenant, { verifier, isBound: true, number }, name);
    } else if (this.#ownRoles.has(name) && !secret.startsWith(`${SCRAM_SHA_256}$`)) {
      if (tenants !== undefined) throw new LineError("tenants= is for a verifier: pgvpd itself logs in with this line");
      this.#takeOwn(name, secret, number);
    } else throw new LineError(explainSecret(secret));
  }

  finish(): CredentialsFile {
    for (const role of this.#roles.values()) {
      const bySize = [...role.patterns].toSorted(([, a], [, b]) => b.pattern.literalLength - a.pattern.literalLength);
      role.patterns = new Map(bySize);
    }
    return new CredentialsFile(this.#roles, this.#own);
  }

  /** An empty password is PgBouncer's way to say that the server asks for none. */
  #takeOwn(name: string, secret: string, number: number): void {
    const before = this.#ownLines.get(name);
    if (before !== undefined) throw new LineError(`${quoted(name)} has a password already, in line ${before}`);
    this.#ownLines.set(name, number);
    if (secret === "") return;
    this.#own.set(name, isMd5(secret) ? { md5: secret } : { password: new Secret(secret) });
  }

  #roleOf(name: string): RoleCredentials {
    const known = this.#roles.get(name);
    if (known !== undefined) return known;
    const role: RoleCredentials = { unbound: undefined, exact: new Map(), patterns: new Map() };
    this.#roles.set(name, role);
    return role;
  }
}

function bind(role: RoleCredentials, pattern: TenantPattern, line: Line, name: string): void {
  const written = pattern.parts.join("*");
  const what = `tenant ${quoted(written)} of ${quoted(name)}`;
  if (pattern.isExact) role.exact.set(written, notTwice(role.exact.get(written), line, what));
  else {
    const key = JSON.stringify(pattern.parts);
    role.patterns.set(key, notTwice(role.patterns.get(key), { ...line, pattern }, what));
    if (role.patterns.size > MAX_PATTERNS_OF_ROLE) {
      throw new LineError(`${quoted(name)} has more than ${MAX_PATTERNS_OF_ROLE} patterns of tenants`);
    }
  }
}

function notTwice<T extends Line>(before: T | undefined, line: T, what: string): T {
  if (before !== undefined) throw new LineError(`${what} has a verifier already, in line ${before.number}`);
  return line;
}

function isMd5(secret: string): boolean {
  return /^md5[0-9a-f]{32}$/.test(secret);
}

function explainSecret(secret: string): string {
  const advice = "write the SCRAM verifier instead, as PostgreSQL stores it or pgvpd credential makes it";
  if (secret === "") return `there is no verifier: ${advice}`;
  if (secret.startsWith(`${SCRAM_SHA_256}$`)) return "the SCRAM verifier is not whole";
  return `${isMd5(secret) ? "an MD5 hash" : "a password in clear text"} proves no client: ${advice}`;
}
