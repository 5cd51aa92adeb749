// A migration through a user of superuser_bypass: what docs/orms.md shows, and what must hold. ADMIN_URL is that user's.

//#region docs
import knex from "knex";

const admin = knex({ client: "pg", connection: process.env.ADMIN_URL }); // postgres://postgres:...@localhost:6432/mydb
await admin.schema.createTable("notes", (table) => {
  table.increments();
  table.text("tenant_id").notNullable().defaultTo(admin.raw("current_tenant_id()")).index();
  table.text("body").notNullable();
});
await admin.raw("SELECT pgvpd_protect('notes', 'tenant_id')");
//#endregion

import assert from "node:assert/strict";
import { tenantUrl } from "./tenant-url.ts";

const acme = knex({ client: "pg", connection: tenantUrl("acme") });
const globex = knex({ client: "pg", connection: tenantUrl("globex") });
try {
  await acme("notes").insert({ body: "from acme" });
  assert.deepEqual(await globex("notes"), []);
  assert.equal((await acme("notes")).length, 1);
  assert.equal((await admin("notes")).length, 1);
  await assert.rejects(
    acme.schema.createTable("mine", (table) => table.increments()),
    { code: "42501" },
  );
  await assert.rejects(acme.schema.dropTable("notes"), { code: "42501" });
} finally {
  await Promise.all([acme.destroy(), globex.destroy()]);
  await admin.schema.dropTable("notes");
  await admin.destroy();
}
