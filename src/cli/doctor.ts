/**
 * `pgvpd doctor`: what in a database lets one tenant reach what is another's, with the SQL that mends each. The checks
 * are in src/doctor/.
 */
import { describeFailure } from "../check/database-session.ts";
import { ConfigError } from "../config/config-error.ts";
import { readDatabaseUrl, type DatabaseUrl } from "../config/database-url.ts";
import { loadConfig } from "../config/load.ts";
import { oneLine, quoted } from "../config/one-line.ts";
import { examine, type Examination, type Probing } from "../doctor/examine.ts";
import { SEVERITIES, type Finding, type Severity } from "../doctor/finding.ts";
import { countsAs } from "../doctor/scope.ts";

import { parseArguments } from "./args.ts";

export const doctorUsage = `Usage: pgvpd doctor --database-url URL [--config FILE] [settings] [options]

Says what in a database lets one tenant reach what is another's: roles, tables,
policies, views, functions, rights of everybody, settings, the server's version,
the seal. Each finding comes with the SQL that mends it. It then tries attacks,
as two tenants that nobody has, on a table that it makes in a transaction and
takes back. It changes nothing.

The roles are those of login_roles and set_role, or else app_user. An
administrator's URL sees most; what could not be looked at is listed.

The exit code is 1 where there is an error, and 2 where it could not look at
something that it had the rights for, or try the attacks.

Options:
      --database-url URL    postgres://USER@HOST:PORT/DATABASE, better without a
                            password: PGPASSWORD or ~/.pgpass can give it. The
                            variable DATABASE_URL is not read.
      --config FILE         settings; without it ./pgvpd.conf, if there is one
      --tenant-column NAMES names of columns that hold a tenant, separated by
                            commas (default tenant_id); those that policies
                            compare with the tenant are known
      --fail-on SEVERITY    error (default) or warning: what the exit code counts
      --probe WHAT          scratch (default); tables: also asks each protected
                            table for a row without a tenant; off: catalogs only
      --json                for programs
  -h, --help                this text

pgvpd --help lists the settings.
`;

/** The exit code where there was something that could not be looked at. */
const COULD_NOT_LOOK = 2;

/** @returns the exit code. */
export async function doctor(args: readonly string[]): Promise<number> {
  try {
    const { server, config, isJson, failOn, options } = readOrder(args);
    const examination = await examine(server, config, options);
    const code = exitCodeOf(examination, failOn);
    process.stdout.write(isJson ? renderJson(examination) : renderText(examination, code));
    return code;
  } catch (error) {
    const problems = error instanceof ConfigError ? error.problems : [oneLine(describeFailure(error))];
    process.stderr.write(problems.map((problem) => `pgvpd: ${problem}\n`).join(""));
    return COULD_NOT_LOOK;
  }
}

/** What was not looked at is not known to be good; but for what only an administrator may see. */
function exitCodeOf({ findings, notChecked }: Examination, failOn: "error" | "warning"): number {
  if (findings.some((finding) => countsAs(failOn, finding))) return 1;
  return notChecked.some(({ isDenied }) => !isDenied) ? COULD_NOT_LOOK : 0;
}

function readOrder(args: readonly string[]) {
  const { own, settings, file } = parseArguments(args, {
    "database-url": { type: "string" },
    "tenant-column": { type: "string" },
    "fail-on": { type: "string" },
    probe: { type: "string" },
    json: { type: "boolean" },
  });
  const { config } = loadConfig({ flags: settings, file });
  const server = serverOf(String(own["database-url"] ?? ""));
  const failOn = oneOf("--fail-on", own["fail-on"] ?? "error", ["error", "warning"]);
  const probing: Probing = oneOf("--probe", own["probe"] ?? "scratch", ["scratch", "tables", "off"]);
  const names = String(own["tenant-column"] ?? "tenant_id").split(",");
  const tenantColumns = names.map((name) => name.trim()).filter((name) => name !== "");
  return { server, config, isJson: own["json"] === true, failOn, options: { tenantColumns, probing } };
}

function serverOf(url: string): DatabaseUrl {
  try {
    return readDatabaseUrl(url);
  } catch (error) {
    throw new ConfigError([`--database-url: ${(error as Error).message}`]);
  }
}

function oneOf<T extends string>(flag: string, given: string | boolean, allowed: readonly T[]): T {
  const found = allowed.find((value) => value === given);
  if (found === undefined) throw new ConfigError([`${flag} ${quoted(String(given))}: expected ${allowed.join(", ")}`]);
  return found;
}

function renderJson({ scope, findings, notChecked }: Examination): string {
  const { database, role, version } = scope;
  return `${JSON.stringify({ database, role, serverVersion: version, findings, notChecked }, null, 2)}\n`;
}

function renderText({ scope, findings, notChecked }: Examination, code: number): string {
  const { database, role, version, carrier } = scope;
  const seal = carrier === "slot" || carrier === "signed" ? `sealed, ${carrier}` : "not sealed";
  const server = `${Math.floor(version / 10_000)}.${version % 10_000}`;
  return [
    oneLine(`${database} on PostgreSQL ${server}, as ${role}; the context is ${seal}`),
    "",
    ...SEVERITIES.flatMap((severity) => renderSeverity(severity, findings)),
    ...(notChecked.length === 0 ? [] : ["not checked"]),
    ...notChecked.map(({ what, reason }) => `  ${oneLine(`${what}: ${reason}`)}`),
    ...(notChecked.length === 0 ? [] : [""]),
    `${SEVERITIES.map((severity) => count(severity, findings)).join(", ")}, ${notChecked.length} not checked`,
    ...(code === COULD_NOT_LOOK ? ["exit code 2: what is not checked is not known to be good"] : []),
    "",
  ].join("\n");
}

function renderSeverity(severity: Severity, findings: readonly Finding[]): string[] {
  const own = findings.filter((finding) => finding.severity === severity);
  if (own.length === 0) return [];
  return [
    severity,
    ...own.flatMap(({ code, object, why, fix }) => [
      `  ${code}  ${oneLine(object)}`,
      `    ${oneLine(why)}`,
      ...fix.split("\n").map((line) => `      ${oneLine(line)}`),
    ]),
    "",
  ];
}

function count(severity: Severity, findings: readonly Finding[]): string {
  const number = findings.filter((finding) => finding.severity === severity).length;
  const name = severity === "info" ? "to know" : `${severity}${number === 1 ? "" : "s"}`;
  return `${number} ${name}`;
}
