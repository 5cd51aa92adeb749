/**
 * Tables: that those with tenants' rows are protected, forced, and reached by no right that policies do not cover.
 */
import { catalogTopic, type CatalogCheck } from "./catalog-check.ts";

/** SQL that protects a table; where pgvpd_protect() is installed, with its policy. */
const PROTECT = `CASE WHEN to_regprocedure('public.pgvpd_protect(text,text,text,text)') IS NOT NULL
  THEN format('SELECT public.pgvpd_protect(%L, %L, %L);', r.name, c.attname, s.application_role)
  ELSE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;', r.name) END`;

const UNPROTECTED = `r.relkind IN ('r', 'p') AND NOT r.relrowsecurity AND r.oid NOT IN (SELECT relid FROM below_protected)`;

const CHECKS: readonly CatalogCheck[] = [
  {
    code: "table_rls_disabled",
    severity: "error",
    sql: `SELECT r.name AS object, format('it holds tenants in column %I and has no row-level security: %s', c.attname,
               CASE WHEN e.names IS NULL THEN 'tenants have no right on it, so far' ELSE 'every tenant sees all rows' END) AS why,
             ${PROTECT} AS fix, CASE WHEN e.names IS NULL THEN 'warning' ELSE 'error' END AS severity
      FROM relations r JOIN LATERAL (SELECT min(t.attname::text) AS attname FROM tenant_columns t WHERE t.relid = r.oid HAVING count(*) > 0) AS c ON true
        CROSS JOIN scope s LEFT JOIN grantees e ON e.relid = r.oid
      WHERE ${UNPROTECTED} ORDER BY 1`,
  },
  {
    code: "table_rls_not_forced",
    severity: "error",
    sql: `SELECT r.name AS object, format('policies do not bind its owner, %I, nor views and functions that run as the owner', pg_get_userbyid(r.relowner)) AS why,
             format('ALTER TABLE %s FORCE ROW LEVEL SECURITY;', r.name) AS fix
      FROM relations r WHERE r.relrowsecurity AND NOT r.relforcerowsecurity ORDER BY 1`,
  },
  {
    code: "table_shared_writable",
    severity: "warning",
    sql: `SELECT r.name AS object, 'it has no row-level security, and every tenant can change it for all others' AS why,
             format('REVOKE %s ON TABLE %s FROM %s;', string_agg(DISTINCT g.privilege, ', '), r.name, e.names) AS fix
      FROM relations r JOIN grants g ON g.relid = r.oid AND g.privilege <> 'SELECT' JOIN grantees e ON e.relid = r.oid
      WHERE ${UNPROTECTED} AND r.oid NOT IN (SELECT relid FROM tenant_columns)
      GROUP BY r.name, e.names ORDER BY 1`,
  },
  {
    code: "table_shared_readable",
    severity: "info",
    sql: `SELECT r.name AS object, 'it has no row-level security, and every tenant reads all of it: right for data that all share' AS why,
             format('REVOKE SELECT ON TABLE %s FROM %s;', r.name, e.names) AS fix
      FROM relations r JOIN grants g ON g.relid = r.oid AND g.privilege = 'SELECT' JOIN grantees e ON e.relid = r.oid
      WHERE ${UNPROTECTED} AND r.oid NOT IN (SELECT relid FROM tenant_columns)
      GROUP BY r.name, e.names ORDER BY 1`,
  },
  {
    code: "table_without_policy",
    severity: "info",
    sql: `SELECT r.name AS object, 'row-level security is on, and there is no policy: nobody sees a row' AS why, ${PROTECT} AS fix
      FROM relations r JOIN LATERAL (SELECT min(t.attname::text) AS attname FROM tenant_columns t WHERE t.relid = r.oid HAVING count(*) > 0) AS c ON true
        CROSS JOIN scope s
      WHERE r.relrowsecurity AND r.oid NOT IN (SELECT relid FROM below_protected) AND r.oid IN (SELECT relid FROM grantees)
        AND NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = r.oid)
      ORDER BY 1`,
  },
  {
    code: "table_unsafe_rights",
    severity: "error",
    sql: `SELECT r.name AS object, format('tenants hold %s, which policies do not cover', string_agg(DISTINCT g.privilege, ', ')) AS why,
             format('REVOKE %s ON TABLE %s FROM %s;', string_agg(DISTINCT g.privilege, ', '), r.name, e.names) AS fix
      FROM relations r JOIN grants g ON g.relid = r.oid JOIN grantees e ON e.relid = r.oid
      WHERE r.relrowsecurity AND g.privilege IN ('TRUNCATE', 'REFERENCES', 'TRIGGER', 'MAINTAIN')
      GROUP BY r.name, e.names ORDER BY 1`,
  },
  {
    code: "partition_unprotected",
    severity: "warning",
    sql: `SELECT r.name AS object, 'it is a part of a protected table, and who names it meets no policy: policies are not inherited' AS why,
             format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;', r.name) AS fix,
             CASE WHEN r.oid IN (SELECT relid FROM grantees) THEN 'error' ELSE 'warning' END AS severity
      FROM relations r WHERE r.relkind IN ('r', 'p') AND NOT r.relrowsecurity AND r.oid IN (SELECT relid FROM below_protected) ORDER BY 1`,
  },
  {
    code: "foreign_table_granted",
    severity: "warning",
    sql: `SELECT r.name AS object, 'row-level security does not exist for foreign tables: tenants see what the other server shows' AS why,
             format('REVOKE ALL ON TABLE %s FROM %s;', r.name, e.names) AS fix,
             CASE WHEN r.oid IN (SELECT relid FROM tenant_columns) THEN 'error' ELSE 'warning' END AS severity
      FROM relations r JOIN grantees e ON e.relid = r.oid WHERE r.relkind = 'f' ORDER BY 1`,
  },
];

export const tables = catalogTopic("tables", () => CHECKS);
