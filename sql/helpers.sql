-- pgvpd: functions that make policies readable, and pgvpd_protect_acl(), which builds a policy from several paths. Run
-- sql/setup.sql first; like it, this file is plain SQL that can be run again, over the SQL of pgvpd 1.0 too.
--
--   psql -d your_database -f sql/helpers.sql
--
--   public.pgvpd_context(var)                      a session variable as text
--   public.pgvpd_context_array(var)                a list of values: a,b,c or {a,"b,c"}
--   public.pgvpd_context_uuid_array(var)           the same, as uuid
--   public.pgvpd_context_contains(var, uuid)       is the uuid in the list?
--   public.pgvpd_context_text_contains(var, text)  is the text in the list?
--   public.pgvpd_protect_acl(table, paths)         one policy: a row is visible if any path leads to it
--
-- Nothing set, nothing seen: the first three return NULL for a variable that is unset, empty or an empty list, never an
-- empty array (NOT x = ANY ('{}') is true for every row, NOT x = ANY (NULL) for none). The last two return false.

DO $preflight$
BEGIN
  IF pg_catalog.to_regproc('pgvpd.install_reader') IS NULL OR pg_catalog.to_regproc('pgvpd.apply_policy') IS NULL THEN
    RAISE EXCEPTION 'sql/helpers.sql builds on sql/setup.sql, which is not installed in this database'
      USING ERRCODE = 'undefined_function', HINT = 'Run sql/setup.sql, then this file again.';
  END IF;
END
$preflight$;

CALL pgvpd.install_reader('pgvpd_context', '{var}', '{text}', 'text', $body$
BEGIN
  RETURN pgvpd.context_value($1);
END
$body$);
COMMENT ON FUNCTION public.pgvpd_context(text) IS 'pgvpd: a session variable, NULL when unset or empty';

-- Empty elements and NULLs are dropped: 'a,,b' must not match a row whose column is ''. Text that starts with { and is
-- not an array of PostgreSQL's is an error (22P02), because a list that was cut off must not be half believed.
CALL pgvpd.install_reader('pgvpd_context_array', '{var}', '{text}', 'text[]', $body$
DECLARE
  list text := btrim(public.pgvpd_context($1));
BEGIN
  IF starts_with(list, '{') THEN
    RETURN (SELECT array_agg(u.element ORDER BY u.position)
            FROM unnest(list::text[]) WITH ORDINALITY AS u(element, position) WHERE u.element <> '');
  ELSIF strpos(list, ' ') = 0 AND strpos(',' || list || ',', ',,') = 0 THEN
    RETURN string_to_array(list, ','); -- nothing to trim or to drop: a policy without (SELECT ...) comes here for each row
  END IF;
  RETURN (SELECT array_agg(btrim(u.element) ORDER BY u.position)
          FROM unnest(string_to_array(list, ',')) WITH ORDINALITY AS u(element, position) WHERE btrim(u.element) <> '');
END
$body$);
COMMENT ON FUNCTION public.pgvpd_context_array(text) IS 'pgvpd: a session variable as a list (a,b,c or {a,b,c}), NULL when it has no values';

-- An element that is no uuid is an error (22P02): whoever filled the variable should hear of it.
CALL pgvpd.install_reader('pgvpd_context_uuid_array', '{var}', '{text}', 'uuid[]', $body$
BEGIN
  RETURN public.pgvpd_context_array($1)::uuid[];
END
$body$);
COMMENT ON FUNCTION public.pgvpd_context_uuid_array(text) IS 'pgvpd: a session variable as a list of uuid, NULL when it has no values';

CALL pgvpd.install_reader('pgvpd_context_contains', '{var,value}', '{text,uuid}', 'boolean', $body$
BEGIN
  RETURN coalesce($2 = ANY (public.pgvpd_context_array($1)::uuid[]), false);
END
$body$);
COMMENT ON FUNCTION public.pgvpd_context_contains(text, uuid) IS
  'pgvpd: is a uuid in the list of a session variable? In policies, faster: id = ANY ((SELECT pgvpd_context_uuid_array(var))::uuid[])';

CALL pgvpd.install_reader('pgvpd_context_text_contains', '{var,value}', '{text,text}', 'boolean', $body$
BEGIN
  RETURN coalesce($2 = ANY (public.pgvpd_context_array($1)), false);
END
$body$);
COMMENT ON FUNCTION public.pgvpd_context_text_contains(text, text) IS
  'pgvpd: is a text in the list of a session variable? In policies, faster: code = ANY ((SELECT pgvpd_context_array(var))::text[])';

-- One element of pgvpd_protect_acl's paths as a condition. The context is read in (SELECT ...), once per query; names and
-- values are quoted; the operator is PostgreSQL's own whatever the author's search_path offers.
CREATE OR REPLACE FUNCTION pgvpd.acl_condition(target regclass, path jsonb, policy_path text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  keys CONSTANT text[] := '{column,var,type,when}';
  types CONSTANT text[] := '{text,uuid,integer,text_array,uuid_array,integer_array}';
  allowed regtype[];
  unknown text;
  kind text;
  element text;
  conversion text;
  held record;
  condition text;
  statement text;
  probe refcursor;
BEGIN
  IF jsonb_typeof(path) <> 'object' THEN
    RAISE EXCEPTION 'a path must be an object, not %', path
      USING ERRCODE = 'invalid_parameter_value', HINT = 'For example: {"column": "owner_id", "var": "app.user_id", "type": "uuid"}';
  END IF;
  SELECT string_agg(format('"%s"', k), ', ') INTO unknown FROM jsonb_object_keys(path) AS k WHERE k <> ALL (keys);
  IF unknown IS NOT NULL THEN
    RAISE EXCEPTION 'unknown key % in path %', unknown, path
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Allowed are "column", "var", "type" and "when".';
  END IF;
  SELECT string_agg(format('"%s"', k), ', ' ORDER BY k) INTO unknown
    FROM unnest(keys) AS k
    WHERE CASE WHEN path ? k THEN jsonb_typeof(path -> k) <> 'string' OR btrim(path ->> k) = '' ELSE k IN ('column', 'var') END;
  IF unknown IS NOT NULL THEN
    RAISE EXCEPTION '% must be given as text in path %', unknown, path
      USING ERRCODE = 'invalid_parameter_value', HINT = '"column" and "var" are needed; "type" is text by default, "when" may be absent.';
  END IF;
  kind := coalesce(path ->> 'type', 'text');
  IF kind <> ALL (types) THEN
    RAISE EXCEPTION 'unknown type "%" in path %', kind, path
      USING ERRCODE = 'invalid_parameter_value', HINT = format('Allowed are %s.', array_to_string(types, ', '));
  END IF;
  -- A variable without a dot would be one of PostgreSQL's own, such as application_name, which every client chooses.
  IF strpos(path ->> 'var', '.') = 0 THEN
    RAISE EXCEPTION '"%" in path % is not a variable of the context', path ->> 'var', path
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Such variables have a dot in their name, like app.user_id.';
  END IF;

  SELECT * INTO held FROM pgvpd.find_column(target, path ->> 'column');
  element := regexp_replace(kind, '_array$', '');
  allowed := CASE element WHEN 'uuid' THEN '{uuid}'::regtype[] WHEN 'integer' THEN '{int2,int4,int8}'::regtype[] ELSE '{text,varchar,bpchar}'::regtype[] END;
  IF held.base_type <> ALL (allowed) THEN
    RAISE EXCEPTION 'column % of % has type %, which a path of type % does not compare', quote_ident(held.column_name), target, held.base_type, kind
      USING ERRCODE = 'datatype_mismatch', HINT = format('A path of type %s takes a column of type %s.', kind, array_to_string(allowed, ', '));
  END IF;

  IF kind = element THEN
    condition := format('%I OPERATOR(pg_catalog.=) (SELECT public.pgvpd_context(%L)%s)', held.column_name, path ->> 'var', pgvpd.cast_to(held.base_type));
  ELSE
    -- The outer cast makes (SELECT ...) one array; without it ANY would look for the value among the rows of a subquery.
    conversion := coalesce(nullif(pgvpd.cast_to(held.base_type), ''), '::pg_catalog.text') || '[]';
    condition := format('%I OPERATOR(pg_catalog.=) ANY ((SELECT public.%s(%L)%s)%s)', held.column_name,
                        CASE kind WHEN 'uuid_array' THEN 'pgvpd_context_uuid_array' ELSE 'pgvpd_context_array' END,
                        path ->> 'var', conversion, conversion);
  END IF;

  IF path ? 'when' THEN
    -- The author of "when" is trusted with SQL, but it has to be one expression: a cursor takes one statement only, an
    -- unbalanced bracket fails in it, and the line break ends a comment. So it cannot reach beyond the (SELECT ...), which
    -- makes it one evaluation per query where it names no column. The cursor runs nothing.
    statement := format(E'SELECT (%s\n) FROM %s', path ->> 'when', target);
    PERFORM pg_catalog.set_config('search_path', policy_path, true);
    OPEN probe FOR EXECUTE statement;
    CLOSE probe;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    condition := format(E'%s AND (SELECT (%s\n))', condition, path ->> 'when');
  END IF;
  RETURN format('(%s)', condition);
END
$$;

-- lookup_path is the caller's search_path: table_name and "when" are read with it.
CALL pgvpd.make_way('pgvpd_protect_acl', '{table_name,paths,app_role,lookup_path}', '{text,jsonb,text,text}', 'void', 2);
CREATE OR REPLACE FUNCTION public.pgvpd_protect_acl(
  table_name text,
  paths jsonb,
  app_role text DEFAULT 'app_user',
  lookup_path text DEFAULT pg_catalog.current_setting('search_path')
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  target regclass := pgvpd.find_table(table_name, lookup_path);
  -- PostgreSQL's own names first, temporary objects last, and the helpers within reach of "when" in any case.
  policy_path text := concat_ws(', ', 'pg_catalog', nullif(btrim(lookup_path), ''), 'public', 'pg_temp');
  predicate text;
BEGIN
  IF paths IS NULL OR jsonb_typeof(paths) <> 'array' OR paths = '[]' THEN
    RAISE EXCEPTION 'paths must be a JSON array with at least one path'
      USING ERRCODE = 'invalid_parameter_value', HINT = 'For example: [{"column": "owner_id", "var": "app.user_id", "type": "uuid"}]';
  END IF;
  SELECT string_agg(pgvpd.acl_condition(target, p.path, policy_path), ' OR ' ORDER BY p.position) INTO predicate
    FROM jsonb_array_elements(paths) WITH ORDINALITY AS p(path, position);
  PERFORM pgvpd.apply_policy(target, 'pgvpd_acl_', predicate, app_role, policy_path);
END
$$;
COMMENT ON FUNCTION public.pgvpd_protect_acl(text, jsonb, text, text) IS
  'pgvpd: one policy for a table, by which a row is visible if any of the given paths leads to it';
