/**
 * Settings of the server that write tenants' values where others read them, or that give a session a tenant which no
 * login proved.
 */
import { catalogTopic, type CatalogCheck } from "./catalog-check.ts";

/** A setting that the whole server has, and the value that mends it; what a role or database has besides is not looked at. */
function serverSetting(code: string, name: string, mended: string, isFault: string, why: string): CatalogCheck {
  return {
    code,
    severity: "warning",
    sql: `SELECT '${name} = ' || current_setting('${name}') AS object, '${why}' AS why,
        'ALTER SYSTEM SET ${name} = ''${mended}''; SELECT pg_reload_conf();' AS fix
      WHERE ${isFault}`,
  };
}

const LOGS_ALL = "current_setting('log_statement') IN ('mod', 'all')";
const LOGS_SOME =
  "current_setting('log_min_duration_statement') <> '-1' OR current_setting('log_min_duration_sample') <> '-1'";

const CHECKS: readonly CatalogCheck[] = [
  serverSetting(
    "setting_log_statement",
    "log_statement",
    "ddl",
    LOGS_ALL,
    "every statement goes to the log of the server with the values in it, those of all tenants",
  ),
  serverSetting(
    "setting_log_parameters",
    "log_parameter_max_length",
    "0",
    `current_setting('log_parameter_max_length') <> '0' AND (${LOGS_ALL} OR ${LOGS_SOME})`,
    "statements that are logged are logged with their bound values: names, addresses, passwords of all tenants",
  ),
  serverSetting(
    "setting_log_parameters_on_error",
    "log_parameter_max_length_on_error",
    "0",
    "current_setting('log_parameter_max_length_on_error') <> '0'",
    "a statement that fails is logged with its bound values",
  ),
  serverSetting(
    "setting_lo_compat",
    "lo_compat_privileges",
    "off",
    "current_setting('lo_compat_privileges')::boolean",
    "everybody can read and change every large object",
  ),
  {
    code: "setting_context_default",
    severity: "error",
    sql: `SELECT concat_ws(' ', CASE WHEN s.setrole <> 0 THEN format('role %I', pg_get_userbyid(s.setrole)) END,
                       CASE WHEN s.setdatabase <> 0 THEN format('database %I', d.datname) END, split_part(c.setting, '=', 1)) AS object,
             'a session without a tenant gets this one' AS why,
             format('ALTER %s RESET %s;', CASE WHEN s.setrole = 0 THEN format('DATABASE %I', d.datname)
                       ELSE format('ROLE %I%s', pg_get_userbyid(s.setrole), CASE WHEN s.setdatabase = 0 THEN '' ELSE format(' IN DATABASE %I', d.datname) END) END,
                    (SELECT string_agg(quote_ident(part), '.' ORDER BY n) FROM unnest(string_to_array(split_part(c.setting, '=', 1), '.')) WITH ORDINALITY AS u(part, n))) AS fix
      FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase CROSS JOIN LATERAL unnest(s.setconfig) AS c(setting) CROSS JOIN scope o
      WHERE lower(split_part(c.setting, '=', 1)) = ANY (o.variables) AND (s.setdatabase = 0 OR d.datname = current_database())
        AND (s.setrole = 0 OR s.setrole IN (SELECT oid FROM tenants))
      ORDER BY 1`,
  },
];

/** PostgreSQL 15 and newer: rights on settings that only a superuser may set. */
const PARAMETER_CHECK: CatalogCheck = {
  code: "setting_granted",
  severity: "error",
  sql: `SELECT p.parname AS object, 'tenants may set it, and only superusers should: it decides what a session runs, sees or checks' AS why,
      format('REVOKE SET, ALTER SYSTEM ON PARAMETER %s FROM %s;', p.parname, g.names) AS fix
    FROM pg_parameter_acl p CROSS JOIN LATERAL (
      SELECT string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ') AS names
      FROM aclexplode(p.paracl) AS a WHERE a.grantee = 0 OR a.grantee IN (SELECT oid FROM reach)) AS g
    WHERE g.names IS NOT NULL AND p.parname <> 'session_preload_libraries' ORDER BY 1`,
};

export const settings = catalogTopic("settings", ({ version }) =>
  version >= 150_000 ? [...CHECKS, PARAMETER_CHECK] : CHECKS,
);
