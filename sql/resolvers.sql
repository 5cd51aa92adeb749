-- pgvpd: tells pgvpd at once when something changes that a resolver has looked up. Optional: without it a cached answer is
-- used for its cache_ttl. Run it after sql/setup.sql; it can be run again.
--
--   psql -d your_database -f sql/resolvers.sql
--   GRANT SELECT ON pgvpd.invalidations TO resolver;            -- resolver_user, which listens
--   SELECT pgvpd.invalidate_on_change('org_members', 'org', '{user_id}');
--
--   pgvpd.invalidate(resolver, value, ...)             look again at what the resolver gave for these values; without any: for all
--   pgvpd.invalidate_on_change(table, resolver, columns)   triggers that do so for each changed row
--   pgvpd.no_invalidate_on_change(table, resolver)         removes them
--
-- What changed stands in a table that nobody may write. The NOTIFY behind it is empty, a hint to look: any role can send
-- one on any channel, and pgvpd believes none.

DO $preflight$
BEGIN
  IF pg_catalog.to_regprocedure('pgvpd.find_table(text, text)') IS NULL THEN
    RAISE EXCEPTION 'sql/resolvers.sql builds on sql/setup.sql, which is not installed in this database'
      USING ERRCODE = 'undefined_function', HINT = 'Run sql/setup.sql, then this file again.';
  END IF;
END
$preflight$;

-- xid: who reads takes the rows of transactions that its last snapshot did not see, so that one which commits late is not
-- missed. horizon: every transaction below it had ended when the row was written.
CREATE TABLE IF NOT EXISTS pgvpd.invalidations (
  xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
  horizon xid8 NOT NULL DEFAULT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()),
  resolver text NOT NULL,
  params text[] NOT NULL,
  written_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX IF NOT EXISTS invalidations_xid ON pgvpd.invalidations (xid);
CREATE INDEX IF NOT EXISTS invalidations_written_at ON pgvpd.invalidations (written_at);
REVOKE ALL ON pgvpd.invalidations FROM PUBLIC;
COMMENT ON TABLE pgvpd.invalidations IS 'pgvpd: what resolvers have to look up again; written by pgvpd.invalidate() alone';

CREATE OR REPLACE FUNCTION pgvpd.invalidate(resolver text, VARIADIC params text[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  ended xid8;
BEGIN
  IF resolver IS NULL OR params IS NULL THEN
    RAISE EXCEPTION 'the resolver or its values are missing' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- Now and then, what had been committed ten minutes ago: whoever listens has read it long since. Rows that another
  -- transaction is removing are left to it, so that nobody waits here. Both queries find their rows by an index, since
  -- a statement that changes many rows comes here for each.
  IF random() < 0.002 THEN
    SELECT i.horizon INTO ended FROM pgvpd.invalidations i WHERE i.written_at < now() - interval '10 minutes'
      ORDER BY i.written_at DESC LIMIT 1;
    IF ended IS NOT NULL THEN
      DELETE FROM pgvpd.invalidations WHERE ctid = ANY (ARRAY(
        SELECT i.ctid FROM pgvpd.invalidations i WHERE i.xid < ended ORDER BY i.xid LIMIT 10000 FOR UPDATE SKIP LOCKED));
    END IF;
  END IF;
  -- A value that is NULL is one that no resolver was called with.
  IF array_position(params, NULL) IS NULL THEN
    -- What is too long to be told in full makes the whole resolver look again.
    INSERT INTO pgvpd.invalidations (resolver, params)
      VALUES (invalidate.resolver, CASE WHEN octet_length(params::text) > 1000 THEN '{}' ELSE invalidate.params END);
    PERFORM pg_notify('pgvpd_invalidate', '');
  END IF;
END
$$;
REVOKE ALL ON FUNCTION pgvpd.invalidate(text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION pgvpd.invalidate(text, text[]) IS 'pgvpd: makes every instance look up again what a resolver gave for these values';

-- The trigger's arguments: the resolver, then the columns. Whoever may write the table need not be able to call invalidate().
CREATE OR REPLACE FUNCTION pgvpd.invalidate_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  columns CONSTANT text[] := TG_ARGV[1:];
  old_row CONSTANT jsonb := CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) END;
  new_row CONSTANT jsonb := CASE WHEN TG_OP IN ('UPDATE', 'INSERT') THEN to_jsonb(NEW) END;
  before CONSTANT text[] := ARRAY(SELECT old_row ->> u.c FROM unnest(columns) WITH ORDINALITY AS u(c, n) ORDER BY u.n);
  after CONSTANT text[] := ARRAY(SELECT new_row ->> u.c FROM unnest(columns) WITH ORDINALITY AS u(c, n) ORDER BY u.n);
BEGIN
  -- Without columns, for TRUNCATE, and where a column has been renamed or dropped since: everything of the resolver.
  IF TG_OP = 'TRUNCATE' OR columns = '{}' OR NOT coalesce(new_row, old_row) ?& columns THEN
    PERFORM pgvpd.invalidate(TG_ARGV[0]);
    RETURN NULL;
  END IF;
  IF old_row IS NOT NULL THEN
    PERFORM pgvpd.invalidate(TG_ARGV[0], VARIADIC before);
  END IF;
  IF new_row IS NOT NULL AND (old_row IS NULL OR after IS DISTINCT FROM before) THEN
    PERFORM pgvpd.invalidate(TG_ARGV[0], VARIADIC after);
  END IF;
  RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION pgvpd.invalidate_row() FROM PUBLIC;

-- columns: those of the table that hold the resolver's params, in the order of $1, $2, ...; none: every change of the table
-- makes the whole resolver look again. So does one of a column whose text can differ from the param's for the same value.
CREATE OR REPLACE FUNCTION pgvpd.invalidate_on_change(
  table_name text, resolver text, columns text[] DEFAULT '{}', lookup_path text DEFAULT pg_catalog.current_setting('search_path')
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  target regclass := pgvpd.find_table(table_name, lookup_path);
  arguments text := quote_literal(resolver);
  given text;
  held record;
BEGIN
  IF resolver IS NULL OR columns IS NULL THEN
    RAISE EXCEPTION 'the resolver or the columns are missing' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  FOREACH given IN ARRAY columns LOOP
    SELECT * INTO held FROM pgvpd.find_column(target, given);
    IF pgvpd.cast_to(held.base_type) IS NULL THEN
      RAISE NOTICE 'column % of % has type %: a change makes the whole resolver look again', quote_ident(held.column_name), target, held.base_type;
      arguments := quote_literal(resolver);
      EXIT;
    END IF;
    arguments := concat_ws(', ', arguments, quote_literal(held.column_name));
  END LOOP;

  PERFORM pgvpd.no_invalidate_on_change(table_name, resolver, lookup_path);
  EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION pgvpd.invalidate_row(%s)',
                 'pgvpd_invalidate_row_' || md5(resolver), target, arguments);
  EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION pgvpd.invalidate_row(%s)',
                 'pgvpd_invalidate_all_' || md5(resolver), target, arguments);
  -- What was changed before the triggers were there.
  PERFORM pgvpd.invalidate(resolver);
END
$$;
REVOKE ALL ON FUNCTION pgvpd.invalidate_on_change(text, text, text[], text) FROM PUBLIC;
COMMENT ON FUNCTION pgvpd.invalidate_on_change(text, text, text[], text) IS
  'pgvpd: triggers that make every instance look up again what a resolver gave, when a row of the table changes';

CREATE OR REPLACE FUNCTION pgvpd.no_invalidate_on_change(
  table_name text, resolver text, lookup_path text DEFAULT pg_catalog.current_setting('search_path')
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  target regclass := pgvpd.find_table(table_name, lookup_path);
BEGIN
  EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'pgvpd_invalidate_row_' || md5(resolver), target);
  EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'pgvpd_invalidate_all_' || md5(resolver), target);
END
$$;
REVOKE ALL ON FUNCTION pgvpd.no_invalidate_on_change(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION pgvpd.no_invalidate_on_change(text, text, text) IS 'pgvpd: removes the triggers of pgvpd.invalidate_on_change()';
