/**
 * All that the HTTP API sees of the program: what it shows, and what it can have done. The composition root implements it.
 */
import type { Explanation } from "../check/explain-login.ts";
import type { EffectiveSetting } from "../config/load.ts";
import type { AuditLog } from "../observe/audit-log.ts";
import type { Logger } from "../observe/logger.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { ObservedPool } from "../observe/pool-metrics.ts";
import type { ResolverInfo } from "../proxy/context/resolvers.ts";
import type { SessionInfo } from "../proxy/session.ts";

export interface OperatedPool extends ObservedPool {
  readonly isPaused: boolean;
  /** Resolves when no upstream session is open, or when it is paused no more. @throws whatever aborts `signal`. */
  pause(signal: AbortSignal): Promise<void>;
  resume(): void;
}

export interface AdminPorts {
  readonly version: string;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Undefined with `audit_log = off`. */
  readonly audit: AuditLog | undefined;
  /** The settings in force, secrets left out. */
  settings(): readonly EffectiveSetting[];
  /** Whether clients can connect: not before the listeners are open, and not while it drains. */
  isAccepting(): boolean;
  isDraining(): boolean;
  /** Seconds since the program started. */
  uptimeSeconds(): number;
  /** Whether an upstream server answers; asked at most every few seconds, whoever asks. */
  isUpstreamReachable(): Promise<boolean>;
  sessions(): Iterable<SessionInfo>;
  /** False with `pool_mode = none`: then `pools` is empty and stays so. */
  readonly hasPools: boolean;
  readonly pools: OperatedPool;
  resolvers(): readonly ResolverInfo[];
  explain(user: string, database: string | undefined): Promise<Explanation>;

  /** What was denied at run time, beside the configuration. */
  deniedTenants(): readonly { readonly pattern: string; readonly reason: string }[];

  /** Ends a session with 57P01. @returns false where there is none of this number. */
  terminate(conn: number): boolean;
  /**
   * Ends the sessions of tenants that match, and admits none. @param pattern a tenant, or with `*` for any characters.
   *
   * @throws RangeError when a thousand are denied already.
   */
  denyTenant(pattern: string, reason: string): void;
  /** Takes `denyTenant` of the same pattern back. @returns false where there was none. */
  allowTenant(pattern: string): boolean;
  clearResolverCache(): void;
  /** As SIGHUP. @throws Error naming what cannot be used; everything stays as it was then. */
  reload(): void;
  /** As SIGTERM. */
  drain(): void;
}
