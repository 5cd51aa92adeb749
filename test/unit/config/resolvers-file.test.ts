/** resolvers.toml: what a resolver may say, the order that they run in, and what is told of a file that is wrong. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { loadResolvers, parseResolvers, ResolversError, type Resolver } from "../../../src/config/resolvers-file.ts";

const parse = (text: string): Resolver[][] =>
  parseResolvers(text, "r.toml", ["app.tenant", "app.user_id"]).map((level) => [...level]);

function problemsOf(read: () => unknown): readonly string[] {
  try {
    read();
  } catch (error) {
    if (error instanceof ResolversError) return error.problems;
    throw error;
  }
  throw new Error("expected a ResolversError, but the file is right");
}

/** A resolver with what is given on top of the least that one needs. */
function resolver(name: string, more: Readonly<Record<string, string>> = {}): string {
  const fields = { query: '"SELECT 1 AS x"', inject: `{ "app.${name}" = "x" }`, ...more };
  const lines = Object.entries(fields).map(([field, value]) => `${field} = ${value}\n`);
  return `[[resolver]]\nname = "${name}"\n${lines.join("")}`;
}

describe("a resolver", () => {
  it("reads as it did in pgvpd 1.0", () => {
    const text = `[[resolver]]
      name = "org_membership"
      query = "SELECT org_id, role FROM org_members WHERE user_id = $1"
      params = ["app.user_id"]
      inject = { "app.org_id" = "org_id", "app.org_role" = "role" }
      cache_ttl = 300`;
    expect(parse(text)).toEqual([
      [
        {
          name: "org_membership",
          source: { query: "SELECT org_id, role FROM org_members WHERE user_id = $1" },
          params: ["app.user_id"],
          inject: [
            { variable: "app.org_id", column: "org_id" },
            { variable: "app.org_role", column: "role" },
          ],
          roleColumn: undefined,
          required: false,
          cacheTtlMs: 300_000,
          timeoutMs: 2_000,
          rows: "one",
          onChange: "keep",
        },
      ],
    ]);
  });

  it("may have everything that is new", () => {
    const text = resolver("a", {
      required: "true",
      cache_ttl: "0.5",
      timeout: "0.25",
      rows: '"array"',
      on_change: '"terminate"',
    });
    expect(parse(text)[0]?.[0]).toMatchObject({
      required: true,
      cacheTtlMs: 500,
      timeoutMs: 250,
      rows: "array",
      onChange: "terminate",
    });
  });

  it("that chooses the role need not inject anything", () => {
    const text = '[[resolver]]\nname = "a"\nquery = "SELECT 1 AS r"\ninject_role = "r"\n';
    expect(parse(text)[0]?.[0]).toMatchObject({ roleColumn: "r", inject: [] });
  });

  it("that is required need not inject anything", () => {
    expect(parse(resolver("a", { required: "true", inject: "{}" }))[0]?.[0]?.inject).toEqual([]);
  });

  it("may write inject as a table of its own", () => {
    const text = '[[resolver]]\nname = "a"\nquery = "SELECT 1"\n[resolver.inject]\n"app.a" = "x"\n';
    expect(parse(text)[0]?.[0]?.inject).toEqual([{ variable: "app.a", column: "x" }]);
  });
});

describe("the order", () => {
  const namesOf = (text: string): string[][] => parse(text).map((level) => level.map(({ name }) => name));

  it("puts a resolver behind those that give its params, whatever the case of a name", () => {
    const text =
      resolver("cases", { params: '["APP.Org", "app.user_id"]', query: '"SELECT $1, $2"' }) +
      resolver("org", { params: '["app.user_id"]', query: '"SELECT $1"' }) +
      resolver("teams", { params: '["app.org"]', query: '"SELECT $1"' });
    expect(namesOf(text)).toEqual([["org"], ["cases", "teams"]]);
  });

  it("puts a resolver behind those that it depends on", () => {
    expect(namesOf(resolver("b", { depends_on: '["a"]' }) + resolver("a") + resolver("c"))).toEqual([
      ["a", "c"],
      ["b"],
    ]);
  });

  it("runs as many levels as there are resolvers, where each needs the one before", () => {
    const chain = Array.from({ length: 100 }, (_, n) =>
      resolver(`r${n}`, n === 0 ? {} : { params: `["app.r${n - 1}"]`, query: '"SELECT $1"' }),
    );
    expect(namesOf(chain.toReversed().join(""))).toEqual(Array.from({ length: 100 }, (_, n) => [`r${n}`]));
  });
});

describe("a file that is wrong", () => {
  const at = (line: number, name: string): string => `r.toml:${line}: resolver "${name}"`;

  it.each<[string, string, readonly string[]]>([
    [
      "no TOML",
      '[[resolver]]\nname = "a\n',
      ["r.toml:2: Invalid TOML document: control characters are not allowed in strings"],
    ],
    [
      "a key that comes twice",
      '[[resolver]]\nname = "a"\nname = "b"\n',
      ["r.toml:3: Invalid TOML document: trying to redefine an already defined table or value"],
    ],
    [
      "another table",
      `${resolver("a")}[resolvers]\n`,
      ['r.toml:5: there is no "resolvers": a resolver begins with [[resolver]]'],
    ],
    [
      "single brackets",
      '\n[resolver]\nname = "a"\n',
      ["r.toml:2: a resolver begins with [[resolver]], in double brackets"],
    ],
    [
      "values in place of tables",
      "resolver = [1]",
      ["r.toml:1: a resolver begins with [[resolver]], in double brackets"],
    ],
    [
      "a name twice",
      resolver("a") + resolver("a", { inject: '{ "app.b" = "x" }' }),
      [`${at(5, "a")}: the name is taken: ${at(1, "a")}`],
    ],
    [
      "a name of two lines",
      resolver("a\\nb", { inject: '{ "app.b" = "x" }' }),
      ['r.toml:1: resolver "a\\x0ab": name: expected text of one line, at most 100 characters'],
    ],
    [
      "no name",
      '[[resolver]]\nquery = "SELECT 1"\ninject = { "app.a" = "x" }',
      ['r.toml:1: resolver "": name: expected text of one line, at most 100 characters'],
    ],
    [
      "an unknown field",
      resolver("a", { cachettl: "3" }),
      [`${at(1, "a")}: there is no "cachettl": did you mean cache_ttl?`],
    ],
    [
      "an unknown field with a name of PgBouncer's",
      resolver("a", { query_timeout: "3" }),
      [expect.not.stringContaining("PgBouncer") as string],
    ],
    [
      "an unknown depends_on",
      resolver("org") + resolver("b", { depends_on: '["orgs"]' }),
      [`${at(5, "b")}: depends_on: there is no resolver "orgs": did you mean org?`],
    ],
    [
      "a depends_on that is text",
      resolver("a", { depends_on: '"b"' }),
      [`${at(1, "a")}: depends_on: expected a list of names, as ["app.user_id"]`],
    ],
    [
      "params that are numbers",
      resolver("a", { params: "[1]" }),
      [`${at(1, "a")}: params: expected a list of names, as ["app.user_id"]`],
    ],
    [
      "a param that nobody gives",
      resolver("a", { params: '["app.org"]', query: '"SELECT $1"' }),
      [`${at(1, "a")}: params: nothing gives "app.org": no context variable, no resolver`],
    ],
    [
      "fewer params than the query has",
      resolver("a", { query: '"SELECT $1, $2"', params: '["app.tenant"]' }),
      [`${at(1, "a")}: query: its highest parameter is $2, and params has 1`],
    ],
    [
      "more params than the query has",
      resolver("a", { params: '["app.tenant"]' }),
      [`${at(1, "a")}: query: its highest parameter is $0, and params has 1`],
    ],
    [
      "no query",
      '[[resolver]]\nname = "a"\ninject = { "app.a" = "x" }',
      [`${at(1, "a")}: query: expected one statement`],
    ],
    [
      "a query that is a comment",
      resolver("a", { query: '"-- SELECT 1"' }),
      [`${at(1, "a")}: query: expected one statement`],
    ],
    ["a query that is a number", resolver("a", { query: "5" }), [`${at(1, "a")}: query: expected one statement`]],
    [
      "two statements",
      resolver("a", { query: '"SELECT 1; SELECT 2"' }),
      [`${at(1, "a")}: query: several statements; a resolver is one`],
    ],
    [
      "a variable of two resolvers",
      resolver("a") + resolver("b", { inject: '{ "App.A" = "x" }' }),
      [`${at(5, "b")}: inject: "App.A" comes from resolver "a" already`],
    ],
    [
      "a variable of the user name",
      resolver("a", { inject: '{ "app.TENANT" = "x" }' }),
      [`${at(1, "a")}: inject: "app.TENANT" comes from the user name already`],
    ],
    [
      "no inject",
      '[[resolver]]\nname = "a"\nquery = "SELECT 1"',
      [`${at(1, "a")}: inject: expected { "app.variable" = "column" }`],
    ],
    [
      "an inject that is a list",
      resolver("a", { inject: '["x"]', required: "true" }),
      [`${at(1, "a")}: inject: expected { "app.variable" = "column" }`],
    ],
    [
      "a column that is a number",
      resolver("a", { inject: '{ "app.a" = 1 }' }),
      [`${at(1, "a")}: inject: "app.a": expected a column's name`],
    ],
    [
      "a column without a name",
      resolver("a", { inject: '{ "app.a" = "" }' }),
      [`${at(1, "a")}: inject: "app.a": expected a column's name`],
    ],
    [
      "the role",
      resolver("a", { inject: '{ role = "x" }' }),
      [`${at(1, "a")}: inject: "role" cannot carry context: choose a name with a dot, as app.current_tenant_id`],
    ],
    [
      "the search_path",
      resolver("a", { inject: '{ Search_Path = "x" }' }),
      [`${at(1, "a")}: inject: "Search_Path" cannot carry context: choose a name with a dot, as app.current_tenant_id`],
    ],
    [
      "a variable without a dot",
      resolver("a", { inject: '{ statement_timeout = "x" }' }),
      [`${at(1, "a")}: inject: "statement_timeout" is no variable of the context: those have a dot`],
    ],
    [
      "a variable of the seal",
      resolver("a", { inject: '{ "PGVPD.sealed" = "x" }' }),
      [`${at(1, "a")}: inject: "PGVPD.sealed" is pgvpd's own`],
    ],
    [
      "a variable that PostgreSQL would not take",
      resolver("a", { inject: `{ "app.a'b" = "x" }` }),
      [
        `${at(1, "a")}: inject: "app.a'b" is not a name that PostgreSQL takes: letters, digits, _ and $, with dots between`,
      ],
    ],
    [
      "required that is text",
      resolver("a", { required: '"yes"' }),
      [`${at(1, "a")}: required: expected false or true`],
    ],
    [
      "a cache_ttl below 0",
      resolver("a", { cache_ttl: "-1" }),
      [`${at(1, "a")}: cache_ttl: expected seconds, from 0 to 86400`],
    ],
    [
      "a cache_ttl that is no number",
      resolver("a", { cache_ttl: "nan" }),
      [`${at(1, "a")}: cache_ttl: expected seconds, from 0 to 86400`],
    ],
    [
      "a cache_ttl that is text",
      resolver("a", { cache_ttl: '"300"' }),
      [`${at(1, "a")}: cache_ttl: expected seconds, from 0 to 86400`],
    ],
    ["a timeout of 0", resolver("a", { timeout: "0" }), [`${at(1, "a")}: timeout: expected seconds, from 0.001 to 60`]],
    ["other rows", resolver("a", { rows: '"many"' }), [`${at(1, "a")}: rows: expected one or array`]],
    [
      "another on_change",
      resolver("a", { on_change: '"kill"' }),
      [`${at(1, "a")}: on_change: expected keep or terminate`],
    ],
    [
      "a role's column that is a number",
      resolver("a", { inject_role: "1", rows: '"many"' }),
      [`${at(1, "a")}: rows: expected one or array`, `${at(1, "a")}: inject_role: expected a column's name`],
    ],
    [
      "a role in a list",
      resolver("a", { inject_role: '"r"', rows: '"array"' }),
      [`${at(1, "a")}: inject_role: a session has one role: it needs rows = "one"`],
    ],
    [
      "two resolvers that choose the role",
      resolver("a", { inject_role: '"r"' }) + resolver("b", { inject_role: '"r"' }),
      [`${at(6, "b")}: inject_role: the role comes from resolver "a" already`],
    ],
    [
      "a resolver that needs itself",
      resolver("a", { params: '["app.a"]', query: '"SELECT $1"' }),
      [`${at(1, "a")}: resolvers need each other: a needs a`],
    ],
    [
      "two circles, and one that waits for them: only members are named",
      resolver("waits", { depends_on: '["a", "c"]' }) +
        resolver("a", { depends_on: '["b"]' }) +
        resolver("b", { depends_on: '["a"]' }) +
        resolver("c", { params: '["app.d"]', query: '"SELECT $1"' }) +
        resolver("d", { params: '["app.c"]', query: '"SELECT $1"' }) +
        resolver("fine"),
      [
        `${at(6, "a")}: resolvers need each other: a needs b needs a`,
        `${at(16, "c")}: resolvers need each other: c needs d needs c`,
      ],
    ],
  ])("has %s", (_what, text, problems) => {
    expect(problemsOf(() => parse(text))).toEqual(problems);
  });

  it("is told of with everything that is wrong with it", () => {
    const text =
      resolver("a", { depends_on: '["nobody"]', rows: '"two"' }) +
      resolver("b", { params: '["app.b"]', query: '"SELECT $1"' }) +
      resolver("c", { query: '""' });
    expect(problemsOf(() => parse(text))).toEqual([
      `${at(1, "a")}: rows: expected one or array`,
      `${at(12, "c")}: query: expected one statement`,
      `${at(1, "a")}: depends_on: there is no resolver "nobody"`,
      `${at(7, "b")}: resolvers need each other: b needs b`,
    ]);
  });

  it("may have too many resolvers", () => {
    const text = Array.from({ length: 101 }, (_, n) => resolver(`r${n}`)).join("");
    expect(problemsOf(() => parse(text))).toEqual(["r.toml: at most 100 resolvers"]);
  });

  it("gets no line where a text in it looks like the beginning of a resolver", () => {
    const text = `[[resolver]]\nname = "a"\nquery = """\n[[resolver]]\n"""\n${resolver("b", { timeout: "0" })}`;
    for (const problem of problemsOf(() => parse(text))) expect(problem).toMatch(/^r\.toml: resolver "[ab]": /);
  });

  it("has tables in tables beyond all measure", () => {
    const text = `resolver = ${"[".repeat(100_000)}`;
    expect(problemsOf(() => parse(text))[0]).toMatch(/^r\.toml:1: /);
  });
});

describe("the file", () => {
  function fileWith(content: string | Buffer): string {
    const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-resolvers-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const file = path.join(folder, "resolvers.toml");
    writeFileSync(file, content);
    return file;
  }

  it("is none where there is no setting", () => {
    expect(loadResolvers(undefined, [], [])).toEqual([]);
  });

  it.each<[string, string | Buffer, string]>([
    ["is empty, as one that is being written", "", "there is no [[resolver]] in it"],
    ["is not UTF-8", Buffer.from([0xff, 0xfe]), "it is not UTF-8"],
    ["is larger than 1 MiB", "#".repeat(1024 * 1024 + 1), "it is larger than 1 MiB"],
  ])("is refused where it %s", (_what, content, problem) => {
    const file = fileWith(content);
    expect(problemsOf(() => loadResolvers(file, [], []))).toEqual([`${file}: ${problem}`]);
  });

  it("is refused where it is not there, or a folder", () => {
    expect(problemsOf(() => loadResolvers("/nowhere/r.toml", [], []))).toEqual([
      "/nowhere/r.toml: there is no such file",
    ]);
    expect(problemsOf(() => loadResolvers(tmpdir(), [], []))[0]).toMatch(new RegExp(`^${tmpdir()}: `));
  });

  it("may be as large as 1 MiB, and a query almost as large", () => {
    const query = `SELECT '${"x''".repeat(300_000)}' AS x`;
    const file = fileWith(`[[resolver]]\nname = "a"\nquery = "${query}"\ninject = { "app.a" = "x" }\n`);
    expect(loadResolvers(file, [], [])).toHaveLength(1);
  });
});

describe("resolvers in code", () => {
  const code = { name: "code", inject: ["app.code"], resolve: () => ({}) };

  it("are held to the rules of the file", () => {
    const read = (more: object): readonly string[] =>
      problemsOf(() => parseResolvers(resolver("a"), "r.toml", [], [{ ...code, ...more }]));
    const where = 'resolvers option: resolver "code"';
    expect(read({ inject: ["app.a"] })).toEqual([`${where}: inject: "app.a" comes from resolver "a" already`]);
    expect(read({ inject: ["role"] })[0]).toContain(`${where}: inject: "role" cannot carry context`);
    expect(read({ params: ["app.x"] })[0]).toContain(`${where}: params: nothing gives "app.x"`);
    expect(read({ resolve: "x" })).toEqual([`${where}: resolve: expected a function`]);
  });

  it("stand in the same order as those of the file", () => {
    const text = resolver("b", { params: '["app.code"]', query: '"SELECT $1"' });
    const plan = parseResolvers(text, "r.toml", [], [code]);
    expect(plan.map((level) => level.map(({ name }) => name))).toEqual([["code"], ["b"]]);
  });
});
