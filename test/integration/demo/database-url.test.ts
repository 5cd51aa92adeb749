/**
 * `pgvpd demo --database-url`: on somebody's own server the demo says what it creates, asks, and touches nothing else.
 */
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { freePort } from "../../../src/demo/embedded-postgres.ts";
import {
  certificateFolder,
  makeAuthority,
  makeServerCertificate,
  serverTls,
  type Authority,
} from "../../support/certificates.ts";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";
import { demoDataFolder, runProgram, type Ending } from "./demo-process.ts";

let server: PostgresServer;
beforeAll(async () => {
  server = await startPostgres({ auth: "scram" });
});
afterAll(() => server.stop());

test("creates nothing without --yes where nobody can be asked", async () => {
  const { code, stdout } = await runDemo([]);
  expect(code).toBe(1);
  expect(stdout).toContain("the database pgvpd_demo");
  expect(stdout).toContain("the role pgvpd_demo_user");
  expect(stdout).toContain("the role pgvpd_owner, which cannot log in");
  expect(stdout).toContain("Nothing was created");
  expect(await namesOf("database")).toEqual(["postgres"]);
  expect(await namesOf("role")).toEqual(["postgres"]);
});

test("creates what it has named, uses it again, and makes it new with --fresh", async () => {
  for (const more of [[], [], ["--fresh"]]) {
    const { code, stderr, stdout } = await runDemo(["--yes", ...more]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain("pgvpd_demo_user.acme@");
    expect(await namesOf("database")).toEqual(["pgvpd_demo", "postgres"]);
    expect(await namesOf("role")).toEqual(["app_user", "pgvpd_demo_user", "pgvpd_owner", "postgres"]);
  }
});

test("leaves a database of that name alone that it has not created", async () => {
  await query("DROP DATABASE IF EXISTS pgvpd_demo");
  await query("CREATE DATABASE pgvpd_demo");
  const { code, stderr } = await runDemo(["--yes", "--fresh"]);
  expect(code).toBe(1);
  expect(stderr).toContain("the database pgvpd_demo exists on that server and is not the demo's");
  await query("DROP DATABASE pgvpd_demo");
});

test("leaves a role of that name alone that it has not created", async () => {
  await query("DROP ROLE IF EXISTS pgvpd_demo_user");
  await query("CREATE ROLE pgvpd_demo_user");
  const { code, stderr } = await runDemo(["--yes"]);
  expect(code).toBe(1);
  expect(stderr).toContain("the role pgvpd_demo_user exists on that server and is not the demo's");
});

describe("a server that demands TLS", () => {
  const certificates = certificateFolder();
  const { folder } = certificates;
  let authority: Authority;
  let tlsServer: PostgresServer;
  beforeAll(async () => {
    authority = makeAuthority(folder);
    tlsServer = await startPostgres({
      auth: "local all all trust\nhostssl all all all scram-sha-256",
      settings: await serverTls(makeServerCertificate(authority, { names: ["localhost"] })),
    });
  });
  afterAll(async () => {
    await tlsServer?.stop();
    certificates[Symbol.dispose]();
  });
  const run = (parameters: string, host = "localhost"): Promise<Ending> =>
    runDemo(["--yes"], `${tlsServer.url().replace("127.0.0.1", host)}?${parameters}`);

  test("is used by the demo, and by pgvpd in front of it, as sslmode says", async () => {
    const verified = `&sslrootcert=${authority.certFile}`;
    for (const sslmode of ["require", `verify-ca${verified}`, `verify-full${verified}`]) {
      const { code, stdout, stderr } = await run(`sslmode=${sslmode}`);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(stdout).toContain(`in front of PostgreSQL on localhost:${tlsServer.port}, over TLS`);
    }
  });

  test("is not used in plain text", async () => {
    const { code, stderr } = await run("sslmode=disable");
    expect(code).toBe(1);
    expect(stderr).toMatch(/no pg_hba.conf entry .* no encryption/);
  });

  test("is not trusted without its authority", async () => {
    const { code, stderr } = await run("sslmode=verify-full");
    expect(code).toBe(1);
    expect(stderr).toMatch(/certificate is not trusted .*: name its authority with sslrootcert=FILE/);
  });

  test("has to have the name of the URL", async () => {
    const { code, stderr } = await run(`sslmode=verify-full&sslrootcert=${authority.certFile}`, "127.0.0.1");
    expect(code).toBe(1);
    expect(stderr).toMatch(/IP: 127\.0\.0\.1 is not in the cert's list/);
  });

  test("is not asked with a mode that falls back to plain text", async () => {
    const { code, stderr } = await run("sslmode=prefer");
    expect(code).toBe(1);
    expect(stderr).toContain(
      '--database-url: sslmode is one of disable, require, verify-ca, verify-full, not "prefer"',
    );
  });
});

async function runDemo(args: readonly string[], url = server.url()): Promise<Ending> {
  await using folder = await demoDataFolder();
  const port = String(await freePort());
  return await runProgram([
    "demo",
    "--once",
    "--port",
    port,
    "--data-dir",
    folder.path,
    "--database-url",
    url,
    ...args,
  ]);
}

async function namesOf(kind: "database" | "role"): Promise<string[]> {
  const rows = await query(
    kind === "database"
      ? "SELECT datname AS name FROM pg_database WHERE NOT datistemplate ORDER BY 1"
      : "SELECT rolname AS name FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1",
  );
  return rows.map((row) => row.name);
}

async function query(text: string): Promise<{ name: string }[]> {
  const client = new Client({ connectionString: server.url() });
  await client.connect();
  try {
    return (await client.query<{ name: string }>(text)).rows;
  } finally {
    await client.end();
  }
}
