/**
 * Whether the roles of tenants are ones that row-level security holds: the login roles, and the role that a session takes
 * on. pgvpd asks the same at a login; here it is known before.
 */
import type { Config } from "../config/settings.ts";
import type { Finding } from "./finding.ts";

/** The role that sql/setup.sql creates. */
const USUAL_ROLE = "app_user";

type RoleConfig = Pick<Config, "loginRoles" | "setRole" | "allowUnsafeRoles">;
type OwnRoleConfig = Pick<Config, "loginRoles" | "setRole" | "superuserBypass">;

export interface RoleRow {
  readonly rolname: string;
  readonly rolcanlogin: boolean;
  readonly rolsuper: boolean;
  readonly rolbypassrls: boolean;
  readonly rolreplication: boolean;
  readonly rolcreaterole: boolean;
  /** Whether it may take on the role of set_role; null where there is none. */
  readonly isMember: boolean | null;
  /** Roles with one of the four attributes that it may take on. */
  readonly reachable: readonly string[];
}

/**
 * $1: names of roles. $2: the role of set_role, or null. To be asked with pg_catalog alone in the search_path.
 */
export const ROLE_QUESTION = `SELECT r.rolname::text, r.rolcanlogin, r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolcreaterole,
    (SELECT pg_has_role(r.oid, t.oid, 'MEMBER') FROM pg_roles t WHERE t.rolname = $2) AS "isMember",
    ARRAY(SELECT s.rolname::text FROM pg_roles s
          WHERE s.oid <> r.oid AND (s.rolsuper OR s.rolbypassrls OR s.rolreplication OR s.rolcreaterole)
            AND pg_has_role(r.oid, s.oid, 'MEMBER')
          ORDER BY s.rolname) AS reachable
  FROM pg_roles r
  WHERE r.rolname = ANY ($1)
  ORDER BY r.rolname`;

/** The roles that are worth asking for. */
export function rolesOf({ loginRoles, setRole }: Pick<Config, "loginRoles" | "setRole">): string[] {
  const login = loginRoles.length > 0 ? loginRoles : [USUAL_ROLE];
  return [...new Set(setRole === undefined ? login : [...login, setRole])];
}

export function judgeRoles(rows: readonly RoleRow[], config: RoleConfig): Finding[] {
  const byName = new Map(rows.map((row) => [row.rolname, row]));
  return rolesOf(config).flatMap((name): Finding[] => {
    const row = byName.get(name);
    if (row !== undefined) return judgeRole(row, config);
    if (config.loginRoles.length === 0 && name === USUAL_ROLE && name !== config.setRole) {
      const text = `roles: login_roles names none, and there is no ${USUAL_ROLE}: give --login-roles ROLE`;
      return [{ verdict: "not checked", text }];
    }
    return [{ verdict: "warning", text: `roles: there is no role ${name}: tenants cannot log in with it` }];
  });
}

/**
 * The role that asks, which was proven to be able to log in: without login_roles a tenant's user name may name it too. One
 * of superuser_bypass is meant for administration.
 *
 * @param row of the role that is logged in; undefined where the answer lacks it.
 */
export function judgeOwnRole(row: RoleRow | undefined, config: OwnRoleConfig): Finding[] {
  if (row === undefined || config.loginRoles.length > 0) return [];
  if ([...config.superuserBypass, ...rolesOf(config)].includes(row.rolname)) return [];
  const attributes = unsafeAttributes(row);
  if (attributes.length === 0) return [];
  const text =
    `roles: ${row.rolname}, the role of --database-url, has ${attributes.join(", ")}: row-level security does not hold ` +
    "it, and login_roles does not keep tenants from naming it";
  return [{ verdict: "warning", text }];
}

function unsafeAttributes(row: RoleRow): string[] {
  return [
    row.rolsuper && "SUPERUSER",
    row.rolbypassrls && "BYPASSRLS",
    row.rolreplication && "REPLICATION",
    row.rolcreaterole && "CREATEROLE",
  ].filter((attribute) => attribute !== false);
}

function judgeRole(row: RoleRow, { loginRoles, setRole, allowUnsafeRoles }: RoleConfig): Finding[] {
  const name = row.rolname;
  const attributes = unsafeAttributes(row);
  const found: Finding[] = [];
  if (attributes.length > 0) {
    const text = `roles: ${name} has ${attributes.join(", ")}: row-level security does not hold it`;
    if (allowUnsafeRoles)
      found.push({ verdict: "warning", text: `${text}, and allow_unsafe_roles lets tenants have it` });
    else found.push({ verdict: "error", text: `${text}, and pgvpd refuses tenants as this role` });
  } else if (row.reachable.length > 0) {
    const text = `roles: a tenant as ${name} can SET ROLE ${row.reachable.join(", ")}, which row-level security does not hold`;
    found.push({ verdict: "warning", text });
  }
  const logsIn = name !== setRole || loginRoles.includes(name);
  if (logsIn && !row.rolcanlogin) {
    found.push({ verdict: "warning", text: `roles: ${name} is NOLOGIN: tenants cannot log in with it` });
  }
  if (logsIn && row.isMember === false) {
    const text = `roles: ${name} may not take on ${setRole}, the role of set_role: GRANT ${setRole} TO ${name}`;
    found.push({ verdict: "warning", text });
  }
  return found.length > 0 ? found : [{ verdict: "ok", text: `roles: ${name} is held by row-level security` }];
}
