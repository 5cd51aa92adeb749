/**
 * What every example must hold to, whatever library it uses: each tenant sees its own rows, writes its own rows, and
 * gets 42501 for another tenant's. Imported by the examples, after the part that docs/orms.md shows.
 */
import assert from "node:assert/strict";
import { oddTenant, tenantUrl } from "./tenant-url.ts";

/** A tenant's connections, as the library makes them. */
export interface TenantConnection {
  /** The column `name` of all contacts, in the order of `id`. */
  names(): Promise<string[]>;
  /** Inserts a contact; the tenant is left to the column's default where it is undefined. */
  insert(name: string, tenantId?: string): Promise<unknown>;
  /** Deletes every contact of that name. */
  remove(name: string): Promise<unknown>;
  close(): Promise<unknown>;
}

const acmeRows = ["Wile E. Coyote", "Road Runner"];
const globexRows = ["Hank Scorpio", "Frank Grimes", "Mindy Simmons"];

/** `open` gets the URL of a tenant. Throws at the first thing that is not as it must be. */
export async function assertIsolated(
  open: (url: string) => TenantConnection | Promise<TenantConnection>,
): Promise<void> {
  const [acme, globex, odd] = await Promise.all([
    open(tenantUrl("acme")),
    open(tenantUrl("globex")),
    open(tenantUrl(oddTenant)),
  ]);
  try {
    assert.deepEqual(await acme.names(), acmeRows);
    assert.deepEqual(await globex.names(), globexRows);
    assert.deepEqual(await odd.names(), ["Zoë"]);

    await acme.insert("Acme Clerk");
    assert.deepEqual(await acme.names(), [...acmeRows, "Acme Clerk"]);
    assert.deepEqual(await globex.names(), globexRows);
    await globex.remove("Acme Clerk");
    assert.deepEqual(await acme.names(), [...acmeRows, "Acme Clerk"]);
    await acme.remove("Acme Clerk");

    await assert.rejects(acme.insert("Mallory", "globex"), isPolicyViolation);
    assert.deepEqual(await globex.names(), globexRows);
    assert.deepEqual(await acme.names(), acmeRows);
  } finally {
    await Promise.all([acme, globex, odd].map((connection) => connection.close()));
  }
}

/** ORMs wrap the driver's error: the SQLSTATE stands somewhere on the way to the first cause. */
function isPolicyViolation(error: unknown): boolean {
  const text = describe(error);
  assert.match(text, /42501/, `expected SQLSTATE 42501, got ${text}`);
  return true;
}

function describe(error: unknown, depth = 0): string {
  if (!(error instanceof Error) || depth > 5) return JSON.stringify(error) ?? "";
  const nested = ["cause", "parent", "original", "driverError"].map((key) =>
    key in error ? describe((error as unknown as Record<string, unknown>)[key], depth + 1) : "",
  );
  return [error.message, JSON.stringify(error), ...nested].join("\n");
}
