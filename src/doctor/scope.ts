/**
 * What the checks look at: the roles that tenants get, the columns that hold a tenant, the server. It is asked once, and
 * every check starts from it.
 */
import { rolesOf } from "../check/roles.ts";
import type { Config } from "../config/settings.ts";
import type { Catalog } from "./catalog.ts";
import type { Finding, NotChecked } from "./finding.ts";

/** The settings that say what tenants get. */
export type DoctorConfig = Pick<
  Config,
  "loginRoles" | "setRole" | "contextVariables" | "contextSeal" | "contextKeyFile" | "contextSealTtlMs"
>;

export interface Scope {
  readonly database: string;
  /** The role that looks. */
  readonly role: string;
  readonly isSuperuser: boolean;
  /** `180004` is 18.4. */
  readonly version: number;
  /** Roles that tenants log in as or take on, as far as they exist. */
  readonly tenantRoles: readonly string[];
  readonly loginRoles: readonly string[];
  /** The role with the rights: that of set_role, or else the first that they log in as. */
  readonly applicationRole: string;
  readonly hasSetRole: boolean;
  readonly tenantColumns: readonly string[];
  /** Policies name more columns than are looked at. */
  readonly hasMoreColumns: boolean;
  /** In lower case: PostgreSQL compares them without it. */
  readonly contextVariables: readonly string[];
  /** `absent`: sql/setup.sql, as far as it has the seal, is not installed. */
  readonly carrier: "slot" | "signed" | "none" | "absent";
  readonly config: DoctorConfig;
}

interface ServerRow {
  readonly database: string;
  readonly role: string;
  readonly isSuperuser: boolean;
  readonly version: number;
  readonly carrier: "slot" | "signed" | "none" | null;
}

export const MAX_COLUMNS = 100;

/**
 * What a column that holds a tenant is called here: the one column that a policy uses which calls current_tenant_id(). Read
 * from dependencies, as printing an expression would wait for a table that a migration holds.
 */
const COLUMN_QUESTION = `SELECT DISTINCT a.attname::text AS name
  FROM pg_policy p
    JOIN pg_depend f ON f.classid = 'pg_policy'::regclass AND f.objid = p.oid AND f.refclassid = 'pg_proc'::regclass
    JOIN pg_proc r ON r.oid = f.refobjid AND r.proname = 'current_tenant_id'
    JOIN pg_depend c ON c.classid = 'pg_policy'::regclass AND c.objid = p.oid AND c.refclassid = 'pg_class'::regclass
      AND c.refobjid = p.polrelid AND c.refobjsubid > 0
    JOIN pg_attribute a ON a.attrelid = p.polrelid AND a.attnum = c.refobjsubid
  WHERE (SELECT count(DISTINCT o.refobjsubid) FROM pg_depend o
         WHERE o.classid = 'pg_policy'::regclass AND o.objid = p.oid AND o.refclassid = 'pg_class'::regclass AND o.refobjsubid > 0) = 1
  ORDER BY 1 LIMIT ${MAX_COLUMNS + 1}`;

/** @param columns names of tenant columns beside those that policies compare with the tenant. */
export async function findScope(catalog: Catalog, config: DoctorConfig, columns: readonly string[]): Promise<Scope> {
  const { rows: servers } = await catalog.query<ServerRow>(
    `SELECT current_database()::text AS database, current_user::text AS role, current_setting('is_superuser') = 'on' AS "isSuperuser",
       current_setting('server_version_num')::int AS version,
       -- Read, not called: it may be anybody's, and would run with our rights.
       (SELECT substring(p.prosrc FROM '''(none|slot|signed)''') FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pgvpd' AND p.proname = 'seal_carrier' AND p.pronargs = 0) AS carrier`,
  );
  const server = servers[0] as ServerRow;
  const wanted = rolesOf(config);
  const { rows: roles } = await catalog.query<{ rolname: string }>(
    "SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)",
    [wanted],
  );
  const { rows: learned } = await catalog.query<{ name: string }>(COLUMN_QUESTION);
  const names = learned.slice(0, MAX_COLUMNS).map(({ name }) => name);
  const tenantRoles = wanted.filter((name) => roles.some(({ rolname }) => rolname === name));
  const loginRoles = rolesOf({ ...config, setRole: undefined });
  return {
    ...server,
    tenantRoles,
    loginRoles: loginRoles.filter((name) => tenantRoles.includes(name)),
    applicationRole: config.setRole ?? loginRoles[0] ?? "",
    hasSetRole: config.setRole !== undefined && loginRoles.some((name) => name !== config.setRole),
    tenantColumns: [...new Set([...columns, ...names])],
    hasMoreColumns: learned.length > MAX_COLUMNS,
    contextVariables: config.contextVariables.map((name) => name.toLowerCase()),
    carrier: server.carrier ?? "absent",
    config,
  };
}

/** Roles of the configuration that this server does not have. */
export function missingRoles(scope: Scope): NotChecked[] {
  const missing = rolesOf(scope.config).filter((name) => !scope.tenantRoles.includes(name));
  return missing.map((name) => ({
    what: `role ${name}`,
    reason: "there is no such role: name those of your tenants with --login-roles and --set-role",
  }));
}

/** Whether a finding is of a kind that `failOn` counts. */
export function countsAs(failOn: "error" | "warning", { severity }: Finding): boolean {
  return severity === "error" || (failOn === "warning" && severity === "warning");
}
