/**
 * What people do by hand: psql on a terminal, interrupted with Ctrl-C in the middle of a query, goes on in the same
 * session; \copy and a transaction typed in; pg_dump as a tenant, which must not dump a part in silence.
 */
import { spawn } from "node:child_process";
import { afterAll, beforeAll, expect, it } from "vitest";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { availableVersions } from "../../support/postgres.ts";
import { untilRunning } from "../../support/server-side.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const version = availableVersions().includes("15") ? "15" : "18";
let fixture: TenantFixture;
const environment = (user: string): Record<string, string> => ({
  PATH: process.env["PATH"] ?? "",
  TERM: "dumb",
  PGHOST: "127.0.0.1",
  PGPORT: String(fixture.port),
  PGUSER: user,
  PGPASSWORD: PASSWORD,
  PGDATABASE: "postgres",
});

beforeAll(async () => {
  fixture = await startTenantFixture({ version });
  await fixture.asSuperuser("GRANT SELECT ON notes_id_seq TO app_user"); // pg_dump reads it
});
afterAll(() => fixture?.[Symbol.asyncDispose]());

// util-linux's script gives psql a terminal: without one it ends at the first interruption.
describeWithTools(["psql", "script"], "psql on a terminal", (psql = "", script = "") => {
  it("is interrupted by Ctrl-C with 57014, and its session, in a transaction or not, lives on", async () => {
    const command = `exec ${psql} -X -A -t -P pager=off --no-readline -v VERBOSITY=verbose -v PROMPT1= -v PROMPT2=`;
    const child = spawn(script, ["--quiet", "--return", "--command", command, "/dev/null"], {
      env: environment("app_user.acme"),
    });
    const output = new Output(child);
    child.stdin.write("SELECT 'pid ' || pg_backend_pid();\n");
    const pid = Number((await output.until(/^pid (\d+)/m))[1]);
    for (const begin of ["", "BEGIN; SAVEPOINT s; "]) {
      child.stdin.write(`${begin}SELECT pg_sleep(60), 'interrupt me';\n`);
      expect(await untilRunning(fixture, "interrupt me")).toBe(pid);
      child.stdin.write("\u0003");
      await output.until(/57014: canceling statement due to user request/);
    }
    child.stdin.write("ROLLBACK TO s; SELECT 'still ' || pg_backend_pid() || ' ' || current_tenant_id();\n");
    await output.until(new RegExp(`^still ${pid} acme`, "m"));
    child.stdin.write("\\q\n");
    await output.until(undefined);
    expect(child.exitCode).toBe(0);
  });
});

describeWithTools(["pg_dump"], "pg_dump as a tenant", (pgDump = "") => {
  const dump = async (...args: string[]): Promise<{ text: string; code: number | null }> => {
    const child = spawn(pgDump, [...args, "--table=notes"], { env: environment("app_user.acme") });
    const output = new Output(child);
    await output.until(undefined);
    return { text: output.text, code: child.exitCode };
  };

  it.skipIf(version !== "15")("fails, since it asks for every row: row_security is off for it", async () => {
    const { text, code } = await dump();
    expect(text).toContain("query would be affected by row-level security policy");
    expect(code).toBe(1);
  });

  it.skipIf(version !== "15")("with --enable-row-security holds the tenant's own rows, and no other", async () => {
    const { text, code } = await dump("--enable-row-security", "--data-only", "--inserts");
    expect(code).toBe(0);
    expect(text.match(/INSERT INTO public.notes/g)).toHaveLength(2);
    expect(text).not.toMatch(/globex|g1|g2|g3/);
  });
});

/** Everything that a child writes, and those who wait for some of it. */
class Output {
  text = "";
  readonly #child: ReturnType<typeof spawn>;
  /** Where the search for the next text begins: behind what was found. */
  #from = 0;

  constructor(child: ReturnType<typeof spawn>) {
    this.#child = child;
    const add = (text: string): void => void (this.text += text.replaceAll("\r", ""));
    child.stdout?.setEncoding("utf8").on("data", add);
    child.stderr?.setEncoding("utf8").on("data", add);
  }

  /** The first match behind the last one; without a pattern, the child's end. */
  async until(pattern: RegExp): Promise<RegExpExecArray>;
  async until(pattern: undefined): Promise<undefined>;
  async until(pattern: RegExp | undefined): Promise<RegExpExecArray | undefined> {
    const find = (): RegExpExecArray | null => pattern?.exec(this.text.slice(this.#from)) ?? null;
    const hasEnded = new Promise((resolve) => this.#child.once("close", resolve));
    if (pattern === undefined) {
      if (this.#child.stdout?.closed !== true) await hasEnded;
      return undefined;
    }
    await expect.poll(() => (find() === null ? this.text : "found"), { timeout: 20_000, interval: 10 }).toBe("found");
    const found = find();
    if (found === null) throw new Error(this.text);
    this.#from += found.index + found[0].length;
    return found;
  }
}
