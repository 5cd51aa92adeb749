/**
 * What a test of a tenant fixture sees and waits for on the server's side: backends, what they run, the server's log.
 * Also the roles for every way of logging in, for suites that compare them on one server.
 */
import { readFile } from "node:fs/promises";
import { expect } from "vitest";
import { PASSWORD, type TenantFixture } from "./tenant-fixture.ts";

/** pg_hba.conf for `loginRoles`: the role decides the method, every other one is asked for SCRAM. */
export const AUTH_BY_ROLE = `
local all all trust
host all app_trust all trust
host all app_md5,admin_md5 all md5
host all app_clear all password
host all all all scram-sha-256`;

export const loginRoles = {
  scram: "app_user",
  trust: "app_trust",
  md5: "app_md5",
  cleartext: "app_clear",
} as const;

/** All have the fixture's password. `admin_md5` is a superuser, for superuser_bypass. */
export async function createLoginRoles(fixture: TenantFixture): Promise<void> {
  await fixture.asSuperuser(`
    CREATE ROLE app_trust LOGIN;
    CREATE ROLE app_clear LOGIN PASSWORD '${PASSWORD}';
    SET password_encryption = md5;
    CREATE ROLE app_md5 LOGIN PASSWORD '${PASSWORD}';
    CREATE ROLE admin_md5 LOGIN SUPERUSER PASSWORD '${PASSWORD}';
    GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO app_trust, app_clear, app_md5`);
}

/** Backends that serve clients, but for the one that asks. */
export async function countBackends(fixture: TenantFixture): Promise<number> {
  const [row] = await fixture.asSuperuser(
    `SELECT count(*)::int AS count FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
  );
  return Number(row?.["count"]);
}

/** Resolves when no backend serves a client any more. */
export async function untilNoBackends(fixture: TenantFixture): Promise<void> {
  await expect.poll(() => countBackends(fixture), { timeout: 20_000, interval: 10 }).toBe(0);
}

/** Resolves with the pid of the backend that runs a query with `text` in it, as soon as there is one. */
export async function untilRunning(fixture: TenantFixture, text: string): Promise<number> {
  let pid: unknown;
  const find = async (): Promise<boolean> => {
    const rows = await fixture.asSuperuser(
      `SELECT pid FROM pg_stat_activity
        WHERE state = 'active' AND strpos(query, '${text.replaceAll("'", "''")}') > 0 AND pid <> pg_backend_pid()`,
    );
    pid = rows[0]?.["pid"];
    return rows.length > 0;
  };
  await expect.poll(find, { timeout: 20_000, interval: 10 }).toBe(true);
  return Number(pid);
}

/** The server's log up to now; with `log_statement = all` every statement that was executed is in it. */
export async function readServerLog(fixture: TenantFixture): Promise<string> {
  return readFile(fixture.server.logFile, "utf8");
}
