/**
 * docs/orms.md's pools over a real proxy: 20 tenants, an LRU of 5. Pools that are evicted end, with their connections; a
 * pool under a running query is never ended; the limit holds whatever the order of the tenants.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, Pool } from "pg";
import { TenantPools } from "./tenant-pools.ts";
import { tenantUrl } from "./tenant-url.ts";

const LIMIT = 5;
const tenants = Array.from({ length: 20 }, (_, index) => `tenant${index}`);

let open = 0;
let mostOpen = 0;
const opened: Pool[] = [];

const pools = new TenantPools(LIMIT, (tenant) => {
  const pool = new Pool({ connectionString: tenantUrl(tenant), max: 2 });
  pool.on("error", () => {});
  const end = pool.end.bind(pool);
  pool.end = (): Promise<void> => {
    open -= 1;
    return end();
  };
  open += 1;
  mostOpen = Math.max(mostOpen, open);
  opened.push(pool);
  return pool;
});

async function tenantSeen(pool: Pool): Promise<string> {
  const { rows } = await pool.query<{ tenant: string }>("SELECT current_tenant_id() AS tenant, pg_sleep(0.002)");
  return rows[0]?.tenant ?? "";
}

async function backends(): Promise<number> {
  const admin = new Client({ connectionString: process.env["ADMIN_URL"] });
  await admin.connect();
  const { rows } = await admin.query<{ count: number }>(
    "SELECT count(*)::int FROM pg_stat_activity WHERE usename = 'app_user' AND query LIKE '%current_tenant_id() AS tenant%'",
  );
  await admin.end();
  return rows[0]?.count ?? 0;
}

async function settlesAt(most: number): Promise<void> {
  for (let tries = 0; tries < 100; tries += 1) {
    if ((await backends()) <= most) return;
    await sleep(50);
  }
  assert.fail(`more than ${most} connections are left: ${await backends()}`);
}

// One after the other: every tenant is itself, the pools of all but the last five are ended.
for (const tenant of tenants) assert.equal(await pools.withPool(tenant, tenantSeen), tenant);
assert.equal(open, LIMIT);
assert.deepEqual(
  opened.map((pool) => pool.ending),
  tenants.map((_, index) => index < tenants.length - LIMIT),
);
await settlesAt(LIMIT * 2);

// The most recently used ones are kept.
const before = opened.length;
for (const tenant of tenants.slice(-LIMIT)) await pools.withPool(tenant, tenantSeen);
assert.equal(opened.length, before);

// A pool under a running query stays, though fifteen other tenants want its place; the queries behind it as well.
let isRunning = true;
const slow = pools.withPool("tenant0", async (pool) => {
  const answers = await Promise.all([
    pool.query("SELECT pg_sleep(1)"),
    pool.query("SELECT pg_sleep(1)"),
    pool.query("SELECT pg_sleep(0.1)"), // waits for a connection of the pool
  ]);
  isRunning = false;
  return { answers, pool };
});
for (const tenant of tenants.slice(1, 16)) await pools.withPool(tenant, tenantSeen);
assert(isRunning, "the slow query was not under way any more: the test has shown nothing");
const { answers, pool } = await slow;
assert.equal(answers.length, 3);
assert.equal(pool.ending, false);

// All at once, many times, in any order: nobody gets another tenant's rows, the limit holds, nobody waits for ever.
const wanted = Array.from({ length: 400 }, (_, index) => tenants[(index * 7 + (index >> 3)) % tenants.length] ?? "");
const seen = await Promise.all(wanted.map((tenant) => pools.withPool(tenant, tenantSeen)));
assert.deepEqual(seen, wanted);
assert(mostOpen <= LIMIT, `${mostOpen} pools were open at once`);

// A failing piece of work gives its pool back.
await assert.rejects(pools.withPool("tenant0", (failing) => failing.query("SELECT 1/0")));
for (const tenant of tenants) assert.equal(await pools.withPool(tenant, tenantSeen), tenant);

await pools.close();
await settlesAt(0);
assert(opened.every((ended) => ended.ended));
