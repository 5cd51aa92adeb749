-- pgvpd: removes the functions of setup.sql, helpers.sql, seal.sql, resolvers.sql and credentials.sql in sql/, and the schema pgvpd when
-- nothing else is in it. It takes no protection away: policies, row-level security, grants and the role app_user stay. The
-- functions that policies read the context with go together, and only when nothing in this database uses any of them; so
-- do the seal, its keys and, when no other database has the seal, the role pgvpd_owner.
-- pgvpd.tenant_credentials goes when it is empty. What sql/hardening.sql took from PUBLIC is given back; its roles stay.

-- What sql/resolvers.sql has installed, with its triggers: cached answers are used for their cache_ttl again.
DO $resolvers$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  item record;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  FOR item IN
    SELECT format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass) AS statement
    FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE p.pronamespace = to_regnamespace('pgvpd') AND p.proname = 'invalidate_row' AND t.tgparentid = 0
    UNION ALL
    SELECT format('DROP ROUTINE %s', p.oid::regprocedure) FROM pg_proc p
    WHERE p.pronamespace = to_regnamespace('pgvpd')
      AND p.proname IN ('invalidate', 'invalidate_row', 'invalidate_on_change', 'no_invalidate_on_change')
    UNION ALL
    SELECT 'DROP TABLE pgvpd.invalidations' WHERE to_regclass('pgvpd.invalidations') IS NOT NULL
  LOOP
    BEGIN
      EXECUTE item.statement;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
      RAISE WARNING 'could not run: %: %', item.statement, SQLERRM;
    END;
  END LOOP;
  PERFORM pg_catalog.set_config('search_path', previous_path, true);
END
$resolvers$;

DO $uninstall$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  readers CONSTANT text[] := '{current_tenant_id,pgvpd_context,pgvpd_context_array,pgvpd_context_uuid_array,pgvpd_context_contains,pgvpd_context_text_contains}';
  item record;
  users text;
  has_credentials boolean;
  undo_owner text;
  has_undo boolean;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

  -- The undo statements run with our rights, so they must not be another role's. What is gone needs no undoing.
  SELECT pg_get_userbyid(c.relowner) INTO undo_owner FROM pg_class c WHERE c.oid = to_regclass('pgvpd.hardening_undo') AND c.relkind = 'r';
  IF undo_owner <> current_user AND NOT (SELECT bool_and(r.rolsuper) FROM pg_roles r WHERE r.rolname IN (undo_owner, current_user)) THEN
    RAISE WARNING 'kept what sql/hardening.sql did: role % installed it', quote_ident(undo_owner) USING HINT = 'Run this file as that role first.';
  ELSIF undo_owner IS NOT NULL THEN
    FOR item IN SELECT u.statement FROM ONLY pgvpd.hardening_undo u ORDER BY u.statement LOOP
      BEGIN
        EXECUTE format(item.statement, current_database());
        DELETE FROM ONLY pgvpd.hardening_undo u WHERE u.statement = item.statement;
      EXCEPTION
        WHEN undefined_object OR undefined_function OR undefined_table OR invalid_schema_name THEN
          DELETE FROM ONLY pgvpd.hardening_undo u WHERE u.statement = item.statement;
        WHEN insufficient_privilege OR dependent_objects_still_exist THEN
          RAISE WARNING 'could not undo: %: %', format(item.statement, current_database()), SQLERRM;
      END;
    END LOOP;
    SELECT EXISTS (SELECT FROM ONLY pgvpd.hardening_undo) INTO has_undo;
    IF NOT has_undo THEN
      DROP TABLE pgvpd.hardening_undo;
    END IF;
    RAISE NOTICE 'kept the roles of sql/hardening.sql, pgvpd_login and pgvpd_maintenance: other databases may use them'
      USING HINT = 'DROP ROLE pgvpd_maintenance, pgvpd_login;';
  END IF;

  SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), ', ') INTO users
    FROM pg_proc p JOIN pg_depend d ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
    WHERE p.pronamespace = to_regnamespace('public') AND p.proname = ANY (readers) AND d.deptype IN ('n', 'a');
  IF users IS NOT NULL THEN
    RAISE WARNING 'kept the functions that read the context (current_tenant_id, pgvpd_context..., schema pgvpd%), used by: %',
      CASE WHEN to_regclass('pgvpd.context_keys') IS NULL THEN '' ELSE ', the seal and its keys' END, users;
  END IF;

  FOR item IN
    SELECT p.oid::regprocedure AS signature
    FROM pg_proc p
    WHERE p.pronamespace = to_regnamespace('public')
      AND (p.proname IN ('pgvpd_protect', 'pgvpd_protect_acl', 'pgvpd_status')
           OR p.proname = ANY (readers) AND users IS NULL AND (p.pronargs = 0 OR p.proname <> 'current_tenant_id'))
    UNION ALL
    SELECT p.oid::regprocedure
    FROM pg_proc p
    WHERE p.pronamespace = to_regnamespace('pgvpd')
      AND (p.proname IN ('users_of', 'make_way', 'install_reader', 'find_table', 'find_column', 'cast_to', 'role_hazards',
                         'apply_policy', 'reads_context', 'reads_past_seal', 'opens_without_context', 'isolation_gaps', 'acl_condition', 'find_credential')
           OR p.proname IN ('context_value', 'seal_carrier', 'hello', 'set_context', 'is_authentic', 'session_start', 'sealed_context')
              AND users IS NULL)
  LOOP
    BEGIN
      EXECUTE format('DROP ROUTINE %s', item.signature);
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
      RAISE WARNING 'kept function %: %', item.signature, SQLERRM;
    END;
  END LOOP;

  IF EXISTS (SELECT FROM pg_class c WHERE c.oid = to_regclass('pgvpd.tenant_credentials') AND c.relkind = 'r') THEN
    BEGIN
      SELECT EXISTS (SELECT FROM ONLY pgvpd.tenant_credentials) INTO has_credentials;
      IF has_credentials THEN
        RAISE WARNING 'kept table pgvpd.tenant_credentials: it holds credentials' USING HINT = 'DROP TABLE pgvpd.tenant_credentials;';
      ELSE
        DROP TABLE pgvpd.tenant_credentials;
      END IF;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
      RAISE WARNING 'kept table pgvpd.tenant_credentials: %', SQLERRM;
    END;
  END IF;

  IF users IS NULL AND to_regclass('pgvpd.context_keys') IS NOT NULL THEN
    BEGIN
      DROP TABLE pgvpd.context_keys;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
      RAISE WARNING 'kept table pgvpd.context_keys: %', SQLERRM;
    END;
  END IF;

  IF users IS NULL AND to_regnamespace('pgvpd') IS NOT NULL THEN
    BEGIN
      DROP SCHEMA pgvpd;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
      RAISE WARNING 'kept schema pgvpd: %', SQLERRM;
    END;
  END IF;

  -- All or nothing: a role that another database needs keeps its rights.
  IF users IS NULL AND EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgvpd_owner') THEN
    BEGIN
      IF to_regnamespace('pgvpd') IS NOT NULL THEN
        REVOKE ALL ON SCHEMA pgvpd FROM pgvpd_owner;
      END IF;
      IF current_setting('server_version_num')::integer >= 150000 THEN
        EXECUTE 'REVOKE SET ON PARAMETER session_preload_libraries FROM pgvpd_owner';
      END IF;
      DROP ROLE pgvpd_owner;
    EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
      RAISE NOTICE 'kept role pgvpd_owner: %', SQLERRM;
    END;
  END IF;
  RAISE NOTICE 'kept what protects data: policies, row-level security, grants and the role app_user';
  PERFORM pg_catalog.set_config('search_path', previous_path, true);
END
$uninstall$;
