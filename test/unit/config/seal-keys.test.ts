/** context_key_file: what is a file of keys and what is not, how it changes, and the SQL that installs it. */
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  lstatSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import {
  addKey,
  createKeyFile,
  keepLastKey,
  readSealKeys,
  renderKeyInstallation,
} from "../../../src/config/seal-keys.ts";
import { load, problemsOf } from "./load-text.ts";

vi.mock("node:fs", { spy: true });

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "pgvpd-seal-keys-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => {
  file = path.join(folder, "context.key");
  rmSync(file, { force: true });
});

const A = Buffer.alloc(32, 1);
const B = Buffer.alloc(32, 2);
const line = (kid: number | string, bytes: Buffer): string => `${kid} ${bytes.toString("base64")}\n`;
function write(text: string, mode = 0o600): void {
  writeFileSync(file, text);
  chmodSync(file, mode);
}
const readingOf = (text: string) => (): unknown => {
  write(text);
  return readSealKeys(file);
};

describe("a file of keys", () => {
  it("has one a line, in order, with comments and blank lines between", () => {
    expect(readingOf(`# first\n${line(1, A)}\n  # then\n  2\t${B.toString("base64")}  \r\n`)()).toEqual([
      { kid: 1, bytes: A },
      { kid: 2, bytes: B },
    ]);
    expect(readingOf(line(999_999_999, A).trimEnd())()).toEqual([{ kid: 999_999_999, bytes: A }]);
  });

  it.each([
    ["no number", `${A.toString("base64")}\n`],
    ["number 0", line(0, A)],
    ["a negative number", line("-1", A)],
    ["a number of ten digits", line("1000000000", A)],
    ["a number in hexadecimal", line("0x1", A)],
    ["31 bytes", line(1, A.subarray(1))],
    ["33 bytes", line(1, Buffer.alloc(33))],
    ["no key", "1\n"],
    ["a key in hexadecimal", `1 ${A.toString("hex")}\n`],
    ["something behind the key", line(1, A).replace("\n", " x\n")],
  ])("is refused with %s, by line and without what stands there", (_name, text) => {
    expect(readingOf(`# comment\n${text}`)).toThrow(`${file}:2: expected a number of its own and 32 bytes in base64`);
  });

  it("is refused with a number that occurs twice", () => {
    expect(readingOf(line(1, A) + line(2, B) + line(1, B))).toThrow(`${file}:3: expected a number of its own`);
  });

  it("is refused when it is empty, holds too many, or others can read it", () => {
    expect(readingOf("# nothing\n\n")).toThrow(`${file}: it holds no key: pgvpd key create --file ${file}`);
    const many = Array.from({ length: 101 }, (_, index) => line(index + 1, A)).join("");
    expect(readingOf(many)).toThrow(`${file}: it holds more than 100 keys`);
    write(line(1, A), 0o644);
    expect(() => readSealKeys(file)).toThrow(`others can read it: chmod 600 ${file}`);
    expect(() => readSealKeys(path.join(folder, "none"))).toThrow("there is no such file");
  });
});

describe("createKeyFile", () => {
  it("writes one random key, for its owner alone, and overwrites nothing", () => {
    createKeyFile(file);
    const [first, ...more] = readSealKeys(file);
    expect(more).toEqual([]);
    expect(first?.kid).toBe(1);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const before = readFileSync(file);
    expect(() => createKeyFile(file)).toThrow("EEXIST");
    expect(readFileSync(file)).toEqual(before);
    rmSync(file);
    createKeyFile(file);
    expect(readSealKeys(file)[0]?.bytes).not.toEqual(first?.bytes);
  });
});

describe("addKey", () => {
  it("puts a new key with the next number behind the others, and leaves all else as it is", () => {
    const text = `# mine\n${line(7, A)}${line(3, B)}`;
    write(text);
    expect(addKey(file)).toBe(8);
    expect(readFileSync(file, "utf8").startsWith(text)).toBe(true);
    expect(readSealKeys(file).map(({ kid }) => kid)).toEqual([7, 3, 8]);
  });

  it("starts a line of its own where the last one has no end", () => {
    write(line(1, A).trimEnd());
    addKey(file);
    expect(readSealKeys(file).map(({ kid }) => kid)).toEqual([1, 2]);
  });

  it("keeps the file's mode, and a link to it", () => {
    write(line(1, A), 0o400);
    const link = path.join(folder, "link.key");
    symlinkSync(file, link);
    addKey(link);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(statSync(file).mode & 0o777).toBe(0o400);
    expect(readSealKeys(file)).toHaveLength(2);
    expect(existsSync(`${file}.new`)).toBe(false);
    rmSync(link);
  });

  it("leaves no copy of the keys where the file cannot be replaced", () => {
    write(line(1, A));
    vi.mocked(renameSync).mockImplementationOnce(() => {
      throw new Error("no space");
    });
    expect(() => addKey(file)).toThrow("no space");
    expect(existsSync(`${file}.new`)).toBe(false);
    expect(readSealKeys(file)).toHaveLength(1);
  });

  it("refuses a file that it could not read afterwards, and leaves it", () => {
    const full = Array.from({ length: 100 }, (_, index) => line(index + 1, A)).join("");
    for (const text of [full, line(999_999_999, A), "1 broken\n"]) {
      write(text);
      expect(() => addKey(file)).toThrow(file);
      expect(readFileSync(file, "utf8")).toBe(text);
    }
  });
});

describe("keepLastKey", () => {
  it("keeps the last key, and comments", () => {
    write(`# head\n${line(2, A)}# tail\n${line(1, B)}`);
    expect(keepLastKey(file)).toBe(1);
    expect(readFileSync(file, "utf8")).toBe(`# head\n# tail\n${line(1, B)}`);
    expect(keepLastKey(file)).toBe(1);
  });
});

describe("renderKeyInstallation", () => {
  it("accepts exactly these keys, padded as HMAC has it, in one transaction", () => {
    const hex = (value: number): string => Buffer.alloc(32, value).toString("hex");
    const sql = renderKeyInstallation([
      { kid: 3, bytes: A },
      { kid: 9, bytes: B },
    ]);
    expect(sql).toMatch(/^BEGIN;\nDO \$\$ BEGIN\n {2}IF .*'is_superuser'[^]*SET LOCAL log_statement = 'none';/);
    expect(sql.slice(sql.indexOf("INSERT"))).toBe(
      [
        "INSERT INTO pgvpd.context_keys (kid, ipad, opad) VALUES",
        `  (3, '\\x${hex(0x37)}${hex(0x36)}', '\\x${hex(0x5d)}${hex(0x5c)}'),`,
        `  (9, '\\x${hex(0x34)}${hex(0x36)}', '\\x${hex(0x5e)}${hex(0x5c)}')`,
        "ON CONFLICT (kid) DO UPDATE SET ipad = excluded.ipad, opad = excluded.opad, active = true;",
        "UPDATE pgvpd.context_keys SET active = false WHERE kid NOT IN (3, 9);",
        "COMMIT;",
        "",
      ].join("\n"),
    );
  });
});

describe("settings of the seal", () => {
  const fileOf = (text: string): string => text.split("; ").join("\n");

  it("need each other", () => {
    for (const value of ["on", "require"]) {
      expect(problemsOf({ file: `context_seal = ${value}` })).toEqual([
        `pgvpd.conf:1: context_seal: ${value} needs context_key_file`,
      ]);
      load({ file: fileOf(`context_seal = ${value}; context_key_file = k; context_seal_ttl = 60`) });
    }
    expect(problemsOf({ file: "context_key_file = k" })).toEqual([
      "pgvpd.conf:1: context_key_file: is used together with context_seal = on or require alone",
    ]);
    expect(problemsOf({ file: "context_seal_ttl = 60" })).toHaveLength(1);
  });

  it("are refused beyond their range", () => {
    for (const text of [
      "context_seal = yes",
      "context_seal = off; context_seal_ttl = 59",
      "context_seal_ttl = 31536001",
    ]) {
      expect(problemsOf({ file: fileOf(text) }).length).toBeGreaterThan(0);
    }
  });
});
