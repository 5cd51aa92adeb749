/**
 * Runs the plan: for each scenario it starts the peers, then goes round after round through all of them, so that whatever
 * else the machine does hits every peer alike. Called by main.ts. A peer that fails is left out of that scenario and
 * named; the others go on. It never computes a ratio.
 */
import { availableParallelism } from "node:os";
import type { BenchServer } from "./measure/server.ts";
import { startScriptedUpstream } from "./measure/scripted-upstream.ts";
import { pin } from "./measure/processes.ts";
import type { Peer, RunningPeer, Upstream } from "./peer.ts";
import type { Bench, Sample, Scenario } from "./scenario.ts";
import type { Round } from "./statistics.ts";

export interface Plan {
  readonly scenarios: readonly Scenario[];
  readonly peers: readonly Peer[];
  readonly rounds: number;
  /** Absent where no scenario of the plan needs it. */
  readonly postgres: BenchServer | undefined;
}

interface Failure {
  readonly peer: string;
  readonly reason: string;
}

export interface ScenarioResult {
  readonly scenario: Scenario;
  readonly rounds: readonly Round[];
  readonly failures: readonly Failure[];
}

/** Yields each scenario's result as soon as it is complete; ends early, with what there is, when interrupted. */
export async function* runPlan(
  plan: Plan,
  bench: Bench,
  progress: (text: string) => void,
): AsyncGenerator<ScenarioResult> {
  const servers = new Servers(bench, plan.postgres);
  for (const [index, scenario] of plan.scenarios.entries()) {
    if (bench.workbench.isClosing) return;
    const where = `[${index + 1}/${plan.scenarios.length}] ${scenario.name}`;
    const run = new ScenarioRun(scenario, bench, await servers.upstreamFor(scenario));
    await servers.pinFor(scenario);
    yield await run.toEnd(peersFor(scenario, plan.peers), plan.rounds, (text) => progress(`${where}  ${text}`));
  }
}

export function peersFor(scenario: Scenario, peers: readonly Peer[]): readonly Peer[] {
  return peers.filter((peer) => {
    if (scenario.skipsDirect === true && peer.name === "direct") return false;
    return peer.onlyIn === undefined
      ? (scenario.peers?.includes(peer.name) ?? scenario.needsSeal !== true)
      : peer.onlyIn.includes(scenario.name);
  });
}

/** One scenario under way: which peers run, what they measured, which of them dropped out. */
class ScenarioRun {
  readonly #scenario: Scenario;
  readonly #bench: Bench;
  readonly #upstream: Upstream;
  readonly #running = new Map<string, RunningPeer>();
  readonly #failures: Failure[] = [];

  constructor(scenario: Scenario, bench: Bench, upstream: Upstream) {
    this.#scenario = scenario;
    this.#bench = bench;
    this.#upstream = upstream;
  }

  async toEnd(peers: readonly Peer[], roundCount: number, progress: (text: string) => void): Promise<ScenarioResult> {
    const rounds: Round[] = [];
    if (this.#scenario.needsFreshPeer !== true) await this.#warmUp(peers, progress);
    for (let number = 1; number <= roundCount && !this.#bench.workbench.isClosing; number += 1) {
      const round = new Map<string, Sample>();
      for (const peer of rotated(peers, number - 1)) {
        if (this.#hasFailed(peer) || this.#bench.workbench.isClosing) continue;
        progress(`round ${number}/${roundCount}  ${peer.name}`);
        const sample = await this.#measure(peer);
        if (sample !== undefined) round.set(peer.name, sample);
      }
      rounds.push(round);
    }
    for (const running of this.#running.values()) await running.stop();
    return { scenario: this.#scenario, rounds, failures: this.#failures };
  }

  /** A round that is not counted: programs that are compiled while they run have to have run. */
  async #warmUp(peers: readonly Peer[], progress: (text: string) => void): Promise<void> {
    for (const peer of peers) {
      if (this.#bench.workbench.isClosing) return;
      progress(`warming up  ${peer.name}`);
      await this.#measure(peer);
    }
  }

  async #measure(peer: Peer): Promise<Sample | undefined> {
    try {
      const running = this.#running.get(peer.name) ?? (await this.#start(peer));
      const sample = await this.#scenario.measure(running, this.#bench);
      if (this.#scenario.needsFreshPeer === true) await this.#stop(peer);
      return sample;
    } catch (error) {
      if (this.#bench.workbench.isClosing) return undefined;
      this.#failures.push({ peer: peer.name, reason: error instanceof Error ? error.message : String(error) });
      await this.#stop(peer);
      return undefined;
    }
  }

  async #start(peer: Peer): Promise<RunningPeer> {
    const running = await peer.start(this.#upstream, this.#bench.workbench);
    this.#running.set(peer.name, running);
    const { pinnedCore } = this.#bench;
    if (this.#scenario.isPinned === true && pinnedCore !== undefined && running.processGroup !== undefined) {
      await pin(running.processGroup, String(pinnedCore)); // a process group has the id of its first process
    }
    return running;
  }

  async #stop(peer: Peer): Promise<void> {
    const running = this.#running.get(peer.name);
    this.#running.delete(peer.name);
    await running?.stop();
  }

  #hasFailed(peer: Peer): boolean {
    return this.#failures.some((failure) => failure.peer === peer.name);
  }
}

/** What stands behind the peers; the scripted server is started when first needed. */
class Servers {
  readonly #bench: Bench;
  readonly #postgres: BenchServer | undefined;
  #scripted: Upstream | undefined;

  constructor(bench: Bench, postgres: BenchServer | undefined) {
    this.#bench = bench;
    this.#postgres = postgres;
  }

  async upstreamFor(scenario: Scenario): Promise<Upstream> {
    if (scenario.upstream === "scripted") return (this.#scripted ??= await this.#startScripted());
    if (this.#postgres === undefined) throw new Error(`${scenario.name} needs PostgreSQL`);
    return this.#postgres.upstreams[scenario.upstream];
  }

  /** The server shares the core in pinned scenarios, and has them all in the others. */
  async pinFor(scenario: Scenario): Promise<void> {
    const { pinnedCore } = this.#bench;
    if (this.#postgres === undefined || pinnedCore === undefined) return;
    const cores = scenario.isPinned === true ? String(pinnedCore) : `0-${availableParallelism() - 1}`;
    await pin(this.#postgres.postmaster, cores);
  }

  async #startScripted(): Promise<Upstream> {
    const server = await startScriptedUpstream();
    this.#bench.workbench.onClose(() => server.close());
    return {
      host: "127.0.0.1",
      port: server.port,
      user: "app_user",
      password: "",
      database: "bench",
      auth: "trust",
      scramVerifier: undefined,
      seal: undefined,
      maxConnections: 100_000,
    };
  }
}

/** Another peer goes first in each round. */
function rotated<T>(items: readonly T[], by: number): T[] {
  const start = items.length === 0 ? 0 : by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}
