// Every row of docs/orms.md's table of errors that a connection can show: the error's text and SQLSTATE, as drivers get them.
import assert from "node:assert/strict";
import { Client } from "pg";
import { tenantUrl } from "./tenant-url.ts";

async function refusal(user, extra = {}, base = process.env.DATABASE_URL) {
  const { hostname: host, port, pathname, password } = new URL(base);
  const login = { host, port, user, database: pathname.slice(1), password: decodeURIComponent(password), ...extra };
  const client = new Client(login);
  client.on("error", () => {});
  try {
    await client.connect();
  } catch (error) {
    return `${error.code} ${error.message}`;
  }
  await client.end();
  return "connected";
}

const refusals = [
  [await refusal("app_user"), "28000 Username must contain context values separated by '.'"],
  [await refusal("app_user."), "28000 user name has no tenant: the value of app.current_tenant_id is empty"],
  [await refusal("app_user.acme", {}, process.env.TWO_VALUES_URL), "28000 Expected 2 context value(s), got 1"],
  [await refusal("app_user.acme:ann", {}, process.env.TWO_VALUES_URL), "connected"],
  [await refusal("app_user.acme", { password: "x" }), '28P01 password authentication failed for user "app_user"'],
  [await refusal("reporting.acme"), '28000 role "reporting" may not be used by a tenant'],
  [
    await refusal("risky.acme", {}, process.env.ANY_ROLE_URL),
    '28000 role "risky" is not safe for a tenant: it has BYPASSRLS',
  ],
  [
    await refusal("app_user.acme", { options: "-c app.current_tenant_id=globex" }),
    '42501 parameter "app.current_tenant_id" may not be set',
  ],
  [await refusal("app_user.acme", { options: "-c role=postgres" }), '42501 parameter "role" may not be set'],
  [
    await refusal("app_user.acme", { options: "-c statement_timeout=5s" }, process.env.FEW_PARAMETERS_URL),
    '42501 parameter "statement_timeout" may not be set',
  ],
  [
    await refusal("app_user.acme", { replication: "database" }),
    "42501 replication connections are not allowed for a tenant",
  ],
  [await refusal("app_user.acme", { ssl: true }), "undefined The server does not support SSL connections"],
];
for (const [actual, expected] of refusals) assert.equal(actual, expected);

// A tenant that has no rows, or does not exist, is no error.
const client = new Client({ connectionString: tenantUrl("initech") });
await client.connect();
assert.deepEqual((await client.query("SELECT current_tenant_id() AS tenant")).rows, [{ tenant: "initech" }]);
assert.deepEqual((await client.query("SELECT * FROM contacts")).rows, []);

for (const [statement, code, message] of [
  [
    "INSERT INTO contacts (name, tenant_id) VALUES ('Mallory', 'globex')",
    "42501",
    'new row violates row-level security policy for table "contacts"',
  ],
  [
    "SET row_security = off; SELECT * FROM contacts",
    "42501",
    'query would be affected by row-level security policy for table "contacts"',
  ],
  ["CREATE TABLE mine (id integer)", "42501", "permission denied for schema public"],
  ["COPY contacts FROM STDIN", "0A000", "COPY FROM not supported with row-level security"],
]) {
  await assert.rejects(client.query(statement), { code, message });
}
await client.end();
