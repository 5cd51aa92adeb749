/**
 * psql and pg_dump through the proxy: what people type, and Ctrl-C.
 */
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { availableVersions } from "../../support/postgres.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const version = availableVersions().includes("15") ? "15" : "18";

interface Outcome {
  readonly stdout: string;
  readonly stderr: string;
  readonly code: number | null;
}

describeWithTools(["psql"], `psql on PostgreSQL ${version}`, (psql = "") => {
  let fixture: TenantFixture;
  let folder: string;
  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
    folder = await mkdtemp(path.join(tmpdir(), "pgvpd-psql-"));
  });
  afterAll(async () => {
    await fixture?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  /** Runs psql as `user` through the proxy, quietly, rows as plain text. */
  const run = (user: string, args: readonly string[], port = fixture.port): Promise<Outcome> => {
    const fixed = ["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-p", String(port), "-U", user];
    return collect(spawn(psql, [...fixed, ...args], { env: { PGPASSWORD: PASSWORD, PATH: "" } }));
  };
  const rows = async (user: string, sql: string): Promise<Outcome> => run(user, ["-d", "postgres", "-c", sql]);

  it("shows each tenant its own rows", async () => {
    expect((await rows("app_user.acme", "SELECT body FROM notes ORDER BY id")).stdout).toBe("a1\na2\n");
    expect((await rows("app_user.globex", "SELECT body FROM notes ORDER BY id")).stdout).toBe("g1\ng2\ng3\n");
  });

  it("asks for the login role's database where -d is missing, as PostgreSQL would", async () => {
    await fixture.asSuperuser("CREATE DATABASE app_user");
    const { stdout } = await run("app_user.acme", ["-c", "SELECT current_database()"]);
    expect(stdout).toBe("app_user\n");
  });

  it("runs \\copy out, and \\copy into a table without a policy", async () => {
    const out = path.join(folder, "out");
    await rows("app_user.acme", `\\copy (SELECT body FROM notes ORDER BY id) TO '${out}'`);
    expect(await readFile(out, "utf8")).toBe("a1\na2\n");
    const into = path.join(folder, "in");
    await writeFile(into, "7\tseven\n8\teight\n");
    await rows("app_user.acme", `\\copy plain FROM '${into}'`);
    expect((await rows("app_user.acme", "SELECT body FROM plain ORDER BY id")).stdout).toBe("seven\neight\n");
  });

  it("gets PostgreSQL's own 0A000 for COPY into a protected table", async () => {
    const { stderr } = await run("app_user.acme", [
      "-d",
      "postgres",
      "-v",
      "VERBOSITY=verbose",
      "-c",
      "COPY notes FROM STDIN",
    ]);
    expect(stderr).toMatch(/0A000: COPY FROM not supported with row-level security/);
  });

  // psql ends after a Ctrl-C when it is not on a terminal; that the session lives on is shown with postgres.js.
  it("cancels a query by Ctrl-C with 57014", async () => {
    const child = spawn(
      psql,
      [
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "VERBOSITY=verbose",
        "-h",
        "127.0.0.1",
        "-p",
        String(fixture.port),
        "-U",
        "app_user.acme",
        "-d",
        "postgres",
      ],
      { env: { PGPASSWORD: PASSWORD, PATH: "" } },
    );
    const outcome = collect(child);
    child.stdin.end("SELECT pg_sleep(60);\n");
    await untilActive(fixture, "SELECT pg_sleep(60);");
    child.kill("SIGINT");
    expect((await outcome).stderr).toContain("57014");
  });

  it("shows PostgreSQL's own text for a wrong password", async () => {
    const args = ["-X", "-h", "127.0.0.1", "-d", "postgres", "-c", "SELECT 1"];
    const env = { PGPASSWORD: "wrong", PATH: "" };
    const proxied = await collect(spawn(psql, [...args, "-p", String(fixture.port), "-U", "app_user.acme"], { env }));
    const direct = await collect(spawn(psql, [...args, "-p", String(fixture.server.port), "-U", "app_user"], { env }));
    expect(proxied.code).toBe(2);
    expect(lastWords(proxied)).toBe(lastWords(direct));
    expect(lastWords(proxied)).toContain('password authentication failed for user "app_user"');
  });
});

describeWithTools(["pg_dump"], `pg_dump on PostgreSQL ${version}`, (pgDump = "") => {
  it.skipIf(version !== "15")("through a bypass user equals a direct dump", async () => {
    await using fixture = await startTenantFixture({ version });
    const dump = (port: number): Promise<Outcome> =>
      collect(
        spawn(pgDump, ["-h", "127.0.0.1", "-p", String(port), "-U", "postgres", "postgres"], {
          env: { PGPASSWORD: fixture.server.password, PATH: "" },
        }),
      );
    const [proxied, direct] = [await dump(fixture.port), await dump(fixture.server.port)];
    expect(proxied.code).toBe(0);
    expect(proxied.stdout.length).toBeGreaterThan(10_000);
    expect(withoutKeys(proxied.stdout)).toBe(withoutKeys(direct.stdout));
  });
});

/** Newer pg_dumps put a random key into \restrict lines. */
function withoutKeys(dump: string): string {
  return dump.replace(/^\\(un)?restrict .*$/gm, "");
}

/** What the server said, without the address that psql puts in front. */
function lastWords({ stderr }: Outcome): string {
  return stderr.slice(stderr.indexOf("FATAL"));
}

async function collect(child: ReturnType<typeof spawn>): Promise<Outcome> {
  let [stdout, stderr] = ["", ""];
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject).once("close", resolve);
  });
  return { stdout, stderr, code };
}

async function untilActive(fixture: TenantFixture, query: string): Promise<void> {
  for (;;) {
    const found = await fixture.asSuperuser(
      `SELECT FROM pg_stat_activity WHERE state = 'active' AND query = '${query}' AND pid <> pg_backend_pid()`,
    );
    if (found.length > 0) return;
  }
}
