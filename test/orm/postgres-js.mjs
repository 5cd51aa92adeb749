// postgres.js: what docs/orms.md shows, and what must hold.

//#region docs
import postgres from "postgres";

const sql = postgres(process.env.DATABASE_URL);
console.log([...(await sql`SELECT id, name FROM contacts ORDER BY id`)]);
// [ { id: 1, name: 'Wile E. Coyote' }, { id: 2, name: 'Road Runner' } ]
//#endregion

import assert from "node:assert/strict";
import { assertIsolated } from "./isolation.ts";

await assertIsolated((url) => {
  const tenant = postgres(url, { max: 3 });
  return {
    names: async () => (await tenant`SELECT name FROM contacts ORDER BY id`).map(({ name }) => name),
    insert: (name, tenantId) => tenant`
      INSERT INTO contacts ${tenant(tenantId === undefined ? { name } : { name, tenant_id: tenantId })}`,
    remove: (name) => tenant`DELETE FROM contacts WHERE name = ${name}`,
    close: () => tenant.end(),
  };
});

// A cancel reaches the server through pgvpd.
const started = Date.now();
const sleep = sql`SELECT pg_sleep(30)`;
setTimeout(() => sleep.cancel(), 200);
await assert.rejects(sleep, { code: "57014" });
assert(Date.now() - started < 10_000);

// Channels are shared: acme hears what globex sends.
const heard = new Promise((resolve) => void sql.listen("news", resolve));
await sql.listen("ready", () => {});
const globex = postgres((await import("./tenant-url.ts")).tenantUrl("globex"));
await globex.notify("news", "from globex");
assert.equal(await heard, "from globex");
await globex.end();
await sql.end();
