/**
 * What a peer is: something that stands between pgbench and PostgreSQL (or nothing at all, for `direct`).
 * Each file of peers/ makes one; run.ts probes them once, then starts and stops them for each scenario. A peer never
 * measures anything itself: scenarios do, with what RunningPeer tells them.
 */
import type { Workbench } from "./measure/workbench.ts";

/** Where and as whom a client connects. */
export interface Target {
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly password: string;
  readonly database: string;
}

/** How the context of a session is kept: as a variable, or by one of the carriers of sql/seal.sql. */
export type SealKind = "unsealed" | "slot" | "signed";

/** The server that a peer is to stand in front of. */
export interface Upstream extends Target {
  readonly auth: "trust" | "scram";
  /** The role's verifier as pg_authid stores it; PgBouncer wants it for SCRAM. */
  readonly scramVerifier: string | undefined;
  /** Databases with one protected table, and the key of those whose context is sealed; where a scenario needs them. */
  readonly seal: { readonly databases: Readonly<Record<SealKind, string>>; readonly keyFile: string } | undefined;
  /** No peer may open more connections than this. */
  readonly maxConnections: number;
}

export interface RunningPeer {
  readonly target: Target;
  /** Every process of the peer is in this process group; undefined when there is no proxy at all. */
  readonly processGroup: number | undefined;
  /** Where its metrics are read, where it was started with them. */
  readonly metricsUrl?: string;
  stop(): Promise<void>;
}

type Probe = { readonly version: string } | { readonly missing: string };

export interface Peer {
  readonly name: string;
  /** Names of the only scenarios that it takes part in; all of them when absent. */
  readonly onlyIn?: readonly string[];
  /** Says the version that would run, or why this machine cannot run it. */
  probe(): Promise<Probe>;
  start(upstream: Upstream, workbench: Workbench): Promise<RunningPeer>;
}
