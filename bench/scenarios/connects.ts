/**
 * Scenarios of logins: pgbench -C opens a connection for each transaction, asks one question and leaves. With SCRAM the
 * client's own key derivation takes most of a core, whoever serves; with trust the server's fork does.
 */
import { pgbench } from "../measure/pgbench.ts";
import { cpuSince, cpuTime } from "../measure/processes.ts";
import type { RunningPeer } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";

const clients = 8;

export const connectScenarios: readonly Scenario[] = [connectScenario("trust"), connectScenario("scram")];

function connectScenario(auth: "trust" | "scram"): Scenario {
  return {
    name: `connect-${auth}`,
    title: `pgbench -C -S, ${clients} clients, a login (${auth}) for each query`,
    upstream: auth,
    needsPgbench: true,
    metrics: [
      { key: "connectsPerSecond", label: "connects/s", digits: 0, hasRatio: true },
      { key: "cpuUs", label: "CPU us/connect", digits: 0, hasRatio: true },
      { key: "userCpuUs", label: "of it user", digits: 0, hasRatio: false },
    ],
    measure: measureConnects,
  };
}

async function measureConnects(peer: RunningPeer, bench: Bench): Promise<Sample> {
  const length = { seconds: bench.seconds };
  const before = cpuTime(peer.processGroup);
  const figures = await pgbench(bench.workbench, peer.target, { clients, mode: "simple", length, reconnects: true });
  const spent = cpuSince(before, peer.processGroup);
  if (spent === undefined) return { connectsPerSecond: figures.tps };
  return {
    connectsPerSecond: figures.tps,
    cpuUs: spent.totalUs / figures.transactions,
    userCpuUs: spent.userUs / figures.transactions,
  };
}
