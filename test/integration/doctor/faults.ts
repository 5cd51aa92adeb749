/**
 * Faults that are planted into the hardened demo, one of each kind: what makes one, and what doctor has to call it.
 */

export interface Fault {
  readonly code: string;
  /** As doctor names it, or how that begins. */
  readonly object: string;
  /** Run by a superuser in the demo's database. */
  readonly plant: string;
  /** Major version. */
  readonly since?: number;
}

/** Roles that the faulty configuration lets tenants log in as, besides those of the demo. */
export const FAULTY_ROLES = ["f_super", "f_bypass", "f_wal", "f_maker", "f_copier", "f_inherits"];

/** A table as the demo's are, for a fault to be planted in. */
const table = (name: string): string => `
  CREATE TABLE ${name} (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id));
  SELECT public.pgvpd_protect('${name}');`;

/** Without the policy of pgvpd_protect(). */
const bareTable = (name: string): string => `${table(name)} DROP POLICY pgvpd_tenant_isolation_${name} ON ${name};`;

const IS_TENANT = "tenant_id = (SELECT current_tenant_id())";

export const FAULTS: readonly Fault[] = [
  // Roles
  { code: "role_superuser", object: "f_super", plant: "CREATE ROLE f_super LOGIN SUPERUSER" },
  { code: "role_bypassrls", object: "f_bypass", plant: "CREATE ROLE f_bypass LOGIN BYPASSRLS" },
  { code: "role_replication", object: "f_wal", plant: "CREATE ROLE f_wal LOGIN REPLICATION" },
  { code: "role_createrole", object: "f_maker", plant: "CREATE ROLE f_maker LOGIN CREATEROLE" },
  { code: "role_createdb", object: "f_copier", plant: "CREATE ROLE f_copier LOGIN CREATEDB" },
  { code: "role_reaches_power", object: "app_user in pg_read_all_data", plant: "GRANT pg_read_all_data TO app_user" },
  {
    code: "role_reaches_owner",
    object: "app_user in f_owner",
    plant: `CREATE ROLE f_owner; ${table("f_owned")} ALTER TABLE f_owned OWNER TO f_owner; GRANT f_owner TO app_user`,
  },
  {
    code: "role_reaches_other",
    object: 'app_user in "f Group"',
    plant: 'CREATE ROLE "f Group"; GRANT "f Group" TO app_user',
  },
  {
    code: "role_owns_object",
    object: "function public.f_planted(pg_catalog.text,integer)",
    plant: `CREATE FUNCTION public.f_planted(text, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
      ALTER FUNCTION public.f_planted OWNER TO app_user`,
  },
  {
    code: "role_owns_large_object",
    object: "large object 70001",
    plant: "SELECT lo_create(70001); ALTER LARGE OBJECT 70001 OWNER TO app_user",
  },
  {
    code: "login_role_inherits",
    object: "f_inherits",
    plant: "CREATE ROLE f_inherits LOGIN; GRANT app_user TO f_inherits",
  },
  {
    code: "login_role_has_rights",
    object: "pgvpd_login on table public.contacts",
    plant: "GRANT SELECT (id) ON contacts TO pgvpd_login",
  },
  { code: "application_role_logs_in", object: "app_user", plant: "ALTER ROLE app_user LOGIN" },

  // Tables
  {
    code: "table_rls_disabled",
    object: 'public."f Open"',
    plant:
      'CREATE TABLE "f Open" (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id)); GRANT SELECT ON "f Open" TO app_user',
  },
  {
    code: "table_rls_not_forced",
    object: "public.f_not_forced",
    plant: `${table("f_not_forced")} ALTER TABLE f_not_forced NO FORCE ROW LEVEL SECURITY`,
  },
  {
    code: "table_shared_writable",
    object: "public.f_writable",
    plant: "CREATE TABLE f_writable (id int); GRANT INSERT, DELETE ON f_writable TO PUBLIC, app_user",
  },
  {
    code: "table_shared_readable",
    object: "public.f_readable",
    plant: "CREATE TABLE f_readable (id int); GRANT SELECT (id) ON f_readable TO app_user",
  },
  { code: "table_without_policy", object: "public.f_no_policy", plant: bareTable("f_no_policy") },
  {
    code: "table_unsafe_rights",
    object: "public.f_truncated",
    plant: `${table("f_truncated")} GRANT TRUNCATE, TRIGGER ON f_truncated TO app_user`,
  },
  {
    code: "partition_unprotected",
    object: "public.f_part",
    plant: `CREATE TABLE f_whole (tenant_id text NOT NULL, id int, PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (tenant_id);
      SELECT public.pgvpd_protect('f_whole');
      CREATE TABLE f_part PARTITION OF f_whole FOR VALUES WITH (MODULUS 1, REMAINDER 0); GRANT SELECT ON f_part TO app_user`,
  },
  {
    code: "foreign_table_granted",
    object: "public.f_foreign",
    plant: `CREATE FOREIGN DATA WRAPPER f_wrapper; CREATE SERVER f_server FOREIGN DATA WRAPPER f_wrapper;
      CREATE FOREIGN TABLE f_foreign (tenant_id text) SERVER f_server; GRANT SELECT ON f_foreign TO app_user`,
  },

  // Policies
  {
    code: "policy_not_wrapped",
    object: "public.f_bare: p",
    plant: `${bareTable("f_bare")} CREATE POLICY p ON f_bare USING (tenant_id = current_tenant_id()) WITH CHECK (tenant_id = current_tenant_id())`,
  },
  {
    code: "policy_not_public",
    object: 'public.f_named: "p 1"',
    plant: `${bareTable("f_named")} CREATE POLICY "p 1" ON f_named TO app_user USING (${IS_TENANT}) WITH CHECK (${IS_TENANT})`,
  },
  {
    code: "policy_widens",
    object: "public.f_wide: p",
    plant: `${table("f_wide")} CREATE POLICY p ON f_wide FOR SELECT USING (id > 5)`,
  },
  {
    code: "policy_widens",
    object: "public.f_wide_check: p",
    plant: `${bareTable("f_wide_check")} CREATE POLICY p ON f_wide_check USING (${IS_TENANT}) WITH CHECK (true)`,
  },
  {
    code: "policy_widens",
    object: "public.f_no_column: p",
    plant: `${table("f_no_column")} CREATE POLICY p ON f_no_column FOR SELECT USING ((SELECT current_tenant_id()) <> 'x')`,
  },
  {
    code: "policy_without_check",
    object: "public.f_no_check: p",
    plant: `${bareTable("f_no_check")} CREATE POLICY p ON f_no_check USING (${IS_TENANT})`,
  },
  {
    code: "policy_tests_not_null",
    object: "public.f_not_null: p",
    plant: `${table("f_not_null")}
      CREATE POLICY p ON f_not_null AS RESTRICTIVE USING ((SELECT current_setting('f.other', true)) IS NOT NULL AND id > 0)`,
  },
  {
    code: "policy_opens_without_context",
    object: "public.f_opens: p",
    plant: `${bareTable("f_opens")} CREATE POLICY p ON f_opens
      USING (${IS_TENANT} OR (SELECT current_tenant_id()) IS NULL) WITH CHECK (${IS_TENANT})`,
  },
  {
    code: "policy_reads_past_seal",
    object: "public.f_past_seal: p",
    plant: `${bareTable("f_past_seal")} CREATE POLICY p ON f_past_seal
      USING (tenant_id = (SELECT current_setting('app.current_tenant_id'))) WITH CHECK (${IS_TENANT})`,
  },
  {
    code: "policy_reads_past_seal",
    object: "public.f_made_name: p",
    plant: `${bareTable("f_made_name")} CREATE POLICY p ON f_made_name
      USING (tenant_id = (SELECT current_setting('app.' || 'current_tenant_id', true))) WITH CHECK (${IS_TENANT})`,
  },
  {
    code: "policy_function_immutable",
    object: "public.f_frozen()",
    plant: `CREATE FUNCTION f_frozen() RETURNS text LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
        AS 'SELECT public.current_tenant_id()';
      ${table("f_frozen_rows")} CREATE POLICY p ON f_frozen_rows AS RESTRICTIVE USING (tenant_id = (SELECT f_frozen()))`,
  },
  {
    code: "policy_function_reads_past_seal",
    object: "public.f_variable()",
    plant: `CREATE FUNCTION f_variable() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
        AS 'SELECT current_setting(''app.current_tenant_id'', true)';
      ${table("f_variable_rows")} CREATE POLICY p ON f_variable_rows AS RESTRICTIVE USING (tenant_id = (SELECT f_variable()))`,
  },
  {
    code: "policy_function_reads_past_seal",
    object: "f_app.current_tenant_id()",
    plant: `CREATE SCHEMA f_app; GRANT USAGE ON SCHEMA f_app TO PUBLIC;
      CREATE FUNCTION f_app.current_tenant_id() RETURNS text STABLE SET search_path = pg_catalog, pg_temp
        RETURN current_setting('app.current_tenant_id', true);
      ${bareTable("f_standard")} CREATE POLICY p ON f_standard
        USING (tenant_id = (SELECT f_app.current_tenant_id())) WITH CHECK (tenant_id = (SELECT f_app.current_tenant_id()))`,
  },
  {
    code: "policy_function_reads_past_seal",
    object: "public.f_behind()",
    plant: `CREATE FUNCTION f_behind() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
        AS 'SELECT current_setting(''app.current_tenant_id'', true)';
      CREATE FUNCTION f_before() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS 'SELECT public.f_behind()';
      ${table("f_before_rows")} CREATE POLICY p ON f_before_rows AS RESTRICTIVE USING (tenant_id = (SELECT f_before()))`,
  },
  {
    code: "policy_function_immutable",
    object: "public.f_frozen_standard()",
    plant: `CREATE FUNCTION f_frozen_behind() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
        AS 'SELECT public.current_tenant_id()';
      CREATE FUNCTION f_frozen_standard() RETURNS text IMMUTABLE RETURN public.f_frozen_behind();
      ${table("f_frozen_standard_rows")}
      CREATE POLICY p ON f_frozen_standard_rows AS RESTRICTIVE USING (tenant_id = (SELECT f_frozen_standard()))`,
  },

  // Columns
  {
    code: "tenant_column_nullable",
    object: "public.f_nullable.tenant_id",
    plant:
      "CREATE TABLE f_nullable (tenant_id text); CREATE INDEX ON f_nullable (tenant_id); SELECT public.pgvpd_protect('f_nullable')",
  },
  {
    code: "tenant_column_without_index",
    object: 'public.f_slow."Tenant"',
    plant: `CREATE TABLE f_slow ("Tenant" text NOT NULL, id int); SELECT public.pgvpd_protect('f_slow', 'Tenant')`,
  },

  // Views and functions
  {
    code: "view_without_security_invoker",
    object: "public.f_outer",
    plant: `CREATE VIEW f_inner AS SELECT name FROM contacts; CREATE VIEW f_outer AS SELECT * FROM f_inner; GRANT SELECT ON f_outer TO app_user`,
  },
  {
    code: "materialized_view_granted",
    object: "public.f_copy",
    plant: "CREATE MATERIALIZED VIEW f_copy AS SELECT name FROM contacts; GRANT SELECT ON f_copy TO app_user",
  },
  {
    code: "function_definer_unpinned",
    object: "public.f_unpinned(integer)",
    plant:
      "CREATE FUNCTION f_unpinned(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; ALTER FUNCTION f_unpinned OWNER TO pgvpd_owner",
  },
  {
    code: "function_definer_temporary_first",
    object: "public.f_temporary()",
    plant: `CREATE FUNCTION f_temporary() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = public AS 'SELECT 1';
      ALTER FUNCTION f_temporary OWNER TO pgvpd_owner`,
  },
  {
    code: "function_definer_sees_all",
    object: "public.f_sees_all()",
    plant: `CREATE FUNCTION f_sees_all() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp
      AS 'SELECT count(*) FROM contacts'`,
  },

  // Rights of everybody
  {
    code: "public_signal",
    object: "pg_cancel_backend()",
    plant: "GRANT EXECUTE ON FUNCTION pg_cancel_backend(int) TO PUBLIC",
  },
  { code: "public_stat_activity", object: "pg_stat_activity", plant: "GRANT SELECT ON pg_stat_activity TO app_user" },
  {
    code: "public_stat_progress",
    object: "pg_stat_progress_*",
    plant: "GRANT EXECUTE ON FUNCTION pg_stat_get_progress_info(text) TO PUBLIC",
  },
  { code: "public_locks", object: "pg_locks", plant: "GRANT SELECT ON pg_locks TO PUBLIC" },
  { code: "public_prepared_xacts", object: "pg_prepared_xacts", plant: "GRANT SELECT ON pg_prepared_xacts TO PUBLIC" },
  {
    code: "public_stat_statements",
    object: "pg_stat_statements",
    plant: "CREATE SCHEMA f_statements; CREATE EXTENSION pg_stat_statements SCHEMA f_statements",
  },
  {
    code: "public_large_objects",
    object: "large objects",
    plant: "GRANT EXECUTE ON FUNCTION lo_create(oid) TO app_user",
  },
  { code: "public_dblink", object: "dblink", plant: "CREATE SCHEMA f_link; CREATE EXTENSION dblink SCHEMA f_link" },
  { code: "public_create_in_schema", object: "schema public", plant: "GRANT CREATE ON SCHEMA public TO PUBLIC" },
  {
    code: "public_create_in_database",
    object: "database pgvpd_demo",
    plant: "GRANT CREATE ON DATABASE pgvpd_demo TO app_user",
  },
  {
    code: "public_temporary",
    object: "database pgvpd_demo",
    plant: "GRANT TEMPORARY ON DATABASE pgvpd_demo TO PUBLIC",
  },
  {
    code: "public_foreign_data",
    object: "foreign server f_usable",
    plant: "CREATE SERVER f_usable FOREIGN DATA WRAPPER f_wrapper; GRANT USAGE ON FOREIGN SERVER f_usable TO app_user",
  },

  // Settings
  {
    code: "setting_context_default",
    object: "role app_user database pgvpd_demo app.current_tenant_id",
    plant: "ALTER ROLE app_user IN DATABASE pgvpd_demo SET app.current_tenant_id = 'acme'",
  },
  {
    code: "setting_granted",
    object: "session_replication_role",
    plant: "GRANT SET ON PARAMETER session_replication_role TO app_user",
    since: 15,
  },

  // The seal
  {
    code: "seal_key_readable",
    object: "pgvpd.context_keys for app_user",
    plant: "GRANT SELECT (opad) ON pgvpd.context_keys TO app_user",
  },
  {
    code: "seal_function_callable",
    object: "pgvpd.is_authentic(integer,text,bytea)",
    plant: "GRANT EXECUTE ON FUNCTION pgvpd.is_authentic(int, text, bytea) TO PUBLIC",
  },
  {
    code: "seal_reader_replaced",
    object: "public.current_tenant_id()",
    plant: `CREATE OR REPLACE FUNCTION public.current_tenant_id() RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
      AS $$ BEGIN RETURN nullif(current_setting('app.current_tenant_id', true), ''); END $$`,
  },
  {
    code: "seal_part_of_other_role",
    object: "function pgvpd.context_value(text)",
    plant: "ALTER FUNCTION pgvpd.context_value(text) OWNER TO f_owner",
  },
  { code: "seal_owner_unsafe", object: "pgvpd_owner", plant: "ALTER ROLE pgvpd_owner LOGIN" },
  {
    code: "seal_slot_granted",
    object: "session_preload_libraries for app_user",
    plant: "GRANT SET ON PARAMETER session_preload_libraries TO app_user",
    since: 15,
  },
];

/** Of the whole server, so that they are planted by statements of their own. */
export const SERVER_FAULTS: readonly Fault[] = [
  { code: "database_open", object: 'database "f Other"', plant: 'CREATE DATABASE "f Other"' },
  { code: "setting_log_statement", object: "log_statement = all", plant: "ALTER SYSTEM SET log_statement = 'all'" },
  {
    code: "setting_log_parameters",
    object: "log_parameter_max_length = -1",
    plant: "ALTER SYSTEM SET log_min_duration_statement = '1h'",
  },
  {
    code: "setting_log_parameters_on_error",
    object: "log_parameter_max_length_on_error = -1",
    plant: "ALTER SYSTEM SET log_parameter_max_length_on_error = -1",
  },
  {
    code: "setting_lo_compat",
    object: "lo_compat_privileges = on",
    plant: "ALTER SYSTEM SET lo_compat_privileges = on",
  },
];
