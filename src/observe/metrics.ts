/**
 * The table of metrics, in one prom-client registry for each proxy. Names that the program before ours had keep their
 * meaning. Tenant names are no labels: a metric has a bounded number of series, whatever clients send.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { ErrorCode } from "../errors/catalogue.ts";
import { catalogue } from "../errors/catalogue.ts";

export type CancelOutcome = "forwarded" | "unknown" | "limited" | "failed";

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

  readonly #resolverCacheHits = new Counter({
    name: "pgvpd_resolver_cache_hits_total",
    help: "Look-ups of resolvers with a cache that found an answer, or somebody who was asking.",
    registers: [this.registry],
  });

  readonly #resolverCacheMisses = new Counter({
    name: "pgvpd_resolver_cache_misses_total",
    help: "Look-ups of resolvers with a cache that found none.",
    registers: [this.registry],
  });

  readonly #resolverLookups = new Counter({
    name: "pgvpd_resolver_cache_lookups_total",
    help: "The same look-ups for each resolver, by their outcome.",
    labelNames: ["resolver", "outcome"],
    registers: [this.registry],
  });

  readonly #resolverCacheSize = new Gauge({
    name: "pgvpd_resolver_cache_size",
    help: "Answers of resolvers that are kept.",
    registers: [this.registry],
  });

  readonly #resolverAnswers = new Gauge({
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

  countLookup(resolver: string, outcome: "hit" | "miss"): void {
    (outcome === "hit" ? this.#resolverCacheHits : this.#resolverCacheMisses).inc();
    this.#resolverLookups.inc({ resolver, outcome });
  }

  /** @param change 1 or -1. */
  countKept(resolver: string, change: number): void {
    this.#resolverCacheSize.inc(change);
    this.#resolverAnswers.inc({ resolver }, change);
  }

  countError(code: ErrorCode): void {
    this.#errors.inc({ code, blame: catalogue[code].blame });
  }

  countCancel(outcome: CancelOutcome): void {
    this.#cancelRequests.inc({ outcome });
  }
}
