/** Files of secrets: who may read them, and the passwords that stand in files of their own. */
import { chmodSync, chownSync, mkdirSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { isOpen, readSecretFile, readSecretText } from "../../../src/config/secret-file.ts";
import { load, problemsOf, temporaryFolder } from "./load-text.ts";

const isRoot = process.getuid?.() === 0;

/** A file with a secret in it; its path. */
function secretFile(content: string | Uint8Array, mode = 0o600, uid?: number): string {
  const file = path.join(temporaryFolder(), "secret");
  writeFileSync(file, content);
  chmodSync(file, mode);
  if (uid !== undefined) chownSync(file, uid, -1);
  return file;
}

describe("a file of secrets", () => {
  it.each([0o644, 0o604, 0o660, 0o602, 0o601, 0o610, 0o777])("is open with mode %o, whoever owns it", (mode) => {
    expect(isOpen({ mode, uid: 0 }) && isOpen({ mode, uid: 1000 })).toBe(true);
  });

  it.each([0o600, 0o400, 0o700])("is not with mode %o", (mode) => {
    expect(isOpen({ mode, uid: 0 }) || isOpen({ mode, uid: 1000 })).toBe(false);
  });

  it("of root may be read by its group, of anybody else not", () => {
    expect([isOpen({ mode: 0o640, uid: 0 }), isOpen({ mode: 0o440, uid: 0 })]).toEqual([false, false]);
    expect([isOpen({ mode: 0o640, uid: 1000 }), isOpen({ mode: 0o440, uid: 1000 })]).toEqual([true, true]);
  });

  it("is refused where it is open, and says what to do", () => {
    const file = secretFile("hunter2", 0o644);
    expect(() => readSecretFile(file)).toThrow(new Error(`${file}: others can read it: chmod 600 ${file}`));
  });

  it("is refused beyond 16 MiB", () => {
    const file = secretFile("");
    truncateSync(file, 16 * 1024 * 1024 + 1);
    expect(() => readSecretFile(file)).toThrow(`${file}: it is larger than 16 MiB`);
  });

  it("is UTF-8 where it holds text", () => {
    const file = secretFile(Buffer.from("p\xa7", "latin1"));
    expect(() => readSecretText(file)).toThrow(new Error(`${file}: it is not UTF-8 text`));
    expect(readSecretText(secretFile("p§"))).toBe("p§");
  });
});

describe.each([
  ["pool_password", "poolPassword"],
  ["upstream_password", "upstreamPassword"],
] as const)("%s_file", (name, key) => {
  const passwordOf = (content: string | Uint8Array, mode?: number, uid?: number): string | undefined =>
    load({ file: `${name}_file = ${secretFile(content, mode, uid)}\n` }).config[key]?.reveal();
  const problemOf = (content: string | Uint8Array, mode?: number, uid?: number): string => {
    const file = secretFile(content, mode, uid);
    const problems = problemsOf({ file: `${name}_file = ${file}\n` });
    expect(problems).toHaveLength(1);
    return problems[0]?.replaceAll(file, "FILE") ?? "";
  };

  it("holds the password, and a line ending that does not count", () => {
    expect(passwordOf("hunter2")).toBe("hunter2");
    expect(passwordOf("hunter2\n")).toBe("hunter2");
    expect(passwordOf("hunter2\r\n")).toBe("hunter2");
    expect(passwordOf(" hunter 2 # 'x'\n")).toBe(" hunter 2 # 'x'");
  });

  it.each([
    ["nothing", ""],
    ["an empty line", "\n"],
    ["two lines", "hunter2\nhunter3\n"],
    ["an empty line at the end", "hunter2\n\n"],
    ["a NUL", "hunter2\0"],
  ])("may not hold %s", (_what, content) => {
    expect(problemOf(content)).toBe(`pgvpd.conf:1: ${name}_file: FILE: expected one line, the password`);
  });

  it("may not be in another encoding, which would be another password", () => {
    expect(problemOf(Buffer.from("p\xa7", "latin1"))).toBe(`pgvpd.conf:1: ${name}_file: FILE: it is not UTF-8 text`);
  });

  it("is refused with mode 0644", () => {
    expect(problemOf("hunter2", 0o644)).toBe(`pgvpd.conf:1: ${name}_file: FILE: others can read it: chmod 600 FILE`);
  });

  it.runIf(isRoot)("is accepted with mode 0640 of root, and refused of anybody else", () => {
    expect(passwordOf("hunter2", 0o640)).toBe("hunter2");
    expect(problemOf("hunter2", 0o640, 1000)).toMatch(/others can read it/);
  });

  it("must be there, and no folder", () => {
    const folder = temporaryFolder();
    expect(problemsOf({ env: { [`PGVPD_${name.toUpperCase()}_FILE`]: `${folder}/none` } })).toEqual([
      `PGVPD_${name.toUpperCase()}_FILE: ${name}_file: ${folder}/none: there is no such file`,
    ]);
    mkdirSync(`${folder}/sub`, { mode: 0o700 });
    expect(problemsOf({ flags: [`--${name.replace("_", "-")}-file=${folder}/sub`] })).toEqual([
      `--${name.replace("_", "-")}-file: ${name}_file: ${folder}/sub: it is a folder, not a file`,
    ]);
  });

  it(`is not given together with ${name}`, () => {
    const file = secretFile("hunter2");
    expect(problemsOf({ file: `${name} = hunter3\n${name}_file = ${file}\n` })).toEqual([
      `pgvpd.conf:2: ${name}_file: ${name} is set too: keep one of them`,
    ]);
    expect(load({ file: `${name} =\n${name}_file = ${file}\n` }).config[key]?.reveal()).toBe("hunter2");
  });

  it("is shown by its path, and never with what it holds", () => {
    const file = secretFile("hunter2");
    const { given, config } = load({ file: `${name}_file = ${file}\n` });
    expect(given.map(({ value }) => value)).toEqual([`"${file}"`]);
    expect(JSON.stringify(config)).not.toContain("hunter2");
  });
});
