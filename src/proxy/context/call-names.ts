/**
 * Names of resolver calls: database, login role, resolver and values in one text, and which of them a change is about.
 */
import type { TenantIdentity } from "../tenant/identity.ts";
import type { ResolverCall } from "./resolve-context.ts";

/** Whose context is resolved, beside the values. */
export type WhoAsks = Pick<TenantIdentity, "database" | "loginRole">;

/** What has changed: a resolver's answer for these values, or for all of them where there are none. */
export interface Invalidation {
  readonly database: string;
  readonly resolver: string;
  readonly values: readonly string[];
}

/** Far more login roles than there are; with more, a change is looked for in all names. */
const MAX_ROLES = 1_000;

export class CallNames {
  readonly #roles = new Set<string>();

  nameOf({ database, loginRole }: WhoAsks, { resolver, values }: ResolverCall): string {
    if (this.#roles.size <= MAX_ROLES) this.#roles.add(loginRole);
    return join(database, loginRole, resolver.name, values);
  }

  /** @param all every name there is; asked only where a change cannot be named. */
  keysOf({ database, resolver, values }: Invalidation, all: () => Iterable<string>): string[] {
    if (values.length > 0 && this.#roles.size <= MAX_ROLES) {
      return [...this.#roles].map((role) => join(database, role, resolver, values));
    }
    return [...all()].filter((name) => {
      const [ofDatabase, , ofResolver, ...ofValues] = name.split("\0");
      if (ofDatabase !== database || ofResolver !== resolver) return false;
      return values.length === 0 || values.join("\0") === ofValues.join("\0");
    });
  }
}

/** No name or value of PostgreSQL's holds a NUL. */
function join(database: string, role: string, resolver: string, values: readonly string[]): string {
  return [database, role, resolver, ...values].join("\0");
}
