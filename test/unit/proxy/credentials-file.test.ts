/** credentials_file: what a line may be, which lines are refused, and which credential a login gets. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { ConfigError } from "../../../src/config/config-error.ts";
import { configFromSettings } from "../../../src/config/load.ts";
import { formatVerifier } from "../../../src/protocol/scram/verifier.ts";
import {
  loadCredentialsFile,
  parseCredentialsFile,
  type CredentialsFile,
} from "../../../src/proxy/auth/credentials-file.ts";

/** The n-th verifier; each differs from every other. */
const verifier = (n: number): string =>
  formatVerifier({
    iterations: 4_096 + n,
    salt: Buffer.alloc(16, n),
    storedKey: Buffer.alloc(32, n),
    serverKey: Buffer.alloc(32, n),
  });

const MD5 = "md5d8578edf8458ce06fbc5bb76a58c5ca4";

const parse = (text: string, ...ownRoles: string[]): CredentialsFile =>
  parseCredentialsFile(text, new Set(ownRoles), "users");

function problemsOf(text: string, ...ownRoles: string[]): readonly string[] {
  try {
    parse(text, ...ownRoles);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  throw new Error("expected a ConfigError, but the file is right");
}

/** Which of `verifier`s the login gets; with a + where it is bound. */
function found(file: CredentialsFile, role: string, tenant?: string): string | undefined {
  const credential = file.find(role, tenant);
  return credential && `${credential.verifier.iterations - 4_096}${credential.isBound ? "+" : ""}`;
}

/** Whether a line with `tenants=` and this text is for the tenant. */
const isFor = (tenants: string, tenant: string): boolean =>
  found(parse(`"app" "${verifier(1)}" tenants=${tenants}`), "app", tenant) === "1+";

describe("a userlist of PgBouncer with SCRAM verifiers", () => {
  const userlist = `;; made by a script
"app_user" "${verifier(1)}"

  "reports"\t"${verifier(2)}" ""
# of old
"with ""quotes"" and space" "${verifier(3)}" "2030-01-01" bare ; and more
"last" "${verifier(4)}"`;

  it("works as it is", () => {
    for (const text of [userlist, userlist.replaceAll("\n", "\r\n"), userlist.replaceAll("\n", "\r")]) {
      const file = parse(text);
      expect(found(file, "app_user")).toBe("1");
      expect(found(file, "app_user", "acme")).toBe("1");
      expect(found(file, "reports", "acme")).toBe("2");
      expect(found(file, 'with "quotes" and space', "acme")).toBe("3");
      expect(found(file, "last")).toBe("4");
      expect(file.find("nobody", "acme")).toBeUndefined();
      expect(file.find("App_user", "acme")).toBeUndefined();
      expect(file.hasBound).toBe(false);
    }
  });

  it("may be empty", () => {
    expect(parse("").find("app_user", undefined)).toBeUndefined();
  });

  it("may name a role like a property that every object has", () => {
    for (const name of ["__proto__", "constructor", "toString"]) {
      expect(parse("").find(name, "constructor")).toBeUndefined();
      expect(found(parse(`"${name}" "${verifier(1)}" tenants=${name}`), name, name)).toBe("1+");
    }
  });
});

describe("tenants=", () => {
  it("are exact values, separated by commas, in any place behind the verifier", () => {
    for (const rest of ["tenants=acme,globex", '"" tenants=acme,globex ; both', "old tenants=acme,globex\t"]) {
      const file = parse(`"app" "${verifier(1)}" ${rest}`);
      expect([found(file, "app", "acme"), found(file, "app", "globex")]).toEqual(["1+", "1+"]);
      for (const tenant of ["Acme", "acme ", "acm", "acme,globex", ""])
        expect(found(file, "app", tenant)).toBeUndefined();
      expect(file.find("app", undefined)).toBeUndefined();
      expect(file.hasBound).toBe(true);
    }
  });

  it.each([
    ["glob*", ["glob", "globex", "glob*"], ["Globex", "xglob", "glo"]],
    ["*ex", ["ex", "globex"], ["exx", "globeX"]],
    ["*", ["a", "acme", ""], []],
    ["**", ["a", ""], []],
    ["a*b*c", ["abc", "a-b-c", "abbc", "abcbc"], ["ab", "acb", "abcd", "ac"]],
    ["ab*ba", ["abba", "ab-ba"], ["aba", "ab"]],
    ["a*bc*bc", ["abcbc", "abcxbc", "axbcbc"], ["abc", "abcb"]],
    ["a.c", ["a.c"], ["abc"]],
    ["[a-z]?(x)$", ["[a-z]?(x)$"], ["a", "x"]],
    ["\\d+*", ["\\d+", "\\d+1"], ["1"]],
    ["é*", ["é", "éa"], ["e"]],
  ])("with %s are as its characters and any run of others for *", (pattern, inside, outside) => {
    for (const tenant of inside) expect(isFor(pattern, tenant), tenant).toBe(true);
    for (const tenant of outside) expect(isFor(pattern, tenant), tenant).toBe(false);
  });

  it("take quotes around what would end a value, and around a * that is one", () => {
    expect(isFor('"acme corp",x', "acme corp")).toBe(true);
    expect(isFor('"a,b"', "a,b")).toBe(true);
    expect(isFor('"say ""hi"""', 'say "hi"')).toBe(true);
    expect(isFor('"acme "*', "acme corp")).toBe(true);
    expect([isFor('"a*"', "a*"), isFor('"a*"', "ab")]).toEqual([true, false]);
    expect([isFor('"*"*', "*b"), isFor('"*"*', "ab")]).toEqual([true, false]);
    expect(isFor('#1,";"', "#1")).toBe(true);
  });

  it("may be on several lines of one role, beside one without", () => {
    const file = parse(`"app" "${verifier(1)}" tenants=acme
      "app" "${verifier(2)}" tenants=globex,init*
      "app" "${verifier(3)}"
      "other" "${verifier(4)}" tenants=acme`);
    expect(["acme", "globex", "initech", "umbrella"].map((tenant) => found(file, "app", tenant))).toEqual([
      "1+",
      "2+",
      "2+",
      "3",
    ]);
    expect(found(file, "app")).toBe("3");
    expect([found(file, "other", "acme"), found(file, "other", "globex"), found(file, "other")]).toEqual([
      "4+",
      undefined,
      undefined,
    ]);
  });

  it("are most of all an exact value, then the pattern with most characters, then the one that stands first", () => {
    const file = parse(`"app" "${verifier(1)}" tenants=*
      "app" "${verifier(2)}" tenants=a*
      "app" "${verifier(3)}" tenants=a*e
      "app" "${verifier(4)}" tenants=acme
      "app" "${verifier(5)}" tenants=*me
      "app" "${verifier(6)}"`);
    expect(["acme", "awe", "ame", "home", "all", "x"].map((tenant) => found(file, "app", tenant))).toEqual([
      "4+",
      "3+",
      "3+",
      "5+",
      "2+",
      "1+",
    ]);
    expect(found(file, "app")).toBe("6");
  });

  it("that are commented out are none", () => {
    expect(found(parse(`"app" "${verifier(1)}" # tenants=acme`), "app", "globex")).toBe("1");
  });

  const slip = "users:1: behind the verifier only tenants=... is known, in small letters and without spaces";
  it.each([
    "tenant=acme",
    "Tenants=acme",
    "TENANTS=acme",
    "tenants =acme",
    "tenants = acme",
    "tenants:acme",
    "tenants acme",
    "xtenants=acme",
    '"x"tenants=acme',
    "\u00a0tenants=acme",
    "valid_until=2030",
  ])("that are misspelled would let every tenant in, so that %j is refused", (rest) => {
    expect(problemsOf(`"app" "${verifier(1)}" ${rest}`)).toEqual([slip]);
  });

  const empty = "users:1: tenants= has an empty value: separate values by commas, without spaces";
  it.each(["tenants=", "tenants=acme,", "tenants=,acme", "tenants=a,,b", 'tenants=""', "tenants=acme, globex"])(
    "are not empty: %s",
    (rest) => {
      expect(problemsOf(`"app" "${verifier(1)}" ${rest}`)).toEqual([empty]);
    },
  );

  it("come once on a line", () => {
    expect(problemsOf(`"app" "${verifier(1)}" tenants=a tenants=b`)).toEqual(["users:1: tenants= comes twice"]);
  });
});

describe("a line that is refused", () => {
  const advice = "write the SCRAM verifier instead, as PostgreSQL stores it or pgvpd credential makes it";
  it.each([
    ['"app" "hunter2"', `a password in clear text proves no client: ${advice}`],
    [`"app" "${MD5}"`, `an MD5 hash proves no client: ${advice}`],
    ['"app" ""', `there is no verifier: ${advice}`],
    [`"app" "${verifier(1).slice(0, -4)}"`, "the SCRAM verifier is not whole"],
    ['"app" "SCRAM-SHA-256$"', "the SCRAM verifier is not whole"],
    [`"" "${verifier(1)}"`, "the name of the role is empty"],
    ["app hunter2", 'expected "role" "SCRAM-SHA-256$...", both in quotes'],
    ['"app" hunter2', 'expected "role" "SCRAM-SHA-256$...", both in quotes'],
    ['"app"', 'expected "role" "SCRAM-SHA-256$...", both in quotes'],
    ['"app', "a quote is not closed"],
    ['"app" "hunter2', "a quote is not closed"],
    ['"app" "hunter2""', "a quote is not closed"],
    [`"app" "${verifier(1)}" "x`, "a quote is not closed"],
    [`"app" "${verifier(1)}" tenants="x`, "a quote is not closed"],
  ])("is %s", (line, problem) => {
    expect(problemsOf(`# one\n${line}\n`)).toEqual([`users:2: ${problem}`]);
  });

  it("is told together with all others, and never shown", () => {
    const problems = problemsOf(`"a" "hunter2"\n"b" "${verifier(1)}"\nhunter3 hunter4\n"c" "hunter5" tenants=x`);
    expect(problems.map((problem) => problem.split(":")[1])).toEqual(["1", "3", "4"]);
    expect(problems.join()).not.toContain("hunter");
  });

  it("is one of twenty that are told, where there are more", () => {
    const problems = problemsOf('"a" "x"\n'.repeat(1_000));
    expect(problems).toHaveLength(21);
    expect(problems.at(-1)).toBe("users: 980 more lines are wrong");
    expect(problemsOf('"a" "x"\n'.repeat(21)).at(-1)).toBe("users: 1 more line is wrong");
  });

  it("has the name of another and the same tenants", () => {
    const one = `"app" "${verifier(1)}"`;
    expect(problemsOf(`${one}\n\n${one}`)).toEqual(['users:3: "app" has a verifier already, in line 1']);
    expect(problemsOf(`${one} tenants=a,b\n${one} tenants=c,b`)).toEqual([
      'users:2: tenant "b" of "app" has a verifier already, in line 1',
    ]);
    expect(problemsOf(`${one} tenants=a*\n${one} tenants=a**`)).toEqual([
      'users:2: tenant "a*" of "app" has a verifier already, in line 1',
    ]);
    expect(problemsOf(`${one} tenants=a,a`)).toHaveLength(1);
    expect(found(parse(`${one} tenants=a*\n${one} tenants="a*"\n${one}`), "app", "ab")).toBe("1+");
  });

  it("adds a pattern to a thousand of its role", () => {
    const patterns = Array.from({ length: 1_000 }, (_, index) => `${index}*`).join(",");
    expect(parse(`"app" "${verifier(1)}" tenants=${patterns}`).hasBound).toBe(true);
    expect(problemsOf(`"app" "${verifier(1)}" tenants=${patterns},x*`)).toEqual([
      'users:1: "app" has more than 1000 patterns of tenants',
    ]);
  });

  it("is beyond a million", () => {
    expect(problemsOf("\n".repeat(1_000_000))).toEqual(["users: it has more than 1000000 lines"]);
  });
});

describe("a role that pgvpd logs in as itself", () => {
  it("has its password there, in clear text or as MD5, and is no client by it", () => {
    const file = parse(`"auth" "hunter2"\n"other" "${MD5}"`, "auth", "other");
    const own = file.ownPassword("auth");
    expect(own !== undefined && "password" in own && own.password.reveal()).toBe("hunter2");
    expect(file.ownPassword("other")).toEqual({ md5: MD5 });
    expect([file.find("auth", undefined), file.find("auth", "acme")]).toEqual([undefined, undefined]);
    expect(JSON.stringify(file.ownPassword("auth"))).not.toContain("hunter2");
  });

  it("may have an empty one, where PostgreSQL asks for none", () => {
    expect(parse('"auth" ""', "auth").ownPassword("auth")).toBeUndefined();
  });

  it("may be a client by a verifier, beside its password", () => {
    const file = parse(`"auth" "hunter2"\n"auth" "${verifier(1)}"`, "auth");
    expect(found(file, "auth")).toBe("1");
    expect(file.ownPassword("auth")).toBeDefined();
    expect(parse(`"auth" "${verifier(1)}"`, "auth").ownPassword("auth")).toBeUndefined();
  });

  it("has one password, for no tenants, and no verifier that is broken", () => {
    expect(problemsOf('"auth" ""\n"auth" "b"', "auth")).toEqual(['users:2: "auth" has a password already, in line 1']);
    expect(problemsOf('"auth" "a" tenants=acme', "auth")).toEqual([
      "users:1: tenants= is for a verifier: pgvpd itself logs in with this line",
    ]);
    expect(problemsOf('"auth" "SCRAM-SHA-256$4096:x"', "auth")).toEqual(["users:1: the SCRAM verifier is not whole"]);
  });
});

describe("the file", () => {
  function file(content: string | Uint8Array, mode = 0o600): string {
    const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-credentials-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const name = path.join(folder, "users");
    writeFileSync(name, content);
    chmodSync(name, mode);
    return name;
  }
  const load = (credentials_file: string, more: Readonly<Record<string, string>> = {}): CredentialsFile | undefined =>
    loadCredentialsFile(configFromSettings({ client_auth: "scram", credentials_file, ...more }));

  it("is none where none is set", () => {
    expect(loadCredentialsFile(configFromSettings({}))).toBeUndefined();
  });

  it("is read, with a byte order mark too", () => {
    expect(load(file(`\uFEFF"app" "${verifier(1)}"\n`))?.find("app", undefined)).toBeDefined();
  });

  it("is one that nobody else can read, in UTF-8", () => {
    const open = file("", 0o644);
    expect(() => load(open)).toThrow(new Error(`credentials_file: ${open}: others can read it: chmod 600 ${open}`));
    const latin1 = file(Buffer.from('"\xe9" ""', "latin1"));
    expect(() => load(latin1)).toThrow(new Error(`credentials_file: ${latin1}: it is not UTF-8 text`));
    expect(() => load("/nonexistent/users")).toThrow("credentials_file: /nonexistent/users: there is no such file");
  });

  it("has its name before each problem", () => {
    const name = file('"app" "x"\n');
    expect(() => load(name)).toThrow(new RegExp(`^credentials_file: ${name}:1: a password in clear text`));
  });

  it("may hold the password of auth_user, and of nobody else", () => {
    const name = file('"auth" "hunter2"\n');
    expect(load(name, { auth_user: "auth" })?.ownPassword("auth")).toBeDefined();
    expect(() => load(name, { auth_user: "other" })).toThrow(/:1: a password in clear text/);
  });

  it("needs a credential of pgvpd's own upstream where a line is bound: it is not the role's", () => {
    const name = file(`"app" "${verifier(1)}" tenants=acme\n`);
    expect(() => load(name)).toThrow(
      new Error(
        `credentials_file: ${name}: a line with tenants= does not open PostgreSQL: set upstream_password (or upstream_tls_cert)`,
      ),
    );
    expect(load(name, { upstream_password: "x" })?.hasBound).toBe(true);
    expect(load(name, { upstream_require_auth: "none" })?.hasBound).toBe(true);
  });
});
