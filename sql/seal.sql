-- pgvpd: seals the context. Without it the tenant is a session variable, and SQL that a tenant sends can change it:
-- SET app.current_tenant_id = 'globex'. Sealed, the context is accepted only with an HMAC that pgvpd alone can make, for
-- this session and once. Run it after sql/setup.sql (and sql/helpers.sql); it can be run again.
--
--   psql -d your_database -f sql/setup.sql -f sql/helpers.sql -f sql/seal.sql
--   pgvpd key create --file context.key && pgvpd key install --file context.key | psql -d your_database
--   # pgvpd.conf: context_seal = require, context_key_file = context.key
--
-- From then on current_tenant_id() and pgvpd_context*() read the sealed context and nothing else: a session that does not
-- come through pgvpd sees no rows. Policies stay as they are. There are two carriers:
--
--   slot    the context lies in session_preload_libraries, which has no effect once a session has begun and which only a
--           superuser, or who was granted it, can read or set: PostgreSQL 15 or newer, installed by a superuser. About
--           3 us for each query.
--   signed  context and HMAC lie in an ordinary variable and are checked at each read: everywhere else, as on managed
--           platforms. About 35 us for each query, and its session can go back to a context that it had before, which is
--           its own tenant's as long as the session is one tenant's: not for transaction pooling.
--
-- The better one is chosen. SET pgvpd.carrier = 'signed' before this file asks for the other.

DO $preflight$
DECLARE
  readers CONSTANT text[] := '{current_tenant_id,pgvpd_context,pgvpd_context_array,pgvpd_context_uuid_array,pgvpd_context_contains,pgvpd_context_text_contains}';
  previous_path text := pg_catalog.current_setting('search_path');
  installer record;
  item record;
  earlier text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  IF to_regprocedure('pgvpd.seal_carrier()') IS NULL THEN
    RAISE EXCEPTION 'sql/seal.sql builds on sql/setup.sql, which is not installed in this database, or is an older one'
      USING ERRCODE = 'undefined_function', HINT = 'Run sql/setup.sql (and sql/helpers.sql), then this file again.';
  END IF;

  -- Who owns the schema can put functions of his own in the place of ours, and who owns the table reads the keys.
  SELECT r.oid, r.rolname, r.rolsuper INTO installer FROM pg_roles r WHERE r.rolname = current_user;
  FOR item IN
    SELECT o.kind, o.name, o.note, r.rolname AS owner
    FROM (
      SELECT 'schema', 'pgvpd', n.nspowner, format(' GRANT USAGE, CREATE ON SCHEMA pgvpd TO %I;', pg_get_userbyid(n.nspowner))
      FROM pg_namespace n WHERE n.nspname = 'pgvpd'
      UNION ALL
      SELECT 'table', 'pgvpd.context_keys', c.relowner, '' FROM pg_class c WHERE c.oid = to_regclass('pgvpd.context_keys')
      UNION ALL
      SELECT 'function', p.oid::regprocedure::text, p.proowner, '' FROM pg_proc p
      WHERE p.pronamespace = 'pgvpd'::regnamespace
        AND p.proname IN ('hello', 'set_context', 'context_value', 'seal_carrier', 'is_authentic', 'session_start', 'sealed_context')
    ) AS o(kind, name, owner, note)
    JOIN pg_roles r ON r.oid = o.owner
    WHERE r.oid <> installer.oid AND NOT ((r.rolsuper OR r.rolname = 'pgvpd_owner') AND installer.rolsuper)
  LOOP
    RAISE EXCEPTION '% % belongs to role %, who could then undo the seal', item.kind, item.name, item.owner
      USING ERRCODE = 'insufficient_privilege',
            HINT = CASE WHEN installer.rolsuper
                        THEN format('If that role is trusted: ALTER %s %s OWNER TO %I;%s', upper(item.kind), item.name, installer.rolname, item.note)
                        ELSE 'Install as that role, or as a superuser.' END;
  END LOOP;

  SELECT string_agg(p.oid::regprocedure::text, ', ') INTO earlier
    FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND p.proname = ANY (readers) AND (p.pronargs = 0 OR p.proname <> 'current_tenant_id')
      AND p.prosrc !~ '(pgvpd[.]context_value|public[.]pgvpd_context)';
  IF earlier IS NOT NULL THEN
    RAISE EXCEPTION 'these functions would go on reading a session variable, which is not sealed: %', earlier
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Run sql/setup.sql and sql/helpers.sql, then this file again.';
  END IF;
  PERFORM pg_catalog.set_config('search_path', previous_path, true);
END
$preflight$;

-- Who owns the keys and the functions that read them: a role of its own where we may create one, so that the functions
-- run with its few rights; otherwise the role that installs.
DO $owner$
DECLARE
  wanted text := lower(coalesce(nullif(pg_catalog.current_setting('pgvpd.carrier', true), ''), 'slot'));
  is_superuser boolean := pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on';
  carrier text;
  owner text := current_user;
  previous_path text := pg_catalog.current_setting('search_path');
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  IF wanted NOT IN ('slot', 'signed') THEN
    RAISE EXCEPTION 'pgvpd.carrier is "%"', wanted USING ERRCODE = 'invalid_parameter_value', HINT = 'slot or signed';
  END IF;
  carrier := CASE WHEN wanted = 'slot' AND is_superuser AND current_setting('server_version_num')::integer >= 150000
                  THEN 'slot' ELSE 'signed' END;
  IF is_superuser THEN
    owner := 'pgvpd_owner';
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = owner) THEN
      CREATE ROLE pgvpd_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION;
    END IF;
  END IF;
  IF carrier = 'slot' THEN
    EXECUTE 'GRANT SET ON PARAMETER session_preload_libraries TO pgvpd_owner';
    -- The slot may be read by superusers only, or by members of this role.
    GRANT pg_read_all_settings TO pgvpd_owner;
  ELSIF NOT pg_has_role(owner, 'pg_read_all_stats', 'USAGE') AND NOT is_superuser THEN
    -- The session's start, which tells a backend from a later one with the same pid, is hidden from others.
    RAISE EXCEPTION 'role % cannot see when a session began', quote_ident(owner)
      USING ERRCODE = 'insufficient_privilege', HINT = format('Let an administrator run: GRANT pg_read_all_stats TO %I;', owner);
  ELSIF is_superuser THEN
    GRANT pg_read_all_stats TO pgvpd_owner;
  END IF;
  PERFORM set_config('pgvpd.installing_carrier', carrier, false);
  PERFORM set_config('pgvpd.installing_owner', owner, false);
  PERFORM set_config('search_path', previous_path, true);
END
$owner$;

CREATE TABLE IF NOT EXISTS pgvpd.context_keys (
  kid integer PRIMARY KEY CHECK (kid > 0),
  -- The key, padded to one block of SHA-256, with the constants of HMAC: RFC 2104.
  ipad bytea NOT NULL CHECK (length(ipad) = 64),
  opad bytea NOT NULL CHECK (length(opad) = 64),
  active boolean NOT NULL DEFAULT true,
  installed_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE pgvpd.context_keys IS 'pgvpd: keys that the context is sealed with; whoever reads one can be any tenant';

-- True when `mac` is the HMAC-SHA256 of `message` under the key. Both sides are hashed once more, so that the time of
-- the comparison says nothing.
CREATE OR REPLACE FUNCTION pgvpd.is_authentic(kid integer, message text, mac bytea) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  inner_pad bytea;
  outer_pad bytea;
BEGIN
  SELECT k.ipad, k.opad INTO inner_pad, outer_pad FROM pgvpd.context_keys k WHERE k.kid = $1 AND k.active;
  RETURN coalesce(sha256(outer_pad || sha256(outer_pad || sha256(inner_pad || convert_to(message, 'UTF8')))) = sha256(outer_pad || mac), false);
END
$$;
REVOKE ALL ON FUNCTION pgvpd.is_authentic(integer, text, bytea) FROM PUBLIC;

-- Both carriers have the same functions, so that one can take the other's place under way: no login finds none.
DO $carrier$
DECLARE
  carrier text := pg_catalog.current_setting('pgvpd.installing_carrier');
  owner text := pg_catalog.current_setting('pgvpd.installing_owner');
  item text;
BEGIN
  IF carrier = 'slot' THEN
    -- The slot: 'pgvpd1:' || nonce (a UUID, 36 characters) || ':' || context.
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.hello(OUT carrier text, OUT pid integer, OUT nonce text, OUT now bigint)
      LANGUAGE plpgsql VOLATILE SECURITY DEFINER
      SET search_path = pg_catalog, pg_temp
      AS $$
      BEGIN
        carrier := 'slot';
        pid := pg_backend_pid();
        nonce := gen_random_uuid();
        now := extract(epoch FROM clock_timestamp());
        PERFORM set_config('session_preload_libraries', 'pgvpd1:' || nonce || ':', false);
      END
      $$
    $create$;
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.set_context(kid integer, context text, expires bigint, mac bytea) RETURNS text
      LANGUAGE plpgsql VOLATILE SECURITY DEFINER
      SET search_path = pg_catalog, pg_temp
      AS $$
      DECLARE
        slot text := current_setting('session_preload_libraries');
        message text;
        next_nonce text := gen_random_uuid();
      BEGIN
        IF starts_with(slot, 'pgvpd1:') THEN
          message := concat_ws('|', 'pgvpd1', pg_backend_pid(), substr(slot, 8, 36), current_database(), context);
        END IF;
        IF NOT pgvpd.is_authentic(kid, message, mac) OR coalesce(context, '') = '' THEN
          RAISE EXCEPTION 'pgvpd: context rejected' USING ERRCODE = 'invalid_authorization_specification';
        END IF;
        -- The nonce was for this once.
        PERFORM set_config('session_preload_libraries', 'pgvpd1:' || next_nonce || ':' || context, false);
        RETURN next_nonce;
      END
      $$
    $create$;
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.context_value(name text) RETURNS text
      LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
      SET search_path = pg_catalog, pg_temp
      AS $$
      DECLARE
        slot text := current_setting('session_preload_libraries');
      BEGIN
        IF starts_with(slot, 'pgvpd1:') THEN
          RETURN nullif(nullif(substr(slot, 45), '')::json ->> lower($1 COLLATE "C"), '');
        END IF;
        RETURN NULL;
      END
      $$
    $create$;
  ELSE
    -- When this session began, in microseconds: a later backend with the same pid is another one.
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.session_start() RETURNS bigint
      LANGUAGE sql STABLE PARALLEL RESTRICTED
      SET search_path = pg_catalog, pg_temp
      AS $$ SELECT (extract(epoch FROM a.backend_start) * 1000000)::bigint FROM pg_stat_get_activity(pg_backend_pid()) AS a $$
    $create$;
    REVOKE ALL ON FUNCTION pgvpd.session_start() FROM PUBLIC;
    EXECUTE format('ALTER FUNCTION pgvpd.session_start() OWNER TO %I', owner);
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.hello(OUT carrier text, OUT pid integer, OUT nonce text, OUT now bigint)
      LANGUAGE plpgsql VOLATILE SECURITY DEFINER
      SET search_path = pg_catalog, pg_temp
      AS $$
      BEGIN
        carrier := 'signed';
        pid := pg_backend_pid();
        nonce := pgvpd.session_start();
        now := extract(epoch FROM clock_timestamp());
        PERFORM set_config('pgvpd.sealed', '', false);
      END
      $$
    $create$;
    -- The variable: kid|expires|mac in hex|context. Whoever changes it has no context.
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.set_context(kid integer, context text, expires bigint, mac bytea) RETURNS text
      LANGUAGE plpgsql VOLATILE SECURITY DEFINER
      SET search_path = pg_catalog, pg_temp
      AS $$
      BEGIN
        PERFORM set_config('pgvpd.sealed', concat_ws('|', kid, expires, encode(mac, 'hex'), context), false);
        IF coalesce(context, '') = '' OR pgvpd.sealed_context() IS NULL THEN
          PERFORM set_config('pgvpd.sealed', '', false);
          RAISE EXCEPTION 'pgvpd: context rejected' USING ERRCODE = 'invalid_authorization_specification';
        END IF;
        RETURN pgvpd.session_start()::text;
      END
      $$
    $create$;
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.sealed_context() RETURNS text
      LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
      SET search_path = pg_catalog, pg_temp
      AS $$
      DECLARE
        sealed text := current_setting('pgvpd.sealed', true);
        key text := split_part(sealed, '|', 1);
        expires text := split_part(sealed, '|', 2);
        mac text := split_part(sealed, '|', 3);
        context text := substr(sealed, length(key) + length(expires) + length(mac) + 4);
      BEGIN
        -- By hand: a regular expression takes ten times as long as all the rest.
        IF coalesce(context, '') = '' OR length(key) NOT BETWEEN 1 AND 9 OR length(expires) NOT BETWEEN 1 AND 18 OR length(mac) <> 64
           OR translate(key || expires, '0123456789', '') <> '' OR translate(mac, '0123456789abcdef', '') <> '' THEN
          RETURN NULL;
        END IF;
        IF NOT pgvpd.is_authentic(key::integer,
             concat_ws('|', 'pgvpd1s', pg_backend_pid(), pgvpd.session_start(), expires, current_database(), context),
             decode(mac, 'hex')) THEN
          -- Rows that stay away without a word would be taken for an answer.
          IF EXISTS (SELECT FROM pgvpd.context_keys k WHERE k.kid = key::integer AND NOT k.active) THEN
            RAISE EXCEPTION 'pgvpd: the key that sealed the context of this session has been retired'
              USING ERRCODE = 'invalid_authorization_specification', HINT = 'Connect again.';
          END IF;
          RETURN NULL;
        END IF;
        IF expires::bigint < extract(epoch FROM clock_timestamp()) THEN
          RAISE EXCEPTION 'pgvpd: the context of this session has expired'
            USING ERRCODE = 'invalid_authorization_specification', HINT = 'Connect again.';
        END IF;
        RETURN context;
      END
      $$
    $create$;
    REVOKE ALL ON FUNCTION pgvpd.sealed_context() FROM PUBLIC;
    EXECUTE format('ALTER FUNCTION pgvpd.sealed_context() OWNER TO %I', owner);
    EXECUTE $create$
      CREATE OR REPLACE FUNCTION pgvpd.context_value(name text) RETURNS text
      LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
      SET search_path = pg_catalog, pg_temp
      AS $$
      BEGIN
        RETURN nullif(pgvpd.sealed_context()::json ->> lower($1 COLLATE "C"), '');
      END
      $$
    $create$;
  END IF;

  EXECUTE format(
    'CREATE OR REPLACE FUNCTION pgvpd.seal_carrier() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE '
    'SET search_path = pg_catalog, pg_temp AS %L', format('SELECT %L::text', carrier));

  EXECUTE format('GRANT USAGE ON SCHEMA pgvpd TO %I', owner);
  EXECUTE format('ALTER TABLE pgvpd.context_keys OWNER TO %I', owner);
  FOREACH item IN ARRAY '{pgvpd.hello(),"pgvpd.set_context(integer,text,bigint,bytea)",pgvpd.context_value(text),"pgvpd.is_authentic(integer,text,bytea)"}'::text[] LOOP
    EXECUTE format('ALTER FUNCTION %s OWNER TO %I', item, owner);
  END LOOP;
  -- Nobody else reads a key, whatever default privileges say.
  FOR item IN
    SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
    WHERE c.oid = to_regclass('pgvpd.context_keys') AND a.grantee <> c.relowner
  LOOP
    EXECUTE format('REVOKE ALL ON pgvpd.context_keys FROM %s', item);
  END LOOP;
  -- Everybody may call these: without a key nobody gets further than to an empty context.
  GRANT EXECUTE ON FUNCTION pgvpd.hello(), pgvpd.set_context(integer, text, bigint, bytea), pgvpd.context_value(text), pgvpd.seal_carrier() TO PUBLIC;
END
$carrier$;
COMMENT ON FUNCTION pgvpd.hello() IS 'pgvpd: begins a context: clears the old one and says what the next HMAC has to cover';
COMMENT ON FUNCTION pgvpd.set_context(integer, text, bigint, bytea) IS 'pgvpd: takes a context with its HMAC';
COMMENT ON FUNCTION pgvpd.context_value(text) IS 'pgvpd: a value of the sealed context, or NULL';

-- The readers that are installed get the mark that fits the carrier: a parallel worker has a pid of its own.
DO $readers$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  carrier text := pgvpd.seal_carrier();
  reader regprocedure;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  IF carrier <> current_setting('pgvpd.installing_carrier') THEN
    RAISE EXCEPTION 'the context is not sealed: an earlier statement of sql/seal.sql has failed' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  FOR reader IN
    SELECT p.oid FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND p.prosrc ~ '(pgvpd[.]context_value|public[.]pgvpd_context)'
      AND p.proname IN ('current_tenant_id', 'pgvpd_context', 'pgvpd_context_array', 'pgvpd_context_uuid_array', 'pgvpd_context_contains', 'pgvpd_context_text_contains')
  LOOP
    EXECUTE format('ALTER FUNCTION %s PARALLEL %s', reader, CASE carrier WHEN 'signed' THEN 'RESTRICTED' ELSE 'SAFE' END);
  END LOOP;
  PERFORM set_config('pgvpd.installing_carrier', '', false), set_config('pgvpd.installing_owner', '', false);
  RAISE NOTICE 'the context is sealed (carrier: %): sessions that do not come through pgvpd see no rows', carrier;
  PERFORM set_config('search_path', previous_path, true);
END
$readers$;
