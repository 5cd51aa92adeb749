-- pgvpd: tells pgvpd at once when something changes that a resolver has looked up. Optional: without it a cached answer is
-- used for its cache_ttl. Run it after sql/setup.sql; it can be run again.
--
--   psql -d your_database -f sql/resolvers.sql
--   GRANT SELECT ON pgvpd.invalidations TO resolver;            -- resolver_user, which listens
--   SELECT pgvpd.invalidate_on_change('org_members', 'org', '{user_id}');
--
--   pgvpd.invalidate(resolver, value, ...)             forget what the resolver gave for these values; without any: for all
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

-- xid: who reads takes all rows from the oldest transaction on that was open when it read last, so that a transaction which
-- commits late is not missed. Rows are kept for an hour, for instances that were not listening.
CREATE TABLE IF NOT EXISTS pgvpd.invalidations (
  xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
  resolver text NOT NULL,
  params text[] NOT NULL,
  written_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX IF NOT EXISTS invalidations_xid ON pgvpd.invalidations (xid);
REVOKE ALL ON pgvpd.invalidations FROM PUBLIC;
COMMENT ON TABLE pgvpd.invalidations IS 'pgvpd: what resolvers have to look up again; written by pgvpd.invalidate() alone';

CREATE OR REPLACE FUNCTION pgvpd.invalidate(resolver text, VARIADIC params text[] DEFAULT '{}') RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF resolver IS NULL THEN
    RAISE EXCEPTION 'the resolver is missing' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  DELETE FROM pgvpd.invalidations i WHERE i.written_at < clock_timestamp() - interval '1 hour';
  -- A value that is NULL is one that no resolver was called with.
  IF array_position(params, NULL) IS NULL THEN
    INSERT INTO pgvpd.invalidations (resolver, params) VALUES (invalidate.resolver, invalidate.params);
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
  before text[];
  after text[];
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    PERFORM pgvpd.invalidate(TG_ARGV[0]);
    RETURN NULL;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    before := ARRAY(SELECT to_jsonb(OLD) ->> c FROM unnest(columns) WITH ORDINALITY AS u(c, n) ORDER BY n);
    PERFORM pgvpd.invalidate(TG_ARGV[0], VARIADIC before);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    after := ARRAY(SELECT to_jsonb(NEW) ->> c FROM unnest(columns) WITH ORDINALITY AS u(c, n) ORDER BY n);
    IF after IS DISTINCT FROM before THEN
      PERFORM pgvpd.invalidate(TG_ARGV[0], VARIADIC after);
    END IF;
  END IF;
  RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION pgvpd.invalidate_row() FROM PUBLIC;

-- columns: those of the table that hold the resolver's params, in the order of $1, $2, ...; none: every change of the table
-- makes the whole resolver look again.
CREATE OR REPLACE FUNCTION pgvpd.invalidate_on_change(
  table_name text, resolver text, columns text[] DEFAULT '{}', lookup_path text DEFAULT pg_catalog.current_setting('search_path')
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  target regclass := pgvpd.find_table(table_name, lookup_path);
  arguments text := concat_ws(', ', quote_literal(resolver), (
    SELECT string_agg(quote_literal((pgvpd.find_column(target, u.c)).column_name), ', ' ORDER BY u.n)
    FROM unnest(columns) WITH ORDINALITY AS u(c, n)));
BEGIN
  PERFORM pgvpd.no_invalidate_on_change(table_name, resolver, lookup_path);
  EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION pgvpd.invalidate_row(%s)',
                 'pgvpd_invalidate_' || resolver, target, arguments);
  EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION pgvpd.invalidate_row(%s)',
                 'pgvpd_invalidate_all_' || resolver, target, arguments);
END
$$;

CREATE OR REPLACE FUNCTION pgvpd.no_invalidate_on_change(
  table_name text, resolver text, lookup_path text DEFAULT pg_catalog.current_setting('search_path')
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  target regclass := pgvpd.find_table(table_name, lookup_path);
BEGIN
  EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'pgvpd_invalidate_' || resolver, target);
  EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'pgvpd_invalidate_all_' || resolver, target);
END
$$;
