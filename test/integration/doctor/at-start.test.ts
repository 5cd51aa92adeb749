/** `doctor = warn | enforce`: what a start says of the databases, and when it does not happen. */
import { once } from "node:events";
import { createServer } from "node:net";
import { Client } from "pg";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { configFromSettings, type SettingValues } from "../../../src/config/load.ts";
import { examineAtStart } from "../../../src/doctor/at-start.ts";
import { createProxy } from "../../../src/index.ts";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";
import { launchProxy, startProxyProcess } from "../../support/proxy-process.ts";

// Most servers that tests run on have faults of their own by now, which is another test's.
vi.mock("../../../src/doctor/server-version.ts", () => ({
  serverVersion: { name: "server version", look: () => Promise.resolve({ findings: [], notChecked: [] }) },
}));

let server: PostgresServer;
let settings: Record<string, string | number>;

beforeAll(async () => {
  server = await startPostgres();
  await run("CREATE ROLE shop_login LOGIN PASSWORD 'of-the-shop'");
  for (const database of ["good", "bad"]) {
    await run(`CREATE DATABASE ${database}`);
    await run("REVOKE CREATE ON SCHEMA public FROM PUBLIC", database);
  }
  await run(`CREATE TABLE "Orders" (tenant_id text); GRANT SELECT ON "Orders" TO shop_login`, "bad");
  settings = {
    upstream_host: server.host,
    upstream_port: server.port,
    upstream_password: "of-the-shop",
    login_roles: "shop_login",
  };
});
afterAll(() => server.stop());

async function run(statements: string, database = "postgres"): Promise<void> {
  const client = new Client({ connectionString: server.url(database) });
  await client.connect();
  await client.query(statements);
  await client.end();
}

/** Starts in this process; the lines of its log, without those of the proxy itself. */
async function start(given: SettingValues): Promise<Record<string, unknown>[]> {
  const lines: Record<string, unknown>[] = [];
  const logger = pino({ base: null }, { write: (line) => void lines.push(JSON.parse(line) as (typeof lines)[number]) });
  const proxy = createProxy({ port: 0, ...settings, ...given }, { logger });
  try {
    await proxy.start();
  } finally {
    await proxy.stop();
  }
  return lines.filter(({ msg }) => String(msg).startsWith("doctor"));
}

describe("doctor = warn", () => {
  it("logs a line for each finding before the first client, and starts", async () => {
    await using proxy = await startProxyProcess({ settings: { ...settings, doctor: "warn", doctor_database: "bad" } });
    const listening = proxy.log.findIndex(({ msg }) => msg === "listening");
    const before = proxy.log.slice(0, listening);
    expect(before).toContainEqual(
      expect.objectContaining({
        level: "warn",
        database: "bad",
        severity: "error",
        code: "table_rls_disabled",
        object: 'public."Orders"',
        why: expect.stringContaining("every tenant sees all rows") as string,
        msg: "doctor: pgvpd doctor prints the SQL that mends it",
      }),
    );
    expect(before).toContainEqual(expect.objectContaining({ msg: "doctor has looked", database: "bad" }));
  });

  it("goes on where a database cannot be looked at, and says why", async () => {
    const lines = await start({ doctor: "warn", doctor_database: "nowhere, good" });
    expect(lines).toContainEqual(
      expect.objectContaining({
        msg: "doctor: not checked",
        database: "nowhere",
        reason: 'FATAL 3D000: database "nowhere" does not exist',
      }),
    );
    expect(lines).toContainEqual(expect.objectContaining({ msg: "doctor has looked", database: "good" }));
  });

  it("says what to set where pgvpd has no credential of its own", async () => {
    const lines = await start({ doctor: "warn", doctor_database: "good", upstream_password: "" });
    expect(lines).toEqual([
      expect.objectContaining({
        msg: "doctor: not checked",
        reason: expect.stringContaining("set upstream_password, upstream_tls_cert or") as string,
      }),
    ]);
  });
});

describe("doctor = enforce", () => {
  it("does not start where a finding is an error: exit code 1, a line each", async () => {
    await using proxy = await launchProxy({ settings: { ...settings, doctor: "enforce", doctor_database: "bad" } });
    expect(await proxy.exited).toEqual({ code: 1, signal: null });
    const lines = proxy.stderr().trimEnd().split("\n");
    expect(lines[0]).toBe("pgvpd: doctor = enforce: not started; pgvpd doctor prints the SQL that mends it");
    expect(lines).toContainEqual(
      expect.stringMatching(/^pgvpd: bad: error: table_rls_disabled: public\."Orders": it holds tenants/),
    );
    expect(proxy.log.filter(({ msg }) => msg === "listening")).toEqual([]);
  });

  it("starts where there is none, and logs the warnings", async () => {
    const lines = await start({ doctor: "enforce", doctor_database: "good" });
    expect(lines).toContainEqual(expect.objectContaining({ severity: "warning", code: "seal_missing" }));
    expect(lines.at(-1)).toMatchObject({ msg: "doctor has looked", database: "good" });
  });

  it.each([
    ["does not exist", { doctor_database: "good, nowhere" }, /nowhere: not checked: FATAL 3D000/],
    ["refuses the password", { upstream_password: "wrong" }, /good: not checked: FATAL 28P01/],
    ["cannot be reached", { upstream_port: "1" }, /good: not checked: .*ECONNREFUSED/],
    ["lacks the role of set_role", { set_role: "nobody_there" }, /good: not checked: role nobody_there: there is no/],
  ])("does not start where a database %s", async (_name, given, problem) => {
    await expect(start({ doctor: "enforce", doctor_database: "good", ...given })).rejects.toThrow(problem);
  });

  it("starts where a table is locked, and says what was not checked", async () => {
    await run("CREATE TABLE held (id int); CREATE POLICY p ON held USING (false)", "good");
    const holder = new Client({ connectionString: server.url("good") });
    await holder.connect();
    let lines: Record<string, unknown>[];
    try {
      await holder.query("BEGIN; LOCK TABLE held");
      lines = await start({ doctor: "enforce", doctor_database: "good" });
    } finally {
      await holder.end();
    }
    expect(lines).toContainEqual(
      expect.objectContaining({
        msg: "doctor: not checked",
        level: 40,
        what: "policies",
        reason: expect.stringContaining("another session holds a lock on public.held") as string,
      }),
    );
    await run("DROP TABLE held", "good");
  });

  it("does not start where the server breaks off, or says nothing", async () => {
    const silent = createServer((socket) => socket.on("error", () => {}).resume()).listen(0, "127.0.0.1");
    await once(silent, "listening");
    const { port } = silent.address() as { port: number };
    const config = configFromSettings({
      ...settings,
      upstream_port: port,
      doctor: "enforce",
      doctor_database: "good",
    });
    await expect(examineAtStart(config, pino({ level: "silent" }), 50)).rejects.toThrow("it took longer than 0.05 s");
    silent.close();
  });

  it("leaves no session behind", async () => {
    await start({ doctor: "enforce", doctor_database: "good" });
    const client = new Client({ connectionString: server.url("good") });
    await client.connect();
    await expect
      .poll(async () => (await client.query("SELECT FROM pg_stat_activity WHERE usename = 'shop_login'")).rowCount)
      .toBe(0);
    await client.end();
  });
});
