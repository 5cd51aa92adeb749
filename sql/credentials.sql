-- pgvpd: where the auth_query of pgvpd finds the verifier of who logs in. Optional, and independent of sql/setup.sql. It
-- goes into the database that auth_dbname names, once, whatever databases the tenants are in:
--
--   psql -d postgres -v ON_ERROR_STOP=1 -f sql/credentials.sql
--   psql -d postgres -c 'GRANT EXECUTE ON FUNCTION pgvpd.find_credential(text, text) TO pgvpd_auth'
--
--   pgvpd.tenant_credentials               passwords that are good for some tenants only, as SCRAM verifiers
--   pgvpd.find_credential(role, tenant)    the verifier that decides for a role and a tenant
--
-- Nobody has rights on either until the administrator grants them. A superuser installs it, because a role's own verifier
-- stands in pg_authid, which nobody else may read; installed by another role, it knows the table only. Plain SQL, that
-- can be run again. One block, so that there is no moment at which others may call the function.

DO $install$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  installer record;
  item record;
  is_first boolean;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

  IF to_regnamespace('pgvpd') IS NULL THEN
    CREATE SCHEMA pgvpd;
  END IF;

  -- The function runs with the rights of whoever installs it. Who owns the schema could put a view with functions of his
  -- own in the table's place, and these would run with the same rights.
  SELECT r.oid, r.rolname, r.rolsuper INTO installer FROM pg_roles r WHERE r.rolname = current_user;
  FOR item IN
    SELECT o.kind, o.name, o.note, r.rolname AS owner
    FROM (
      SELECT 'schema', 'pgvpd', n.nspowner, format(' GRANT USAGE, CREATE ON SCHEMA pgvpd TO %I;', pg_get_userbyid(n.nspowner))
      FROM pg_namespace n WHERE n.nspname = 'pgvpd'
      UNION ALL
      SELECT 'table', 'pgvpd.tenant_credentials', c.relowner, '' FROM pg_class c WHERE c.oid = to_regclass('pgvpd.tenant_credentials')
      UNION ALL
      SELECT 'function', p.oid::regprocedure::text, p.proowner, ''
      FROM pg_proc p WHERE p.oid = to_regprocedure('pgvpd.find_credential(text,text)')
    ) AS o(kind, name, owner, note)
    JOIN pg_roles r ON r.oid = o.owner
    WHERE r.oid <> installer.oid AND NOT (r.rolsuper AND installer.rolsuper)
  LOOP
    RAISE EXCEPTION '% % belongs to role %, who could then act with the rights of %', item.kind, item.name, item.owner, installer.rolname
      USING ERRCODE = 'insufficient_privilege',
            HINT = CASE WHEN installer.rolsuper
                        THEN format('If that role is trusted: ALTER %s %s OWNER TO %I;%s', upper(item.kind), item.name, installer.rolname, item.note)
                        ELSE 'Install as that role, or as a superuser.' END;
  END LOOP;

  IF NOT has_schema_privilege('public', 'pgvpd', 'USAGE') THEN
    GRANT USAGE ON SCHEMA pgvpd TO PUBLIC; -- as sql/setup.sql does: rights on what is in it are another matter
  END IF;

  is_first := to_regclass('pgvpd.tenant_credentials') IS NULL;
  IF is_first THEN
    -- Collation C compares bytes: case counts, whatever the database's collation thinks. login_name is no "name", a type
    -- that cuts what is too long, which would then be another role's name.
    CREATE TABLE pgvpd.tenant_credentials (
      login_name text COLLATE "C" NOT NULL CHECK (octet_length(login_name) BETWEEN 1 AND 63),
      tenant text COLLATE "C" NOT NULL CHECK (tenant <> ''),
      verifier text COLLATE "C" NOT NULL CONSTRAINT tenant_credentials_verifier_is_scram CHECK (
        verifier ~ ('^SCRAM-SHA-256[$][1-9][0-9]{0,8}:([A-Za-z0-9+/]{4}){0,255}([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)'
                    '[$][A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$')),
      valid_until timestamptz,
      created_at timestamptz NOT NULL DEFAULT now(),
      PRIMARY KEY (login_name, tenant)
    );
    CREATE INDEX tenant_credentials_patterns ON pgvpd.tenant_credentials (login_name) WHERE strpos(tenant, '*') > 0;
    COMMENT ON TABLE pgvpd.tenant_credentials IS 'pgvpd: passwords, as SCRAM verifiers, that are good for some tenants only; pgvpd credential makes them';
    COMMENT ON COLUMN pgvpd.tenant_credentials.tenant IS 'a tenant, or a pattern in which * stands for any text';
    COMMENT ON COLUMN pgvpd.tenant_credentials.valid_until IS 'no login from then on; NULL: no end';
  ELSIF (SELECT c.relkind <> 'r' FROM pg_class c WHERE c.oid = to_regclass('pgvpd.tenant_credentials')) THEN
    RAISE EXCEPTION 'pgvpd.tenant_credentials is not a table' USING ERRCODE = 'wrong_object_type', HINT = 'Remove it, then install again.';
  END IF;

  -- Operators and functions are PostgreSQL's own, whatever the caller's session has. The row that fits best decides, even
  -- when it has expired: a password that was taken from a tenant must not make way for another one.
  CREATE OR REPLACE FUNCTION pgvpd.find_credential(role_name text, tenant_name text)
  RETURNS TABLE (login_name text, verifier text, is_bound boolean)
  LANGUAGE plpgsql STABLE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
  AS $function$
  DECLARE
    login record;
    bound record;
  BEGIN
    SELECT r.oid, r.rolname::text AS name, r.rolsuper OR r.rolbypassrls OR r.rolreplication AS is_powerful INTO login
      FROM pg_roles r
      WHERE r.rolname = role_name AND r.rolcanlogin AND (r.rolvaliduntil IS NULL OR r.rolvaliduntil > clock_timestamp());
    IF NOT FOUND THEN
      RETURN;
    END IF;

    IF tenant_name <> '' THEN
      SELECT c.verifier, c.valid_until INTO bound
        FROM pgvpd.tenant_credentials c
        WHERE c.login_name = login.name AND c.tenant = tenant_name COLLATE "C" AND strpos(c.tenant, '*') = 0;
      IF NOT FOUND THEN
        SELECT c.verifier, c.valid_until INTO bound
          FROM pgvpd.tenant_credentials c
          WHERE c.login_name = login.name AND strpos(c.tenant, '*') > 0
            AND tenant_name COLLATE "C" LIKE replace(replace(replace(replace(c.tenant, '!', '!!'), '%', '!%'), '_', '!_'), '*', '%') ESCAPE '!'
          ORDER BY length(replace(c.tenant, '*', '')) DESC, c.tenant
          LIMIT 1;
      END IF;
      IF FOUND THEN
        RETURN QUERY SELECT login.name, bound.verifier, true WHERE bound.valid_until IS NULL OR bound.valid_until > clock_timestamp();
        RETURN;
      END IF;
    END IF;

    IF NOT login.is_powerful AND has_table_privilege('pg_authid', 'SELECT') THEN
      RETURN QUERY SELECT login.name, a.rolpassword, false
        FROM pg_authid a
        WHERE a.oid = login.oid AND a.rolpassword ~ '^(SCRAM-SHA-256[$]|md5[0-9a-f]{32}$)';
    END IF;
  END
  $function$;
  COMMENT ON FUNCTION pgvpd.find_credential(text, text) IS
    'pgvpd: the verifier that decides for a login role and a tenant (NULL: none); the auth_query of pgvpd';

  -- Nobody has rights, whatever default privileges say. Later on, what was granted to a role by name stays.
  REVOKE ALL ON TABLE pgvpd.tenant_credentials FROM PUBLIC;
  REVOKE ALL ON FUNCTION pgvpd.find_credential(text, text) FROM PUBLIC;
  FOR item IN
    SELECT DISTINCT o.name, pg_get_userbyid(a.grantee) AS grantee
    FROM (
      SELECT 'TABLE pgvpd.tenant_credentials', c.relacl, c.relowner FROM pg_class c WHERE c.oid = 'pgvpd.tenant_credentials'::regclass
      UNION ALL
      SELECT 'FUNCTION pgvpd.find_credential(text, text)', p.proacl, p.proowner
      FROM pg_proc p WHERE p.oid = 'pgvpd.find_credential(text,text)'::regprocedure
    ) AS o(name, acl, owner)
    CROSS JOIN LATERAL aclexplode(o.acl) AS a
    WHERE is_first AND a.grantee <> o.owner
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM %I', item.name, item.grantee);
  END LOOP;

  PERFORM set_config('search_path', previous_path, true);
END
$install$;
