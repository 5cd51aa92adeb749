// Kysely: what docs/orms.md shows, and what must hold.
import { Kysely, PostgresDialect } from "kysely";
import { Pool } from "pg";
import { assertIsolated } from "./isolation.ts";

await assertIsolated((connectionString) => {
  const tenant =
    //#region docs
    new Kysely({ dialect: new PostgresDialect({ pool: new Pool({ connectionString }) }) });
  //#endregion
  return {
    names: async () =>
      (await tenant.selectFrom("contacts").select("name").orderBy("id").execute()).map(({ name }) => name),
    insert: (name, tenantId) =>
      tenant
        .insertInto("contacts")
        .values(tenantId === undefined ? { name } : { name, tenant_id: tenantId })
        .execute(),
    remove: (name) => tenant.deleteFrom("contacts").where("name", "=", name).execute(),
    close: () => tenant.destroy(),
  };
});
