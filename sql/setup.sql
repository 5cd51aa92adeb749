-- pgvpd: what a database needs before its tables can be protected. Run it first, then sql/helpers.sql if you want those:
--
--   psql -d your_database -f sql/setup.sql
--
-- It is plain SQL: psql, a migration tool, or any driver that sends several statements in one query can run it. Running
-- it again, or over the SQL of pgvpd 1.0, replaces the functions and keeps every policy that uses them. A superuser is
-- not needed: what the installing role may not do is said in a WARNING, with the statement an administrator runs instead.
--
--   public.current_tenant_id()       the tenant of this session; policies call it
--   public.pgvpd_protect(table)      row-level security for one table
--   public.pgvpd_status()            which tables isolate tenants, and why the others do not
--   schema pgvpd                     what these functions are built from; nothing there is meant to be called by hand
--
-- The statements take effect one by one (there is no BEGIN here, so that a caller's own transaction stays the caller's).
-- Every function pins its search_path; the DO blocks do the same by hand and put the installer's back.

-- May we install at all? Every name is spelled out in this block: it runs with whatever search_path the installer has.
DO $preflight$
BEGIN
  IF pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.<) 140000 THEN
    RAISE EXCEPTION 'pgvpd needs PostgreSQL 14 or newer; this server is %', pg_catalog.current_setting('server_version')
      USING ERRCODE = 'feature_not_supported';
  END IF;

  IF pg_catalog.to_regnamespace('public') IS NULL THEN
    RAISE EXCEPTION 'pgvpd installs its functions in schema public, which this database does not have'
      USING ERRCODE = 'invalid_schema_name', HINT = 'CREATE SCHEMA public;';
  ELSIF NOT pg_catalog.has_schema_privilege('public', 'CREATE') THEN
    -- PostgreSQL 15 took this right from PUBLIC; the database's owner keeps it.
    RAISE EXCEPTION 'role % may not create functions in schema public', pg_catalog.quote_ident(current_user)
      USING ERRCODE = 'insufficient_privilege',
            HINT = pg_catalog.format('Install as the owner of the database, or let its owner run: GRANT CREATE ON SCHEMA public TO %I;', current_user);
  END IF;

  IF pg_catalog.to_regnamespace('pgvpd') IS NOT NULL THEN
    IF NOT pg_catalog.has_schema_privilege('pgvpd', 'CREATE') THEN
      RAISE EXCEPTION 'role % may not create functions in schema pgvpd, which another role installed', pg_catalog.quote_ident(current_user)
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Install as the role that installed it before, or as a superuser.';
    END IF;
  ELSIF NOT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') THEN
    RAISE EXCEPTION 'role % may not create the schema pgvpd in this database', pg_catalog.quote_ident(current_user)
      USING ERRCODE = 'insufficient_privilege',
            HINT = pg_catalog.format('Let an administrator run: CREATE SCHEMA pgvpd AUTHORIZATION %I;', current_user);
  ELSE
    CREATE SCHEMA pgvpd;
  END IF;

  -- Whoever owns a table may protect it, so everyone may reach these functions. They run with their caller's rights.
  IF NOT pg_catalog.has_schema_privilege('public', 'pgvpd', 'USAGE') THEN
    GRANT USAGE ON SCHEMA pgvpd TO PUBLIC;
  END IF;
END
$preflight$;

-- The objects that depend on a function, as text for a message; NULL when there are none.
CREATE OR REPLACE FUNCTION pgvpd.users_of(function_oid oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), ', ')
  FROM pg_depend d
  WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = function_oid AND d.deptype IN ('n', 'a')
$$;

-- Clears the way for CREATE OR REPLACE FUNCTION public.<function_name>: removes a function of that name that has another
-- signature (two of them would shadow each other, or make every call ambiguous) and one whose result or argument names
-- PostgreSQL would not replace. It never uses CASCADE: a function that a policy needs stays, and the message says so.
CREATE OR REPLACE PROCEDURE pgvpd.make_way(
  function_name text, argument_names text[], argument_types regtype[], result text, default_count integer DEFAULT 0
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  existing record;
BEGIN
  FOR existing IN
    SELECT p.oid, p.proowner, p.prokind,
           p.oid::regprocedure::text AS signature,
           ARRAY(SELECT unnest(p.proargtypes))::regtype[] = argument_types AS has_our_types,
           pg_get_function_result(p.oid) AS result,
           coalesce(p.proargnames[1:p.pronargs], '{}') AS names,
           p.pronargdefaults,
           pgvpd.users_of(p.oid) AS users
    FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND p.proname = function_name
  LOOP
    IF NOT pg_has_role(existing.proowner, 'USAGE') THEN
      RAISE EXCEPTION 'function % belongs to role %', existing.signature, pg_get_userbyid(existing.proowner)
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('Install as that role, or let it run: ALTER FUNCTION %s OWNER TO %I;', existing.signature, current_user);
    END IF;

    IF pg_get_userbyid(existing.proowner) = 'app_user' AND current_user <> 'app_user' THEN
      -- CREATE OR REPLACE would leave it to the tenants' role, which could then write its own.
      EXECUTE format('ALTER ROUTINE %s OWNER TO %I', existing.signature, current_user);
      RAISE WARNING 'function % belonged to role app_user', existing.signature
        USING HINT = 'It was taken over. Let nobody but trusted roles create objects: REVOKE CREATE ON SCHEMA public FROM PUBLIC, app_user;';
    END IF;

    IF existing.has_our_types AND existing.prokind = 'f' AND existing.result = make_way.result
       AND existing.names = argument_names AND existing.pronargdefaults <= default_count THEN
      CONTINUE; -- CREATE OR REPLACE keeps it, its grants and everything that uses it
    END IF;

    IF NOT existing.has_our_types AND NOT starts_with(function_name, 'pgvpd_') THEN
      -- current_tenant_id(something) is nobody's but the application's
      RAISE NOTICE 'function % is not from pgvpd and stays; pgvpd uses %() without arguments', existing.signature, function_name;
    ELSIF existing.users IS NULL THEN
      EXECUTE format('DROP ROUTINE %s', existing.signature);
      RAISE NOTICE 'removed function % (result: %) of an earlier installation', existing.signature, coalesce(existing.result, 'none');
    ELSIF existing.has_our_types THEN
      RAISE EXCEPTION 'function % (result: %) cannot be replaced: it has another result or other arguments than pgvpd''s, and is used by %',
                      existing.signature, coalesce(existing.result, 'none'), existing.users
        USING ERRCODE = 'dependent_objects_still_exist',
              HINT = format('It was left as it is. Rename it (ALTER FUNCTION %s RENAME TO ...: what uses it follows), install again, then protect those tables again.', existing.signature);
    ELSE
      RAISE WARNING 'function % of an earlier installation stays: it is used by %', existing.signature, existing.users
        USING HINT = format('Protect those tables again, then: DROP FUNCTION %s;', existing.signature);
    END IF;
  END LOOP;
END
$$;

-- Where the context is read from: a session variable here, which its session can change. sql/seal.sql puts functions of
-- the same names in place that read a context nobody can forge; installing this file again leaves those alone.
DO $readers$
BEGIN
  IF pg_catalog.to_regprocedure('pgvpd.seal_carrier()') IS NULL THEN
    CREATE FUNCTION pgvpd.seal_carrier() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
      SET search_path = pg_catalog, pg_temp AS $$ SELECT 'none' $$;
    COMMENT ON FUNCTION pgvpd.seal_carrier() IS 'pgvpd: how the context is sealed: none, slot or signed';
  END IF;
  IF pg_catalog.to_regprocedure('pgvpd.context_value(text)') IS NULL THEN
    CREATE FUNCTION pgvpd.context_value(name text) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE
      SET search_path = pg_catalog, pg_temp AS $$ BEGIN RETURN nullif(current_setting($1, true), ''); END $$;
  END IF;
  GRANT EXECUTE ON FUNCTION pgvpd.seal_carrier(), pgvpd.context_value(text) TO PUBLIC;
EXCEPTION WHEN insufficient_privilege THEN
  NULL; -- sealed by another role, which has granted it
END
$readers$;

-- Creates a function that policies call: it reads the session's context and nothing else. All of them share one form:
-- STABLE (an IMMUTABLE one is folded into a cached plan, which then shows the previous tenant's rows), PARALLEL SAFE (but
-- for the signed carrier: a worker has another pid), and no EXCEPTION block (a subtransaction per call, and an error in parallel workers). The argument names of an installed
-- function stay as they are, because PostgreSQL cannot rename them below a policy; hence $1 and $2 in the bodies.
CREATE OR REPLACE PROCEDURE pgvpd.install_reader(
  function_name text, argument_names text[], argument_types regtype[], result text, body text
)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  names text[] := (
    SELECT coalesce(p.proargnames[1:p.pronargs], array_fill(''::text, ARRAY[p.pronargs::integer]))
    FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND p.proname = function_name
      AND ARRAY(SELECT unnest(p.proargtypes))::regtype[] = argument_types AND p.prokind = 'f' AND p.pronargs > 0);
  arguments text;
BEGIN
  names := coalesce(names, argument_names);
  CALL pgvpd.make_way(function_name, CASE WHEN '' <> ALL (names) THEN names ELSE array_remove(names, '') END, argument_types, result);

  SELECT coalesce(string_agg(concat_ws(' ', quote_ident(nullif(a.name, '')), a.type::regtype::text), ', ' ORDER BY a.position), '')
    INTO arguments
    FROM unnest(names, argument_types) WITH ORDINALITY AS a(name, type, position);
  EXECUTE format(
    'CREATE OR REPLACE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql STABLE PARALLEL %s '
    'SET search_path = pg_catalog, pg_temp AS %L', function_name, arguments, result,
    CASE pgvpd.seal_carrier() WHEN 'signed' THEN 'RESTRICTED' ELSE 'SAFE' END, body);
  -- A policy runs with the rights of the role that queries, and default privileges may have taken EXECUTE from PUBLIC.
  EXECUTE format('GRANT EXECUTE ON FUNCTION public.%I(%s) TO PUBLIC', function_name, arguments);
END
$$;

-- The tenant of this session: NULL when unset, and when empty, which is what SET LOCAL leaves behind after its
-- transaction. NULL equals nothing, so no tenant means no rows.
CALL pgvpd.install_reader('current_tenant_id', '{}', '{}', 'text', $body$
BEGIN
  RETURN pgvpd.context_value('app.current_tenant_id');
END
$body$);
COMMENT ON FUNCTION public.current_tenant_id() IS
  'pgvpd: the tenant of this session, or NULL. In policies: tenant_id = (SELECT current_tenant_id())';

-- The table that a name means. A name is read as SQL reads it ('contacts', 'crm.contacts', '"Contacts"') and, because
-- pgvpd 1.0 took it literally, also as it stands ('Contacts'); where these are two tables, it refuses to guess.
-- Unqualified names are looked up in lookup_path, which callers fill with their own search_path.
CREATE OR REPLACE FUNCTION pgvpd.find_table(table_name text, lookup_path text) RETURNS regclass
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  literal regclass;
  parsed regclass;
  dotted regclass;
  relation record;
  elsewhere text;
BEGIN
  IF coalesce(table_name, '') = '' THEN
    RAISE EXCEPTION 'table_name is missing' USING ERRCODE = 'invalid_parameter_value';
  END IF;

  -- Only fully qualified calls while the caller's path is in force.
  PERFORM pg_catalog.set_config('search_path', coalesce(lookup_path, 'public'), true);
  literal := pg_catalog.to_regclass(pg_catalog.quote_ident(table_name));
  BEGIN
    parsed := pg_catalog.to_regclass(table_name);
  EXCEPTION WHEN invalid_name OR syntax_error OR feature_not_supported OR undefined_table THEN
    parsed := NULL; -- not a name in SQL's syntax (before 16 to_regclass raises); it may still be a literal one
  END;
  IF pg_catalog.strpos(table_name, '.') OPERATOR(pg_catalog.>) 0 THEN
    dotted := pg_catalog.to_regclass(pg_catalog.concat(
      pg_catalog.quote_ident(pg_catalog.split_part(table_name, '.', 1)), '.',
      pg_catalog.quote_ident(pg_catalog.substr(table_name, pg_catalog.strpos(table_name, '.') OPERATOR(pg_catalog.+) 1))));
  END IF;
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

  IF (SELECT count(DISTINCT t) FROM unnest(ARRAY[literal, parsed, dotted]) AS t) > 1 THEN
    RAISE EXCEPTION 'table name "%" can mean %', table_name,
                    (SELECT string_agg(DISTINCT t::text, ' or ') FROM unnest(ARRAY[literal, parsed, dotted]) AS t)
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Write the name as above, with its schema and quotes.';
  END IF;

  SELECT c.oid, c.relkind, c.relpersistence, format('%I.%I', n.nspname, c.relname) AS name, n.nspname
    INTO relation
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = coalesce(literal, parsed, dotted);
  IF NOT FOUND THEN
    SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY n.nspname) INTO elsewhere
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relname IN (table_name, lower(table_name)) AND c.relkind IN ('r', 'p');
    RAISE EXCEPTION 'table "%" does not exist', table_name
      USING ERRCODE = 'undefined_table',
            DETAIL = format('Schemas that were searched: %s.', lookup_path),
            HINT = coalesce(format('There is %s: name the schema.', elsewhere), 'Give its name as in SQL: contacts, crm.contacts or "Contacts".');
  END IF;

  IF relation.relkind NOT IN ('r', 'p') THEN
    RAISE EXCEPTION '% is %', relation.name,
        CASE relation.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table'
                           WHEN 'S' THEN 'a sequence' WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index' WHEN 'c' THEN 'a composite type'
                           ELSE 'not a table' END
      USING ERRCODE = 'wrong_object_type',
            DETAIL = 'Row-level security exists for ordinary and partitioned tables only.',
            HINT = CASE relation.relkind
                     WHEN 'v' THEN 'Protect the tables that the view reads; from PostgreSQL 15 on, also: ALTER VIEW ... SET (security_invoker = true).'
                     WHEN 'm' THEN 'A materialized view holds the rows of all tenants: take the application role''s rights on it away.'
                     WHEN 'f' THEN 'Protect the table on the other server, or take the application role''s rights on this one away.'
                     ELSE 'Name an ordinary or partitioned table.' END;
  ELSIF relation.relpersistence = 't' THEN
    RAISE EXCEPTION '% is a temporary table', relation.name
      USING ERRCODE = 'wrong_object_type', HINT = 'Name the schema of the permanent table of that name.';
  ELSIF relation.nspname IN ('pg_catalog', 'information_schema', 'pg_toast') THEN
    RAISE EXCEPTION '% is a system table', relation.name
      USING ERRCODE = 'wrong_object_type', HINT = 'Name a table of your own.';
  END IF;
  RETURN relation.oid;
END
$$;

-- A column by its literal name or, failing that, as SQL would read the name; with its type, domains resolved.
CREATE OR REPLACE FUNCTION pgvpd.find_column(target regclass, given_name text, OUT column_name text, OUT base_type regtype)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  names text[];
  underlying oid;
BEGIN
  SELECT a.attname, a.atttypid INTO column_name, underlying
    FROM pg_attribute a
    WHERE a.attrelid = target AND a.attname = given_name::name AND a.attnum > 0 AND NOT a.attisdropped;
  IF NOT FOUND THEN
    BEGIN
      names := parse_ident(given_name);
    EXCEPTION WHEN invalid_parameter_value THEN
      names := NULL;
    END;
    SELECT a.attname, a.atttypid INTO column_name, underlying
      FROM pg_attribute a
      WHERE a.attrelid = target AND a.attname = names[1]::name AND cardinality(names) = 1 AND a.attnum > 0 AND NOT a.attisdropped;
  END IF;
  IF column_name IS NULL THEN
    RAISE EXCEPTION 'table % has no column "%"', target, given_name
      USING ERRCODE = 'undefined_column',
            HINT = format('Its columns are: %s.', (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
              FROM pg_attribute a WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped));
  END IF;

  base_type := underlying;
  WHILE (SELECT t.typtype = 'd' FROM pg_type t WHERE t.oid = underlying) LOOP
    SELECT t.typbasetype INTO underlying FROM pg_type t WHERE t.oid = underlying;
    base_type := underlying;
  END LOOP;
END
$$;

-- What turns a text value of the context into the column's type, so that it is the value that is converted, once per
-- query, and never the column: an index on the column stays usable. Never with a length: 'acme-2'::varchar(4) is 'acme'.
-- NULL for a type that pgvpd does not compare.
CREATE OR REPLACE FUNCTION pgvpd.cast_to(base_type regtype) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE base_type::oid
    WHEN 'text'::regtype THEN ''
    WHEN 'varchar'::regtype THEN ''
    WHEN 'bpchar'::regtype THEN '::pg_catalog.bpchar'
    WHEN 'uuid'::regtype THEN '::pg_catalog.uuid'
    WHEN 'int2'::regtype THEN '::pg_catalog.int2'
    WHEN 'int4'::regtype THEN '::pg_catalog.int4'
    WHEN 'int8'::regtype THEN '::pg_catalog.int8'
  END
$$;

-- What a role could do to a table in spite of its policies; an empty array when nothing. A role that does not exist
-- has no such powers.
CREATE OR REPLACE FUNCTION pgvpd.role_hazards(target regclass, app_role text) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
  SELECT array_remove(ARRAY[
    CASE WHEN r.rolsuper THEN format('role %I is a superuser: policies do not bind it', r.rolname)
         WHEN r.rolbypassrls THEN format('role %I has BYPASSRLS: policies do not bind it', r.rolname) END,
    CASE WHEN NOT r.rolsuper THEN (
      SELECT format('role %I is a member of %s, which policies do not bind', r.rolname, string_agg(quote_ident(m.rolname), ', ' ORDER BY m.rolname))
      FROM pg_roles m
      WHERE (m.rolsuper OR m.rolbypassrls) AND m.oid <> r.oid AND pg_has_role(r.oid, m.oid, 'MEMBER')
      HAVING count(*) > 0) END,
    CASE WHEN r.rolsuper THEN NULL
         WHEN c.relowner = r.oid THEN format('role %I owns the table and can switch its protection off', r.rolname)
         WHEN pg_has_role(r.oid, c.relowner, 'MEMBER')
           THEN format('role %I is a member of the owner %I and can switch the protection off', r.rolname, pg_get_userbyid(c.relowner)) END,
    CASE WHEN NOT r.rolsuper AND NOT pg_has_role(r.oid, c.relowner, 'MEMBER') THEN (
      SELECT format('role %I holds %s, which policies do not cover', r.rolname, string_agg(p, ', '))
      FROM unnest(ARRAY['TRUNCATE', 'REFERENCES', 'TRIGGER']) AS p
      WHERE has_table_privilege(r.oid, c.oid, p)
      HAVING count(*) > 0) END
  ], NULL)
  FROM pg_class c LEFT JOIN pg_roles r ON r.rolname = app_role
  WHERE c.oid = target
$$;

-- Puts one permissive policy for everybody on a table and everything below it (a policy on a partitioned table does not
-- hold for those who name a partition), forces row-level security, and lets the application role in. predicate is SQL
-- that the callers composed; it is parsed with policy_path.
CREATE OR REPLACE FUNCTION pgvpd.apply_policy(target regclass, name_prefix text, predicate text, app_role text, policy_path text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  member record;
  policy name;
  others text;
  hazard text;
  statement text;
  lacking record;
BEGIN
  FOR member IN
    WITH RECURSIVE family(oid) AS (
      SELECT target::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
    SELECT c.oid, c.relname, c.relkind, format('%I.%I', n.nspname, c.relname) AS name
    FROM family f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    ORDER BY c.oid <> target, name
  LOOP
    IF member.relkind NOT IN ('r', 'p') THEN
      RAISE WARNING '% is a foreign table below %: row-level security does not exist for it', member.name, target
        USING HINT = format('REVOKE ALL ON %s FROM PUBLIC, and from every role that tenants use.', member.name);
      CONTINUE;
    END IF;

    -- The cast cuts the name where PostgreSQL would, at 63 bytes: policy names are unique per table, so nothing collides.
    policy := (name_prefix || member.relname)::name;
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', member.name);
    IF EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = member.oid AND p.polname = policy) THEN
      EXECUTE format('DROP POLICY %I ON %s', policy, member.name);
    END IF;
    -- TO PUBLIC: a policy TO app_user is gone when a tenant runs DROP OWNED BY app_user.
    statement := format('CREATE POLICY %I ON %s AS PERMISSIVE FOR ALL TO PUBLIC USING (%s) WITH CHECK (%s)', policy, member.name, predicate, predicate);
    PERFORM pg_catalog.set_config('search_path', policy_path, true);
    EXECUTE statement;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    SELECT string_agg(quote_ident(p.polname), ', ' ORDER BY p.polname) INTO others
      FROM pg_policy p WHERE p.polrelid = member.oid AND p.polpermissive AND p.polname <> policy;
    IF others IS NOT NULL THEN
      RAISE WARNING '% has other permissive policies: %', member.name, others
        USING DETAIL = 'Permissive policies add up: a row that one of them allows is visible, whatever the others say.',
              HINT = format('DROP POLICY ... ON %s, or create them AS RESTRICTIVE.', member.name);
    END IF;
  END LOOP;

  IF app_role IS NULL THEN
    RETURN;
  ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = app_role) THEN
    RAISE WARNING 'role "%" does not exist: % is protected, but nobody was given rights on it', app_role, target
      USING HINT = format('Create the role, then protect the table again, or: GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I;', target, app_role);
    RETURN;
  END IF;

  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE %s TO %I', target, app_role);
  -- What an INSERT needs besides: the schema, and the sequences that belong to a column or that a default reads.
  FOR lacking IN
    SELECT n.oid AS schema_oid, NULL::oid AS sequence_oid, format('GRANT USAGE ON SCHEMA %I TO %I', n.nspname, app_role) AS remedy
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid = target AND NOT has_schema_privilege(app_role, n.oid, 'USAGE')
    UNION ALL
    SELECT NULL, s.oid, format('GRANT USAGE ON SEQUENCE %s TO %I', s.oid::regclass, app_role)
      FROM pg_class s
      WHERE CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(app_role, s.oid, 'USAGE') END
        AND s.oid IN (
          SELECT d.objid FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
              AND d.refobjid = target AND d.deptype IN ('a', 'i')
          UNION
          SELECT d.refobjid FROM pg_depend d JOIN pg_attrdef a ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid
            WHERE d.refclassid = 'pg_class'::regclass AND a.adrelid = target)
  LOOP
    BEGIN
      EXECUTE lacking.remedy;
    EXCEPTION WHEN insufficient_privilege THEN
      NULL; -- said below, as for a GRANT that does nothing: without the grant option that is only a warning
    END;
    IF NOT coalesce(has_schema_privilege(app_role, lacking.schema_oid, 'USAGE'), has_sequence_privilege(app_role, lacking.sequence_oid, 'USAGE')) THEN
      RAISE WARNING 'role % may not grant what % needs for %', quote_ident(current_user), quote_ident(app_role), target
        USING HINT = format('Let its owner run: %s;', lacking.remedy);
    END IF;
  END LOOP;

  FOREACH hazard IN ARRAY pgvpd.role_hazards(target, app_role) LOOP
    RAISE WARNING '% is protected, but %', target, hazard
      USING HINT = CASE WHEN hazard LIKE '%which policies do not cover'
                        THEN format('REVOKE TRUNCATE, REFERENCES, TRIGGER ON %s FROM %I, PUBLIC;', target, app_role)
                        ELSE format('Tenants must use a role without this power; see SELECT * FROM pgvpd_status(%L);', app_role) END;
  END LOOP;
END
$$;

-- lookup_path is the caller's search_path: a default is evaluated before the function's own, pinned one takes over.
CALL pgvpd.make_way('pgvpd_protect', '{table_name,tenant_column,app_role,lookup_path}', '{text,text,text,text}', 'void', 3);
CREATE OR REPLACE FUNCTION public.pgvpd_protect(
  table_name text,
  tenant_column text DEFAULT 'tenant_id',
  app_role text DEFAULT 'app_user',
  lookup_path text DEFAULT pg_catalog.current_setting('search_path')
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  target regclass := pgvpd.find_table(table_name, lookup_path);
  tenant record;
  conversion text;
  attribute record;
BEGIN
  SELECT * INTO tenant FROM pgvpd.find_column(target, tenant_column);
  conversion := pgvpd.cast_to(tenant.base_type);
  IF conversion IS NULL THEN
    RAISE EXCEPTION 'column % of % has type %, which pgvpd_protect does not compare with a tenant',
                    quote_ident(tenant.column_name), target, tenant.base_type
      USING ERRCODE = 'datatype_mismatch',
            HINT = 'Allowed are text, varchar, char, uuid, smallint, integer, bigint and domains over them. For any other type write the policy by hand.';
  END IF;

  -- (SELECT ...) is evaluated once per query instead of once per row.
  PERFORM pgvpd.apply_policy(target, 'pgvpd_tenant_isolation_',
    format('%I = (SELECT public.current_tenant_id()%s)', tenant.column_name, conversion), app_role, 'pg_catalog, pg_temp');

  SELECT a.attnum, a.attnotnull INTO attribute FROM pg_attribute a WHERE a.attrelid = target AND a.attname = tenant.column_name;
  IF NOT attribute.attnotnull THEN
    RAISE NOTICE 'column % of % may be NULL: no tenant sees such rows', quote_ident(tenant.column_name), target
      USING HINT = format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', target, tenant.column_name);
  END IF;
  IF NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = target AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = attribute.attnum) THEN
    RAISE NOTICE 'no index of % starts with %: every query reads the rows of all tenants', target, quote_ident(tenant.column_name)
      USING HINT = format('CREATE INDEX ON %s (%I);', target, tenant.column_name);
  END IF;
END
$$;
COMMENT ON FUNCTION public.pgvpd_protect(text, text, text, text) IS
  'pgvpd: isolates the tenants of a table by one column, and grants the application role its use';

-- Does an expression of a policy read the context of the session? Text in quotes does not count.
CREATE OR REPLACE FUNCTION pgvpd.reads_context(expression text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN regexp_replace(expression, '''([^'']|'''')*''', '''''', 'g') ~ '\m(current_tenant_id|pgvpd_context\w*|current_setting)\(';
END
$$;

-- Does it read a session variable, although the context of this database is sealed? SQL of a tenant can set that.
CREATE OR REPLACE FUNCTION pgvpd.reads_past_seal(expression text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN pgvpd.seal_carrier() <> 'none' AND regexp_replace(expression, '''([^'']|'''')*''', '''''', 'g') ~ '\mcurrent_setting\(';
END
$$;

-- Does it say "... OR the context IS NULL", which opens the table to a session without a tenant?
CREATE OR REPLACE FUNCTION pgvpd.opens_without_context(expression text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN regexp_replace(expression, '''([^'']|'''')*''', '''''', 'g')
         ~ '\m(current_tenant_id|pgvpd_context\w*|current_setting)\(((?!\m(AND|OR)\M)[^=<>~])*\) IS NULL\M';
END
$$;

-- Why a table does not isolate tenants that use app_role; an empty array when it does. It judges shape, not meaning: a
-- policy has to read the context and compare it with a column, and whether it compares the right one is for its author.
CREATE OR REPLACE FUNCTION pgvpd.isolation_gaps(target regclass, app_role text) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  tbl record;
  policy record;
  gaps text[] := '{}';
  gap text;
BEGIN
  SELECT c.*, r.oid AS role_oid INTO tbl FROM pg_class c LEFT JOIN pg_roles r ON r.rolname = app_role WHERE c.oid = target;

  IF NOT tbl.relrowsecurity THEN
    RETURN ARRAY['row-level security is not enabled' || CASE
      WHEN tbl.role_oid IS NOT NULL AND NOT has_table_privilege(tbl.role_oid, target, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')
        AND NOT has_any_column_privilege(tbl.role_oid, target, 'SELECT, INSERT, UPDATE')
      THEN format(' (role %I has no rights on the table)', app_role) ELSE '' END];
  END IF;
  IF NOT tbl.relforcerowsecurity THEN
    gaps := gaps || format('row-level security is not forced: the owner %I sees every row', pg_get_userbyid(tbl.relowner));
  END IF;
  gaps := gaps || pgvpd.role_hazards(target, app_role);

  -- Policies that apply to the role; all of them when it does not exist. One row for what a policy shows (USING, for
  -- SELECT, UPDATE and DELETE) and one for what it lets in (WITH CHECK or else USING, for INSERT and UPDATE). A
  -- permissive policy that reads no context is harmless only below a restrictive one that does.
  FOR policy IN
    WITH applying AS (
      SELECT p.oid, p.polname, p.polcmd, p.polpermissive, 0::oid = ANY (p.polroles) AS is_public,
             pg_get_expr(p.polqual, p.polrelid) AS shows, pg_get_expr(coalesce(p.polwithcheck, p.polqual), p.polrelid) AS admits,
             EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = target AND d.refobjsubid > 0) AS has_column
      FROM pg_policy p
      WHERE p.polrelid = target
        AND (0::oid = ANY (p.polroles) OR tbl.role_oid IS NULL
             OR EXISTS (SELECT FROM unnest(p.polroles) AS u(role) WHERE pg_has_role(tbl.role_oid, u.role, 'MEMBER')))),
    judged AS MATERIALIZED (
      SELECT a.polname, a.polcmd, a.polpermissive, a.is_public, e.aspect, e.commands,
             CASE WHEN NOT pgvpd.reads_context(e.expression) THEN format('does not read the tenant in its %s', e.clause)
                  WHEN pgvpd.reads_past_seal(e.expression) THEN 'reads a session variable, which is not sealed'
                  WHEN NOT a.has_column THEN 'reads the tenant, but compares it with no column of the table'
                  WHEN pgvpd.opens_without_context(e.expression) THEN 'lets rows through when there is no tenant' END AS defect
      FROM applying a
      CROSS JOIN LATERAL (VALUES
        ('shows', 'USING', a.shows, '{r,w,d}'::text[]),
        ('admits', CASE WHEN a.admits IS NOT DISTINCT FROM a.shows THEN 'USING' ELSE 'WITH CHECK' END, a.admits, '{a,w}')
      ) AS e(aspect, clause, expression, commands)
      WHERE e.expression IS NOT NULL),
    uses AS (
      SELECT j.*, c.command FROM judged j CROSS JOIN LATERAL unnest(j.commands) AS c(command) WHERE j.polcmd::text IN (c.command, '*'))
    SELECT DISTINCT u.polname, u.defect, u.is_public,
           u.polpermissive AND u.defect IS NOT NULL AND NOT EXISTS (
             SELECT FROM uses g
             WHERE NOT g.polpermissive AND g.is_public AND g.aspect = u.aspect AND g.command = u.command AND g.defect IS NULL) AS widens
    FROM uses u
    ORDER BY u.polname, u.defect
  LOOP
    IF policy.widens THEN
      gaps := gaps || format('policy %I %s', policy.polname, policy.defect);
    END IF;
    IF NOT policy.is_public AND policy.defect IS NULL THEN
      gap := format('policy %I is not TO PUBLIC: whoever is its role can remove it with DROP OWNED', policy.polname);
      gaps := array_append(array_remove(gaps, gap), gap);
    END IF;
  END LOOP;

  -- A function that a policy calls must not be the tenants' own, and a reader must not be frozen into cached plans.
  FOR gap IN
    SELECT DISTINCT CASE WHEN f.proowner = tbl.role_oid
                         THEN format('function %s, which a policy calls, is owned by role %I', f.oid::regprocedure, app_role)
                         ELSE format('function %s is IMMUTABLE: cached plans show another tenant''s rows', f.oid::regprocedure) END
    FROM pg_policy p
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
    JOIN pg_proc f ON f.oid = d.refobjid
    WHERE p.polrelid = target
      AND (f.proowner = tbl.role_oid OR f.provolatile = 'i' AND (f.proname = 'current_tenant_id' OR starts_with(f.proname, 'pgvpd_context')))
  LOOP
    gaps := gaps || gap;
  END LOOP;

  -- Whoever names a partition or a child directly meets that table's policies, not its parent's.
  SELECT string_agg(i.inhrelid::regclass::text, ', ' ORDER BY i.inhrelid::regclass::text) INTO gap
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = target AND c.relkind IN ('r', 'p', 'f') AND NOT c.relrowsecurity;
  IF gap IS NOT NULL THEN
    gaps := gaps || format('has no protection for those who name %s directly', gap);
  END IF;
  RETURN gaps;
END
$$;

-- Every ordinary and partitioned table, except those of the system, of pgvpd and of extensions. Tables of schema public
-- appear under their bare name. seal is how the context is sealed in this database: none, slot or signed.
CALL pgvpd.make_way('pgvpd_status', '{app_role}', '{text}',
  'TABLE(table_name text, rls_enabled boolean, rls_forced boolean, policy_count bigint, isolated boolean, reason text, seal text)', 1);
CREATE OR REPLACE FUNCTION public.pgvpd_status(app_role text DEFAULT 'app_user')
RETURNS TABLE (table_name text, rls_enabled boolean, rls_forced boolean, policy_count bigint, isolated boolean, reason text, seal text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN n.nspname = 'public' THEN c.relname::text ELSE format('%I.%I', n.nspname, c.relname) END,
         c.relrowsecurity, c.relforcerowsecurity, p.policies, g.gaps = '{}',
         CASE WHEN g.gaps <> '{}' THEN array_to_string(g.gaps, '; ')
              WHEN p.policies = 0 THEN 'no policy: no row is visible to anyone' END,
         pgvpd.seal_carrier()
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT count(*) AS policies FROM pg_policy WHERE polrelid = c.oid) AS p
  CROSS JOIN LATERAL (SELECT pgvpd.isolation_gaps(c.oid, app_role) AS gaps) AS g
  WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgvpd')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
  ORDER BY n.nspname <> 'public', n.nspname, c.relname
$$;
COMMENT ON FUNCTION public.pgvpd_status(text) IS
  'pgvpd: for each table, whether tenants that use the application role are isolated, and if not, why';

-- The application role. It gets no password here: a password in a file that everybody has is known to everybody.
DO $role$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  app record;
  statement text;
  memberships text;
  verifier text;
  inner_pad bytea := '';
  outer_pad bytea := '';
  step bytea;
  folded bit(256);
  salted bytea;
  is_default_password boolean := false;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

  statement := 'CREATE ROLE app_user LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION';
  SELECT * INTO app FROM pg_roles WHERE rolname = 'app_user';
  IF NOT FOUND THEN
    BEGIN
      EXECUTE statement;
      RAISE NOTICE 'created role app_user, without a password' USING HINT = 'Give it one, in psql: \password app_user';
    EXCEPTION
      WHEN insufficient_privilege THEN
        RAISE WARNING 'role % may not create the role app_user', quote_ident(current_user)
          USING HINT = format('Let an administrator run: %s; and set its password (in psql: \password app_user).', statement);
      WHEN duplicate_object THEN
        NULL; -- somebody was faster
    END;
  ELSE
    -- It may come from pgvpd 1.0 with its published password. A superuser sees the verifier, and a guess can be tried on
    -- it as the server would: md5, or SCRAM-SHA-256's iterated HMAC (RFC 5802), some milliseconds of work.
    IF has_table_privilege('pg_authid', 'SELECT') THEN
      SELECT rolpassword INTO verifier FROM pg_authid WHERE rolname = 'app_user';
      IF verifier ~ '^SCRAM-SHA-256\$\d{1,5}:' THEN
        FOR i IN 0..63 LOOP -- the key, zero-padded to one block, with the constants of HMAC
          inner_pad := inner_pad || set_byte('\x00', 0, coalesce(ascii(nullif(substr('changeme', i + 1, 1), '')), 0) # 54);
          outer_pad := outer_pad || set_byte('\x00', 0, coalesce(ascii(nullif(substr('changeme', i + 1, 1), '')), 0) # 92);
        END LOOP;
        step := decode(split_part(split_part(verifier, '$', 2), ':', 2), 'base64') || '\x00000001';
        folded := 0::bit(256);
        FOR i IN 1..split_part(split_part(verifier, '$', 2), ':', 1)::integer LOOP
          step := sha256(outer_pad || sha256(inner_pad || step));
          folded := folded # right(step::text, -1)::bit(256);
        END LOOP;
        SELECT decode(string_agg(to_hex(substring(folded FROM n * 4 + 1 FOR 4)::bit(4)::integer), '' ORDER BY n), 'hex')
          INTO salted FROM generate_series(0, 63) AS n;
        inner_pad := '';
        outer_pad := '';
        FOR i IN 0..63 LOOP
          inner_pad := inner_pad || set_byte('\x00', 0, CASE WHEN i < 32 THEN get_byte(salted, i) ELSE 0 END # 54);
          outer_pad := outer_pad || set_byte('\x00', 0, CASE WHEN i < 32 THEN get_byte(salted, i) ELSE 0 END # 92);
        END LOOP;
        is_default_password := encode(sha256(sha256(outer_pad || sha256(inner_pad || 'Client Key'::bytea))), 'base64')
                             = split_part(split_part(verifier, '$', 3), ':', 1);
      ELSE
        is_default_password := coalesce(verifier = 'md5' || md5('changeme' || 'app_user'), false);
      END IF;
      IF is_default_password THEN
        RAISE WARNING 'role app_user has the published password of pgvpd 1.0' USING HINT = 'Set another one, in psql: \password app_user';
      END IF;
    END IF;

    IF app.rolsuper OR app.rolbypassrls OR app.rolcreaterole OR app.rolcreatedb OR app.rolreplication THEN
      RAISE WARNING 'role app_user is unsafe for tenants: it has %', concat_ws(', ',
          CASE WHEN app.rolsuper THEN 'SUPERUSER' END, CASE WHEN app.rolbypassrls THEN 'BYPASSRLS' END,
          CASE WHEN app.rolcreaterole THEN 'CREATEROLE' END, CASE WHEN app.rolcreatedb THEN 'CREATEDB' END,
          CASE WHEN app.rolreplication THEN 'REPLICATION' END)
        USING HINT = 'ALTER ROLE app_user NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION;';
    END IF;
    SELECT string_agg(quote_ident(m.rolname), ', ' ORDER BY m.rolname) INTO memberships
      FROM pg_roles m
      WHERE (m.rolsuper OR m.rolbypassrls OR m.rolcreaterole OR m.rolreplication) AND m.rolname <> 'app_user'
        AND NOT app.rolsuper AND pg_has_role(app.oid, m.oid, 'MEMBER');
    IF memberships IS NOT NULL THEN
      RAISE WARNING 'role app_user is unsafe for tenants: it is a member of %', memberships
        USING HINT = format('REVOKE %s FROM app_user;', memberships);
    END IF;
  END IF;

  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user') AND NOT has_schema_privilege('app_user', 'public', 'USAGE') THEN
    BEGIN
      GRANT USAGE ON SCHEMA public TO app_user;
    EXCEPTION WHEN insufficient_privilege THEN
      NULL; -- said below
    END;
    IF NOT has_schema_privilege('app_user', 'public', 'USAGE') THEN
      RAISE WARNING 'role % may not let app_user use schema public', quote_ident(current_user)
        USING HINT = 'Let the schema''s owner run: GRANT USAGE ON SCHEMA public TO app_user;';
    END IF;
  END IF;

  -- All tenants share the role: a function or operator that one of them plants in public runs in the others' queries.
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user' AND NOT rolsuper AND has_schema_privilege(oid, 'public', 'CREATE')) THEN
    RAISE WARNING 'role app_user may create functions in schema public, which would run in the sessions of every tenant'
      USING HINT = 'REVOKE CREATE ON SCHEMA public FROM PUBLIC, app_user;';
  END IF;

  PERFORM pg_catalog.set_config('search_path', previous_path, true);
END
$role$;

-- Policies of pgvpd 1.0 go on working with the new functions, but keep their defects until their tables are protected
-- again: a tenant can drop a policy TO app_user, and a bare current_tenant_id() is called for each row.
DO $earlier$
DECLARE
  previous_path text := pg_catalog.current_setting('search_path');
  tables text;
BEGIN
  PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  SELECT string_agg(DISTINCT p.polrelid::regclass::text, ', ') INTO tables
    FROM pg_policy p
    WHERE (starts_with(p.polname, 'pgvpd_tenant_isolation_') OR starts_with(p.polname, 'pgvpd_acl_'))
      AND NOT (0::oid = ANY (p.polroles));
  IF tables IS NOT NULL THEN
    RAISE WARNING 'tables with policies of pgvpd 1.0: %', tables
      USING DETAIL = 'Those policies are TO one role, so whoever uses that role can remove them with DROP OWNED.',
            HINT = 'Protect these tables again with pgvpd_protect() or pgvpd_protect_acl(): the policies are replaced.';
  END IF;
  PERFORM pg_catalog.set_config('search_path', previous_path, true);
END
$earlier$;
