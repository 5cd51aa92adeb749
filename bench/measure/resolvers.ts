/** A chain of resolvers, and the tables that it reads: organisation, teams, cases. */

export const resolverRole = "resolver";

/** Statements that make the tables; the tenant that peers log in for has an organisation, two teams and 20 cases. */
export function resolverTables(role: string): string[] {
  return [
    `CREATE ROLE ${resolverRole} LOGIN`,
    "CREATE TABLE org_members (user_id text PRIMARY KEY, org_id int NOT NULL)",
    "CREATE TABLE team_members (user_id text, org_id int, team text, PRIMARY KEY (user_id, org_id, team))",
    "CREATE TABLE case_grants (team text, case_id int, PRIMARY KEY (team, case_id))",
    "INSERT INTO org_members SELECT CASE n WHEN 1 THEN 'acme' ELSE n::text END, n FROM generate_series(1, 1000) AS n",
    "INSERT INTO team_members SELECT user_id, org_id, team FROM org_members, (VALUES ('red'), ('blue')) AS t(team)",
    "INSERT INTO case_grants SELECT team, n FROM generate_series(1, 10) AS n, (VALUES ('red'), ('blue')) AS t(team)",
    "VACUUM ANALYZE org_members, team_members, case_grants",
    `GRANT SELECT ON org_members, team_members, case_grants TO ${resolverRole}, ${role}`,
  ];
}

/** resolvers.toml, for which each one waits for the one before. */
export function resolverChain(cacheTtl: number): string {
  return `
[[resolver]]
name = "org"
query = "SELECT org_id FROM org_members WHERE user_id = $1"
params = ["app.current_tenant_id"]
inject = { "app.org_id" = "org_id" }
required = true
cache_ttl = ${cacheTtl}

[[resolver]]
name = "teams"
query = "SELECT team FROM team_members WHERE user_id = $1 AND org_id = $2"
params = ["app.current_tenant_id", "app.org_id"]
rows = "array"
inject = { "app.teams" = "team" }
required = true
cache_ttl = ${cacheTtl}

[[resolver]]
name = "cases"
query = "SELECT case_id FROM case_grants WHERE team = ANY ($1)"
params = ["app.teams"]
rows = "array"
inject = { "app.case_ids" = "case_id" }
required = true
cache_ttl = ${cacheTtl}
`;
}
