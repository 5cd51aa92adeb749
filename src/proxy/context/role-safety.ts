/**
 * Whether the roles of a session are ones that row-level security holds: a superuser or a BYPASSRLS role sees every
 * row, REPLICATION reads them from the log, CREATEROLE can become another. The database is asked once a minute for each
 * pair of login and target role, on the session's own connection, in a round trip that is shared with the context.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { RecentKeys } from "../../lib/recent-keys.ts";
import type { TenantIdentity } from "../tenant/identity.ts";
import type { Row } from "../upstream/pipeline.ts";

const REMEMBERED_MS = 60_000;
const MAX_REMEMBERED = 1_000;

/** Operators are qualified: `ALTER ROLE app_user SET search_path` could put others in front. */
export const ROLE_QUESTION = `SELECT r.rolname, r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolcreaterole
  FROM pg_catalog.pg_roles r
  WHERE r.rolname OPERATOR(pg_catalog.=) session_user OR r.rolname OPERATOR(pg_catalog.=) current_user`;

const ATTRIBUTES = ["SUPERUSER", "BYPASSRLS", "REPLICATION", "CREATEROLE"];

/**
 * @param rows the answer to ROLE_QUESTION: a row each for the session's login role and its current role.
 * @throws ProxyError unsafe_role; context_failed when the session does not run as these two roles.
 */
export function assertRolesAreSafe({ loginRole, targetRole }: TenantIdentity, rows: readonly Row[]): void {
  const names = rows.map(([name]) => name);
  if (
    rows.length !== new Set([loginRole, targetRole]).size ||
    !names.includes(loginRole) ||
    !names.includes(targetRole)
  ) {
    throw new ProxyError("context_failed", {
      detail: `the session runs as ${names.join(", ")}, not as ${targetRole} logged in as ${loginRole}`,
    });
  }
  for (const [role, ...attributes] of rows) {
    const found = ATTRIBUTES.filter((_, index) => attributes[index] !== "f");
    if (found.length > 0) {
      throw new ProxyError("unsafe_role", { params: { role: role ?? "", reason: `it has ${found.join(", ")}` } });
    }
  }
}

/** The pairs that were found safe less than a minute ago. An unsafe one is asked for again at every login. */
export class SafeRoles {
  readonly #pairs: RecentKeys;

  constructor(clock: Clock) {
    this.#pairs = new RecentKeys(clock, REMEMBERED_MS, MAX_REMEMBERED);
  }

  has(identity: TenantIdentity): boolean {
    return this.#pairs.has(keyOf(identity));
  }

  add(identity: TenantIdentity): void {
    this.#pairs.add(keyOf(identity));
  }
}

function keyOf({ loginRole, targetRole }: TenantIdentity): string {
  return `${loginRole}\0${targetRole}`;
}
