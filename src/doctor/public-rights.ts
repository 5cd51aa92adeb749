/**
 * What PostgreSQL gives to everybody, and no policy covers: seeing and ending other sessions, large objects, creating
 * things in shared places, ways to other servers. sql/hardening.sql closes most of it at once, with what it breaks written
 * above each door.
 */
import { catalogTopic, granteesOf, type CatalogCheck } from "./catalog-check.ts";

/** Functions and views that tenants can reach. */
interface Door {
  readonly code: string;
  readonly object: string;
  readonly why: string;
  /** Names, in pg_catalog or in the extension. */
  readonly pattern: string;
  readonly extension?: string;
  /** PostgreSQL's own role for such work, which keeps the right. */
  readonly stillFor?: string;
}

const DOORS: readonly Door[] = [
  {
    code: "public_signal",
    object: "pg_cancel_backend(), pg_terminate_backend()",
    why: "a tenant ends the queries and sessions of all others, which belong to the same role",
    pattern: "^pg_(cancel|terminate)_backend$",
    stillFor: "pg_signal_backend",
  },
  {
    code: "public_stat_activity",
    object: "pg_stat_activity",
    why: "a tenant reads the queries of all others as they run, with the values in them: they belong to the same role",
    pattern: "^pg_stat_(activity|get_activity|get_backend_\\\\w+)$",
    stillFor: "pg_read_all_stats",
  },
  {
    code: "public_stat_progress",
    object: "pg_stat_progress_*",
    why: "a tenant sees which tables the COPY of another goes to, and how many rows and bytes it has moved",
    pattern: "^pg_stat_get_progress_info$",
    stillFor: "pg_read_all_stats",
  },
  {
    code: "public_locks",
    object: "pg_locks",
    why: "a tenant sees which tables others use, and the numbers of their advisory locks, which are made from the ids of rows",
    pattern: "^(pg_locks|pg_lock_status)$",
    stillFor: "pg_read_all_stats",
  },
  {
    code: "public_prepared_xacts",
    object: "pg_prepared_xacts",
    why: "a tenant reads the names of prepared transactions, with which any session of the role ends them",
    pattern: "^pg_prepared_xacts?$",
    stillFor: "pg_read_all_stats",
  },
  {
    code: "public_stat_statements",
    object: "pg_stat_statements",
    why: "a tenant reads the queries of all others, how often they ran and how many rows they gave",
    pattern: "^pg_stat_statements(_info)?$",
    extension: "pg_stat_statements",
    stillFor: "pg_read_all_stats",
  },
  {
    code: "public_large_objects",
    object: "large objects",
    why: "a large object belongs to the role, so to all tenants: each can list, read and change it",
    pattern: "^lo_(creat|create|from_bytea|import|export)$",
  },
  {
    code: "public_dblink",
    object: "dblink",
    why: "dblink opens sessions of its own, to this server too, as any role that it has a password for or that needs none",
    pattern: "^dblink",
    extension: "dblink",
  },
];

function doorCheck({ code, object, why, pattern, extension, stillFor }: Door): CatalogCheck {
  const place =
    extension === undefined
      ? "n.nspname = 'pg_catalog'"
      : `EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
           WHERE e.extname = '${extension}' AND d.deptype = 'e' AND d.classid = o.classid AND d.objid = o.oid)`;
  const grant =
    stillFor === undefined
      ? ""
      : ` || format(E'\\nGRANT %s ON %s %s TO ${stillFor};', k.privilege, k.keyword, k.names)`;
  return {
    code,
    severity: "warning",
    sql: `, opened AS (
        SELECT 'pg_proc'::regclass AS classid, p.oid, p.pronamespace, 'EXECUTE' AS privilege, 'ROUTINE' AS keyword,
               format('%I.%I(%s)', p.pronamespace::regnamespace::text, p.proname, oidvectortypes(p.proargtypes)) AS name,
               ${granteesOf("coalesce(p.proacl, acldefault('f', p.proowner))", ["EXECUTE"])} AS grantees
        FROM pg_proc p WHERE p.proname ~ E'${pattern}'
        UNION ALL
        SELECT 'pg_class'::regclass, c.oid, c.relnamespace, 'SELECT', 'TABLE', format('%I.%I', c.relnamespace::regnamespace::text, c.relname),
               ${granteesOf("coalesce(c.relacl, acldefault('r', c.relowner))", ["SELECT"])}
        FROM pg_class c WHERE c.relkind = 'v' AND c.relname ~ E'${pattern}')
      SELECT '${object}' AS object, '${why}' AS why,
             string_agg(format('REVOKE %s ON %s %s FROM %s;', k.privilege, k.keyword, k.names, k.grantees)${grant}, E'\\n') AS fix
      FROM (
        SELECT o.privilege, o.keyword, o.grantees, string_agg(o.name, ', ' ORDER BY o.name) AS names
        FROM opened o JOIN pg_namespace n ON n.oid = o.pronamespace WHERE o.grantees IS NOT NULL AND ${place}
        GROUP BY o.privilege, o.keyword, o.grantees) AS k
      HAVING count(*) > 0`,
  };
}

const CHECKS: readonly CatalogCheck[] = [
  ...DOORS.map(doorCheck),
  {
    code: "public_create_in_schema",
    severity: "error",
    sql: `SELECT format('schema %I', n.nspname) AS object, 'a tenant plants functions, operators or views there, which run in the queries of others' AS why,
             format('REVOKE CREATE ON SCHEMA %I FROM %s;', n.nspname, g.names) AS fix
      FROM pg_namespace n CROSS JOIN LATERAL (SELECT ${granteesOf("coalesce(n.nspacl, acldefault('n', n.nspowner))", ["CREATE"])} AS names) AS g
      WHERE g.names IS NOT NULL AND n.nspname !~ '^pg_(temp|toast_temp)_' ORDER BY 1`,
  },
  {
    code: "public_create_in_database",
    severity: "error",
    sql: `SELECT format('database %I', d.datname) AS object, 'a tenant creates schemas and extensions there, and what they hold runs in the queries of others' AS why,
             format('REVOKE CREATE ON DATABASE %I FROM %s;', d.datname, g.names) AS fix
      FROM pg_database d CROSS JOIN LATERAL (SELECT ${granteesOf("coalesce(d.datacl, acldefault('d', d.datdba))", ["CREATE"])} AS names) AS g
      WHERE d.datname = current_database() AND g.names IS NOT NULL`,
  },
  {
    code: "public_temporary",
    severity: "warning",
    sql: `SELECT format('database %I', d.datname) AS object, 'temporary tables fill the disk for all, and in a pooled connection one client meets those of another' AS why,
             format('REVOKE TEMPORARY ON DATABASE %I FROM %s;', d.datname, g.names) AS fix
      FROM pg_database d CROSS JOIN LATERAL (SELECT ${granteesOf("coalesce(d.datacl, acldefault('d', d.datdba))", ["TEMPORARY"])} AS names) AS g
      WHERE d.datname = current_database() AND g.names IS NOT NULL`,
  },
  {
    code: "public_foreign_data",
    severity: "warning",
    sql: `SELECT s.object, 'a tenant makes a foreign table or a user mapping of his own, and reaches what the other server shows' AS why,
             format('REVOKE USAGE ON %s FROM %s;', s.target, s.names) AS fix
      FROM (
        SELECT format('foreign server %I', f.srvname) AS object, format('FOREIGN SERVER %I', f.srvname) AS target,
               ${granteesOf("coalesce(f.srvacl, acldefault('S', f.srvowner))", ["USAGE"])} AS names FROM pg_foreign_server f
        UNION ALL
        SELECT format('foreign-data wrapper %I', w.fdwname), format('FOREIGN DATA WRAPPER %I', w.fdwname),
               ${granteesOf("coalesce(w.fdwacl, acldefault('F', w.fdwowner))", ["USAGE"])} FROM pg_foreign_data_wrapper w) AS s
      WHERE s.names IS NOT NULL ORDER BY 1`,
  },
  {
    code: "database_open",
    severity: "warning",
    // Other databases are seen by what is shared: one where pgvpd_maintenance was granted a function has had
    // sql/hardening.sql, and one where the owner of this one's keys has something, sql/seal.sql.
    sql: `, doors AS (
        SELECT d.oid, d.datname, g.names,
          NOT EXISTS (SELECT FROM pg_shdepend s WHERE s.dbid = d.oid AND s.classid = 'pg_proc'::regclass
                        AND s.refclassid = 'pg_authid'::regclass AND s.refobjid = to_regrole('pgvpd_maintenance')) AS is_open,
          EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'pgvpd' AND c.relname = 'context_keys'
                    AND NOT EXISTS (SELECT FROM pg_shdepend s WHERE s.dbid = d.oid AND s.refclassid = 'pg_authid'::regclass
                                      AND s.refobjid = c.relowner AND s.deptype = 'o')) AS is_unsealed
        FROM pg_database d CROSS JOIN LATERAL (SELECT ${granteesOf("coalesce(d.datacl, acldefault('d', d.datdba))", ["CONNECT"])} AS names) AS g
        WHERE d.datallowconn AND d.datname <> current_database() AND g.names IS NOT NULL)
      SELECT format('database %I', d.datname) AS object,
             concat('tenants can connect to it', CASE WHEN d.is_unsealed THEN ', its context is not sealed as that of this one is' END,
               CASE WHEN d.is_open THEN ', and it shows the sessions of this one: close its doors too' END) AS why,
             format('REVOKE CONNECT ON DATABASE %I FROM %s;', d.datname, d.names) AS fix
      FROM doors d WHERE d.is_open OR d.is_unsealed
      ORDER BY 1`,
  },
];

export const publicRights = catalogTopic("rights of everybody", () => CHECKS);
