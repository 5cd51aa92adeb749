/**
 * A line of `credentials_file`, which is one of PgBouncer's auth_file with `tenants=` behind it:
 *
 *     "name" "secret" [fields that PgBouncer ignores] [tenants=acme,globex*,"two words"]
 *
 * Inside quotes `""` is a quote. A value of `tenants=` may be quoted as a whole or in part, for a space, a comma or a `*`
 * that is meant as it stands. What looks like a slip of `tenants=` is refused: the line would be for every tenant.
 */
import { TenantPattern } from "../../config/tenant-pattern.ts";

export interface CredentialsLine {
  readonly name: string;
  /** A verifier, or what else PgBouncer takes. */
  readonly secret: string;
  /** Undefined where the line is for the role itself; never empty. */
  readonly tenants: readonly TenantPattern[] | undefined;
}

/** What is wrong with a line, without anything of it: a password may stand there. */
export class LineError extends Error {}

const TENANTS = "tenants=";

/** Undefined for an empty line and for a comment, which begins with `;` or `#`. @throws LineError. */
export function parseCredentialsLine(text: string): CredentialsLine | undefined {
  const line = new LineReader(text);
  line.skipSpaces();
  if (line.isAtEnd || line.isAtComment) return undefined;
  const name = line.readQuoted();
  line.skipSpaces();
  const secret = line.readQuoted();
  let tenants: readonly TenantPattern[] | undefined;
  for (line.skipSpaces(); !line.isAtEnd && !line.isAtComment; line.skipSpaces()) {
    if (!line.take(TENANTS)) line.skipIgnored();
    else if (tenants === undefined) tenants = line.readTenants();
    else throw new LineError("tenants= comes twice");
  }
  return { name, secret, tenants };
}

/** Reads from left to right, and looks at each character a fixed number of times. */
class LineReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#text.length;
  }

  get isAtComment(): boolean {
    return this.#next === ";" || this.#next === "#";
  }

  get #next(): string {
    return this.#text.charAt(this.#at);
  }

  get #isAtSpace(): boolean {
    return !this.isAtEnd && " \t\v\f".includes(this.#next);
  }

  skipSpaces(): void {
    while (this.#isAtSpace) this.#at++;
  }

  /** True, and behind it, where `word` comes next. */
  take(word: string): boolean {
    if (!this.#text.startsWith(word, this.#at)) return false;
    this.#at += word.length;
    return true;
  }

  /** What the quotes hold that begin here. */
  readQuoted(): string {
    const start = this.#at + 1;
    if (!this.take('"')) throw new LineError('expected "role" "SCRAM-SHA-256$...", both in quotes');
    for (;;) {
      const quote = this.#text.indexOf('"', this.#at);
      if (quote === -1) throw new LineError("a quote is not closed");
      this.#at = quote + 1;
      if (!this.take('"')) return this.#text.slice(start, quote).replaceAll('""', '"');
    }
  }

  /** Values up to the next space. */
  readTenants(): TenantPattern[] {
    const tenants = [this.#readTenant()];
    while (this.take(",")) tenants.push(this.#readTenant());
    return tenants;
  }

  #readTenant(): TenantPattern {
    const parts = [""];
    while (!this.isAtEnd && !this.#isAtSpace && this.#next !== ",") {
      if (this.take("*")) {
        if (parts.length === 1 || parts.at(-1) !== "") parts.push("");
      } else parts.push((parts.pop() ?? "") + (this.#next === '"' ? this.readQuoted() : this.#readCharacter()));
    }
    if (parts.length === 1 && parts[0] === "") {
      throw new LineError("tenants= has an empty value: separate values by commas, without spaces");
    }
    return new TenantPattern(parts);
  }

  #readCharacter(): string {
    const character = this.#next;
    this.#at++;
    return character;
  }

  /** A field as PgBouncer ignores it. */
  skipIgnored(): void {
    const start = this.#at;
    let hasEquals = false;
    while (!this.isAtEnd && !this.#isAtSpace) {
      if (this.#next === '"') this.readQuoted();
      else hasEquals = this.#readCharacter() === "=" || hasEquals;
    }
    if (hasEquals || /^tenant/i.test(this.#text.slice(start, start + TENANTS.length))) {
      throw new LineError("behind the verifier only tenants=... is known, in small letters and without spaces");
    }
  }
}
