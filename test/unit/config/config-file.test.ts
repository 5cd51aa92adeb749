/** The syntax of pgvpd.conf, and what a file that cannot be read says. */
import { chmodSync, mkdirSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { parseConfigFile } from "../../../src/config/config-file.ts";
import { loadConfig } from "../../../src/config/load.ts";
import { errorOf, load, problemsOf, temporaryFolder } from "./load-text.ts";

const valueOf = (line: string): string | undefined => parseConfigFile(line).lines[0]?.value;

describe("a line of pgvpd.conf", () => {
  it("is key = value, with any spaces around both", () => {
    expect(parseConfigFile("  port\t =  7000  ").lines).toEqual([{ number: 1, key: "port", value: "7000" }]);
  });

  it("is a comment when # comes first, and only then", () => {
    expect(parseConfigFile("# port = 1\n  # port = 2\n\n").lines).toEqual([]);
    expect(valueOf("tenant_separator = #")).toBe("#");
    expect(valueOf("upstream_password = pass#word # not a comment")).toBe("pass#word # not a comment");
  });

  it("loses one pair of matching quotes around its value", () => {
    expect(valueOf(`tenant_separator = "."`)).toBe(".");
    expect(valueOf(`tenant_separator = '.'`)).toBe(".");
    expect(valueOf(`value_separator = " "`)).toBe(" ");
    expect(valueOf(`upstream_password = "'a'"`)).toBe("'a'");
    expect(valueOf(`upstream_password = "a'`)).toBe(`"a'`);
    expect(valueOf(`upstream_password = "`)).toBe(`"`);
    expect(valueOf(`upstream_password = ""`)).toBe("");
  });

  it("keeps every = after the first", () => {
    expect(valueOf("upstream_password = a=b==")).toBe("a=b==");
  });

  it("may end as on Windows, and the file may begin with a byte order mark", () => {
    const { config } = load({ file: "\uFEFFport = 7000\r\ntenant_separator = -\r\n" });
    expect(config).toMatchObject({ port: 7000, tenantSeparator: "-" });
  });

  it.each(["port 7000", "= 7000", "nonsense", "{"])("is refused with its number when it is %j", (line) => {
    expect(problemsOf({ file: `\n${line}\n` })).toEqual(["pgvpd.conf:2: expected key = value"]);
  });

  it("says that there are no sections, to people who bring a pgbouncer.ini", () => {
    expect(problemsOf({ file: "[pgbouncer]" })).toEqual([
      "pgvpd.conf:1: expected key = value: there are no sections in this file",
    ]);
  });

  it("is not repeated when it is malformed, as a password may stand in it", () => {
    for (const line of ["upstream_password hunter2", "upstream_password hunter2=", "upstream_password: hunter2="]) {
      expect(problemsOf({ file: line })).toEqual(["pgvpd.conf:1: expected key = value"]);
    }
  });
});

describe("the file", () => {
  it("must be there when it was named", () => {
    const file = path.join(temporaryFolder(), "other.conf");
    expect(problemsOf(() => loadConfig({ file, env: {} }))).toEqual([`${file}: there is no such file`]);
  });

  it("may be a folder by mistake, and that is said", () => {
    const file = path.join(temporaryFolder(), "pgvpd.conf");
    mkdirSync(file);
    expect(problemsOf(() => loadConfig({ file, env: {} }))).toEqual([`${file}: it is a folder, not a file`]);
  });

  it("is UTF-8: a password in another encoding would be another password", () => {
    expect(problemsOf({ file: Buffer.from("tenant_separator = \xa7\n", "latin1") })[0]).toMatch(
      /: it is not UTF-8 text$/,
    );
  });

  it("is refused beyond 1 MiB", () => {
    expect(problemsOf({ file: "#".repeat(1024 * 1024 + 1) })[0]).toMatch(/: it is larger than 1 MiB/);
  });

  it("is the one that --config names: the log can tell", () => {
    const { file, given } = load({ file: "port = 7000\n" });
    expect(file).toMatch(/pgvpd\.conf$/);
    expect(given).toEqual([{ name: "port", value: '"7000"', origin: `${file}:1` }]);
  });
});

describe("a file with a password", () => {
  const isRoot = process.getuid?.() === 0;
  const warningsOf = (mode: number, uid?: number): readonly string[] => {
    const file = "upstream_password = hunter2\n";
    return load(uid === undefined ? { file, mode } : { file, mode, uid }).warnings;
  };

  it("that others can read is a warning, which does not show it", () => {
    for (const mode of [0o644, 0o604, 0o664]) {
      expect(warningsOf(mode)).toEqual([
        expect.stringMatching(/holds a password and can be read by others: chmod 600 /),
      ]);
    }
    expect(warningsOf(0o644).join()).not.toContain("hunter2");
  });

  it("that its owner alone can read is none", () => {
    expect(warningsOf(0o600)).toEqual([]);
    expect(warningsOf(0o400)).toEqual([]);
  });

  it.runIf(isRoot)("of root may be readable for its group", () => {
    expect(warningsOf(0o640)).toEqual([]);
  });

  it("of anybody else may not", () => {
    for (const mode of [0o640, 0o620, 0o610]) expect(warningsOf(mode, isRoot ? 1000 : undefined)).toHaveLength(1);
  });

  it("is told of where the start fails too", () => {
    const { warnings } = errorOf({ file: "upstream_password = hunter2\nport = x\n", mode: 0o644 });
    expect(warnings).toHaveLength(1);
  });

  it("that is empty is none either", () => {
    expect(load({ file: "upstream_password =\n", mode: 0o644 }).warnings).toEqual([]);
  });
});

describe("without --config", () => {
  it("./pgvpd.conf is read where there is one", () => {
    const before = process.cwd();
    const folder = temporaryFolder();
    try {
      process.chdir(folder);
      expect(loadConfig({ env: {} }).file).toBeUndefined();
      mkdirSync("pgvpd.conf");
      chmodSync("pgvpd.conf", 0o700);
      expect(problemsOf(() => loadConfig({ env: {} }))[0]).toMatch(/pgvpd\.conf: it is a folder, not a file$/);
    } finally {
      process.chdir(before);
    }
  });
});
