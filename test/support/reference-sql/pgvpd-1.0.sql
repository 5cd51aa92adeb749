-- An imitation of the SQL that pgvpd 1.0 installs, written from its documentation and with the defects that are known of
-- it: a published password, membership in the application role for the installer, policies TO that role, the context read
-- for each row, search_path left to the caller, names formatted without a schema, lists read as CSV only. Argument names
-- that its documentation does not give are made up, and differ from ours on purpose. Tests install pgvpd's SQL over it.

DO $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'app_user') THEN
    CREATE ROLE app_user LOGIN PASSWORD 'changeme' NOSUPERUSER NOBYPASSRLS;
  END IF;
  IF current_setting('is_superuser') = 'on' THEN
    EXECUTE format('GRANT app_user TO %I', current_user);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION current_tenant_id() RETURNS TEXT LANGUAGE sql STABLE AS $$
  SELECT NULLIF(current_setting('app.current_tenant_id', true), '')
$$;

CREATE OR REPLACE FUNCTION pgvpd_protect(table_name TEXT, tenant_column TEXT DEFAULT 'tenant_id', app_role TEXT DEFAULT 'app_user')
RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', table_name);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', table_name);
  EXECUTE format('DROP POLICY IF EXISTS %I ON %I', 'pgvpd_tenant_isolation_' || table_name, table_name);
  EXECUTE format('CREATE POLICY %I ON %I TO %I USING (%I::text = current_tenant_id()) WITH CHECK (%I::text = current_tenant_id())',
    'pgvpd_tenant_isolation_' || table_name, table_name, app_role, tenant_column, tenant_column);
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO %I', table_name, app_role);
END $$;

CREATE OR REPLACE FUNCTION pgvpd_status()
RETURNS TABLE(table_name TEXT, rls_enabled BOOLEAN, rls_forced BOOLEAN, policy_count BIGINT) LANGUAGE sql STABLE AS $$
  SELECT c.relname::text, c.relrowsecurity, c.relforcerowsecurity, (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY 1
$$;

CREATE OR REPLACE FUNCTION pgvpd_context(var_name TEXT) RETURNS TEXT LANGUAGE sql STABLE AS $$
  SELECT NULLIF(current_setting(var_name, true), '')
$$;
CREATE OR REPLACE FUNCTION pgvpd_context_array(var_name TEXT) RETURNS TEXT[] LANGUAGE sql STABLE AS $$
  SELECT string_to_array(pgvpd_context(var_name), ',')
$$;
CREATE OR REPLACE FUNCTION pgvpd_context_uuid_array(var_name TEXT) RETURNS UUID[] LANGUAGE sql STABLE AS $$
  SELECT string_to_array(pgvpd_context(var_name), ',')::uuid[]
$$;
CREATE OR REPLACE FUNCTION pgvpd_context_contains(var_name TEXT, val UUID) RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
  SELECT COALESCE(val = ANY (pgvpd_context_uuid_array(var_name)), false)
$$;
CREATE OR REPLACE FUNCTION pgvpd_context_text_contains(var_name TEXT, val TEXT) RETURNS BOOLEAN LANGUAGE sql STABLE AS $$
  SELECT COALESCE(val = ANY (pgvpd_context_array(var_name)), false)
$$;

CREATE OR REPLACE FUNCTION pgvpd_protect_acl(table_name TEXT, paths JSONB, app_role TEXT DEFAULT 'app_user')
RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
  path JSONB;
  conditions TEXT[] := '{}';
BEGIN
  FOR path IN SELECT * FROM jsonb_array_elements(paths) LOOP
    conditions := conditions || (CASE path ->> 'type'
      WHEN 'uuid' THEN format('%I = pgvpd_context(%L)::uuid', path ->> 'column', path ->> 'var')
      WHEN 'uuid_array' THEN format('pgvpd_context_contains(%L, %I)', path ->> 'var', path ->> 'column')
      WHEN 'text_array' THEN format('pgvpd_context_text_contains(%L, %I)', path ->> 'var', path ->> 'column')
      ELSE format('%I = pgvpd_context(%L)', path ->> 'column', path ->> 'var') END
      || CASE WHEN path ? 'when' THEN ' AND ' || (path ->> 'when') ELSE '' END);
  END LOOP;
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', table_name);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', table_name);
  EXECUTE format('DROP POLICY IF EXISTS %I ON %I', 'pgvpd_acl_' || table_name, table_name);
  EXECUTE format('CREATE POLICY %I ON %I TO %I USING (%s)', 'pgvpd_acl_' || table_name, table_name, app_role, array_to_string(conditions, ' OR '));
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO %I', table_name, app_role);
END $$;
