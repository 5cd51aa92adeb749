/**
 * `doctor = warn | enforce`: before the first client, each of `doctor_database` is looked at over a connection that is
 * logged in as those of tenants are. Catalogs alone: a start writes nothing, and may be at a standby.
 */
import { oneLine } from "../config/one-line.ts";
import { hasUpstreamCredential, NO_UPSTREAM_CREDENTIAL } from "../config/login-method.ts";
import type { Config } from "../config/settings.ts";
import { rolesOf } from "../check/roles.ts";
import { ProxyError } from "../errors/proxy-error.ts";
import { systemClock } from "../lib/clock.ts";
import { Deadline } from "../lib/deadline.ts";
import type { Logger } from "../observe/logger.ts";
import { describeErrorResponse } from "../protocol/backend-messages.ts";
import { UpstreamRefusal } from "../proxy/upstream/await-ready.ts";
import { createDial } from "../proxy/upstream/dial.ts";
import { KeyCache } from "../proxy/upstream/key-cache.ts";
import { openOwnSession } from "../proxy/upstream/own-session.ts";
import { UpstreamTls } from "../proxy/upstream/upstream-tls.ts";
import { OwnCatalog } from "./catalog.ts";
import { examineCatalogs, type Examination } from "./examine.ts";
import type { Finding } from "./finding.ts";

/** For each database: a start waits for it. */
const LIMIT_MS = 20_000;

/** Twice for each question that meets a lock: well below what a database has. */
const LOCK_LIMIT = "1s";

const MAX_LINES = 100;

const TENANT_COLUMNS = ["tenant_id"];

const WHERE_THE_SQL_IS = "pgvpd doctor prints the SQL that mends it";

/**
 * @param limitMs for each database.
 * @throws Error naming what has to be mended, a line each, with `enforce`: where a finding is an error, and where a database
 *   could not be looked at.
 */
export async function examineAtStart(config: Config, log: Logger, limitMs = LIMIT_MS): Promise<void> {
  if (!hasUpstreamCredential(config)) {
    log.warn({ reason: NO_UPSTREAM_CREDENTIAL }, "doctor: not checked");
    return;
  }
  const problems: string[] = [];
  for (const database of config.doctorDatabases) {
    try {
      const { findings, notChecked } = await look(config, database, limitMs);
      problems.push(...logFindings(config, database, findings, log));
      for (const { what, reason, isDenied, isLocked } of notChecked) {
        // What the login role may not see is seen by an administrator's pgvpd doctor alone.
        log[isDenied ? "info" : "warn"]({ database, what, reason }, "doctor: not checked");
        // Any tenant can hold a lock, for ever: that must not keep every other from being served.
        if (!isDenied && !isLocked) problems.push(`${database}: not checked: ${what}: ${reason}`);
      }
      log.info({ database, findings: findings.length, notChecked: notChecked.length }, "doctor has looked");
    } catch (error) {
      const reason = describe(error);
      if (config.doctor === "warn") log.warn({ database, reason }, "doctor: not checked");
      problems.push(`${database}: not checked: ${reason}`);
    }
  }
  if (config.doctor === "enforce" && problems.length > 0) throw refusal(problems);
}

async function look(config: Config, database: string, limitMs: number): Promise<Examination> {
  using deadline = new Deadline(systemClock, limitMs, () => new Error(`it took longer than ${limitMs / 1000} s`));
  const dial = createDial(config, config.upstreamTls ? new UpstreamTls(config) : undefined);
  const login = { role: loginRole(config), database, secrets: {}, applicationName: "pgvpd doctor" };
  using session = await openOwnSession(login, { config, dial, keyCache: new KeyCache() }, deadline.signal);
  const catalog = new OwnCatalog(session, deadline.signal);
  await catalog.set({
    search_path: "pg_catalog",
    default_transaction_read_only: "on",
    lock_timeout: LOCK_LIMIT,
    statement_timeout: `${limitMs}ms`,
  });
  return await examineCatalogs(catalog, config, TENANT_COLUMNS);
}

function loginRole({ loginRoles }: Config): string {
  return rolesOf({ loginRoles, setRole: undefined })[0] ?? "";
}

/** @returns a line for each that keeps `enforce` from starting; those are for whoever reads why it did not. */
function logFindings(config: Config, database: string, findings: readonly Finding[], log: Logger): string[] {
  const keeping = config.doctor === "enforce" ? findings.filter(({ severity }) => severity === "error") : [];
  const logged = findings.filter((finding) => !keeping.includes(finding));
  for (const { severity, code, object, why } of logged.slice(0, MAX_LINES)) {
    const about = { database, severity, code, object, why };
    log[severity === "info" ? "info" : "warn"](about, `doctor: ${WHERE_THE_SQL_IS}`);
  }
  if (logged.length > MAX_LINES) {
    log.warn({ database, findings: logged.length - MAX_LINES }, "doctor: and more: pgvpd doctor prints them all");
  }
  return keeping.map(({ severity, code, object, why }) => `${database}: ${severity}: ${code}: ${object}: ${why}`);
}

function refusal(problems: readonly string[]): Error {
  const more = problems.length > MAX_LINES ? [`and ${problems.length - MAX_LINES} more`] : [];
  const lines = [`doctor = enforce: not started; ${WHERE_THE_SQL_IS}`, ...problems.slice(0, MAX_LINES), ...more];
  return new Error(lines.map(oneLine).join("\n"));
}

function describe(error: unknown): string {
  if (error instanceof UpstreamRefusal) return describeErrorResponse(error.response.body);
  return error instanceof ProxyError ? (error.detail ?? error.message) : (error as Error).message;
}
