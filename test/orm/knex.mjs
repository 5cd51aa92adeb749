// Knex: what docs/orms.md shows, and what must hold.
import knex from "knex";
import { assertIsolated } from "./isolation.ts";

await assertIsolated((connectionString) => {
  const tenant =
    //#region docs
    knex({ client: "pg", connection: connectionString });
  //#endregion
  return {
    names: () => tenant("contacts").orderBy("id").pluck("name"),
    insert: async (name, tenantId) =>
      tenant("contacts").insert(tenantId === undefined ? { name } : { name, tenant_id: tenantId }),
    remove: async (name) => tenant("contacts").where({ name }).del(),
    close: () => tenant.destroy(),
  };
});
