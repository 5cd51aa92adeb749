// Drizzle ORM over node-postgres: what docs/orms.md shows, and what must hold.

//#region docs
import { drizzle } from "drizzle-orm/node-postgres";
import { integer, pgTable, text } from "drizzle-orm/pg-core";

const contacts = pgTable("contacts", {
  id: integer().primaryKey().generatedByDefaultAsIdentity(),
  name: text().notNull(),
});

const db = drizzle({ connection: { connectionString: process.env.DATABASE_URL } });
console.log(await db.select().from(contacts).orderBy(contacts.id));
// [ { id: 1, name: 'Wile E. Coyote' }, { id: 2, name: 'Road Runner' } ]
//#endregion

import assert from "node:assert/strict";
import { eq, sql } from "drizzle-orm";
import { drizzle as drizzlePostgresJs } from "drizzle-orm/postgres-js";
import { assertIsolated } from "./isolation.ts";

const withTenant = pgTable("contacts", {
  id: integer().primaryKey().generatedByDefaultAsIdentity(),
  name: text().notNull(),
  tenantId: text("tenant_id")
    .notNull()
    .default(sql`current_tenant_id()`),
});

for (const open of [
  (url) => drizzle({ connection: { connectionString: url, max: 3 } }),
  (url) => drizzlePostgresJs({ connection: { url, max: 3 } }),
]) {
  await assertIsolated((url) => {
    const tenant = open(url);
    return {
      names: async () => (await tenant.select().from(withTenant).orderBy(withTenant.id)).map(({ name }) => name),
      insert: (name, tenantId) => tenant.insert(withTenant).values({ name, tenantId }).execute(),
      remove: (name) => tenant.delete(withTenant).where(eq(withTenant.name, name)).execute(),
      close: () => tenant.$client.end(),
    };
  });
}

await assert.rejects(
  db.transaction(async (tx) => {
    await tx.insert(contacts).values({ name: "Nobody" });
    tx.rollback();
  }),
);
assert.equal((await db.select().from(contacts)).length, 2);
await db.$client.end();
