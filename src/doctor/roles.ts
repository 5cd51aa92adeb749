/**
 * The roles of tenants: what they are, what they can become, what they own. A role that row-level security does not hold
 * makes every other check worthless.
 */
import { catalogTopic, type CatalogCheck } from "./catalog-check.ts";

const attributeCheck = (attribute: string, severity: CatalogCheck["severity"], why: string): CatalogCheck => ({
  code: `role_${attribute.toLowerCase()}`,
  severity,
  sql: `SELECT quote_ident(r.rolname) AS object, '${why}' AS why, format('ALTER ROLE %I NO${attribute};', r.rolname) AS fix
    FROM tenants t JOIN pg_roles r USING (oid)
    WHERE r.${attribute === "SUPERUSER" ? "rolsuper" : `rol${attribute.toLowerCase()}`}
    ORDER BY r.rolname`,
});

/**
 * memberships   edges by which tenants get a role: given to a role that they are or can become
 * powers        roles that no policy holds, or that see and do what no policy covers
 *
 * From 16 on a membership has a grantor, and REVOKE takes away what the bootstrap superuser gave unless it names another.
 */
const MEMBERSHIPS = `,
memberships AS (
  SELECT m.roleid, m.member, pg_get_userbyid(m.roleid) AS role_name, pg_get_userbyid(m.member) AS member_name,
         format('REVOKE %I FROM %I%s;', pg_get_userbyid(m.roleid), pg_get_userbyid(m.member),
                CASE WHEN current_setting('server_version_num')::int >= 160000 AND m.grantor <> 10
                     THEN format(' GRANTED BY %I', pg_get_userbyid(m.grantor)) ELSE '' END) AS revoke
  FROM pg_auth_members m WHERE m.member IN (SELECT oid FROM reach)),
powers AS (
  SELECT r.oid, CASE WHEN r.rolsuper THEN 'a superuser' WHEN r.rolbypassrls THEN 'a role with BYPASSRLS'
                     WHEN r.rolreplication THEN 'a role with REPLICATION' WHEN r.rolcreaterole THEN 'a role with CREATEROLE'
                     WHEN r.rolname = 'pgvpd_owner' THEN 'the owner of the seal'
                     ELSE 'a role that sees or does what no policy covers' END AS what
  FROM pg_roles r
  WHERE r.rolsuper OR r.rolbypassrls OR r.rolreplication OR r.rolcreaterole OR r.rolname = 'pgvpd_owner'
     -- PostgreSQL's own: pg_read_all_data, pg_monitor, pg_signal_backend, pg_write_server_files, ...
     OR r.oid < 16384 AND starts_with(r.rolname, 'pg_') AND r.rolname <> 'pg_database_owner'),
owners AS (
  SELECT DISTINCT r.relowner AS oid FROM relations r
  WHERE r.relkind IN ('r', 'p') AND (r.relrowsecurity OR r.oid IN (SELECT relid FROM tenant_columns)))`;

const CHECKS: readonly CatalogCheck[] = [
  attributeCheck("SUPERUSER", "error", "policies do not bind a superuser"),
  attributeCheck("BYPASSRLS", "error", "policies do not bind a role with BYPASSRLS"),
  attributeCheck("REPLICATION", "error", "a replication connection reads the whole server, past every policy"),
  attributeCheck("CREATEROLE", "error", "it can make itself a member of other roles, or set their passwords"),
  attributeCheck(
    "CREATEDB",
    "warning",
    "a copy of a database that it owns has its rows without the sessions of others noticing",
  ),
  {
    code: "role_reaches_power",
    severity: "error",
    sql: `${MEMBERSHIPS}
      SELECT format('%I in %I', m.member_name, m.role_name) AS object,
             format('a tenant can SET ROLE %I, or has its rights: it is %s', m.role_name, p.what) AS why, string_agg(m.revoke, ' ') AS fix
      FROM memberships m JOIN powers p ON p.oid = m.roleid
      WHERE m.member NOT IN (SELECT oid FROM powers WHERE oid NOT IN (SELECT oid FROM tenants)) AND m.roleid NOT IN (SELECT oid FROM tenants)
      GROUP BY m.member_name, m.role_name, p.what ORDER BY 1`,
  },
  {
    code: "role_reaches_owner",
    severity: "error",
    sql: `${MEMBERSHIPS}
      SELECT format('%I in %I', m.member_name, m.role_name) AS object,
             format('a tenant can SET ROLE %I, which owns protected tables and can switch their protection off', m.role_name) AS why,
             string_agg(m.revoke, ' ') AS fix
      FROM memberships m
      WHERE m.roleid IN (SELECT oid FROM owners) AND m.roleid NOT IN (SELECT oid FROM powers UNION ALL SELECT oid FROM tenants)
      GROUP BY m.member_name, m.role_name ORDER BY 1`,
  },
  {
    code: "role_reaches_other",
    severity: "warning",
    sql: `${MEMBERSHIPS}
      SELECT format('%I in %I', m.member_name, m.role_name) AS object,
             format('a tenant can SET ROLE %I: a role is no boundary where the login role is a member of several', m.role_name) AS why,
             string_agg(m.revoke, ' ') AS fix
      FROM memberships m
      WHERE m.member IN (SELECT oid FROM tenants)
        AND m.roleid NOT IN (SELECT oid FROM powers UNION ALL SELECT oid FROM owners UNION ALL SELECT oid FROM tenants)
      GROUP BY m.member_name, m.role_name ORDER BY 1`,
  },
  {
    code: "role_owns_object",
    severity: "error",
    sql: `SELECT o.type || ' ' || o.identity AS object,
             format('it belongs to %I: whoever owns an object changes it for all tenants, and no policy holds him', t.rolname) AS why,
             format('ALTER %s %s OWNER TO %I;', upper(o.type), o.identity, w.rolname) AS fix
      FROM pg_shdepend d JOIN tenants t ON d.refclassid = 'pg_authid'::regclass AND t.oid = d.refobjid CROSS JOIN trusted w
        CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS o
      WHERE d.deptype = 'o' AND (d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                                 OR d.classid = 'pg_database'::regclass AND d.objid = (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND d.classid NOT IN ('pg_largeobject'::regclass, 'pg_default_acl'::regclass, 'pg_user_mapping'::regclass)
        AND NOT coalesce(o.schema LIKE 'pg_temp%', false)
      ORDER BY 1`,
  },
  {
    code: "role_owns_large_object",
    severity: "warning",
    sql: `SELECT format('large object %s', m.oid) AS object,
             format('it belongs to %I: every tenant can read and change it', t.rolname) AS why,
             format('ALTER LARGE OBJECT %s OWNER TO %I;', m.oid, w.rolname) AS fix
      FROM pg_largeobject_metadata m JOIN tenants t ON t.oid = m.lomowner CROSS JOIN trusted w ORDER BY m.oid`,
  },
];

/** Where set_role names a role with the rights, the one that logs in should have none: RESET ROLE leads back to it. */
const LOGIN_CHECKS: readonly CatalogCheck[] = [
  {
    code: "login_role_inherits",
    severity: "warning",
    sql: `SELECT quote_ident(t.rolname) AS object, format('it inherits the rights of %I, so RESET ROLE takes nothing away', s.application_role) AS why,
             CASE WHEN current_setting('server_version_num')::int >= 160000
                  THEN (SELECT string_agg(format('GRANT %I TO %I WITH INHERIT FALSE%s;', s.application_role, t.rolname,
                                                 CASE WHEN m.grantor <> 10 THEN format(' GRANTED BY %I', pg_get_userbyid(m.grantor)) ELSE '' END), ' ')
                        FROM pg_auth_members m WHERE m.member = t.oid AND m.roleid = to_regrole(quote_ident(s.application_role)))
                  ELSE format('ALTER ROLE %I NOINHERIT;', t.rolname) END AS fix
      FROM tenants t CROSS JOIN scope s
      WHERE t.logs_in AND NOT t.rolsuper AND t.rolname <> s.application_role AND EXISTS (SELECT FROM tenants a WHERE a.rolname = s.application_role)
        AND pg_has_role(t.oid, s.application_role::name, 'USAGE')
      ORDER BY t.rolname`,
  },
  {
    code: "login_role_has_rights",
    severity: "warning",
    sql: `SELECT format('%I on %s %s', t.rolname, o.type, o.identity) AS object,
             format('a right of its own stays after RESET ROLE: grant it to %I instead', s.application_role) AS why,
             format('REVOKE ALL ON %s %s FROM %I;',
                    CASE WHEN o.type IN ('view', 'materialized view', 'foreign table') THEN 'TABLE' WHEN o.type IN ('aggregate', 'procedure') THEN 'ROUTINE'
                         WHEN o.type = 'server' THEN 'FOREIGN SERVER' WHEN o.type = 'foreign-data wrapper' THEN 'FOREIGN DATA WRAPPER'
                         WHEN o.type = 'parameter ACL' THEN 'PARAMETER' ELSE upper(o.type) END, o.identity, t.rolname) AS fix
      FROM pg_shdepend d JOIN tenants t ON d.refclassid = 'pg_authid'::regclass AND t.oid = d.refobjid AND t.logs_in CROSS JOIN scope s
        CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS o
      WHERE d.deptype = 'a' AND t.rolname <> s.application_role AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
        AND d.classid NOT IN ('pg_database'::regclass, 'pg_auth_members'::regclass, 'pg_default_acl'::regclass)
      GROUP BY t.rolname, o.type, o.identity, s.application_role ORDER BY 1`,
  },
  {
    code: "application_role_logs_in",
    severity: "warning",
    sql: `SELECT quote_ident(t.rolname) AS object, 'it can log in by itself, past the login role that has no rights' AS why,
             format('ALTER ROLE %I NOLOGIN;', t.rolname) AS fix
      FROM tenants t JOIN pg_roles r USING (oid) CROSS JOIN scope s
      WHERE t.rolname = s.application_role AND NOT t.logs_in AND r.rolcanlogin`,
  },
];

export const roles = catalogTopic("roles", ({ hasSetRole }) => (hasSetRole ? [...CHECKS, ...LOGIN_CHECKS] : CHECKS));
