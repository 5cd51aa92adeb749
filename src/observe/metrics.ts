/**
 * The table of metrics, in one prom-client registry for each proxy. Names that the program before ours had keep their
 * meaning. Tenant names are no labels: a metric has a bounded number of series, whatever clients send.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { ErrorCode } from "../errors/catalogue.ts";
import { catalogue } from "../errors/catalogue.ts";

export type CancelOutcome = "forwarded" | "unknown" | "limited" | "failed";

export type LoginOutcome = "accepted" | "refused" | "left";

/** The states of a session that is not logged in yet. */
export type LoginPhase = "negotiating" | "authenticating" | "resolving" | "injecting";

export interface Traffic {
  readonly fromClient: number;
  readonly fromUpstream: number;
}

const NO_TRAFFIC: Traffic = { fromClient: 0, fromUpstream: 0 };

export class Metrics {
  readonly registry = new Registry();

  readonly connectionsTotal = new Counter({
    name: "pgvpd_connections_total",
    help: "Client connections accepted.",
    registers: [this.registry],
  });

  readonly connectionsActive = new Gauge({
    name: "pgvpd_connections_active",
    help: "Client connections open now, in login or after it.",
    registers: [this.registry],
  });

  readonly loginSeconds = new Histogram({
    name: "pgvpd_login_duration_seconds",
    help: "Time from the accepted connection to the ReadyForQuery that the client sees.",
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    registers: [this.registry],
  });

  readonly poolPins = new Counter({
    name: "pgvpd_pool_pins_total",
    help: "Clients that keep their session although their transaction is over, by the reason.",
    labelNames: ["reason"],
    registers: [this.registry],
  });

  readonly resolverExecutions = new Counter({
    name: "pgvpd_resolver_executions_total",
    help: "Queries of resolvers that were run.",
    labelNames: ["resolver"],
    registers: [this.registry],
  });

  readonly resolverErrors = new Counter({
    name: "pgvpd_resolver_errors_total",
    help: "Queries of resolvers that failed.",
    labelNames: ["resolver"],
    registers: [this.registry],
  });

  readonly resolverSeconds = new Histogram({
    name: "pgvpd_resolver_duration_seconds",
    help: "Time of the round trip that a resolver was run in, together with those that run at the same time.",
    labelNames: ["resolver"],
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers: [this.registry],
  });

  readonly resolverCacheHits = new Counter({
    name: "pgvpd_resolver_cache_hits_total",
    help: "Look-ups of resolvers with a cache that found an answer, or somebody who was asking.",
    registers: [this.registry],
  });

  readonly resolverCacheMisses = new Counter({
    name: "pgvpd_resolver_cache_misses_total",
    help: "Look-ups of resolvers with a cache that found none.",
    registers: [this.registry],
  });

  readonly resolverLookups = new Counter({
    name: "pgvpd_resolver_cache_lookups_total",
    help: "The same look-ups for each resolver, by their outcome.",
    labelNames: ["resolver", "outcome"],
    registers: [this.registry],
  });

  readonly resolverCacheSize = new Gauge({
    name: "pgvpd_resolver_cache_size",
    help: "Answers of resolvers that are kept.",
    registers: [this.registry],
  });

  readonly resolverAnswers = new Gauge({
    name: "pgvpd_resolver_cache_answers",
    help: "Answers that are kept, for each resolver.",
    labelNames: ["resolver"],
    registers: [this.registry],
  });

  readonly resolverInvalidations = new Counter({
    name: "pgvpd_resolver_invalidations_total",
    help: "Answers of a resolver that were dropped because they changed, or could have: changes were not heard of.",
    labelNames: ["resolver"],
    registers: [this.registry],
  });

  /** Of tenant policy: see docs/tenants.md. */
  readonly tenantRejected = new Counter({
    name: "pgvpd_tenant_rejected_total",
    help: "Logins refused by a rule of tenants, by the kind of rule.",
    labelNames: ["reason"],
    registers: [this.registry],
  });

  readonly tenantTimeouts = new Counter({
    name: "pgvpd_tenant_timeouts_total",
    help: "Connections ended by tenant_query_timeout.",
    registers: [this.registry],
  });

  readonly auditLinesDropped = new Counter({
    name: "pgvpd_audit_lines_dropped_total",
    help: "Lines that audit_log did not take.",
    registers: [this.registry],
  });

  readonly logins = new Counter({
    name: "pgvpd_logins_total",
    help: "Logins, by how they went.",
    labelNames: ["outcome"],
    registers: [this.registry],
  });

  readonly #loginPhaseSeconds = new Histogram({
    name: "pgvpd_login_phase_duration_seconds",
    help: "Time that logins spend in each of their states.",
    labelNames: ["phase"],
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 5, 30],
    registers: [this.registry],
  });

  readonly #cancelRequests = new Counter({
    name: "pgvpd_cancel_requests_total",
    help: "CancelRequests received, by what became of them.",
    labelNames: ["outcome"],
    registers: [this.registry],
  });

  readonly #errors = new Counter({
    name: "pgvpd_errors_total",
    help: "Sessions ended by an error of pgvpd's catalogue, by its code and whose fault it is.",
    labelNames: ["code", "blame"],
    registers: [this.registry],
  });

  /** Bytes of sessions that are open; whoever has them sets it. */
  openSessionBytes: () => Traffic = () => NO_TRAFFIC;
  #endedSessionBytes = NO_TRAFFIC;

  constructor() {
    for (const reason of ["deny", "limit", "rate"]) this.tenantRejected.inc({ reason }, 0);
    for (const outcome of ["accepted", "refused", "left"]) this.logins.inc({ outcome }, 0);
    const bytes = (): Traffic => this.bytes;
    this.registry.registerMetric(
      new Counter({
        name: "pgvpd_bytes_total",
        help: "Bytes read from clients and from upstream servers in sessions that have logged in.",
        labelNames: ["from"],
        registers: [],
        collect() {
          const { fromClient, fromUpstream } = bytes();
          this.reset();
          this.inc({ from: "client" }, fromClient);
          this.inc({ from: "upstream" }, fromUpstream);
        },
      }),
    );
  }

  /** Of sessions that are open, and of those that have ended. */
  get bytes(): Traffic {
    return sum(this.#endedSessionBytes, this.openSessionBytes());
  }

  countLogin(outcome: LoginOutcome): void {
    this.logins.inc({ outcome });
  }

  observePhase(phase: LoginPhase, ms: number): void {
    this.#loginPhaseSeconds.observe({ phase }, ms / 1000);
  }

  /** What a session that has ended has read. */
  countBytes(bytes: Traffic): void {
    this.#endedSessionBytes = sum(this.#endedSessionBytes, bytes);
  }

  countLookup(resolver: string, outcome: "hit" | "miss"): void {
    (outcome === "hit" ? this.resolverCacheHits : this.resolverCacheMisses).inc();
    this.resolverLookups.inc({ resolver, outcome });
  }

  /** @param change 1 or -1. */
  countKept(resolver: string, change: number): void {
    this.resolverCacheSize.inc(change);
    this.resolverAnswers.inc({ resolver }, change);
  }

  countError(code: ErrorCode): void {
    this.#errors.inc({ code, blame: catalogue[code].blame });
  }

  countCancel(outcome: CancelOutcome): void {
    this.#cancelRequests.inc({ outcome });
  }
}

function sum(a: Traffic, b: Traffic): Traffic {
  return { fromClient: a.fromClient + b.fromClient, fromUpstream: a.fromUpstream + b.fromUpstream };
}
