/** docs/admin.md lists every metric that there is, and no other. */
import { readFileSync } from "node:fs";
import { Registry } from "prom-client";
import { expect, it } from "vitest";
import { Metrics } from "../../../src/observe/metrics.ts";
import { PoolGroup } from "../../../src/proxy/pool/pool-group.ts";
import { observePool } from "../../../src/observe/pool-metrics.ts";
import { collectProcessMetrics } from "../../../src/observe/process-metrics.ts";

it("docs/admin.md has every metric", () => {
  const page = readFileSync(new URL("../../../docs/admin.md", import.meta.url), "utf8");
  const listed = [...page.matchAll(/^\| (`(?:pgvpd|process)_[^|]*) \|/gm)].flatMap(
    ([, names = ""]) => names.match(/\w+/g) ?? [],
  );
  const further = new Registry();
  collectProcessMetrics(further)[Symbol.dispose]();
  observePool(further, new PoolGroup());
  const there = [new Metrics().registry, further].flatMap((registry) => registry.getMetricsAsArray());
  expect(listed.toSorted()).toEqual(there.map(({ name }) => name).toSorted());
});
