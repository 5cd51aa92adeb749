/**
 * A check that is one query of the catalogs, and what all of these share: the roles of tenants, the relations of the
 * application, the rights that tenants have on them. What a query returns is reported as it stands, so that names in the
 * SQL that mends something are quoted by the server.
 */
import type { QueryResultRow } from "pg";
import { refusalOf, type Catalog, type CatalogValue } from "./catalog.ts";
import { combine, type Finding, type Look, type Severity } from "./finding.ts";
import type { Scope } from "./scope.ts";

export interface CatalogCheck {
  readonly code: string;
  readonly severity: Severity;
  /** Gives rows of `object`, `why`, `fix`, and of `severity` where it differs. What follows SHARED, so it begins with SELECT or a comma. */
  readonly sql: string;
}

export interface Topic {
  readonly name: string;
  look(catalog: Catalog, scope: Scope): Promise<Look>;
}

const MAX_FINDINGS = 500;

const INSUFFICIENT_PRIVILEGE = "42501";

/** The SQLSTATE of lock_timeout. */
export const LOCKED = "55P03";

/** What may be held: `regclass` prints a name and waits for nothing. */
const HELD = `SELECT string_agg(DISTINCT l.relation::regclass::text, ', ') AS names FROM pg_locks l
  WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.relation IN (SELECT polrelid FROM pg_policy)`;

/**
 * $1 roles of tenants, $2 those that log in, $3 names of tenant columns, $4 the application role, $5 context variables.
 *
 * tenants           roles that tenants log in as or take on
 * reach             roles that they can become besides, by SET ROLE or inheritance; of a superuser only itself, as that is reported anyway
 * relations         of the application: not of the system, of pgvpd, of extensions, or temporary
 * tenant_columns    columns that hold a tenant
 * grants            what tenants may do with relations: by PUBLIC (0), and by each role of reach
 * reads             which relations a view or materialized view reads, through other views too
 */
const SHARED = `WITH RECURSIVE
scope AS (SELECT $1::text[] AS roles, $2::text[] AS logins, $3::text[] AS tenant_column_names, $4::text AS application_role, $5::text[] AS variables),
tenants AS (
  SELECT r.oid, r.rolname, r.rolsuper, r.rolname = ANY (s.logins) AS logs_in FROM pg_roles r CROSS JOIN scope s WHERE r.rolname = ANY (s.roles)),
reach AS (
  SELECT r.oid, r.rolname, bool_or(r.oid = t.oid) AS is_tenant FROM tenants t JOIN pg_roles r
    ON r.oid = t.oid OR NOT t.rolsuper AND pg_has_role(t.oid, r.oid, 'MEMBER')
  GROUP BY r.oid, r.rolname),
trusted AS ( -- who takes over what tenants should not own
  SELECT CASE WHEN d.datdba IN (SELECT oid FROM reach) THEN current_user::name ELSE pg_get_userbyid(d.datdba) END AS rolname
  FROM pg_database d WHERE d.datname = current_database()),
extension_members AS (SELECT d.classid, d.objid FROM pg_depend d WHERE d.deptype = 'e'),
relations AS (
  SELECT c.oid, c.relname, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.reloptions,
         n.nspname, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgvpd') AND NOT starts_with(n.nspname, 'pg_toast')
    AND NOT EXISTS (SELECT FROM extension_members e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid)),
tenant_columns AS (
  SELECT r.oid AS relid, a.attnum, a.attname, a.attnotnull
  FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid CROSS JOIN scope s
  WHERE a.attname = ANY (s.tenant_column_names) AND a.attnum > 0 AND NOT a.attisdropped),
grants AS (
  SELECT r.oid AS relid, a.privilege_type AS privilege, a.grantee FROM relations r CROSS JOIN LATERAL aclexplode(r.relacl) a
    WHERE a.grantee = 0 OR a.grantee IN (SELECT oid FROM reach)
  UNION
  SELECT r.oid, a.privilege_type, a.grantee FROM relations r JOIN pg_attribute t ON t.attrelid = r.oid CROSS JOIN LATERAL aclexplode(t.attacl) a
    WHERE a.grantee = 0 OR a.grantee IN (SELECT oid FROM reach)),
grantees AS ( -- as a REVOKE names them
  SELECT g.relid, string_agg(DISTINCT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END, ', ') AS names
  FROM grants g GROUP BY g.relid),
below_protected AS (SELECT i.inhrelid AS relid FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent WHERE p.relrowsecurity),
view_sources AS (
  SELECT DISTINCT w.ev_class AS viewid, d.refobjid AS relid
  FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
  WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class),
reads AS (
  SELECT v.viewid, v.relid FROM view_sources v
  UNION SELECT r.viewid, v.relid FROM reads r JOIN view_sources v ON v.viewid = r.relid)
`;

/**
 * Text of SQL: whom of tenants an access control list gives one of the privileges, as a REVOKE names them; NULL for nobody.
 *
 * @param acl with its default where it is NULL.
 */
export function granteesOf(acl: string, privileges: readonly string[]): string {
  const list = privileges.map((privilege) => `'${privilege}'`).join(", ");
  return `(SELECT string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ')
    FROM aclexplode(${acl}) AS a WHERE a.privilege_type IN (${list}) AND (a.grantee = 0 OR a.grantee IN (SELECT oid FROM reach)))`;
}

/** Text of SQL that begins a query of its own with what checks share. */
export function shared(sql: string): string {
  return `${SHARED}${sql}`;
}

export function sharedValues({ tenantRoles, loginRoles, tenantColumns, applicationRole, contextVariables }: Scope) {
  return [tenantRoles, loginRoles, tenantColumns, applicationRole, contextVariables];
}

/** What a check's query returns; its own severity stands where the row has none. */
type FoundRow = Pick<Finding, "object" | "why" | "fix"> & Partial<Pick<Finding, "severity">>;

/** A topic whose checks are queries. @param choose those that fit what is looked at. */
export function catalogTopic(name: string, choose: (scope: Scope) => readonly CatalogCheck[]): Topic {
  return {
    name,
    async look(catalog, scope) {
      const looks: Look[] = [];
      for (const check of choose(scope)) looks.push(await lookFor(catalog, check, scope));
      return combine(looks);
    },
  };
}

async function lookFor(catalog: Catalog, { code, severity, sql }: CatalogCheck, scope: Scope): Promise<Look> {
  const limited = `SELECT * FROM (${shared(sql)}) AS found LIMIT ${MAX_FINDINGS + 1}`;
  const look = await lookWith(catalog, code, limited, sharedValues(scope), (rows: readonly FoundRow[]) =>
    rows.map((row) => ({ code, severity, ...row })),
  );
  if (look.findings.length <= MAX_FINDINGS) return look;
  return {
    findings: look.findings.slice(0, MAX_FINDINGS),
    notChecked: [{ what: code, reason: `there are more than ${MAX_FINDINGS}: mend these first` }],
  };
}

/**
 * What `judge` makes of the answer. What a role may not see, or a catalog does not have, is not looked at, nor what is
 * locked when it is asked for the second time; everything else is.
 *
 * @throws the error of a session that is lost: what comes after it cannot be looked at either.
 */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- it says what the rows of this query are, as with catalog.query
export async function lookWith<Row extends QueryResultRow>(
  catalog: Catalog,
  what: string,
  sql: string,
  values: readonly CatalogValue[],
  judge: (rows: readonly Row[]) => Finding[],
): Promise<Look> {
  let rows: readonly Row[];
  try {
    rows = await askTwice<Row>(catalog, sql, values);
  } catch (error) {
    const sqlstate = refusalOf(error);
    if (sqlstate === undefined) throw error;
    if (sqlstate === LOCKED)
      return { findings: [], notChecked: [{ what, reason: await nameLocked(catalog), isLocked: true }] };
    const reason = (error as Error).message;
    const isDenied = sqlstate === INSUFFICIENT_PRIVILEGE;
    return { findings: [], notChecked: [{ what, reason, ...(isDenied && { isDenied }) }] };
  }
  return { findings: judge(rows), notChecked: [] };
}

/** A second time where it was locked: most locks are short. */
// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- as above
async function askTwice<Row extends QueryResultRow>(
  catalog: Catalog,
  sql: string,
  values: readonly CatalogValue[],
): Promise<readonly Row[]> {
  try {
    return (await catalog.query<Row>(sql, [...values])).rows;
  } catch (error) {
    if (refusalOf(error) !== LOCKED) throw error;
    return (await catalog.query<Row>(sql, [...values])).rows;
  }
}

/** Why it could not be looked at, with names where the role may see locks. */
async function nameLocked(catalog: Catalog): Promise<string> {
  const advice = "try again when that session has ended its transaction";
  try {
    const { rows } = await catalog.query<{ names: string | null }>(HELD);
    return `another session holds a lock on ${rows[0]?.names ?? "a table"}: ${advice}`;
  } catch (error) {
    if (refusalOf(error) === undefined) throw error;
    return `another session holds a lock on a table: ${advice}`;
  }
}
