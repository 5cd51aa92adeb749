/**
 * What limits, timers, metrics and the audit log cost a transaction: the same program with all of it and with none, in
 * alternating rounds (A B, B A, ...), started anew for each, because two runs of one program differ by some per cent, too.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { pgbench, type PgbenchFigures, type PgbenchRun } from "../measure/pgbench.ts";
import { cpuSince, cpuTime } from "../measure/processes.ts";
import type { RunningPeer } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";
import { poolSize } from "./pools.ts";

/**
 * Until Node has compiled what runs often, and compiled it anew after the first scrapes have proved it wrong: that takes so
 * many transactions, however long they take.
 */
const warmUpTransactions = 100_000;
const warmUpScrapeMs = 200;
const scrapeMs = 1_000;

export const policyScenarios: readonly Scenario[] = [
  scenario("policy-cost-passthrough", 16, "in passthrough", "pgvpd-bare"),
  scenario("policy-cost-transaction", 64, `over ${poolSize} upstream sessions`, "pgvpd-transaction-bare"),
];

export const policyScenarioNames: readonly string[] = policyScenarios.map(({ name }) => name);

function scenario(name: string, clients: number, how: string, baseline: string): Scenario {
  return {
    name,
    title: `pgbench -S, ${clients} clients ${how}: limits, timers, audit log and a scrape each second, against none of it`,
    upstream: "trust",
    needsPgbench: true,
    peers: [],
    needsFreshPeer: true,
    isOnRequest: true,
    baseline,
    metrics: [
      { key: "cpuUs", label: "CPU us/tx", digits: 2, hasRatio: true },
      { key: "userUs", label: "of it user", digits: 2, hasRatio: true },
      { key: "tps", label: "tps", digits: 0, hasRatio: true },
    ],
    measure: (peer, bench) => measure(peer, bench, clients),
  };
}

async function measure(
  { target, processGroup, metricsUrl }: RunningPeer,
  { workbench, seconds }: Bench,
  clients: number,
): Promise<Sample> {
  const load = (length: PgbenchRun["length"]): Promise<PgbenchFigures> =>
    pgbench(workbench, target, { clients, mode: "simple", length });
  const transactionsEach = Math.ceil(warmUpTransactions / clients);
  await whileScraping(metricsUrl, warmUpScrapeMs, () => load({ transactions: transactionsEach }));
  const before = cpuTime(processGroup);
  const { tps, transactions } = await whileScraping(metricsUrl, scrapeMs, () => load({ seconds }));
  const spent = cpuSince(before, processGroup);
  if (spent === undefined) return { tps };
  return { tps, cpuUs: spent.totalUs / transactions, userUs: spent.userUs / transactions };
}

/** Reads the metrics, where there are some, now and then again and again until `work` is done. */
async function whileScraping<T>(url: string | undefined, everyMs: number, work: () => Promise<T>): Promise<T> {
  const end = new AbortController();
  const [result] = await Promise.all([
    work().finally(() => end.abort()),
    url === undefined ? undefined : scrape(url, everyMs, end.signal),
  ]);
  return result;
}

async function scrape(url: string, everyMs: number, end: AbortSignal): Promise<void> {
  while (!end.aborted) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url} answers ${response.status}`);
    await response.text();
    await sleep(everyMs, undefined, { signal: end }).catch(() => undefined);
  }
}
