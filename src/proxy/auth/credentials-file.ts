/**
 * `credentials_file`: verifiers of clients, in the format of PgBouncer's auth_file, with tenants behind them where a
 * credential is bound to some.
 *
 *     "app_user" "SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>"
 *     "app_user" "SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>" tenants=acme,globex*
 */
import { readSecretFile } from "../../config/secret-file.ts";
import { Secret } from "../../config/secret.ts";
import { parseVerifier, type ScramVerifier } from "../../protocol/scram/verifier.ts";

/** What the file says about one login. */
export interface FileCredential {
  readonly verifier: ScramVerifier;
  readonly isBound: boolean;
}

/** The password of a role that pgvpd logs in as itself; md5: `md5` and the hash of password and role name. */
export type OwnPassword = { readonly password: Secret } | { readonly md5: string };

interface TenantPattern {
  readonly parts: readonly string[];
  readonly literalLength: number;
  readonly verifier: ScramVerifier;
}

/** The credentials of one login role. */
interface RoleCredentials {
  unbound: ScramVerifier | undefined;
  readonly exact: Map<string, ScramVerifier>;
  /** The most specific first. */
  readonly patterns: TenantPattern[];
}

export class CredentialsFile {
  readonly #roles = new Map<string, RoleCredentials>();
  readonly #own = new Map<string, OwnPassword>();

  /** True where a line has `tenants=`. */
  get hasBound(): boolean {
    return [...this.#roles.values()].some(({ exact, patterns }) => exact.size > 0 || patterns.length > 0);
  }

  /** @param tenant undefined for a user without one: only a line that is not bound is for it. */
  find(role: string, tenant: string | undefined): FileCredential | undefined {
    const credentials = this.#roles.get(role);
    if (credentials === undefined) return undefined;
    const bound =
      tenant === undefined
        ? undefined
        : (credentials.exact.get(tenant) ??
          credentials.patterns.find(({ parts }) => matchesPattern(tenant, parts))?.verifier);
    const verifier = bound ?? credentials.unbound;
    return verifier && { verifier, isBound: bound !== undefined };
  }

  /** What pgvpd itself logs in with as this role. */
  ownPassword(role: string): OwnPassword | undefined {
    return this.#own.get(role);
  }

  /** @throws Error saying what is wrong with the line. */
  add(line: CredentialLine, ownRoles: ReadonlySet<string>): void {
    const { name, secret, tenants } = line;
    const verifier = parseVerifier(secret);
    if (verifier === undefined) {
      if (secret.startsWith("SCRAM-SHA-256$")) throw new Error("the verifier is not whole");
      if (!ownRoles.has(name)) {
        throw new Error("a password in clear text or MD5 is not accepted: make a verifier with pgvpd credential");
      }
      this.#own.set(name, /^md5[0-9a-f]{32}$/.test(secret) ? { md5: secret } : { password: new Secret(secret) });
      return;
    }
    const role = this.#roleOf(name);
    if (tenants.length === 0) {
      if (role.unbound !== undefined) throw new Error(`"${name}" has such a line already`);
      role.unbound = verifier;
    }
    for (const tenant of tenants) addTenant(role, tenant, verifier);
  }

  #roleOf(name: string): RoleCredentials {
    const known = this.#roles.get(name);
    if (known !== undefined) return known;
    const role: RoleCredentials = { unbound: undefined, exact: new Map(), patterns: [] };
    this.#roles.set(name, role);
    return role;
  }
}

function addTenant({ exact, patterns }: RoleCredentials, tenant: string, verifier: ScramVerifier): void {
  if (!tenant.includes("*")) {
    if (exact.has(tenant)) throw new Error(`the tenant ${tenant} has a line of this role already`);
    exact.set(tenant, verifier);
    return;
  }
  const parts = tenant.split(/\*+/);
  const literalLength = parts.join("").length;
  patterns.push({ parts, literalLength, verifier });
  patterns.sort((one, other) => other.literalLength - one.literalLength);
}

/** @param parts of a pattern, between its `*`s: at least two. Linear: each part is taken where it comes first. */
export function matchesPattern(text: string, parts: readonly string[]): boolean {
  const first = parts[0] as string;
  const last = parts.at(-1) as string;
  if (text.length < first.length + last.length || !text.startsWith(first) || !text.endsWith(last)) return false;
  const end = text.length - last.length;
  let at = first.length;
  for (const part of parts.slice(1, -1)) {
    const found = text.indexOf(part, at);
    if (found === -1 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}

interface CredentialLine {
  readonly name: string;
  readonly secret: string;
  readonly tenants: readonly string[];
}

/**
 * @param ownRoles roles that pgvpd logs in as itself: their lines may hold a password.
 * @throws Error naming the file and every line that is wrong.
 */
export function loadCredentialsFile(path: string, ownRoles: ReadonlySet<string>): CredentialsFile {
  return parseCredentialsFile(readSecretFile(path).toString(), ownRoles, path);
}

/** @throws Error as loadCredentialsFile. */
export function parseCredentialsFile(text: string, ownRoles: ReadonlySet<string>, path: string): CredentialsFile {
  const file = new CredentialsFile();
  const problems: string[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (/^\s*([;#]|$)/.test(line)) continue;
    try {
      file.add(parseLine(line), ownRoles);
    } catch (error) {
      problems.push(`${path}:${index + 1}: ${(error as Error).message}`);
    }
  }
  if (problems.length > 0) throw new Error(problems.join("\n"));
  return file;
}

const LINE = /^\s*"((?:[^"]|"")+)"\s+"((?:[^"]|"")*)"(?:\s+(.*?))?\s*$/;
const TENANTS = "tenants=";

function parseLine(line: string): CredentialLine {
  const [, name, secret, rest = ""] = LINE.exec(line) ?? [];
  if (name === undefined || secret === undefined) throw new Error('expected "role" "SCRAM-SHA-256$..."');
  const field = rest.split(/\s+/).find((one) => one.startsWith(TENANTS));
  const tenants = field === undefined ? [] : field.slice(TENANTS.length).split(",").filter(Boolean);
  if (field !== undefined && tenants.length === 0) throw new Error("tenants= names no tenant");
  const plain = (quoted: string): string => quoted.replaceAll('""', '"');
  return { name: plain(name), secret: plain(secret), tenants };
}
