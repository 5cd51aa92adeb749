/** What is told of a query without a database: its statements and its highest parameter, whatever text stands in it. */
import { describe, expect, it } from "vitest";
import { outlineQuery } from "../../../src/config/sql-statements.ts";

/** `statements/highest parameter` */
function outline(sql: string): string {
  const { statements, highestParameter } = outlineQuery(sql);
  return `${statements}/${highestParameter}`;
}

describe("the outline of a query", () => {
  it.each([
    ["", "0/0"],
    [" \t\r\n ", "0/0"],
    [";;;", "0/0"],
    ["SELECT 1", "1/0"],
    ["SELECT 1;", "1/0"],
    ["SELECT 1; ; -- end", "1/0"],
    ["SELECT 1; SELECT 2", "2/0"],
    ["SELECT $1, $12, $2", "1/12"],
    ["SELECT $1::uuid", "1/1"],
    ["SELECT ($3)", "1/3"],
  ])("of %j is %s", (sql, expected) => expect(outline(sql)).toBe(expected));

  it.each([
    ["a string", "SELECT ';$9' || $1"],
    ["a string with a doubled quote", "SELECT 'a'';$9' || $1"],
    ["a string that ends with a backslash", String.raw`SELECT 'a\' || $1`],
    ["an escape string", String.raw`SELECT E'a\';$9' || $1`],
    ["an escape string with a doubled quote", String.raw`SELECT e'a'';\\' || $1`],
    ["a Unicode string", String.raw`SELECT U&'\0061;$9' || $1`],
    ["a bit string", "SELECT B'01', X'1F', $1"],
    ["a quoted name", `SELECT "a;$9" FROM "t""u;$9" WHERE x = $1`],
    ["a dollar quote", "SELECT $$;$9'$$ || $1"],
    ["a dollar quote with a tag", "SELECT $a$;$9 $$ $b$ $a$ || $1"],
    ["a dollar quote with a tag that is no ASCII", "SELECT $é$;$9$é$ || $1"],
    ["a comment", "SELECT 1 -- ;$9\n + $1"],
    ["a comment that a carriage return ends", "SELECT 1 -- ;$9\r + $1"],
    ["a comment in a comment", "SELECT /* ; /* $9 */ ; */ $1"],
    ["a name with dollars", "SELECT a$9, b$x$ FROM t WHERE c$$ = $1"],
    ["an operator before a comment", "SELECT 1 +/* ;$9 */ $1"],
  ])("steps over %s", (_what, sql) => expect(outline(sql)).toBe("1/1"));

  it.each([
    ["a string", "SELECT '; SELECT 2"],
    ["an escape string", String.raw`SELECT E'\'; SELECT 2`],
    ["a quoted name", 'SELECT "; SELECT 2'],
    ["a dollar quote", "SELECT $a$; SELECT 2 $b$"],
    ["a comment", "SELECT 1 /* /* */ ; SELECT 2"],
  ])("goes to the end of %s that does not end", (_what, sql) => expect(outline(sql)).toBe("1/0"));

  it("sees the statement behind what only looks like the beginning of a text", () => {
    expect(outline(String.raw`SELECT type'\'; SELECT 2`)).toBe("2/0");
    expect(outline("SELECT 1 -- '\r; SELECT 2")).toBe("2/0");
    expect(outline("SELECT $1$; SELECT 2")).toBe("2/1");
    expect(outline("SELECT a$b$; SELECT 2 -- $b$")).toBe("2/0");
  });
});
