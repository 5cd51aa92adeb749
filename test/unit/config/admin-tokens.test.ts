/** `admin_tokens_file`: what its lines are, whose a token is, and how `pgvpd token` adds one. */
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it, vi } from "vitest";
import { checkFiles } from "../../../src/check/check-files.ts";
import { token as tokenCommand } from "../../../src/cli/token.ts";
import { addAdminToken, loadAdminTokens, parseAdminTokens } from "../../../src/config/admin-tokens.ts";
import { configFromSettings, type SettingValues } from "../../../src/config/load.ts";
import { problemsOf } from "./load-text.ts";

const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-tokens-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const hash = (token: string): string => createHash("sha256").update(token).digest("hex");

describe("the file", () => {
  it("has a token a line; comments and empty lines do not count", () => {
    const text = `# tokens\n\na:metrics:${hash("one")}\r\n  b.c@d-e:read, operate:${hash("two").toUpperCase()}  \n`;
    const tokens = parseAdminTokens(text, "file");
    expect(tokens.find("one")).toMatchObject({ name: "a", scopes: new Set(["metrics"]) });
    expect(tokens.find("two")).toMatchObject({ name: "b.c@d-e", scopes: new Set(["read", "operate"]) });
    for (const wrong of ["", "three", hash("one"), "ONE", "one "]) expect(tokens.find(wrong), wrong).toBeUndefined();
  });

  it.each([
    ["no colon at all", /file:1: expected name:scopes:hash/],
    [`a:read:${"0".repeat(63)}`, /64 hexadecimal digits/],
    [`a:read:${"0".repeat(64)}:b`, /expected name:scopes:hash/],
    [`:read:${"0".repeat(64)}`, /the name of a token has letters/],
    [`a b:read:${"0".repeat(64)}`, /the name of a token has letters/],
    [`a:admin:${"0".repeat(64)}`, /expected scopes of metrics, read, operate, not "admin"/],
    [`a::${"0".repeat(64)}`, /expected scopes/],
    [`a:read:${"0".repeat(64)}\na:read:${"1".repeat(64)}`, /file:2: "a" has a token already, in line 1/],
    ["# none\n", /it holds no token: make one with pgvpd token/],
  ])("refuses %j", (text, problem) => {
    expect(problemsOf(() => parseAdminTokens(text, "file")).join("\n")).toMatch(problem);
  });

  it("is not repeated where it may hold a token, and has a limit", () => {
    expect(problemsOf(() => parseAdminTokens("a:read:pgvpd_secret", "file")).join()).not.toContain("pgvpd_secret");
    expect(problemsOf(() => parseAdminTokens("x\n".repeat(100), "file"))).toHaveLength(20);
    const many = Array.from({ length: 1_001 }, (_, n) => `t${n}:read:${hash(String(n))}\n`).join("");
    expect(problemsOf(() => parseAdminTokens(many, "file"))).toEqual(["file: it has more than 1000 tokens"]);
  });
});

it("pgvpd check says whether the files of the HTTP API can be used", () => {
  const admin_tokens_file = path.join(folder, "checked");
  const findings = (more: SettingValues = {}): string[] =>
    checkFiles(configFromSettings({ admin_port: 1, admin_tokens_file, ...more })).map(
      ({ verdict, text }) => `${verdict}: ${text}`,
    );
  addAdminToken(admin_tokens_file, "a", new Set(["read"]));
  expect(findings()).toEqual(["ok: tokens: the files can be used"]);
  writeFileSync(admin_tokens_file, "a:read\n");
  expect(findings()).toEqual([expect.stringMatching(/^error: tokens: admin_tokens_file: .*checked:1: expected name/)]);
  const missing = { admin_tls_cert: path.join(folder, "none.crt"), admin_tls_key: path.join(folder, "none.key") };
  expect(findings(missing)[0]).toMatch(/^error: HTTP API TLS: admin_tls_cert: .*none\.crt: there is no such file/);
});

describe("pgvpd token", () => {
  const run = async (...args: string[]): Promise<string> => {
    const out = vi.spyOn(process.stdout, "write").mockReturnValue(true);
    const err = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    try {
      expect(await tokenCommand(args)).toBe(0);
      return String(out.mock.calls[0]?.[0]).trimEnd();
    } finally {
      out.mockRestore();
      err.mockRestore();
    }
  };

  it("prints a token of 32 random bytes, and keeps its hash in a file of its owner's alone", async () => {
    const file = path.join(folder, "made");
    const first = await run("a", "--scopes", "metrics", "--file", file);
    const second = await run("b", "--scopes", "read,operate", "--file", file);
    expect(first).toMatch(/^pgvpd_[\w-]{43}$/);
    expect(second).not.toBe(first);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readFileSync(file, "utf8")).toBe(`a:metrics:${hash(first)}\nb:read,operate:${hash(second)}\n`);
    expect(loadAdminTokens(file).find(second)?.name).toBe("b");
  });

  it("adds a line to a file that does not end with one, and none to a file that is wrong", () => {
    const file = path.join(folder, "old");
    writeFileSync(file, `a:read:${hash("one")}`, { mode: 0o600 });
    const added = addAdminToken(file, "b", new Set(["read"]));
    expect(loadAdminTokens(file).find("one")?.name).toBe("a");
    expect(loadAdminTokens(file).find(added)?.name).toBe("b");
    const before = readFileSync(file, "utf8");
    expect(() => addAdminToken(file, "a", new Set(["read"]))).toThrow(/has a token already/);
    expect(readFileSync(file, "utf8")).toBe(before);
  });

  it.each([
    [[], /expected a name first.*--file: expected.*--scopes: expected a list/],
    [["a b", "--scopes", "read", "--file", "x"], /the name of a token/],
    [["a", "b", "--scopes", "read", "--file", "x"], /expected one name/],
    [["a", "--scopes", "write", "--file", "x"], /--scopes: expected scopes of metrics, read, operate/],
    [["a", "--force"], /--force/],
  ])("refuses %j", async (args, problem) => {
    await expect(tokenCommand(args)).rejects.toMatchObject({ problems: expect.anything() as unknown });
    const problems = await tokenCommand(args).catch((error: { problems: string[] }) => error.problems.join(" "));
    expect(problems).toMatch(problem);
  });
});
