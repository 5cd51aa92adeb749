/** A pool for each tenant, in a bounded LRU: what docs/orms.md shows. tenant-pools-check.ts runs it. */
import { tenantUrl } from "./tenant-url.ts";

//#region docs
import { Pool } from "pg";

interface Entry {
  readonly pool: Pool;
  users: number;
}

/** A pool for each tenant, never more than `limit`. Only a pool that nobody uses is closed. */
export class TenantPools {
  readonly #entries = new Map<string, Entry>(); // the least recently used first
  readonly #waiting: (() => void)[] = [];
  readonly #limit: number;
  readonly #open: (tenant: string) => Pool;

  constructor(limit: number, open: (tenant: string) => Pool) {
    this.#limit = limit;
    this.#open = open;
  }

  /** Runs `work` with the tenant's pool. The pool is not closed before `work` has settled. */
  async withPool<T>(tenant: string, work: (pool: Pool) => Promise<T>): Promise<T> {
    while (!this.#entries.has(tenant) && this.#entries.size >= this.#limit && !this.#evict()) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    const entry = this.#entries.get(tenant) ?? { pool: this.#open(tenant), users: 0 };
    this.#entries.delete(tenant);
    this.#entries.set(tenant, entry); // now the most recently used
    entry.users += 1;
    try {
      return await work(entry.pool);
    } finally {
      entry.users -= 1;
      if (entry.users === 0) this.#waiting.shift()?.();
    }
  }

  /** Closes the least recently used pool that nobody uses. False where all are in use. */
  #evict(): boolean {
    for (const [tenant, { pool, users }] of this.#entries) {
      if (users > 0) continue;
      this.#entries.delete(tenant);
      void pool.end();
      return true;
    }
    return false;
  }

  /** For the end of the program, when nothing uses a pool any more. */
  async close(): Promise<void> {
    await Promise.all([...this.#entries.values()].map(({ pool }) => pool.end()));
  }
}

export const pools = new TenantPools(200, (tenant) => {
  const pool = new Pool({ connectionString: tenantUrl(tenant), max: 4, idleTimeoutMillis: 10_000 });
  pool.on("error", () => {}); // an idle connection was closed; without a listener it would end the program
  return pool;
});
//#endregion
