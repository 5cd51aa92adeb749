// MikroORM: what docs/orms.md shows, and what must hold.
import { EntitySchema, MikroORM } from "@mikro-orm/postgresql";
import { assertIsolated } from "./isolation.ts";

const Contact = new EntitySchema({
  name: "Contact",
  tableName: "contacts",
  properties: {
    id: { type: "number", primary: true },
    name: { type: "string" },
    tenant_id: { type: "string", defaultRaw: "current_tenant_id()" },
  },
});

await assertIsolated(async (connectionString) => {
  const tenant =
    //#region docs
    await MikroORM.init({ clientUrl: connectionString, entities: [Contact] });
  //#endregion
  return {
    names: async () => (await tenant.em.fork().find(Contact, {}, { orderBy: { id: "asc" } })).map(({ name }) => name),
    insert: (name, tenantId) => tenant.em.fork().insert(Contact, { name, ...(tenantId && { tenant_id: tenantId }) }),
    remove: (name) => tenant.em.fork().nativeDelete(Contact, { name }),
    close: () => tenant.close(),
  };
});
