/** Several pools as one: those of servers that tenants have for themselves beside everybody's. */
import type { ObservedPool, PoolCounts, PoolSize } from "../../observe/pool-metrics.ts";

interface Member extends ObservedPool {
  pause(signal: AbortSignal): Promise<void>;
  resume(): void;
}

export class PoolGroup implements ObservedPool {
  readonly #pools: Member[] = [];
  #isPaused = false;

  add(pool: Member): void {
    this.#pools.push(pool);
    // There is nothing in it yet to wait for.
    if (this.#isPaused) void pool.pause(AbortSignal.abort()).catch(() => {});
  }

  get counts(): PoolCounts {
    const sum: PoolCounts = { checkouts: 0, reuses: 0, creates: 0, checkins: 0, discards: 0, timeouts: 0 };
    for (const { counts } of this.#pools) {
      for (const key of Object.keys(sum) as (keyof PoolCounts)[]) sum[key] += counts[key];
    }
    return sum;
  }

  *sizes(): Generator<PoolSize> {
    for (const pool of this.#pools) yield* pool.sizes();
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  /** As Pool.pause, for all that there are and those to come. */
  async pause(signal: AbortSignal): Promise<void> {
    this.#isPaused = true;
    await Promise.all(this.#pools.map((pool) => pool.pause(signal)));
  }

  resume(): void {
    this.#isPaused = false;
    for (const pool of this.#pools) pool.resume();
  }
}
