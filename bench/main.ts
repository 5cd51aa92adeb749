/**
 * `npm run bench`: reads the command line, asks each peer whether it can run, runs the plan and prints its tables. It is
 * the only file that ends the process. Whatever way it ends, the workbench is cleaned up first.
 */
import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { findPgbench } from "./measure/pgbench.ts";
import { chooseVersion, startBenchServer, type BenchServer } from "./measure/server.ts";
import { Workbench } from "./measure/workbench.ts";
import { machineFacts } from "./machine.ts";
import { readOptions, usage, UsageError, type Options } from "./options.ts";
import type { Peer } from "./peer.ts";
import { findProgram } from "./peers/find-program.ts";
import { clearProgress, reportProgress } from "./progress.ts";
import { head, scenarioTable, verdictTable, type PeerFacts } from "./report.ts";
import { peersFor, runPlan, type Plan, type ScenarioResult } from "./run.ts";
import type { Bench, Scenario } from "./scenario.ts";
import { judge } from "./targets.ts";

const exitCodes = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const;

/** What start, stop and everything around one timed measurement takes on top of it, roughly. */
const overheadSeconds = 0.5;

async function main(argv: readonly string[]): Promise<number> {
  const options = readOptions(argv);
  if (typeof options === "string") {
    process.stdout.write(options);
    return exitCodes.ok;
  }
  const workbench = new Workbench();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => void workbench.cleanUp());
  try {
    return await measureAndPrint(options, workbench);
  } catch (error) {
    if (workbench.isClosing) return exitCodes.interrupted;
    throw error;
  } finally {
    await workbench.cleanUp();
  }
}

async function measureAndPrint(options: Options, workbench: Workbench): Promise<number> {
  const scenarios = options.scenarios.filter(({ needsPgbench }) => !needsPgbench || findPgbench() !== undefined);
  const probed = await Promise.all(options.peers.map(probe));
  const postgres = await startServerFor(scenarios, options, workbench);
  const plan: Plan = {
    scenarios,
    peers: options.peers.filter((_, index) => probed[index]?.missing === undefined),
    rounds: options.rounds,
    postgres,
  };
  const canPin = options.mayPin && findProgram("taskset") !== undefined;
  const bench: Bench = {
    workbench,
    seconds: options.seconds,
    pinnedCore: canPin ? availableParallelism() - 1 : undefined,
    idleConnections: options.idleConnections,
    postmaster: postgres?.postmaster,
  };
  const machine = await machineFacts(postgres?.version ?? "not needed");
  clearProgress();
  process.stdout.write(`${head(machine, probed, lengthOf(plan, bench))}\n`);

  const results: ScenarioResult[] = [];
  for await (const result of runPlan(plan, bench, reportProgress)) {
    results.push(result);
    clearProgress();
    process.stdout.write(`${scenarioTable(result)}\n`);
  }
  const verdicts = judge(results);
  process.stdout.write(verdictTable(verdicts));
  if (options.jsonFile !== undefined) {
    const { rounds, seconds } = options;
    const measured = results.map(({ scenario: { name, title }, ...figures }) => ({ name, title, ...figures }));
    const report = { machine, peers: probed, rounds, seconds, scenarios: measured, verdicts };
    writeFileSync(options.jsonFile, `${JSON.stringify(report, asJson, 2)}\n`);
  }
  if (workbench.isClosing) return exitCodes.interrupted;
  const hasFailure = results.some(({ failures }) => failures.length > 0);
  const hasMissed = options.isGate && verdicts.some(({ isMet }) => !isMet);
  return hasFailure || hasMissed ? exitCodes.failed : exitCodes.ok;
}

async function startServerFor(
  scenarios: readonly Scenario[],
  options: Options,
  workbench: Workbench,
): Promise<BenchServer | undefined> {
  if (scenarios.every(({ upstream }) => upstream === "scripted")) return undefined;
  const version = chooseVersion(options.postgresVersion);
  reportProgress(`starting PostgreSQL ${version} and filling it`);
  return startBenchServer(workbench, version, { sealed: scenarios.some(({ needsSeal }) => needsSeal === true) });
}

async function probe(peer: Peer): Promise<PeerFacts> {
  try {
    return { name: peer.name, ...(await peer.probe()) };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { name: peer.name, missing: reason.trim().replaceAll(/\s*\n\s*/g, "; ") };
  }
}

function lengthOf(plan: Plan, bench: Bench): string {
  const measurements = plan.scenarios.reduce((sum, scenario) => sum + peersFor(scenario, plan.peers).length, 0);
  const minutes = Math.ceil((measurements * (plan.rounds + 1) * (bench.seconds + overheadSeconds)) / 60);
  return `rounds: ${plan.rounds}, seconds a measurement: ${bench.seconds}, minutes in all: about ${minutes} at most`;
}

/** A round is a Map; JSON knows none. */
function asJson(_key: string, value: unknown): unknown {
  return value instanceof Map ? Object.fromEntries(value) : value;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  clearProgress();
  const text = error instanceof UsageError ? `${error.message}\n\n${usage}` : `${String(error)}\n`;
  process.stderr.write(text);
  process.exitCode = error instanceof UsageError ? exitCodes.usage : exitCodes.failed;
}
