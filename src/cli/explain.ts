/**
 * `pgvpd explain`: prints what pgvpd would make of a user name: identity, resolvers, context, role; or why it would refuse.
 */
import { ConfigError } from "../config/config-error.ts";
import { loadConfig } from "../config/load.ts";
import { oneLine } from "../config/one-line.ts";
import { explainLogin, type ExplainedResolver, type Explanation } from "../check/explain-login.ts";
import { createLogger } from "../observe/logger.ts";
import { parseArguments } from "./args.ts";

export const explainUsage = `Usage: pgvpd explain USER [--database NAME] [--config FILE] [settings] [--json]

Shows what pgvpd would make of a client that connects as USER, as
app_user.acme:user42: its identity, each resolver with its values and what it
gave, the context and the role; or why it would refuse. It logs in upstream as
pgvpd does itself: as resolver_user, or as the login role with
upstream_password. It asks for no password of the client's and changes nothing.

The exit code is 1 where the login would be refused, or the database could not be
asked.

Options:
      --database NAME       as the client would ask for; the login role's name
                            if it is not given
      --json                for programs
      --config FILE         settings; without it ./pgvpd.conf, if there is one
  -h, --help                this text
`;

/** @returns the exit code: 1 where the login would not be accepted, as far as is known. */
export async function explain(args: readonly string[]): Promise<number> {
  const [user = "", ...rest] = args;
  if (user === "" || user.startsWith("-")) throw new ConfigError(["expected a user name first, as app_user.acme"]);
  const { own, settings, file } = parseArguments(rest, { database: { type: "string" }, json: { type: "boolean" } });
  const { config } = loadConfig({ flags: settings, file });
  const database = typeof own["database"] === "string" ? own["database"] : undefined;
  const log = createLogger({ level: "off", format: "json" });
  const explanation = await explainLogin(user, database, config, log);
  process.stdout.write(
    own["json"] === true ? `${JSON.stringify(explanation, null, 2)}\n` : renderExplanation(explanation),
  );
  return explanation.verdict === "accepted" ? 0 : 1;
}

/** For people: as it is printed. */
export function renderExplanation({ identity, resolvers, context, verdict, reason }: Explanation): string {
  const lines: string[] = [];
  if (identity !== undefined) {
    lines.push(`login role   ${identity.loginRole}`, `database     ${identity.database}`);
    if (identity.kind === "bypass") lines.push("a user of superuser_bypass: it passes untouched, without a context");
    else lines.push(`role         ${identity.targetRole}`, `tenant       ${identity.tenant}`);
  }
  for (const resolver of resolvers) lines.push("", ...renderResolver(resolver));
  if (context !== undefined) {
    lines.push("", "context");
    for (const { name, value } of context) lines.push(`  ${name} = ${value}`);
  }
  if (reason !== undefined) lines.push("", `${verdict}: ${reason}`);
  return lines.map((line) => `${oneLine(line)}\n`).join("");
}

function renderResolver({ name, cacheTtl, run }: ExplainedResolver): string[] {
  const kept = cacheTtl === 0 ? "asked at every login" : `kept for ${cacheTtl} s`;
  if (run === undefined) return [`resolver ${name}: did not run`];
  const { values, answer, ms } = run;
  const parameters = values.map((value, index) => `$${index + 1} = ${value}`).join(", ");
  const rows = answer.rows.map((row) =>
    row.map((value, index) => `${answer.columns[index] ?? ""} = ${value ?? "NULL"}`).join(", "),
  );
  return [
    `resolver ${name} (${ms.toFixed(1)} ms; ${kept})`,
    ...(values.length === 0 ? [] : [`  ${parameters}`]),
    ...(rows.length === 0 ? ["no row"] : rows).map((row) => `  -> ${row}`),
  ];
}
