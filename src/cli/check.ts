/**
 * `pgvpd check`: looks at the configuration, the files that it names, the upstream server and, where it is given one, a database, and prints each
 * finding on a line of its own. The checks are in src/check/.
 */
import { checkConfiguration } from "../check/check-configuration.ts";
import { checkDatabase } from "../check/check-database.ts";
import { checkFiles } from "../check/check-files.ts";
import { checkResolvers } from "../check/check-resolvers.ts";
import { checkTenantServers, checkUpstream } from "../check/check-upstream.ts";
import { formatFinding, type Finding } from "../check/finding.ts";
import { parseArguments } from "./args.ts";

export const checkUsage = `Usage: pgvpd check [--config FILE] [settings] [--database NAME] [--database-url URL]

Says whether pgvpd can start with this configuration and the files that it
names, and whether PostgreSQL answers. With --database-url it also logs in there
and says whether policies read a variable that pgvpd sets, and whether row-level
security holds the roles of tenants: those of login_roles, or else app_user and
the role of the URL. It changes nothing, and a role without any rights will do.

Each finding is a line: ok, warning, error or not checked. The exit code is 1
where there is an error.

Options:
      --config FILE         settings; without it ./pgvpd.conf, if there is one
      --database NAME       prepares the queries of resolvers there, as the role
                            that runs them
      --database-url URL    postgres://USER@HOST:PORT/DATABASE, better without a
                            password: PGPASSWORD or ~/.pgpass can give it. The
                            variable DATABASE_URL is not read.
  -h, --help                this text

pgvpd --help lists the settings.
`;

/** @returns the exit code: 1 when there is an error. Throws a ConfigError for flags that are wrong. */
export async function check(args: readonly string[]): Promise<number> {
  const { own, settings, file } = parseArguments(args, {
    "database-url": { type: "string" },
    database: { type: "string" },
  });
  let hasError = false;
  const report = (findings: readonly Finding[]): void => {
    hasError ||= findings.some(({ verdict }) => verdict === "error");
    process.stdout.write(findings.map(formatFinding).join(""));
  };

  const { findings, config } = checkConfiguration({ flags: settings, file });
  report(findings);
  const url = own["database-url"];
  if (config === undefined) {
    const text = "files, upstream, policies, roles: the configuration has to be valid first";
    report([{ verdict: "not checked", text }]);
  } else {
    report(checkFiles(config));
    report(await checkUpstream(config));
    report(await checkTenantServers(config));
    const { database } = own;
    report(await checkResolvers(config, typeof database === "string" ? database : undefined));
    if (typeof url === "string") report(await checkDatabase(url, config));
    else report([{ verdict: "not checked", text: "policies, roles: give --database-url URL" }]);
  }
  return hasError ? 1 : 0;
}
