/**
 * Scenarios of small queries: pgbench's own SELECT by primary key, on connections that stay open. One client on one core
 * shows what a proxy adds to a round trip; many clients show what it costs. An empty run before each measurement warms
 * the path up and tells what the logins cost, which is subtracted.
 */
import { pgbench, type QueryMode } from "../measure/pgbench.ts";
import { cpuSince, cpuTime } from "../measure/processes.ts";
import type { RunningPeer } from "../peer.ts";
import type { Bench, Metric, Sample, Scenario } from "../scenario.ts";

const tps: Metric = { key: "tps", label: "tps", digits: 0, hasRatio: true };
const latency: Metric = { key: "latencyUs", label: "latency us", digits: 1, hasRatio: true };
const cpu: Metric = { key: "cpuUs", label: "CPU us/tx", digits: 1, hasRatio: true };
const userCpu: Metric = { key: "userCpuUs", label: "of it user", digits: 1, hasRatio: false };

export const queryScenarios: readonly Scenario[] = [
  latencyScenario("latency-simple", "simple"),
  latencyScenario("latency-extended", "extended"),
  throughputScenario("throughput-16", 16),
  throughputScenario("throughput-64", 64),
];

function latencyScenario(name: string, mode: QueryMode): Scenario {
  return {
    name,
    title: `pgbench -S -M ${mode}, 1 client; server, peer and client on one core where the machine can pin`,
    upstream: "trust",
    needsPgbench: true,
    isPinned: true,
    metrics: [latency, cpu, userCpu],
    measure: (peer, bench) => measureQueries(peer, bench, 1, mode, bench.pinnedCore),
  };
}

function throughputScenario(name: string, clients: number): Scenario {
  return {
    name,
    title: `pgbench -S -M simple, ${clients} clients`,
    upstream: "trust",
    needsPgbench: true,
    metrics: [tps, cpu, userCpu],
    measure: (peer, bench) => measureQueries(peer, bench, clients, "simple", undefined),
  };
}

async function measureQueries(
  peer: RunningPeer,
  bench: Bench,
  clients: number,
  mode: QueryMode,
  core: number | undefined,
): Promise<Sample> {
  const { workbench, seconds } = bench;
  const beforeLogins = cpuTime(peer.processGroup);
  const empty = await pgbench(workbench, peer.target, { clients, mode, length: { transactions: 1 }, core });
  const logins = cpuSince(beforeLogins, peer.processGroup);

  const before = cpuTime(peer.processGroup);
  const figures = await pgbench(workbench, peer.target, { clients, mode, length: { seconds }, core });
  const spent = cpuSince(before, peer.processGroup);

  const timing = { tps: figures.tps, latencyUs: (clients * 1e6) / figures.tps };
  if (spent === undefined || logins === undefined) return timing;
  const transactions = figures.transactions - empty.transactions;
  return {
    ...timing,
    cpuUs: (spent.totalUs - logins.totalUs) / transactions,
    userCpuUs: (spent.userUs - logins.userUs) / transactions,
  };
}
