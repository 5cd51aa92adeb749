/**
 * Names of resolver calls: database, login role, resolver and values in one text, and which of them a change is about.
 * Values that PostgreSQL could take for the same have the same name: a user who writes his UUID in capitals, or 7 as 007,
 * must not escape the change that takes his rights away. So a name stands for one call or several; who keeps something
 * under a name compares the calls themselves.
 */
import type { TenantIdentity } from "../tenant/identity.ts";
import type { ResolverCall } from "./resolve-context.ts";

/** Whose context is resolved, beside the values. */
export type WhoAsks = Pick<TenantIdentity, "database" | "loginRole" | "context">;

/** What has changed: a resolver's answer for these values, or for all of them where there are none. */
export interface Invalidation {
  readonly database: string;
  readonly resolver: string;
  readonly values: readonly string[];
}

/** Far more login roles than there are; with more, a change is looked for in all names. */
const MAX_ROLES = 1_000;

/** What is longer, without its leading zeros, is no number of PostgreSQL's. */
const MAX_FOLDED_NUMBER = 100;

const LEADING_ZEROS = /^([+-]?(?:0[xob])?)[0_]+(?=[0-9_])/;

export class CallNames {
  readonly #isPerContext: boolean;
  readonly #roles = new Set<string>();

  /** @param isPerContext the queries run in a session that has the identity's context, and can read it. */
  constructor(isPerContext: boolean) {
    this.#isPerContext = isPerContext;
  }

  nameOf({ database, loginRole, context }: WhoAsks, { resolver, values }: ResolverCall): string {
    if (this.#roles.size <= MAX_ROLES) this.#roles.add(loginRole);
    const seen = this.#isPerContext ? context.map(({ value }) => value) : [];
    return join(database, loginRole, resolver.name, [...values.map(fold), ...seen]);
  }

  /** @param all every name there is; asked only where a change cannot be named. */
  keysOf({ database, resolver, values }: Invalidation, all: () => Iterable<string>): string[] {
    const folded = values.map(fold);
    if (values.length > 0 && this.#roles.size <= MAX_ROLES) {
      return [...this.#roles].map((role) => join(database, role, resolver, folded));
    }
    return [...all()].filter((name) => {
      const [ofDatabase, , ofResolver, ...ofValues] = name.split("\0");
      if (ofDatabase !== database || ofResolver !== resolver) return false;
      return values.length === 0 || folded.join("\0") === ofValues.join("\0");
    });
  }
}

/** True when both ask the same of the same resolver. */
export function isSameCall(one: ResolverCall, other: ResolverCall): boolean {
  return one.resolver === other.resolver && one.values.every((value, index) => value === other.values[index]);
}

/** No name or value of PostgreSQL's holds a NUL. */
function join(database: string, role: string, resolver: string, values: readonly string[]): string {
  return [database, role, resolver, ...values].join("\0");
}

/**
 * One text for all spellings of a UUID or a whole number, and for texts that differ in case, accents, space around or
 * characters that cannot be seen.
 */
function fold(value: string): string {
  const visible = value
    .normalize("NFKD")
    .replace(/[\p{M}\p{C}]/gu, "")
    .trim();
  const plain = visible.toUpperCase().toLowerCase(); // so that ß is ss
  const digits = plain.replace(/[{}-]/g, "");
  if (/^[0-9a-f]{32}$/.test(digits)) return digits;
  const short = plain.replace(LEADING_ZEROS, "$1");
  if (short.length > MAX_FOLDED_NUMBER) return plain;
  const [, sign, number = ""] = /^([+-]?)([0-9_]+|0x[0-9a-f_]+|0o[0-7_]+|0b[01_]+)$/.exec(short) ?? [];
  if (!/[0-9a-f]$/.test(number)) return plain;
  const whole = BigInt(number.replaceAll("_", ""));
  return String(sign === "-" ? -whole : whole);
}
