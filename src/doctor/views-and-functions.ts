/**
 * Code that runs with other rights than its caller's: views, materialized views, SECURITY DEFINER functions. What they
 * show is what their owner sees.
 */
import { catalogTopic, granteesOf, type CatalogCheck } from "./catalog-check.ts";

/** Relations whose rows belong to tenants. */
const HAS_TENANTS = `EXISTS (SELECT FROM reads d JOIN relations p ON p.oid = d.relid
  WHERE d.viewid = r.oid AND p.relkind IN ('r', 'p', 'f') AND (p.relrowsecurity OR p.oid IN (SELECT relid FROM tenant_columns)))`;

/** Policies bind him as they bind a tenant: TO PUBLIC, on tables that are forced. */
const OWNER_SEES_ALL = `(o.rolsuper OR o.rolbypassrls OR EXISTS (SELECT FROM reads d JOIN relations p ON p.oid = d.relid
  WHERE d.viewid = r.oid AND p.relkind IN ('r', 'p') AND p.relrowsecurity AND NOT p.relforcerowsecurity AND pg_has_role(o.oid, p.relowner, 'USAGE')))`;

/** SECURITY DEFINER functions that a tenant can call; what an extension brings is its own business. */
const DEFINERS = `, definers AS (
  SELECT p.oid, p.oid::regprocedure::text AS name, p.pronamespace::regnamespace::text AS schema, p.proowner, o.rolname AS owner,
         o.rolsuper OR o.rolbypassrls AS sees_all, g.names AS grantees,
         (SELECT substr(x, strpos(x, '=') + 1) FROM unnest(p.proconfig) AS x WHERE starts_with(x, 'search_path=')) AS path
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_roles o ON o.oid = p.proowner
    CROSS JOIN LATERAL (SELECT ${granteesOf("coalesce(p.proacl, acldefault('f', p.proowner))", ["EXECUTE"])} AS names) AS g
  WHERE p.prosecdef AND g.names IS NOT NULL AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
    AND NOT EXISTS (SELECT FROM extension_members e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid))`;

const CHECKS: readonly CatalogCheck[] = [
  {
    code: "view_without_security_invoker",
    severity: "warning",
    sql: `SELECT r.name AS object,
             CASE WHEN ${OWNER_SEES_ALL} THEN format('it shows tenants'' tables with the rights of its owner %I, whom policies do not bind: the rows of all', o.rolname)
                  ELSE format('it shows tenants'' tables with the rights of its owner %I: one attribute of that role, and it shows the rows of all', o.rolname) END AS why,
             CASE WHEN current_setting('server_version_num')::int >= 150000 THEN format('ALTER VIEW %s SET (security_invoker = true);', r.name)
                  ELSE format('REVOKE ALL ON TABLE %s FROM %s;', r.name, e.names) END AS fix,
             CASE WHEN ${OWNER_SEES_ALL} THEN 'error' ELSE 'warning' END AS severity
      FROM relations r JOIN pg_roles o ON o.oid = r.relowner JOIN grantees e ON e.relid = r.oid
      WHERE r.relkind = 'v' AND ${HAS_TENANTS}
        AND NOT EXISTS (SELECT FROM pg_options_to_table(r.reloptions) x WHERE x.option_name = 'security_invoker' AND x.option_value::boolean)
      ORDER BY 1`,
  },
  {
    code: "materialized_view_granted",
    severity: "error",
    sql: `SELECT r.name AS object, 'it is a copy of the rows of all tenants, which no policy filters' AS why, format('REVOKE ALL ON TABLE %s FROM %s;', r.name, e.names) AS fix
      FROM relations r JOIN grantees e ON e.relid = r.oid WHERE r.relkind = 'm' AND ${HAS_TENANTS} ORDER BY 1`,
  },
  {
    code: "function_definer_unpinned",
    severity: "error",
    sql: `${DEFINERS}
      SELECT d.name AS object, format('it runs with the rights of %I and whatever search_path the caller has: a tenant can put tables and functions of his own in the way', d.owner) AS why,
             format('ALTER ROUTINE %s SET search_path = pg_catalog, %s, pg_temp;', d.name, d.schema) AS fix
      FROM definers d WHERE d.path IS NULL ORDER BY 1`,
  },
  {
    code: "function_definer_temporary_first",
    severity: "warning",
    sql: `${DEFINERS}
      SELECT d.name AS object, format('it runs with the rights of %I, and temporary tables of the caller come first in its search_path: name pg_temp last', d.owner) AS why,
             format('ALTER ROUTINE %s SET search_path = %s, pg_temp;', d.name, d.path) AS fix
      FROM definers d WHERE d.path NOT IN ('', '""') AND d.path !~ '\\mpg_temp\\M' ORDER BY 1`,
  },
  {
    code: "function_definer_sees_all",
    severity: "warning",
    sql: `${DEFINERS}
      SELECT d.name AS object, format('tenants can call it, and it runs as %I, whom policies do not bind: it has to filter by itself', d.owner) AS why,
             format('REVOKE EXECUTE ON ROUTINE %s FROM %s;', d.name, d.grantees) AS fix
      FROM definers d WHERE d.sees_all ORDER BY 1`,
  },
];

export const viewsAndFunctions = catalogTopic("views and functions", () => CHECKS);
