/**
 * `pgvpd token`: makes a token of the HTTP API. The file gets its name, scopes and hash; the token itself is printed once.
 */
import { parseArgs } from "node:util";
import { addAdminToken, checkTokenName, parseScopes, SCOPES } from "../config/admin-tokens.ts";
import { ConfigError } from "../config/config-error.ts";

export const tokenUsage = `Usage: pgvpd token NAME --scopes LIST --file FILE

Makes a token of the HTTP API: adds a line with its name, its scopes and its hash
to FILE (admin_tokens_file), and prints the token, which nobody can get again.
pgvpd reads FILE at its start and at SIGHUP. To take a token back remove its line.

Options:
      --scopes LIST         metrics  /metrics
                            read     status, sessions, tenants, configuration
                            operate  changes: end a session, reload, drain
      --file FILE           is made with the mode 0600 where there is none
  -h, --help                this text

  pgvpd token prometheus --scopes metrics --file admin-tokens > prometheus.token
  pgvpd token on-call --scopes metrics,read,operate --file admin-tokens
`;

/** @returns the exit code. Throws an Error whose message is for the user. */
export async function token(args: readonly string[]): Promise<number> {
  const { values, positionals } = readFlags(args);
  const [name, surplus] = positionals;
  const problems: string[] = [];
  if (name === undefined) problems.push("expected a name first, as prometheus");
  else problems.push(...[checkTokenName(name)].filter((problem) => problem !== undefined));
  if (surplus !== undefined) problems.push("expected one name");
  if (values.file === undefined) problems.push("--file: expected the path of admin_tokens_file");
  if (values.scopes === undefined) problems.push(`--scopes: expected a list of ${SCOPES.join(", ")}`);
  const scopes = parseScopes(values.scopes ?? "read");
  if (typeof scopes === "string") problems.push(`--scopes: ${scopes}`);
  if (problems.length > 0 || typeof scopes === "string") throw new ConfigError(problems);

  process.stdout.write(`${addAdminToken(values.file ?? "", name ?? "", scopes)}\n`);
  process.stderr.write(`added ${name} to ${values.file}: pgvpd takes it after SIGHUP\n`);
  return 0;
}

function readFlags(args: readonly string[]) {
  try {
    const options = { scopes: { type: "string" }, file: { type: "string" } } as const;
    return parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    throw new ConfigError([(error as Error).message]);
  }
}
