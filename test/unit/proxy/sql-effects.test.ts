import { describe, expect, it } from "vitest";
import { effects, SqlReader } from "../../../src/proxy/pool/sql-effects.ts";

const reader = new SqlReader(["app.current_tenant_id"], ["statement_timeout", "search_path"]);
const read = (sql: string): ReturnType<SqlReader["read"]> => {
  const bytes = Buffer.from(`junk ${sql} junk`);
  return reader.read(bytes, 5, bytes.length - 5);
};
const flagsOf = (sql: string): string[] =>
  Object.entries(effects).flatMap(([name, bit]) => ((read(sql).bits & bit) === 0 ? [] : [name]));

describe("a statement that leaves nothing behind", () => {
  it.each([
    "SELECT 1",
    "UPDATE t SET do = 1, call = 2, listen = 3 WHERE load = 4",
    "INSERT INTO t VALUES ('please listen; set x')",
    "SELECT temp FROM weather",
    "SELECT * FROM temporary_things",
    "BEGIN; SELECT 1; COMMIT",
    "SET LOCAL statement_timeout = 1",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET TIME ZONE 'UTC'",
    "SET timezone TO 'UTC'",
    "SET application_name = 'x'",
    "SET NAMES 'utf8'",
    "PREPARE TRANSACTION 'x'",
    "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_advisory_unlock_all()",
    "UNLISTEN *",
    "CLOSE ALL",
    "",
  ])("%s", (sql) => expect(flagsOf(sql)).toEqual([]));
});

describe("a statement that pins", () => {
  it.each([
    ["LISTEN news", "listen"],
    ["SELECT 1; listen news", "listen"],
    ["/* a */ LISTEN news", "listen"],
    ["-- a\nLISTEN news", "listen"],
    ["/* ; /* nested */ */ LISTEN news", "listen"],
    ["SELECT ';' ; LISTEN news", "listen"],
    ["SELECT $a$ ; $a$; LISTEN news", "listen"],
    ["LOAD 'x'", "load"],
    ["PREPARE a AS SELECT 1", "prepare"],
    ["DECLARE c CURSOR WITH HOLD FOR SELECT 1", "cursor"],
    ["declare c scroll cursor\nwith\nhold for select 1", "cursor"],
    ["CREATE TEMP TABLE t (a int)", "temporary"],
    ["create local temporary table t (a int)", "temporary"],
    ["CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "temporary"],
    ["CREATE TABLE pg_temp.t (a int)", "temporary"],
    ["SELECT 1 AS a INTO TEMP t", "temporary"],
    ["SELECT pg_advisory_lock(1)", "advisory_lock"],
    ["select pg_catalog.pg_try_advisory_lock_shared(1)", "advisory_lock"],
    ["SET work_mem = '1GB'", "set"],
    ["SET ROLE other", "set"],
    ["SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "set"],
    ["SET statement_timeout = 1 + 1", "set"],
    ["SET statement_timeout FROM CURRENT", "set"],
  ])("%s", (sql, reason) => {
    expect(flagsOf(sql)).toContain("pins");
    expect(read(sql).pinReason).toBe(reason);
  });
});

describe("a statement after which the context may be another", () => {
  it.each([
    "SELECT set_config('app.x', 'y', false)",
    'SELECT pg_catalog."set_config"(1, 2, false)',
    "UPDATE pg_settings SET setting = 'globex' WHERE name = 'app.' || 'current_tenant_id'",
    "SELECT f('app.current_tenant_id', 'globex')",
    "SELECT f('APP.Current_Tenant_ID')",
    "DO $$ BEGIN END $$",
    "CALL p()",
    "EXECUTE a",
    "EXPLAIN ANALYZE EXECUTE a",
    "SELECT 1; DO 'x'",
    "RESET ALL",
    "DISCARD ALL",
    "SET SESSION AUTHORIZATION DEFAULT",
  ])("%s", (sql) => expect(flagsOf(sql)).toContain("taints"));

  it.each(["RESET ROLE", "DISCARD ALL", "SET SESSION AUTHORIZATION x", "SELECT 'reset'"])(
    "%s has it set again",
    (sql) => expect(flagsOf(sql)).toContain("resets"),
  );

  it("says which settings are reset", () => {
    expect(read("RESET statement_timeout").reset).toEqual(["statement_timeout"]);
    expect(read("RESET ALL; SELECT 1").reset).toEqual(["*"]);
    expect(read("DISCARD ALL").reset).toEqual(["*"]);
    expect(read("DISCARD TEMP").reset).toEqual([]);
  });
});

describe("SET of a tracked setting", () => {
  it.each([
    ["SET statement_timeout = 1000", "1000"],
    ["set session statement_timeout to '1s'", "1s"],
    ["SET Statement_Timeout TO DEFAULT", undefined],
    ["SET statement_timeout = 'it''s'", "it's"],
  ])("%s", (sql, value) => {
    expect(flagsOf(sql)).toEqual(["sets"]);
    expect(read(sql).settings).toEqual([{ name: "statement_timeout", value }]);
  });

  it.each([
    ["SET search_path = a, public", "a, public"],
    ['SET search_path TO "A b", \'c"d\'', '"A b", "c""d"'],
  ])("%s", (sql, value) => expect(read(sql).settings).toEqual([{ name: "search_path", value }]));

  it.each(["SET search_path = a, f()", "SET search_path = a,", "SET search_path = E'a'"])("%s pins", (sql) =>
    expect(flagsOf(sql)).toContain("pins"),
  );

  it("may be one of several", () => {
    const found = read("SET statement_timeout = 1; SET search_path = x; SELECT 1");
    expect(found.settings.map(({ name }) => name)).toEqual(["statement_timeout", "search_path"]);
  });
});

describe("DEALLOCATE", () => {
  it.each([
    ["DEALLOCATE a", "a"],
    ["deallocate prepare A", "a"],
    ['DEALLOCATE "A b"', "A b"],
    ["DEALLOCATE ALL", undefined],
    ["DISCARD ALL", undefined],
  ])("%s", (sql, name) => {
    expect(flagsOf(sql)).toContain("deallocates");
    expect(read(sql).deallocated).toBe(name);
  });
});

it("reads any bytes", () => {
  const bytes = Buffer.from(Array.from({ length: 4096 }, (_, at) => (at * 7919) % 256));
  for (let at = 0; at < 256; at += 1) expect(() => reader.read(bytes, at, bytes.length - at)).not.toThrow();
});
