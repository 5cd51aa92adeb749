/** `pgvpd credential`: what it prints in each format, and what it refuses. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { credential, credentialUsage } from "../../../src/cli/credential.ts";
import { ConfigError } from "../../../src/config/config-error.ts";
import { deriveVerifier } from "../../../src/protocol/scram/keys.ts";
import { parseVerifier } from "../../../src/protocol/scram/verifier.ts";
import { parseCredentialsFile } from "../../../src/proxy/auth/credentials-file.ts";

const password = "pässword 'of\\ the\" test";
let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "pgvpd-credential-"));
  file = path.join(folder, "password");
  writeFileSync(file, `${password}\n`, { mode: 0o600 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function print(...args: string[]): Promise<string> {
  const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  try {
    expect(await credential([...args, "--password-file", file])).toBe(0);
    return write.mock.calls.map(([text]) => String(text)).join("");
  } finally {
    write.mockRestore();
  }
}

async function problems(...args: string[]): Promise<readonly string[]> {
  const error: unknown = await credential([...args, "--password-file", file]).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ConfigError);
  return (error as ConfigError).problems;
}

/** Fails for a verifier of another password. */
async function expectVerifier(text: string, iterations: number): Promise<void> {
  const found = parseVerifier(text);
  if (found === undefined) throw new Error(`no verifier: ${text}`);
  expect(await deriveVerifier(password, found.salt, iterations)).toEqual(found);
}

const VERIFIER = /SCRAM-SHA-256\$[^' \n"]+/;
const verifierIn = (text: string): string => VERIFIER.exec(text)?.[0] ?? "";

describe("pgvpd credential prints", () => {
  it("a line for credentials_file, which reads the same from it", async () => {
    const line = await print("--user", 'app "user"', "--tenants", "acme, globex*,acme");
    expect(line.replace(VERIFIER, "...")).toBe('"app ""user""" "..." tenants=acme,globex*\n');
    await expectVerifier(verifierIn(line), 4096);
    const credentials = parseCredentialsFile(line, new Set(), "file");
    const verifier = parseVerifier(verifierIn(line));
    expect(credentials.find('app "user"', "globex2")).toMatchObject({ verifier, isBound: true });
    expect(credentials.find('app "user"', "initech")).toBeUndefined();
  });

  it.each([
    ["two words", '"two words"', "two words", "two word"],
    ["a b*", '"a b"*', "a bcd", "a c"],
    ['*"x', '*"""x"', 'y"x', "yx"],
    ["a;b#c", '"a;b#c"', "a;b#c", "a"],
  ])("the tenant %s in quotes where the file needs them", async (tenant, written, fits, doesNot) => {
    const line = await print("-U", "u", "--tenants", tenant);
    expect(line.replace(VERIFIER, "...")).toBe(`"u" "..." tenants=${written}\n`);
    const credentials = parseCredentialsFile(line, new Set(), "file");
    expect(credentials.find("u", fits)).toMatchObject({ isBound: true });
    expect(credentials.find("u", doesNot)).toBeUndefined();
  });

  it("a line without tenants for all of them", async () => {
    const line = await print("-U", "app_user");
    expect(line.replace(VERIFIER, "...")).toBe('"app_user" "..."\n');
    const credentials = parseCredentialsFile(line, new Set(), "file");
    expect(credentials.find("app_user", "initech")).toMatchObject({ isBound: false });
  });

  it("the verifier alone, with the iterations that are asked for", async () => {
    const text = await print("--format", "verifier", "--iterations", "5000");
    expect(text.replace(VERIFIER, "...")).toBe("...\n");
    await expectVerifier(text.trim(), 5000);
  });

  it("a statement for each tenant, its values as literals whatever is in them", async () => {
    const user = "o'brien";
    const text = await print("--format=sql", "--user", user, "--tenants", "a'b,a\\'b;--", "--valid-until=2027-01-31");
    const statement = (
      tenant: string,
    ) => `INSERT INTO pgvpd.tenant_credentials (login_name, tenant, verifier, valid_until)
  VALUES ('o''brien', ${tenant}, '...', '2027-01-31T00:00:00.000Z')
  ON CONFLICT (login_name, tenant) DO UPDATE
  SET verifier = excluded.verifier, valid_until = excluded.valid_until, created_at = excluded.created_at;
`;
    expect(text.replaceAll(new RegExp(VERIFIER, "g"), "...")).toBe(statement("'a''b'") + statement("E'a\\\\''b;--'"));
    await expectVerifier(verifierIn(text), 4096);
  });

  it.each([
    ["2027-01-31T18:00+01:00", "'2027-01-31T17:00:00.000Z'"],
    ["2027-01-31T18:00:30Z", "'2027-01-31T18:00:30.000Z'"],
  ])("--valid-until %s in UTC", async (time, literal) => {
    expect(await print("--format=sql", "-U", "u", "--tenants=t", "--valid-until", time)).toContain(`, ${literal})`);
  });

  it("NULL where there is no --valid-until", async () => {
    expect(await print("--format=sql", "-U", "u", "--tenants=t")).toContain(", NULL)");
  });

  it("another salt each time", async () => {
    expect(await print("--format", "verifier")).not.toBe(await print("--format", "verifier"));
  });
});

describe("pgvpd credential refuses", () => {
  const time = "expected 2027-01-31 or 2027-01-31T18:00+01:00, not";
  const none = "pgvpd help credential lists the flags; a password is none of them";
  it.each([
    ["no user", [], ["--user: --format file needs it"]],
    ["sql without tenants", ["--format=sql"], ["--user: --format sql needs it", "--tenants: --format sql needs it"]],
    [
      "an end in the file",
      ["-U", "u", "--valid-until=2027-01-31"],
      ["--valid-until: --format file has no place for it"],
    ],
    [
      "a bound bare verifier",
      ["--format=verifier", "--tenants=a"],
      ["--tenants: --format verifier has no place for it"],
    ],
    ["another format", ["--format=toString"], ["--format: expected file, sql or verifier"]],
    ["an empty user", ["--user="], ["--user: expected the name of a role, at most 63 bytes"]],
    ["a longer user", ["-U", "é".repeat(32)], ["--user: expected the name of a role, at most 63 bytes"]],
    ["a line break in a user", ["-U", 'a"\nb'], ["--user: expected the name of a role, at most 63 bytes"]],
    ["an empty tenant", ["-U", "u", "--tenants=a,"], ['--tenants: "": expected acme,globex*']],
    ["a line break in a tenant", ["-U", "u", "--tenants=a\nb"], ['--tenants: "a\\x0ab": expected acme,globex*']],
    ["few iterations", ["-U", "u", "--iterations=4095"], ["--iterations: expected a number from 4096 to 100000"]],
    ["many iterations", ["-U", "u", "--iterations=1e9"], ["--iterations: expected a number from 4096 to 100000"]],
    ["no number", ["-U", "u", "--iterations=x"], ["--iterations: expected a number from 4096 to 100000"]],
    [
      "no day",
      ["--format=sql", "-U", "u", "--tenants=t", "--valid-until=2027-02-30"],
      [`--valid-until: ${time} "2027-02-30"`],
    ],
    [
      "no zone",
      ["--format=sql", "-U", "u", "--tenants=t", "--valid-until=2027-01-31T18:00"],
      [`--valid-until: ${time} "2027-01-31T18:00"`],
    ],
    [
      "tomorrow",
      ["--format=sql", "-U", "u", "--tenants=t", "--valid-until=tomorrow"],
      [`--valid-until: ${time} "tomorrow"`],
    ],
    ["a flag without value", ["--tenants"], [`Option '--tenants <value>' argument missing: ${none}`]],
  ])("%s", async (_name, args, expected) => {
    const found = await problems(...args);
    if (args[0] === "--tenants") expect(found[0]).toMatch(/^Option '--tenants/);
    else expect(found).toEqual(expected);
  });

  it.each([
    [["-U", "u", "hunter2"], "unexpected argument: everything is a flag, and a password never is"],
    [["-U", "u", "--", "hunter2"], "unexpected argument: everything is a flag, and a password never is"],
    [["-U", "u", "--password", "hunter2"], `Unknown option '--password': ${none}`],
    [["-U", "u", "--password=hunter2"], `Unknown option '--password': ${none}`],
  ])("a password as argument, which it does not repeat: %j", async (args, expected) => {
    expect(await problems(...args)).toEqual([expected]);
  });

  it("a password file that others can read", async () => {
    const open = path.join(folder, "open");
    writeFileSync(open, "secret\n", { mode: 0o644 });
    await expect(credential(["-U", "u", "--password-file", open])).rejects.toThrow("others can read it: chmod 600");
  });
});

describe("its usage", () => {
  it("has no flag that takes a password, and fits 80 columns", () => {
    expect(credentialUsage).not.toMatch(/--password\b(?!-file)/);
    for (const line of credentialUsage.split("\n")) expect(line.length, line).toBeLessThanOrEqual(80);
  });
});
