// TypeORM: what docs/orms.md shows, and what must hold.

//#region docs
import { DataSource, EntitySchema } from "typeorm";

const Contact = new EntitySchema({
  name: "Contact",
  tableName: "contacts",
  columns: { id: { type: Number, primary: true, generated: "identity" }, name: { type: String } },
});

const source = new DataSource({ type: "postgres", url: process.env.DATABASE_URL, entities: [Contact] });
await source.initialize();
console.log(await source.getRepository(Contact).find({ order: { id: "ASC" } }));
// [ { id: 1, name: 'Wile E. Coyote' }, { id: 2, name: 'Road Runner' } ]
//#endregion
await source.destroy();

import { assertIsolated } from "./isolation.ts";

const WithTenant = new EntitySchema({
  name: "WithTenant",
  tableName: "contacts",
  columns: {
    id: { type: Number, primary: true, generated: "identity" },
    name: { type: String },
    tenant_id: { type: String, default: () => "current_tenant_id()" },
  },
});

await assertIsolated(async (url) => {
  const tenant = await new DataSource({ type: "postgres", url, entities: [WithTenant] }).initialize();
  const repository = tenant.getRepository(WithTenant);
  return {
    names: async () => (await repository.find({ order: { id: "ASC" } })).map(({ name }) => name),
    insert: (name, tenantId) => repository.save(tenantId === undefined ? { name } : { name, tenant_id: tenantId }),
    remove: (name) => repository.delete({ name }),
    close: () => tenant.destroy(),
  };
});
