/**
 * `pgvpd --help`: usage, commands and every setting, as wide as the terminal. `pgvpd help COMMAND`: how that command is used.
 */
import { ConfigError } from "../config/config-error.ts";
import { quoted } from "../config/one-line.ts";
import { renderSettingsHelp } from "../config/render.ts";

const MIN_COLUMNS = 60;
const MAX_COLUMNS = 110;
const COLUMNS_OF_A_PIPE = 80;

const usage = `pgvpd: a Virtual Private Database for PostgreSQL. Connect as role.tenant.

Usage: pgvpd [serve] [--config FILE] [settings]
       pgvpd COMMAND [options]

Commands:
  serve           run the proxy; it need not be written
  check           say what is wrong with a configuration; ask PostgreSQL
  doctor          say what in a database lets tenants reach each other's rows
  explain USER    what pgvpd would make of a client that connects as USER
  key             keys that the context is sealed with
  demo            start a PostgreSQL of its own and show isolation on it
  sql             run a statement as a tenant of the demo
  credential      make the SCRAM verifier of a password
  token NAME      make a token of the HTTP API
  help COMMAND    how a command is used
  version         name and version

Options:
      --config FILE         settings; without it ./pgvpd.conf, if there is one
  -h, --help                this text
  -V, --version             name and version

Each setting is a flag, --port 6432, a line of the file, port = 6432, and a
variable, PGVPD_PORT=6432. Flags win over variables, variables over the file.
Passwords have no flag. All names, and what is allowed: docs/configuration.md.
`;

const serveUsage = `Usage: pgvpd [serve] [--config FILE] [settings]

Runs the proxy until SIGTERM or SIGINT: it then accepts no more, and the
connections that are open may go on for drain_timeout seconds. A second signal
closes them at once.

Options:
      --config FILE         settings; without it ./pgvpd.conf, if there is one
  -h, --help                this text

pgvpd --help lists the settings.
`;

const helpUsage = "Usage: pgvpd help [COMMAND]\n";
const versionUsage = "Usage: pgvpd version\n";

/** A command's usage is loaded with the command, which may need more than this one does. */
const usageOf: ReadonlyMap<string, () => Promise<string>> = new Map([
  ["serve", () => Promise.resolve(serveUsage)],
  ["check", async () => (await import("./check.ts")).checkUsage],
  ["doctor", async () => (await import("./doctor.ts")).doctorUsage],
  ["explain", async () => (await import("./explain.ts")).explainUsage],
  ["key", async () => (await import("./key.ts")).keyUsage],
  ["demo", async () => (await import("./demo.ts")).demoUsage],
  ["sql", async () => (await import("./sql.ts")).sqlUsage],
  ["credential", async () => (await import("./credential.ts")).credentialUsage],
  ["token", async () => (await import("./token.ts")).tokenUsage],
  ["help", () => Promise.resolve(helpUsage)],
  ["version", () => Promise.resolve(versionUsage)],
]);

/** @returns the exit code. Throws a ConfigError for a command that there is not. */
export async function help(args: readonly string[]): Promise<number> {
  const [command, surplus] = args;
  if (surplus !== undefined) throw new ConfigError([`unexpected argument ${quoted(surplus)} after help ${command}`]);
  if (command === undefined) {
    process.stdout.write(renderHelp(process.stdout.columns ?? COLUMNS_OF_A_PIPE));
    return 0;
  }
  const load = usageOf.get(command);
  if (load === undefined) {
    throw new ConfigError([
      `there is no command ${quoted(command)}: the commands are ${[...usageOf.keys()].join(", ")}`,
    ]);
  }
  process.stdout.write(await load());
  return 0;
}

/** The text of `pgvpd --help` for a terminal of that many columns. */
export function renderHelp(columns: number): string {
  return `${usage}\n${renderSettingsHelp(Math.min(Math.max(columns, MIN_COLUMNS), MAX_COLUMNS))}`;
}
