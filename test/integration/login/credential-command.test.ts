/**
 * `pgvpd credential` as it is typed: on a terminal, which shows no password, and in a pipe; what it prints lets the right
 * password in on a real server, and psql runs its SQL.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import path from "node:path";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";

const program = path.join(import.meta.dirname, "../../../dist/main.js");
const credentialsSql = readFileSync(path.join(import.meta.dirname, "../../../sql/credentials.sql"), "utf8");
const password = "pässword 'of\\ the\" test";

interface Run {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

let server: PostgresServer;
let admin: Client;
beforeAll(async () => {
  server = await startPostgres({ auth: "scram" }); // one of its own: with roles and a table that are made here
  admin = new Client({ connectionString: server.url() });
  await admin.connect();
  await admin.query("CREATE ROLE app_user LOGIN");
  await admin.query(credentialsSql);
});
afterAll(async () => {
  await admin?.end();
  await server?.stop();
});

/** A program that reads `input` and its end. */
async function run(command: string, args: readonly string[], input: string | Buffer): Promise<Run> {
  const child = spawn(command, args, { env: { PATH: process.env["PATH"] ?? "" } });
  let [out, err] = ["", ""];
  child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (err += text));
  child.stdin.on("error", () => {}); // it need not read to the end
  child.stdin.end(input);
  await once(child, "close");
  return { code: child.exitCode, out, err };
}

const pgvpd = (args: readonly string[], input: string | Buffer): Promise<Run> =>
  run(process.execPath, [program, "credential", ...args], input);

describe("in a pipe", () => {
  it("makes a verifier that PostgreSQL lets the password in with, and no other", async () => {
    const { code, out, err } = await pgvpd(["--format", "verifier"], `${password}\n`);
    expect([code, err]).toEqual([0, ""]);
    await admin.query(`ALTER ROLE app_user PASSWORD ${admin.escapeLiteral(out.trim())}`);
    const { rows } = await admin.query("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_user'");
    expect(rows).toEqual([{ rolpassword: out.trim() }]);
    const logIn = async (given: string): Promise<void> => {
      const client = new Client({ connectionString: server.url("postgres", "app_user", given) });
      await client.connect();
      await client.end();
    };
    await logIn(password);
    await expect(logIn(`${password} `)).rejects.toThrow('password authentication failed for user "app_user"');
  });

  it.each([
    ["nothing", "", "the password is empty"],
    ["an empty line", "\n", "the password is empty"],
    ["two lines", "one\ntwo\n", "standard input: expected one line, the password"],
    ["what is no UTF-8", Buffer.from([0x70, 0xff]), "standard input: it is not UTF-8 text"],
    ["a NUL", "a\0b", "standard input: expected one line, the password"],
    ["more than 4 kB", "x".repeat(1_000_000), "standard input: expected at most 4096 bytes"],
  ])("refuses %s", async (_name, input, problem) => {
    expect(await pgvpd(["--user", "app_user"], input)).toEqual({ code: 1, out: "", err: `pgvpd: ${problem}\n` });
  });

  it("refuses wrong flags before it reads", async () => {
    const { code, out, err } = await pgvpd(["--user", "app_user", "hunter2"], password);
    expect([code, out]).toEqual([1, ""]);
    expect(err).toBe("pgvpd: unexpected argument: everything is a flag, and a password never is\n");
  });
});

describeWithTools(["psql"], "its SQL, run by psql", (psql = "") => {
  it("puts a row for each tenant into the table, and replaces it the next time", async () => {
    const args = ["--format", "sql", "--user", "app_user", "--tenants", "acme,o'bri\\en :x*"];
    const put = async (more: readonly string[]): Promise<string> => {
      const { out } = await pgvpd([...args, ...more], password);
      const { code, err } = await run(psql, [server.url(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-v", "x=y"], out);
      expect([code, err]).toEqual([0, ""]);
      return /SCRAM-SHA-256\$[^']+/.exec(out)?.[0] ?? "";
    };
    const rows = async (): Promise<unknown[]> => {
      const { rows: found } = await admin.query(
        `SELECT login_name, tenant, verifier, (valid_until AT TIME ZONE 'UTC')::text AS until FROM pgvpd.tenant_credentials ORDER BY tenant`,
      );
      return found;
    };
    const expected = (verifier: string, until: string | null): unknown[] =>
      ["acme", "o'bri\\en :x*"].map((tenant) => ({ login_name: "app_user", tenant, verifier, until }));
    const first = await put([]);
    expect(await rows()).toEqual(expected(first, null));
    const second = await put(["--valid-until", "2027-01-31T18:00+01:00"]);
    expect(await rows()).toEqual(expected(second, "2027-01-31 17:00:00"));
  });
});

// util-linux's script gives it a terminal.
describeWithTools(["script"], "on a terminal", (script = "") => {
  /** Types each text when the question before it stands there, and gives back all that the terminal showed. */
  async function type(answers: readonly (readonly [question: string, keys: string])[]): Promise<Run> {
    const command = `exec ${process.execPath} ${program} credential --user app_user --tenants acme`;
    const child = spawn(script, ["--quiet", "--return", "--command", command, "/dev/null"], {
      env: { PATH: process.env["PATH"] ?? "", TERM: "xterm" },
    });
    const ended = once(child, "close");
    let shown = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (shown += text));
    for (const [question, keys] of answers) {
      await expect.poll(() => shown.slice(-question.length), { timeout: 20_000, interval: 10 }).toBe(question);
      child.stdin.write(keys);
    }
    await ended;
    return { code: child.exitCode, out: shown.replaceAll("\r", ""), err: "" };
  }

  it("asks twice and shows nothing of what is typed", async () => {
    const { code, out } = await type([
      ["Password: ", "hunter3\u007f2\r"],
      ["Again: ", "hunter2\r"],
    ]);
    expect(out.replace(/SCRAM-SHA-256\$[^"]+/, "...")).toBe('Password: \nAgain: \n"app_user" "..." tenants=acme\n');
    expect(code).toBe(0);
  });

  it("takes both answers from one paste", async () => {
    const { code, out } = await type([["Password: ", "hunter2\rhunter2\r"]]);
    expect(out).toMatch(/^Password: \nAgain: \n"app_user" "SCRAM-SHA-256\$/);
    expect(code).toBe(0);
  });

  it.each([
    [
      "two passwords that differ",
      [["Password: ", "hunter2\r"] as const, ["Again: ", "hunter3\r"] as const],
      "the two passwords differ",
    ],
    ["an empty one", [["Password: ", "\r"] as const], "the password is empty"],
    ["Ctrl-C", [["Password: ", "hunter2\u0003"] as const], "no password was given"],
    ["Ctrl-D", [["Password: ", "\u0004"] as const], "no password was given"],
  ])("ends with 1 for %s", async (_name, answers, problem) => {
    const { code, out } = await type(answers);
    expect(out.endsWith(`\npgvpd: ${problem}\n`), out).toBe(true);
    expect(out).not.toContain("hunter");
    expect(code).toBe(1);
  });
});
