/** Drizzle over the tenants' pools: what docs/orms.md shows, and what must hold. */
import assert from "node:assert/strict";

//#region docs
import { drizzle, type NodePgDatabase } from "drizzle-orm/node-postgres";
import { pools } from "./tenant-pools.ts";

export function withDb<T>(tenant: string, work: (db: NodePgDatabase) => Promise<T>): Promise<T> {
  return pools.withPool(tenant, (pool) => work(drizzle({ client: pool })));
}
//#endregion

const one = await withDb("acme", (db) => db.execute("SELECT count(*)::int AS count FROM contacts"));
const two = await withDb("globex", (db) => db.execute("SELECT count(*)::int AS count FROM contacts"));
assert.deepEqual([...one.rows, ...two.rows], [{ count: 2 }, { count: 3 }]);
await pools.close();
