/**
 * What a scenario is: one thing that is measured, the same way for every peer. Each file of scenarios/ makes one or a
 * few; run.ts calls measure() once for each peer in each round. A scenario never starts a peer or prints: it drives the
 * one it is given and returns numbers.
 */
import type { RunningPeer } from "./peer.ts";
import type { Workbench } from "./measure/workbench.ts";

export interface Metric {
  readonly key: string;
  /** The column's head, with its unit. */
  readonly label: string;
  readonly digits: number;
  /** Whether the table shows this metric as a ratio to the baselines too. */
  readonly hasRatio: boolean;
}

/** One round's numbers by metric key; a metric that does not apply to the peer is absent. */
export type Sample = Readonly<Record<string, number>>;

export interface Bench {
  readonly workbench: Workbench;
  /** How long one measurement of a timed scenario lasts. */
  readonly seconds: number;
  /** The core that pinned scenarios share, or undefined where taskset is missing or was declined. */
  readonly pinnedCore: number | undefined;
  readonly idleConnections: number;
  /** The first process of PostgreSQL, where a scenario needs PostgreSQL. */
  readonly postmaster: number | undefined;
}

export interface Scenario {
  readonly name: string;
  /** One line above the table: what runs, with how many clients. */
  readonly title: string;
  /** Which server stands behind the peers: real PostgreSQL by its authentication, or a scripted one. */
  readonly upstream: "trust" | "scram" | "scripted";
  readonly needsPgbench: boolean;
  /** It compares ways of pgvpd to carry a context, and runs in databases that are made for that. */
  readonly needsSeal?: true;
  /** Beside those that name it in `onlyIn`, the only peers that take part; all of them when absent. */
  readonly peers?: readonly string[];
  /** Where there is nothing to measure without a proxy. */
  readonly skipsDirect?: boolean;
  /** Start the peer anew in each round, where a round leaves traces (memory). */
  readonly needsFreshPeer?: boolean;
  /** It takes long, or is of interest to few: it runs only where `--only` names it. */
  readonly isOnRequest?: true;
  /** The peer that ratios are taken to, in place of the other proxies. */
  readonly baseline?: string;
  /** Server, peer and client share one core, if the machine can pin. */
  readonly isPinned?: boolean;
  readonly metrics: readonly Metric[];
  measure(peer: RunningPeer, bench: Bench): Promise<Sample>;
}
