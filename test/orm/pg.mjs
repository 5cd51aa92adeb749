// node-postgres: what docs/orms.md shows, and what must hold.

//#region docs
import { Pool } from "pg";

const pool = new Pool({ connectionString: process.env.DATABASE_URL });
const { rows } = await pool.query("SELECT id, name FROM contacts ORDER BY id");
console.log(rows);
// [ { id: 1, name: 'Wile E. Coyote' }, { id: 2, name: 'Road Runner' } ]
//#endregion

import assert from "node:assert/strict";
import { assertIsolated } from "./isolation.ts";

await assertIsolated((url) => {
  const tenant = new Pool({ connectionString: url, max: 3 });
  return {
    names: async () => (await tenant.query("SELECT name FROM contacts ORDER BY id")).rows.map(({ name }) => name),
    insert: (name, tenantId) =>
      tenantId === undefined
        ? tenant.query("INSERT INTO contacts (name) VALUES ($1)", [name])
        : tenant.query("INSERT INTO contacts (name, tenant_id) VALUES ($1, $2)", [name, tenantId]),
    remove: (name) => tenant.query({ name: "remove", text: "DELETE FROM contacts WHERE name = $1", values: [name] }),
    close: () => tenant.end(),
  };
});

// A transaction that is rolled back leaves nothing.
const client = await pool.connect();
await client.query("BEGIN");
await client.query("INSERT INTO contacts (name) VALUES ('Nobody')");
await client.query("ROLLBACK");
assert.equal((await client.query("SELECT FROM contacts")).rowCount, 2);
client.release();
await pool.end();
