/** Pairs of database and role are as many as clients make up: the series of the pool's gauges are bounded. */
import { Registry } from "prom-client";
import { expect, it } from "vitest";
import { observePool, type PoolSize } from "../../../src/observe/pool-metrics.ts";

const counts = { checkouts: 0, reuses: 0, creates: 0, checkins: 0, discards: 0, timeouts: 0 };

async function gaugesOf(sizes: readonly PoolSize[]): Promise<Record<string, readonly string[]>> {
  const registry = new Registry();
  observePool(registry, { counts, sizes: () => sizes });
  const text = await registry.metrics();
  const values = (name: string): string[] =>
    [...text.matchAll(new RegExp(`^${name}\\{database="(.*)",role="(.*)"\\} (.*)$`, "gm"))].map((series) =>
      series.slice(1).join(" "),
    );
  return {
    total: values("pgvpd_pool_connections_total"),
    idle: values("pgvpd_pool_connections_idle"),
    waiting: values("pgvpd_pool_waiting"),
  };
}

const pair = (number: number): PoolSize => ({
  database: `db${number}`,
  role: "app_user",
  total: number,
  idle: 1,
  waiting: 0,
});
const pairs = (count: number): PoolSize[] => Array.from({ length: count }, (_, index) => pair(index + 1));

it("has a series for each of a hundred pairs", async () => {
  const { total = [] } = await gaugesOf(pairs(100));
  expect(total).toHaveLength(100);
  expect(total.join("\n")).not.toContain("others");
});

it("sums those behind the hundred largest", async () => {
  const { total = [], idle = [], waiting = [] } = await gaugesOf(pairs(10_000));
  for (const series of [total, idle, waiting]) expect(series).toHaveLength(101);
  expect(total.slice(0, 2)).toEqual(["db10000 app_user 10000", "db9999 app_user 9999"]);
  expect(total.at(-1)).toBe(`others others ${(9_900 * 9_901) / 2}`);
  expect(idle.at(-1)).toBe("others others 9900");
  expect(waiting.at(-1)).toBe("others others 0");
});

it("counts clients that wait as much as sessions", async () => {
  const starved = { database: "starved", role: "app_user", total: 0, idle: 0, waiting: 1_000 };
  const { waiting = [] } = await gaugesOf([...pairs(200), starved]);
  expect(waiting[0]).toBe("starved app_user 1000");
});

it("adds up a pair that is on several servers", async () => {
  const { total } = await gaugesOf([pair(1), pair(2), pair(1)]);
  expect(total).toEqual(["db1 app_user 2", "db2 app_user 2"]);
});
