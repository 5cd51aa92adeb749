/** `pgvpd doctor` as it is typed: what it prints, for people and for programs, and its exit code. */
import { Client } from "pg";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { doctor } from "../../../src/cli/doctor.ts";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";

// Most servers that tests run on have faults of their own by now, which is another test's.
vi.mock("../../../src/doctor/server-version.ts", async (original) => ({
  ...(await original<object>()),
  serverVersion: { name: "server version", look: () => Promise.resolve({ findings: [], notChecked: [] }) },
}));

let server: PostgresServer;
beforeAll(async () => {
  server = await startPostgres({ auth: "trust" });
  const client = new Client({ connectionString: server.url() });
  await client.connect();
  await client.query(
    `CREATE ROLE app_user LOGIN; CREATE TABLE "line\nbreak" (tenant_id text); GRANT SELECT ON "line\nbreak" TO app_user`,
  );
  await client.end();
});
afterAll(() => server.stop());
afterEach(() => vi.restoreAllMocks());

interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function run(...args: string[]): Promise<Run> {
  const written = { out: "", err: "" };
  vi.spyOn(process.stdout, "write").mockImplementation((text) => ((written.out += String(text)), true));
  vi.spyOn(process.stderr, "write").mockImplementation((text) => ((written.err += String(text)), true));
  const code = await doctor(args);
  return { code, ...written };
}

describe("pgvpd doctor", () => {
  it("prints findings by severity, each with the SQL that mends it on lines of its own", async () => {
    const { code, out } = await run("--database-url", server.url(), "--probe", "off");
    expect(code).toBe(1);
    expect(out).toContain(
      [
        '  table_rls_disabled  public."line\\x0abreak"',
        "    it holds tenants in column tenant_id and has no row-level security: every tenant sees all rows",
        '      ALTER TABLE public."line',
        '      break" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;',
        "",
      ].join("\n"),
    );
    expect(out.split("\n").filter((line) => /^\S/.test(line))).toEqual([
      expect.stringMatching(/^postgres on PostgreSQL \d+\.\d+, as postgres; the context is not sealed$/),
      "error",
      "warning",
      expect.stringMatching(/^\d+ errors?, \d+ warnings, 0 to know, 0 not checked$/),
    ]);
  });

  it("prints the same for programs", async () => {
    const { code, out } = await run("--json", "--database-url", server.url());
    expect(code).toBe(1);
    const report = JSON.parse(out) as { findings: unknown[] };
    expect(report).toEqual({
      database: "postgres",
      role: "postgres",
      serverVersion: expect.any(Number) as number,
      findings: expect.any(Array) as unknown[],
      notChecked: [],
    });
    expect(report.findings).toContainEqual({
      code: "table_rls_disabled",
      severity: "error",
      object: 'public."line\nbreak"',
      why: expect.any(String) as string,
      fix: 'ALTER TABLE public."line\nbreak" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;',
    });
  });

  it("looks at the tenant column that it is told", async () => {
    const { out } = await run("--json", "--database-url", server.url(), "--tenant-column", "org_id,account");
    expect(out).not.toContain("table_rls_disabled");
  });

  it("ends with 2 where it could not look, and says why without the URL", async () => {
    const { code, out, err } = await run("--database-url", "postgres://somebody:secret@127.0.0.1:1/db");
    expect([code, out]).toEqual([2, ""]);
    expect(err).toMatch(/^pgvpd: .*ECONNREFUSED/);
    expect(err).not.toContain("secret");
  });

  it("ends with 2 where the attacks could not be tried, and with 0 where they are not asked for", async () => {
    const execute = async (statements: string, database: string): Promise<void> => {
      const client = new Client({ connectionString: server.url(database) });
      await client.connect();
      await client.query(statements);
      await client.end();
    };
    await execute("CREATE DATABASE stopped", "postgres");
    await execute(
      `CREATE FUNCTION stop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
       CREATE EVENT TRIGGER stop ON ddl_command_start EXECUTE FUNCTION stop()`,
      "stopped",
    );
    const { code, out } = await run("--database-url", server.url("stopped"));
    expect(out).toContain("not checked\n  probes: not today\n");
    expect(out).toMatch(/, 1 not checked\nexit code 2: what is not checked is not known to be good\n$/);
    expect(code).toBe(2);
    expect((await run("--database-url", server.url("stopped"), "--probe=off")).code).toBe(0);
    expect((await run("--database-url", server.url("stopped"), "--fail-on=warning")).code).toBe(1);
  });

  it.each([
    [[], "--database-url: expected postgres://USER@HOST:PORT/DATABASE"],
    [["--database-url", "mysql://x"], "--database-url: expected postgres://USER@HOST:PORT/DATABASE"],
    [["--database-url", "postgres://x", "--fail-on", "info"], '--fail-on "info": expected error, warning'],
    [["--database-url", "postgres://x", "--probe", "all"], '--probe "all": expected scratch, tables, off'],
    [["--database-url", "postgres://x", "--jason"], "--jason: there is no such flag: did you mean --json?"],
  ])("ends with 2 for %j", async (args, problem) => {
    expect(await run(...args)).toEqual({ code: 2, out: "", err: `pgvpd: ${problem}\n` });
  });

  it("counts warnings where it is asked to", async () => {
    const client = new Client({ connectionString: server.url() });
    await client.connect();
    await client.query("CREATE DATABASE empty");
    await client.end();
    const json = async (...more: string[]): Promise<[number, string[]]> => {
      const { code, out } = await run("--json", "--database-url", server.url("empty"), "--probe=off", ...more);
      const { findings } = JSON.parse(out) as { findings: { severity: string; code: string }[] };
      return [code, findings.filter(({ severity }) => severity === "error").map((finding) => finding.code)];
    };
    const [code, errors] = await json();
    expect(code).toBe(errors.length > 0 ? 1 : 0); // an old server brings errors of its own
    expect((await json("--fail-on=warning"))[0]).toBe(1);
  });
});
