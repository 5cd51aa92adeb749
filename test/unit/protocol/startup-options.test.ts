/**
 * The StartupMessage's `options` against the rules of PostgreSQL's own parser: pg_split_opts splits at white space with
 * backslash escapes, getopt takes `-c` and `--`, ParseLongOption splits at the first `=` and reads `-` in names as `_`.
 */
import { describe, expect, it } from "vitest";
import { parseStartupOptions } from "../../../src/protocol/startup-options.ts";
import { proxyErrorOf } from "../../support/proxy-error-of.ts";

const parse = (options: string): [string, string][] =>
  parseStartupOptions(Buffer.from(options, "latin1")).map(({ name, value }) => [name, value.toString("latin1")]);

describe("options are read as PostgreSQL reads them", () => {
  it.each<[string, [string, string][]]>([
    ["", []],
    ["   \t\n\v\f\r ", []],
    ["-c a=b", [["a", "b"]]],
    ["-ca=b", [["a", "b"]]],
    ["--a=b", [["a", "b"]]],
    ["  -c   a=b  ", [["a", "b"]]],
    ["-c a=b -cc=d --e=f", [["a", "b"], ["c", "d"], ["e", "f"]]], // prettier-ignore
    ["-c a=", [["a", ""]]],
    ["--a=", [["a", ""]]],
    ["-c a=b=c", [["a", "b=c"]]],
    ["-c\ta=b\v--c=d", [["a", "b"], ["c", "d"]]], // prettier-ignore
    // In a name `-` is `_`, in a value it stays.
    ["--a-b=c-d", [["a_b", "c-d"]]],
    ["-c a-b-c=d", [["a_b_c", "d"]]],
    ["--app.current-tenant-id=x", [["app.current_tenant_id", "x"]]],
    // -c takes the next word, whatever it looks like.
    ["-c --a=b", [["__a", "b"]]],
    ["-c -c=b", [["_c", "b"]]],
    // Backslashes: the next byte as it is; white space too; a trailing one is nothing.
    ["-c a=b\\ c", [["a", "b c"]]],
    ["-c a=b\\\\c", [["a", "b\\c"]]],
    ["-c a=\\b", [["a", "b"]]],
    ["\\-c a=b", [["a", "b"]]],
    ["-\\c a\\=b", [["a", "b"]]],
    ["-c a=b\\", [["a", "b"]]],
    ["-c a=\\\t", [["a", "\t"]]],
    // A name may come again: the caller lets the last one win.
    ["-c a=1 -c a=2", [["a", "1"], ["a", "2"]]], // prettier-ignore
    // 0xA0 and 0x85 are no white space: bytes above 0x7f stay what they are.
    ["-c a=\xa0\x85", [["a", "\xa0\x85"]]],
    ["-c A.B=c", [["A.B", "c"]]],
  ])("%j", (options, expected) => {
    expect(parse(options)).toEqual(expected);
  });

  it("a word of backslashes is half as many backslashes", () => {
    expect(parse(`-c a=${"\\".repeat(9_000)}`)).toEqual([["a", "\\".repeat(4_500)]]);
  });
});

describe("options that are not settings are refused with 22023", () => {
  it.each([
    "-c",
    "-c ",
    "-c=",
    "-c=b",
    "-c =b",
    "-c a",
    "-ca",
    "-",
    "--",
    "--=b",
    "--a",
    "-- a=b",
    "---",
    "a=b",
    "a",
    "=",
    "\\",
    "\\\\",
    "-c a=b extra",
    "-c a=b -c",
    // Switches of the server's command line: some widen what is seen, none is a setting.
    "-e",
    "-f s",
    "-O",
    "-P",
    "-S 64",
    "-t pa",
    "-v 3",
    "-W 1",
    "-d 5",
    "-ec a=b",
    "-D /tmp",
    "-p 1",
    "-C a",
    "-Ca=b",
    "\\ -c a=b",
  ])("%j", (options) => {
    expect(proxyErrorOf(() => parse(options)).definition.sqlstate).toBe("22023");
  });

  it("9 kB of backslashes", () => {
    expect(proxyErrorOf(() => parse("\\".repeat(9_000))).definition.sqlstate).toBe("22023");
  });
});
