/** What a pool has done and has, read from it when somebody asks: on the path of a transaction nothing is counted here. */
import { Counter, Gauge, type Registry } from "prom-client";

/** What the pool has done since it began. */
export interface PoolCounts {
  checkouts: number;
  reuses: number;
  creates: number;
  checkins: number;
  discards: number;
  timeouts: number;
}

export interface PoolSize {
  readonly database: string;
  readonly role: string;
  readonly total: number;
  readonly idle: number;
  readonly waiting: number;
}

export interface ObservedPool {
  readonly counts: Readonly<PoolCounts>;
  sizes(): Iterable<PoolSize>;
}

const COUNTERS: Readonly<Record<keyof PoolCounts, string>> = {
  checkouts: "Sessions asked of the pool.",
  reuses: "Checkouts that got a session that was there.",
  creates: "Sessions that the pool has opened.",
  checkins: "Sessions given back.",
  discards: "Sessions that the pool has closed or destroyed.",
  timeouts: "Checkouts that waited for pool_checkout_timeout.",
};

const GAUGES = {
  pgvpd_pool_connections_total: { key: "total", help: "Sessions of the pool that are open." },
  pgvpd_pool_connections_idle: { key: "idle", help: "Sessions of the pool that nobody uses." },
  pgvpd_pool_waiting: { key: "waiting", help: "Clients that wait for a session of the pool." },
} as const;

/** Most pairs of database and role that have series of their own: clients can make up any number of them. */
const MAX_PAIRS = 100;
/** What the rest of them is summed under. */
const OTHERS = "others";

export function observePool(registry: Registry, pool: ObservedPool): void {
  for (const [key, help] of Object.entries(COUNTERS)) {
    const counter: Counter = new Counter({
      name: `pgvpd_pool_${key}_total`,
      help,
      registers: [registry],
      collect: () => {
        counter.reset();
        counter.inc(pool.counts[key as keyof PoolCounts]);
      },
    });
  }
  for (const [name, { key, help }] of Object.entries(GAUGES)) {
    const gauge: Gauge = new Gauge({
      name,
      help,
      labelNames: ["database", "role"],
      registers: [registry],
      collect: () => {
        gauge.reset();
        for (const { database, role, [key]: value } of largest(pool.sizes(), MAX_PAIRS))
          gauge.inc({ database, role }, value);
      },
    });
  }
}

/** Those with the most sessions and waiting clients; behind them one that is the sum of the rest, where there is a rest. */
function largest(sizes: Iterable<PoolSize>, most: number): PoolSize[] {
  const byPair = new Map<string, PoolSize>();
  for (const size of sizes) {
    const name = JSON.stringify([size.database, size.role]);
    byPair.set(name, sum(size, byPair.get(name)));
  }
  const weight = ({ total, waiting }: PoolSize): number => total + waiting;
  const sorted = [...byPair.values()].toSorted((a, b) => weight(b) - weight(a));
  if (sorted.length <= most) return sorted;
  const rest: PoolSize = { database: OTHERS, role: OTHERS, total: 0, idle: 0, waiting: 0 };
  return [...sorted.slice(0, most), sorted.slice(most).reduce((all, one) => sum(all, one), rest)];
}

/** Of several servers, and of the rest. The names are those of `into`. */
function sum(into: PoolSize, other: PoolSize | undefined): PoolSize {
  if (other === undefined) return into;
  return {
    ...into,
    total: into.total + other.total,
    idle: into.idle + other.idle,
    waiting: into.waiting + other.waiting,
  };
}
