/**
 * What a database says about the configuration: whether its policies read a context that pgvpd sets, and whether the roles
 * that tenants get are held by row-level security. It reads catalogs, which every role may, and changes nothing.
 */
import type { Client } from "pg";
import { readDatabaseUrl, type DatabaseUrl } from "../config/database-url.ts";
import type { Config } from "../config/settings.ts";
import { describeFailure, withDatabase } from "./database-session.ts";
import { POLICY_QUESTION, judgePolicies, type PolicyRow } from "./policies.ts";
import { ROLE_QUESTION, judgeOwnRole, judgeRoles, rolesOf, type RoleRow } from "./roles.ts";
import type { Finding } from "./finding.ts";

/** @param url of a database behind pgvpd, as `postgres://user@host/database`; it is never repeated. */
export async function checkDatabase(url: string, config: Config): Promise<Finding[]> {
  let server: DatabaseUrl;
  try {
    server = readDatabaseUrl(url);
  } catch (error) {
    return [{ verdict: "error", text: `database: --database-url: ${(error as Error).message}` }];
  }
  try {
    return await withDatabase(server, "pgvpd check", (client) => ask(client, config));
  } catch (error) {
    return [{ verdict: "error", text: `database: ${describeFailure(error)}` }];
  }
}

async function ask(client: Client, config: Config): Promise<Finding[]> {
  const { rows: servers } = await client.query<{ database: string; role: string; version: string }>(
    "SELECT current_database()::text AS database, session_user::text AS role, current_setting('server_version') AS version",
  );
  const { rows: policies } = await client.query<PolicyRow>(POLICY_QUESTION);
  const own = servers.map(({ role }) => role);
  const asked = [[...rolesOf(config), ...own], config.setRole ?? null];
  const { rows: roles } = await client.query<RoleRow>(ROLE_QUESTION, asked);
  return [
    ...servers.map(({ database, role, version }): Finding => {
      return { verdict: "ok", text: `database: ${database} on PostgreSQL ${version}, as ${role}` };
    }),
    judgePolicies(policies, config),
    ...judgeRoles(roles, config),
    ...own.flatMap((name) =>
      judgeOwnRole(
        roles.find(({ rolname }) => rolname === name),
        config,
      ),
    ),
  ];
}
