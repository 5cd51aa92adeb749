/**
 * What a sealed context costs, as the same program in three databases that differ in nothing else: the context in a
 * session variable, in the slot, and signed: the differences are the costs. One client, everything on one core where the
 * machine can pin. A policy reads the context once for each query, whatever its rows.
 */
import { pgbench, type PgbenchRun } from "../measure/pgbench.ts";
import { cpuSince, cpuTime, treeCpuTime } from "../measure/processes.ts";
import type { RunningPeer } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";

/** For the peers that take part in nothing else. */
export const sealScenarioNames = ["seal-point", "seal-scan", "seal-login"] as const;

const POINT = "\\set id random(1, 100000)\nSELECT balance FROM accounts WHERE id = :id;\n";
const SCAN = "SELECT sum(balance) FROM accounts;\n";

export const sealScenarios: readonly Scenario[] = [
  sealScenario("seal-point", "one row by primary key, of a protected table", POINT),
  sealScenario("seal-scan", "the 100,000 rows of a tenant, of 200,000", SCAN),
  sealScenario("seal-login", "a login for each row by primary key", POINT, { reconnects: true }),
];

function sealScenario(
  name: (typeof sealScenarioNames)[number],
  what: string,
  script: string,
  more: Partial<PgbenchRun> = {},
): Scenario {
  return {
    name,
    title: `${what}; pgbench -M simple, 1 client; server, peer and client on one core where the machine can pin`,
    upstream: "trust",
    needsPgbench: true,
    needsSeal: true,
    isPinned: true,
    metrics: [
      { key: "latencyUs", label: "latency us", digits: 1, hasRatio: false },
      { key: "serverUs", label: "server CPU us/tx", digits: 1, hasRatio: false },
      { key: "cpuUs", label: "pgvpd CPU us/tx", digits: 1, hasRatio: false },
    ],
    measure: async (peer, bench) => measure(peer, bench, bench.workbench.writeFile(`${name}.sql`, script), more),
  };
}

async function measure(peer: RunningPeer, bench: Bench, script: string, more: Partial<PgbenchRun>): Promise<Sample> {
  const { workbench, seconds, pinnedCore, postmaster } = bench;
  const server = treeCpuTime(postmaster);
  const proxy = cpuTime(peer.processGroup);
  const run = { clients: 1, mode: "simple", length: { seconds }, core: pinnedCore, script, ...more } as const;
  const { tps, transactions } = await pgbench(workbench, peer.target, run);
  const spent = cpuSince(proxy, peer.processGroup);
  const serverNow = treeCpuTime(postmaster);
  const latencyUs = 1e6 / tps;
  if (server === undefined || serverNow === undefined || spent === undefined) return { latencyUs };
  return {
    latencyUs,
    serverUs: (serverNow.totalUs - server.totalUs) / transactions,
    cpuUs: spent.totalUs / transactions,
  };
}
