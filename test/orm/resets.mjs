// What RESET ALL and DISCARD ALL leave of a session: asyncpg's pool and Npgsql send them. One proxy for each way of
// injecting the context; docs/orms.md has the table.
import assert from "node:assert/strict";
import { Client } from "pg";

const session = "SELECT current_tenant_id() AS tenant, current_user::text AS role";

const acme = (role) => ({ tenant: "acme", role });
const nobody = (role) => ({ tenant: null, role });
const cases = [
  { url: "DATABASE_URL", command: "RESET ALL", after: acme("app_user") },
  { url: "DATABASE_URL", command: "DISCARD ALL", after: acme("app_user") },
  { url: "SET_ROLE_URL", command: "RESET ALL", after: acme("authenticated") },
  { url: "SET_ROLE_URL", command: "DISCARD ALL", after: acme("authenticated") },
  { url: "QUERY_URL", command: "RESET ALL", after: nobody("app_user") },
  { url: "QUERY_URL", command: "DISCARD ALL", after: nobody("app_user") },
  { url: "QUERY_SET_ROLE_URL", command: "RESET ALL", after: nobody("authenticated") },
  { url: "QUERY_SET_ROLE_URL", command: "DISCARD ALL", after: nobody("app_user") },
];

for (const { url, command, after } of cases) {
  const client = new Client({ connectionString: process.env[url] });
  await client.connect();
  await client.query(command);
  assert.deepEqual((await client.query(session)).rows[0], after, `${url} after ${command}`);
  await client.end();
}
