-- pgvpd: closes the side doors that row-level security leaves open. Tenants share a login role, and PostgreSQL shows and
-- lets a role do with its own sessions what no policy covers: read their queries, end them, drop policies. Optional, to be
-- run by a superuser, in EACH database that the login role may connect to (other databases show the same sessions):
--
--   psql -d your_database -v ON_ERROR_STOP=1 -f sql/hardening.sql
--
-- It is plain SQL and can be run again: once more after a major upgrade, after ALTER EXTENSION ... UPDATE, and for each
-- further login role. What a role that is no superuser may not do is said in a WARNING, with the statement an administrator
-- runs instead. Two settings, given before this file in the same session, name other roles than these:
--
--   SET pgvpd.login_role = 'pgvpd_login';   the role that the proxy's clients log in as; created where it is missing
--   SET pgvpd.app_role = 'app_user';        the role whose rights the tenants have; it is its only membership
--
-- Above each door stands what leaks through it, and what breaks for whom when it is closed. Each is reversible: the
-- statements that bring back what was taken are in pgvpd.hardening_undo, and sql/uninstall.sql runs them. What cannot be
-- closed (NOTIFY, LOCK TABLE, ALTER ROLE of one's own role, ...) is listed in docs/security.md.

-- Where the undo statements are kept. They are run with the rights of whoever runs sql/uninstall.sql, so nobody else may
-- own the table, or the schema, in which its owner could put another one in its place.
DO $preflight$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  app text;
  login text;
  installer record;
  item record;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  app := coalesce(nullif(current_setting('pgvpd.app_role', true), ''), 'app_user');
  login := coalesce(nullif(current_setting('pgvpd.login_role', true), ''), 'pgvpd_login');
  IF current_setting('server_version_num')::integer < 140000 THEN
    RAISE EXCEPTION 'pgvpd needs PostgreSQL 14 or newer; this server is %', current_setting('server_version')
      USING ERRCODE = 'feature_not_supported';
  ELSIF app = login THEN
    RAISE EXCEPTION 'pgvpd.login_role and pgvpd.app_role are both "%"', app
      USING ERRCODE = 'invalid_parameter_value', HINT = 'The login role has no rights of its own; it takes on the application role.';
  ELSIF to_regrole(quote_ident(app)) IS NULL THEN
    RAISE EXCEPTION 'role "%" does not exist', app
      USING ERRCODE = 'undefined_object', HINT = 'Run sql/setup.sql first, or name the role whose rights the tenants have: SET pgvpd.app_role = ''...'';';
  END IF;

  SELECT r.oid, r.rolname, r.rolsuper INTO installer FROM pg_roles r WHERE r.rolname = current_user;
  FOR item IN
    SELECT o.kind, o.name, o.note, r.rolname AS owner
    FROM (
      SELECT 'schema', 'pgvpd', n.nspowner, format(' GRANT USAGE, CREATE ON SCHEMA pgvpd TO %I;', pg_get_userbyid(n.nspowner))
      FROM pg_namespace n WHERE n.nspname = 'pgvpd'
      UNION ALL
      SELECT 'table', 'pgvpd.hardening_undo', c.relowner, '' FROM pg_class c WHERE c.oid = to_regclass('pgvpd.hardening_undo')
      UNION ALL
      SELECT 'function', 'pgvpd.guard_ddl()', p.proowner, '' FROM pg_proc p WHERE p.oid = to_regprocedure('pgvpd.guard_ddl()')
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

  IF to_regnamespace('pgvpd') IS NULL THEN
    CREATE SCHEMA pgvpd;
  END IF;
  IF NOT has_schema_privilege('public', 'pgvpd', 'USAGE') THEN
    GRANT USAGE ON SCHEMA pgvpd TO PUBLIC; -- as sql/setup.sql does: rights on what is in it are another matter
  END IF;

  IF to_regclass('pgvpd.hardening_undo') IS NULL THEN
    CREATE TABLE pgvpd.hardening_undo (statement text PRIMARY KEY);
    COMMENT ON TABLE pgvpd.hardening_undo IS 'pgvpd: what brings back the rights that sql/hardening.sql took; sql/uninstall.sql runs it';
    COMMENT ON COLUMN pgvpd.hardening_undo.statement IS 'for format(), with the name of the database as its argument: the table may be restored in another one';
    -- Default privileges may have given others the right to write what will be run here.
    REVOKE ALL ON pgvpd.hardening_undo FROM PUBLIC;
    FOR item IN
      SELECT DISTINCT a.grantee::regrole AS role FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
      WHERE c.oid = 'pgvpd.hardening_undo'::regclass AND a.grantee <> c.relowner
    LOOP
      EXECUTE format('REVOKE ALL ON pgvpd.hardening_undo FROM %s', item.role);
    END LOOP;
    -- pg_dump reads every table. There is nothing secret in this one.
    EXECUTE format('GRANT SELECT ON pgvpd.hardening_undo TO %s',
                   (SELECT d.datdba::regrole FROM pg_database d WHERE d.datname = current_database()));
  END IF;
  PERFORM set_config('search_path', previous_path, true);
END
$preflight$;

-- The roles.
--
-- pgvpd_login     What leaks: a session that logged in as the role with the rights (app_user) has them whatever it does.
--                 Here a session falls back, with RESET ROLE, on a role that may do nothing: it owns nothing, was granted
--                 nothing, inherits nothing, and can take on one role only, the one it has already.
--                 What breaks: nothing until app_user is made NOLOGIN; then whoever logs in as app_user. The proxy needs
--                 set_role = app_user.
-- pgvpd_maintenance  NOLOGIN; what the proxy's maintenance_user has to be a member of. It sees and ends the sessions of
--                 pgvpd_login and no others, which pg_signal_backend and pg_read_all_stats would allow.
--
-- Roles belong to the whole server: they are created once, get no password here, and are not dropped by sql/uninstall.sql.
DO $roles$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  app text;
  login text;
  -- From 16 on the options stand in the grant; before, they are the member's own.
  has_options boolean;
  refused text[] := '{}';
  statement text;
  role record;
  found_text text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  app := coalesce(nullif(current_setting('pgvpd.app_role', true), ''), 'app_user');
  login := coalesce(nullif(current_setting('pgvpd.login_role', true), ''), 'pgvpd_login');

  has_options := current_setting('server_version_num')::integer >= 160000;
  FOREACH statement IN ARRAY array_remove(ARRAY[
    CASE WHEN to_regrole(quote_ident(login)) IS NULL
      THEN format('CREATE ROLE %I LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION', login) END,
    CASE WHEN NOT EXISTS (SELECT FROM pg_auth_members m
                          WHERE m.roleid = to_regrole(quote_ident(app)) AND m.member = to_regrole(quote_ident(login))
                          HAVING bool_or(coalesce((to_jsonb(m) ->> 'set_option')::boolean, true))
                             AND NOT bool_or(m.admin_option OR coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, false)))
      THEN format('GRANT %I TO %I', app, login) || CASE WHEN has_options THEN ' WITH INHERIT FALSE, SET TRUE, ADMIN FALSE' ELSE '' END END,
    CASE WHEN to_regrole('pgvpd_maintenance') IS NULL
      THEN 'CREATE ROLE pgvpd_maintenance NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION' END,
    CASE WHEN NOT EXISTS (SELECT FROM pg_auth_members m
                          WHERE m.roleid = to_regrole(quote_ident(login)) AND m.member = to_regrole('pgvpd_maintenance'))
      THEN format('GRANT %I TO pgvpd_maintenance', login) || CASE WHEN has_options THEN ' WITH INHERIT TRUE, SET FALSE, ADMIN FALSE' ELSE '' END END
  ], NULL) LOOP
    BEGIN
      EXECUTE statement;
      RAISE NOTICE '%', statement;
    EXCEPTION
      WHEN insufficient_privilege OR undefined_object THEN refused := refused || statement;
      WHEN duplicate_object THEN NULL; -- somebody was faster
    END;
  END LOOP;
  IF refused <> '{}' THEN
    RAISE WARNING 'role % may not set up the roles of the proxy', quote_ident(current_user)
      USING HINT = format('Let an administrator run: %s;', array_to_string(refused, '; '));
  END IF;

  -- What was there before stays as it is, and is named where it makes the login role more than it should be.
  SELECT * INTO role FROM pg_roles r WHERE r.rolname = login;
  IF FOUND THEN
    found_text := concat_ws(', ', CASE WHEN role.rolsuper THEN 'SUPERUSER' END, CASE WHEN role.rolbypassrls THEN 'BYPASSRLS' END,
      CASE WHEN role.rolcreaterole THEN 'CREATEROLE' END, CASE WHEN role.rolcreatedb THEN 'CREATEDB' END,
      CASE WHEN role.rolreplication THEN 'REPLICATION' END, CASE WHEN role.rolinherit THEN 'INHERIT' END);
    IF found_text <> '' THEN
      RAISE WARNING 'role % is not what a login role should be: it has %', quote_ident(login), found_text
        USING HINT = format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB NOREPLICATION NOINHERIT;', login);
    END IF;

    SELECT string_agg(format('%I FROM %I', r.rolname, login), ', ' ORDER BY r.rolname) INTO found_text
      FROM pg_roles r
      WHERE r.rolname NOT IN (login, app) AND NOT role.rolsuper AND pg_has_role(role.oid, r.oid, 'MEMBER');
    IF found_text IS NOT NULL THEN
      RAISE WARNING 'role % can become more than %: SET ROLE leads from one membership to the next', quote_ident(login), quote_ident(app)
        USING HINT = format('Revoke, from it or from %I: %s.', app, found_text);
    END IF;

    IF NOT role.rolsuper AND pg_has_role(login, app, 'USAGE') THEN
      RAISE WARNING 'role % inherits the rights of %, so RESET ROLE takes nothing away', quote_ident(login), quote_ident(app)
        USING HINT = CASE WHEN has_options
          THEN coalesce((SELECT string_agg(format('REVOKE %I FROM %I GRANTED BY %s;', app, login, m.grantor::regrole), ' ')
                         FROM pg_auth_members m
                         WHERE m.roleid = to_regrole(quote_ident(app)) AND m.member = role.oid AND (to_jsonb(m) ->> 'inherit_option')::boolean),
                        'Revoke the membership that leads there.')
          ELSE format('ALTER ROLE %I NOINHERIT;', login) END;
    END IF;

    SELECT string_agg(DISTINCT CASE d.dbid WHEN 0 THEN pg_describe_object(d.classid, d.objid, 0)
                                    ELSE coalesce(CASE WHEN b.datname = current_database() THEN pg_describe_object(d.classid, d.objid, d.objsubid) END,
                                                  'something in database ' || quote_ident(b.datname)) END, ', ') INTO found_text
      FROM pg_shdepend d LEFT JOIN pg_database b ON b.oid = d.dbid
      WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = role.oid AND d.deptype IN ('o', 'a', 'r')
        AND NOT (d.classid = 'pg_database'::regclass AND d.deptype = 'a') -- CONNECT, where PUBLIC does not have it
        AND d.classid <> 'pg_auth_members'::regclass;
    IF found_text IS NOT NULL THEN
      RAISE WARNING 'role % has rights of its own on: %', quote_ident(login), found_text
        USING HINT = format('Grant them to %I instead, and revoke them from %I.', app, login);
    END IF;
  END IF;

  IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = app AND r.rolcanlogin) THEN
    RAISE NOTICE 'role % can still log in, with its rights and without the proxy''s login role', quote_ident(app)
      USING HINT = format('Give %I a password; in pgvpd.conf: set_role = %s, login_roles = %s; let clients connect as %s.TENANT. When none uses %I any more: ALTER ROLE %I NOLOGIN;',
                          login, app, login, login, app, app);
  END IF;
  PERFORM set_config('search_path', previous_path, true);
END
$roles$;

-- The rights that PostgreSQL gives to PUBLIC. They are taken from PUBLIC and granted to the roles that PostgreSQL made for
-- such work, so that a member of pg_monitor or pg_signal_backend notices nothing. Superusers never do.
DO $doors$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  app text;
  login text;
  door record;
  object record;
  role regrole;
  refused text[];
  still_open text[];
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  app := coalesce(nullif(current_setting('pgvpd.app_role', true), ''), 'app_user');
  login := coalesce(nullif(current_setting('pgvpd.login_role', true), ''), 'pgvpd_login');

  FOR door IN SELECT * FROM (VALUES
    -- What leaks: a tenant ends the queries and sessions of all others.
    -- What breaks: calling these by hand as an ordinary role; for an operator: GRANT pg_signal_backend TO operator. A
    -- client's own cancel (Ctrl-C, timeouts of drivers) travels as a CancelRequest and goes on working.
    (1, 'ending the sessions of others', 'pg_catalog', '^pg_(cancel|terminate)_backend$', '{pg_signal_backend,pgvpd_maintenance}'::name[]),

    -- What leaks: the text of other tenants' queries as they run, with the values in it; their addresses, application_name,
    -- and when they work. The view reads a function, which has to be closed as well, and so have the older functions, one
    -- for each column.
    -- What breaks: pg_stat_activity, pg_stat_replication, pg_stat_ssl and pg_stat_gssapi for roles that are not in pg_monitor
    -- or pg_read_all_stats, such as the owner of the database and the dashboards of GUI clients: GRANT pg_monitor TO operator.
    (2, 'seeing what other sessions do', 'pg_catalog', '^pg_stat_(activity|get_activity|get_backend_\w+)$', '{pg_read_all_stats,pgvpd_maintenance}'),

    -- What leaks: which table another tenant's COPY goes to, and how many rows and bytes it has moved.
    -- What breaks: the views pg_stat_progress_* outside of pg_monitor and pg_read_all_stats.
    (3, 'seeing the progress of other sessions', 'pg_catalog', '^pg_stat_get_progress_info$', '{pg_read_all_stats}'),

    -- What leaks: which tables others use at this moment, their transaction ids, and the numbers of their advisory locks,
    -- which applications make from the ids of rows.
    -- What breaks: pg_locks outside of pg_monitor and pg_read_all_stats.
    (4, 'seeing the locks of others', 'pg_catalog', '^(pg_locks|pg_lock_status)$', '{pg_read_all_stats}'),

    -- What leaks: the names of other tenants' prepared transactions, with which any session of the role can end them.
    -- What breaks: a transaction manager that looks for its own after a crash (XA recover) as an ordinary role.
    (5, 'seeing prepared transactions', 'pg_catalog', '^pg_prepared_xacts?$', '{pg_read_all_stats}'),

    -- What leaks: the queries of all tenants, with the values in utility statements, how often they ran and how many rows
    -- they gave. Closed where the extension is installed; its owner keeps his rights.
    -- What breaks: reading it outside of pg_monitor and pg_read_all_stats.
    (6, 'reading pg_stat_statements', 'pg_stat_statements', '^pg_stat_statements(_info)?$', '{pg_read_all_stats}'),

    -- What leaks: a large object belongs to the role that made it, so to all tenants: each can list, read and change it, and
    -- policies do not apply. Those that exist stay as they are; a WARNING below counts them.
    -- What breaks: creating large objects as an ordinary role, through a driver's large-object interface or an ORM's (@Lob
    -- on an oid column) too: use bytea, or GRANT EXECUTE on these functions to a role that no tenant uses.
    (7, 'creating large objects', 'pg_catalog', '^lo_(creat|create|from_bytea|import|export)$', '{}'),

    -- What leaks: with CREATE, a function, operator or view that is planted where the search_path finds it runs in other
    -- tenants' queries. With TEMPORARY, what one client leaves in a pooled connection is met by the next, and temporary
    -- tables fill the disk for all.
    -- What breaks: CREATE TEMPORARY TABLE, CREATE SCHEMA and CREATE EXTENSION for roles that neither own the database nor
    -- were granted it: GRANT TEMPORARY ON DATABASE d TO role.
    (8, 'creating in the database', 'database', NULL, '{}'),

    -- What leaks: the same as above. PostgreSQL 15 and newer give this right to nobody but the owner of the database;
    -- databases that were made before kept it.
    -- What breaks: migrations that do not run as the owner: GRANT CREATE ON SCHEMA public TO role.
    (9, 'creating in schema public', 'schema public', NULL, '{}')
  ) AS d(step, title, place, pattern, still_for) ORDER BY d.step
  LOOP
    refused := '{}';
    still_open := '{}';
    FOR object IN
      WITH members AS ( -- what belongs to an extension, not PostgreSQL itself
        SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
        WHERE e.extname = door.place AND d.deptype = 'e'),
      objects AS (
        SELECT 'EXECUTE' AS privilege, 'FUNCTION' AS keyword, format('%I.%I(%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes)) AS name,
               p.proowner AS owner, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.proname ~ door.pattern AND (n.nspname = door.place OR ('pg_proc'::regclass, p.oid) IN (TABLE members))
        UNION ALL
        SELECT 'SELECT', 'TABLE', format('%I.%I', n.nspname, c.relname), c.relowner, coalesce(c.relacl, acldefault('r', c.relowner))
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'v' AND c.relname ~ door.pattern AND (n.nspname = door.place OR ('pg_class'::regclass, c.oid) IN (TABLE members))
        UNION ALL
        SELECT p.privilege, 'DATABASE', quote_ident(d.datname), d.datdba, coalesce(d.datacl, acldefault('d', d.datdba))
        FROM pg_database d CROSS JOIN (VALUES ('CREATE'), ('TEMPORARY')) AS p(privilege)
        WHERE door.place = 'database' AND d.datname = current_database()
        UNION ALL
        SELECT 'CREATE', 'SCHEMA', 'public', n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner))
        FROM pg_namespace n WHERE door.place = 'schema public' AND n.nspname = 'public')
      SELECT o.*, EXISTS (SELECT FROM aclexplode(o.acl) a WHERE a.grantee = 0 AND a.privilege_type = o.privilege) AS is_open,
             pg_has_role(o.owner, 'USAGE') AS is_ours,
             -- For pgvpd.hardening_undo: the name of the database is filled in when it is run.
             CASE o.keyword WHEN 'DATABASE' THEN 'DATABASE %I' ELSE replace(concat_ws(' ', o.keyword, o.name), '%', '%%') END AS undo_name
      FROM objects o ORDER BY o.name, o.privilege
    LOOP
      IF NOT object.is_ours THEN
        IF object.is_open THEN
          refused := refused || format('REVOKE %s ON %s %s FROM PUBLIC', object.privilege, object.keyword, object.name);
        END IF;
        CONTINUE;
      END IF;
      IF object.is_open THEN
        EXECUTE format('REVOKE %s ON %s %s FROM PUBLIC', object.privilege, object.keyword, object.name);
        INSERT INTO pgvpd.hardening_undo VALUES (format('GRANT %s ON %s TO PUBLIC', object.privilege, object.undo_name)) ON CONFLICT DO NOTHING;
      END IF;
      FOR role IN
        SELECT r.oid FROM pg_roles r
        WHERE r.rolname = ANY (door.still_for)
          AND NOT EXISTS (SELECT FROM aclexplode(object.acl) a WHERE a.grantee = r.oid AND a.privilege_type = object.privilege)
      LOOP
        EXECUTE format('GRANT %s ON %s %s TO %s', object.privilege, object.keyword, object.name, role);
        INSERT INTO pgvpd.hardening_undo VALUES (format('REVOKE %s ON %s FROM %s', object.privilege, object.undo_name, role)) ON CONFLICT DO NOTHING;
      END LOOP;

      -- A grant to the tenants' own roles, or one to PUBLIC that another role made.
      still_open := still_open || ARRAY(
        SELECT format('%s on %s for %I', object.privilege, object.name, r.rolname)
        FROM pg_roles r
        WHERE r.rolname IN (app, login) AND NOT r.rolsuper
          AND CASE object.keyword WHEN 'FUNCTION' THEN has_function_privilege(r.oid, object.name, object.privilege)
                                  WHEN 'TABLE' THEN has_table_privilege(r.oid, object.name, object.privilege)
                                  WHEN 'DATABASE' THEN has_database_privilege(r.oid, current_database(), object.privilege)
                                  ELSE has_schema_privilege(r.oid, object.name, object.privilege) END);
    END LOOP;

    IF refused <> '{}' THEN
      RAISE WARNING 'role % may not close: %', quote_ident(current_user), door.title
        USING HINT = format('Let an administrator run this file, or: %s;', array_to_string(refused, '; '));
    END IF;
    IF still_open <> '{}' THEN
      RAISE WARNING 'still open: % (%)', door.title, array_to_string(still_open, ', ') USING HINT = 'Revoke it from that role, or from the role that it is a member of.';
    END IF;
  END LOOP;
  PERFORM set_config('search_path', previous_path, true);
END
$doors$;

-- The guard: an event trigger, which only a superuser can create (some managed platforms let their administrators).
--
-- What leaks: DROP OWNED BY app_user removes every policy that names app_user, for all tenants, and is open to each of them;
-- ALTER DEFAULT PRIVILEGES opens what the role creates later; the others plant code for other tenants' sessions, where the
-- application role may create something in some schema, or has TRIGGER on a table.
-- What breaks: these statements, for sessions that logged in as the roles in the function's setting, inside of functions too.
-- Owners, migrations under other roles and superusers notice nothing. Further roles:
--
--   ALTER FUNCTION pgvpd.guard_ddl() SET pgvpd.guarded_logins = '{app_user,pgvpd_login,another_login}';
--
-- No event trigger sees what belongs to the whole server: ALTER ROLE (a session can change the password and the settings of
-- its own role), REASSIGN OWNED, GRANT of a role.
DO $guard$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  app text;
  login text;
  logins text[];
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  app := coalesce(nullif(current_setting('pgvpd.app_role', true), ''), 'app_user');
  login := coalesce(nullif(current_setting('pgvpd.login_role', true), ''), 'pgvpd_login');

  -- The roles stand in a setting of the function, which beats the session's own: a table would be read with the rights of
  -- whoever runs DDL, by a superuser too, and might be another one by then.
  SELECT array_agg(DISTINCT u.login ORDER BY u.login) INTO logins
    FROM (
      SELECT unnest(ARRAY[app, login])
      UNION ALL
      SELECT unnest(substr(c.setting, strpos(c.setting, '=') + 1)::text[])
      FROM pg_proc p CROSS JOIN LATERAL unnest(p.proconfig) AS c(setting)
      WHERE p.oid = to_regprocedure('pgvpd.guard_ddl()') AND starts_with(c.setting, 'pgvpd.guarded_logins=')
    ) AS u(login);

  BEGIN
    EXECUTE format($create$
      CREATE OR REPLACE FUNCTION pgvpd.guard_ddl() RETURNS event_trigger
      LANGUAGE plpgsql
      SET search_path = pg_catalog, pg_temp
      SET pgvpd.guarded_logins = %L
      AS $body$
      BEGIN
        IF session_user = ANY (current_setting('pgvpd.guarded_logins')::name[]) THEN
          RAISE EXCEPTION '%% is not allowed to sessions of role %%', tg_tag, quote_ident(session_user)
            USING ERRCODE = 'insufficient_privilege', HINT = 'Tenants share this role. Run it as the owner of the objects.';
        END IF;
      END
      $body$
    $create$, logins);
    COMMENT ON FUNCTION pgvpd.guard_ddl() IS 'pgvpd: refuses statements by which one tenant could change what others have';
    IF EXISTS (SELECT FROM pg_event_trigger t WHERE t.evtname = 'pgvpd_guard') THEN
      DROP EVENT TRIGGER pgvpd_guard;
    END IF;
    CREATE EVENT TRIGGER pgvpd_guard ON ddl_command_start
      WHEN TAG IN ('DROP OWNED', 'ALTER DEFAULT PRIVILEGES', 'CREATE SCHEMA', 'CREATE FUNCTION', 'CREATE PROCEDURE', 'CREATE AGGREGATE',
                   'CREATE OPERATOR', 'CREATE TRIGGER')
      EXECUTE FUNCTION pgvpd.guard_ddl();
    INSERT INTO pgvpd.hardening_undo VALUES ('DROP EVENT TRIGGER IF EXISTS pgvpd_guard; DROP FUNCTION IF EXISTS pgvpd.guard_ddl()') ON CONFLICT DO NOTHING;
  EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'role % may not create event triggers: DROP OWNED and its like stay open', quote_ident(current_user)
      USING HINT = 'Let a superuser run this file. Until then, write policies TO PUBLIC only, as pgvpd_protect() does: DROP OWNED removes those that name a role.';
  END;
  PERFORM set_config('search_path', previous_path, true);
END
$guard$;

-- What no statement of this file closes, where it is found open.
DO $rest$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  app text;
  login text;
  objects bigint;
  databases text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  app := coalesce(nullif(current_setting('pgvpd.app_role', true), ''), 'app_user');
  login := coalesce(nullif(current_setting('pgvpd.login_role', true), ''), 'pgvpd_login');

  SELECT count(*) INTO objects
    FROM pg_largeobject_metadata m JOIN pg_roles r ON r.oid = m.lomowner WHERE r.rolname IN (app, login);
  IF objects > 0 THEN
    RAISE WARNING '% large objects belong to role %: every tenant can read and change them', objects, quote_ident(app)
      USING HINT = 'Move their contents to a bytea column of a protected table, then lo_unlink() them; pg_largeobject_metadata lists them.';
  END IF;
  IF current_setting('lo_compat_privileges')::boolean THEN
    RAISE WARNING 'lo_compat_privileges is on: everybody can read and change every large object' USING HINT = 'ALTER SYSTEM RESET lo_compat_privileges;';
  END IF;
  IF current_setting('max_prepared_transactions')::integer > 0 THEN
    RAISE WARNING 'tenants can prepare transactions: they outlive the session, hold their locks, and any session of the role can end them'
      USING HINT = 'ALTER SYSTEM SET max_prepared_transactions = 0, and restart, unless a transaction manager needs them.';
  END IF;

  -- Sessions are the server's, rights on its functions are a database's. A database where pgvpd_maintenance was granted one
  -- has had this file.
  SELECT string_agg(quote_ident(d.datname), ', ' ORDER BY d.datname) INTO databases
    FROM pg_database d CROSS JOIN pg_roles r
    WHERE r.rolname = login AND NOT r.rolsuper AND d.datallowconn AND d.datname <> current_database() AND has_database_privilege(r.oid, d.oid, 'CONNECT')
      AND NOT EXISTS (SELECT FROM pg_shdepend s WHERE s.dbid = d.oid AND s.classid = 'pg_proc'::regclass
                        AND s.refclassid = 'pg_authid'::regclass AND s.refobjid = to_regrole('pgvpd_maintenance'));
  IF databases IS NOT NULL THEN
    RAISE WARNING 'role % may connect to databases whose doors are open, and which show the sessions of this one: %', quote_ident(login), databases
      USING HINT = format('Run this file there too, or: REVOKE CONNECT ON DATABASE %s FROM PUBLIC; and grant it to those who need it.', databases);
  END IF;
  PERFORM set_config('search_path', previous_path, true);
END
$rest$;
