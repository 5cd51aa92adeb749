/**
 * What pgvpd is held to, as ratios within one run, and the verdict of a run on each. main.ts prints the verdicts and,
 * with --gate, fails on a missed one. CPU per transaction and per MB is what a gate can trust; the rest is noisier.
 */
import type { ScenarioResult } from "./run.ts";
import { ratioOf, valueOf } from "./statistics.ts";

interface Target {
  readonly scenario: string;
  readonly metric: string;
  /** The peer that is judged; pgvpd when absent. */
  readonly peer?: string;
  /** The peer that the ratio is taken to; the value itself is judged when absent. */
  readonly against?: string;
  readonly atMost?: number;
  readonly atLeast?: number;
}

/** Where a target names no other. */
const measuredPeer = "pgvpd";

const targets: readonly Target[] = [
  { scenario: "throughput-16", metric: "cpuUs", against: "pgbouncer", atMost: 1.15 },
  { scenario: "throughput-64", metric: "cpuUs", against: "pgbouncer", atMost: 1.15 },
  { scenario: "throughput-16", metric: "cpuUs", against: "haproxy", atMost: 1.25 },
  { scenario: "throughput-64", metric: "cpuUs", against: "haproxy", atMost: 1.25 },
  { scenario: "throughput-16", metric: "tps", against: "pgbouncer", atLeast: 0.85 },
  { scenario: "throughput-64", metric: "tps", against: "pgbouncer", atLeast: 0.85 },
  { scenario: "latency-simple", metric: "latencyUs", against: "pgbouncer", atMost: 1.15 },
  { scenario: "copy-out", metric: "megabytesPerSecond", against: "haproxy", atLeast: 0.95 },
  { scenario: "copy-out", metric: "megabytesPerSecond", against: "pgbouncer-64k", atLeast: 1 },
  { scenario: "connect-trust", metric: "connectsPerSecond", against: "haproxy", atLeast: 0.9 },
  {
    scenario: "policy-cost-passthrough",
    metric: "cpuUs",
    peer: "pgvpd-policy",
    against: "pgvpd-bare",
    atMost: 1.03,
  },
  {
    scenario: "policy-cost-transaction",
    metric: "cpuUs",
    peer: "pgvpd-transaction-policy",
    against: "pgvpd-transaction-bare",
    atMost: 1.03,
  },
  { scenario: "idle-memory", metric: "usedKib", atMost: 16 },
];

export interface Verdict {
  readonly target: Target;
  readonly measured: number;
  readonly spreadPercent: number;
  readonly medianWithin: readonly [number, number];
  readonly isMet: boolean;
}

/** One verdict for each target whose scenario and peers were part of the run. */
export function judge(results: readonly ScenarioResult[]): Verdict[] {
  return targets.flatMap((target) => {
    const rounds = results.find(({ scenario }) => scenario.name === target.scenario)?.rounds ?? [];
    const { against, metric, peer = measuredPeer, atMost = Infinity, atLeast = -Infinity } = target;
    const figure = against === undefined ? valueOf(rounds, peer, metric) : ratioOf(rounds, peer, against, metric);
    if (figure === undefined) return [];
    const { median, spreadPercent, medianWithin } = figure;
    return [{ target, measured: median, spreadPercent, medianWithin, isMet: median <= atMost && median >= atLeast }];
  });
}
