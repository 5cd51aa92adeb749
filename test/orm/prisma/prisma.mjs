// Prisma with its adapter for node-postgres: what docs/orms.md shows, and what must hold.

//#region docs
import { PrismaPg } from "@prisma/adapter-pg";
import { PrismaClient } from "./generated/client.ts";

const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL }) });
console.log(await prisma.contact.findMany({ select: { id: true, name: true }, orderBy: { id: "asc" } }));
// [ { id: 1, name: 'Wile E. Coyote' }, { id: 2, name: 'Road Runner' } ]
//#endregion

import assert from "node:assert/strict";
import { assertIsolated } from "../isolation.ts";

await assertIsolated((connectionString) => {
  const tenant = new PrismaClient({ adapter: new PrismaPg({ connectionString, max: 3 }) });
  return {
    names: async () => (await tenant.contact.findMany({ orderBy: { id: "asc" } })).map(({ name }) => name),
    insert: (name, tenantId) => tenant.contact.create({ data: tenantId === undefined ? { name } : { name, tenantId } }),
    remove: (name) => tenant.contact.deleteMany({ where: { name } }),
    close: () => tenant.$disconnect(),
  };
});

// A transaction that fails leaves nothing.
await assert.rejects(
  prisma.$transaction(async (tx) => {
    await tx.contact.create({ data: { name: "Nobody" } });
    throw new Error("no");
  }),
);
assert.equal(await prisma.contact.count(), 2);
await prisma.$disconnect();
