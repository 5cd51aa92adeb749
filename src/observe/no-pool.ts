/** What there is to see with `pool_mode = none`: the metrics of pools are there, and stay at 0. */
import type { ObservedPool } from "./pool-metrics.ts";

export const NO_POOL: ObservedPool = {
  counts: { checkouts: 0, reuses: 0, creates: 0, checkins: 0, discards: 0, timeouts: 0 },
  sizes: () => [],
};
