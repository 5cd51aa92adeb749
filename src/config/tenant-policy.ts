/**
 * What the configuration says of each tenant: whether it may connect, and the limits that hold for it. A policy does not
 * change; a reload makes a new one.
 */
import type { Config } from "./settings.ts";
import { TenantMatch } from "./tenant-name.ts";
import type { TenantEntry, TenantOverrides } from "./tenants-file.ts";

/** The settings of pgvpd.conf that a policy is made of. */
export type TenantConfig = Pick<
  Config,
  | "tenantAllow"
  | "tenantDeny"
  | "tenantMaxConnections"
  | "tenantRateLimit"
  | "tenantPoolSize"
  | "tenantQueryTimeoutMs"
  | "queryTimeoutMs"
  | "transactionTimeoutMs"
  | "idleTransactionTimeoutMs"
  | "clientIdleTimeoutMs"
  | "poolMode"
  | "upstreamHost"
  | "upstreamPort"
>;

/** `idle_transaction_timeout` where it is not set and connections are shared by transaction. */
const POOLED_IDLE_TRANSACTION_MS = 60_000;

/** How long a session may do the same; undefined: for ever. */
export interface TenantTimeouts {
  /** tenant_query_timeout. */
  readonly silenceMs: number | undefined;
  readonly queryMs: number | undefined;
  readonly transactionMs: number | undefined;
  /** idle_transaction_timeout. */
  readonly heldMs: number | undefined;
  /** client_idle_timeout. */
  readonly idleMs: number | undefined;
}

/** What holds for one tenant. */
export interface TenantTerms {
  /** Why it may not connect; undefined where it may. */
  readonly denied: string | undefined;
  readonly maxConnections: number | undefined;
  /** New connections a second. */
  readonly rateLimit: number | undefined;
  /** Most pooled connections, for each database and role. */
  readonly poolSize: number | undefined;
  readonly timeouts: TenantTimeouts;
  /** Where its own server is; undefined: where everybody's is. */
  readonly upstream: TenantUpstream | undefined;
  /** In place of the database that its clients ask for. */
  readonly database: string | undefined;
}

/** A server of a tenant's own. */
export interface TenantUpstream {
  readonly host: string;
  readonly port: number;
}

export class TenantPolicy {
  readonly #config: TenantConfig;
  readonly #allow: readonly TenantMatch[];
  readonly #deny: readonly TenantMatch[];

  readonly #entries: readonly TenantEntry[];
  /** Where the entries of single tenants stand, and those of patterns. */
  readonly #exact = new Map<string, number>();
  readonly #patterns: (readonly [TenantMatch, number])[] = [];

  /** @param entries of tenants.toml. */
  constructor(config: TenantConfig, entries: readonly TenantEntry[] = []) {
    this.#config = config;
    this.#entries = entries;
    for (const [index, { matches }] of entries.entries()) {
      for (const match of matches) {
        if (match.only === undefined) this.#patterns.push([match, index]);
        else if (!this.#exact.has(match.only)) this.#exact.set(match.only, index);
      }
    }
    this.#allow = config.tenantAllow.map((text) => new TenantMatch(text));
    this.#deny = config.tenantDeny.map((text) => new TenantMatch(text));
  }

  /** @param canonical of canonicalTenant. */
  termsOf(canonical: string): TenantTerms {
    const config = this.#config;
    const own = this.#entryOf(canonical)?.overrides ?? {};
    const {
      maxConnections = limitIn(own, "maxConnections", config.tenantMaxConnections),
      rateLimit = limitIn(own, "rateLimit", config.tenantRateLimit),
      poolSize = limitIn(own, "poolSize", config.tenantPoolSize),
    } = own;
    return {
      denied: own.denied ?? this.#whyDenied(canonical),
      maxConnections,
      rateLimit,
      poolSize,
      timeouts: timeoutsOf(config, own),
      upstream: upstreamOf(config, own),
      database: own.database,
    };
  }

  /** The first that matches. */
  #entryOf(canonical: string): TenantEntry | undefined {
    const exact = this.#exact.get(canonical) ?? Infinity;
    const [, index = exact] = this.#patterns.find(([match, at]) => at >= exact || match.matches(canonical)) ?? [];
    return this.#entries[Math.min(index, exact)];
  }

  #whyDenied(canonical: string): string | undefined {
    const isAmong = (list: readonly TenantMatch[]): boolean => list.some((match) => match.matches(canonical));
    if (isAmong(this.#deny)) return "tenant_deny lists it";
    if (this.#allow.length > 0 && !isAmong(this.#allow)) return "tenant_allow does not list it";
    return undefined;
  }
}

/** What pgvpd.conf says, unless the entry takes the limit away. */
function limitIn(own: TenantOverrides, key: keyof TenantOverrides, common: number | undefined): number | undefined {
  return Object.hasOwn(own, key) ? undefined : common;
}

function timeoutsOf(config: TenantConfig, own: TenantOverrides): TenantTimeouts {
  const pooled = config.poolMode === "transaction" ? POOLED_IDLE_TRANSACTION_MS : undefined;
  return {
    silenceMs: unlessZero(own.silenceMs ?? config.tenantQueryTimeoutMs),
    queryMs: unlessZero(own.queryMs ?? config.queryTimeoutMs),
    transactionMs: unlessZero(own.transactionMs ?? config.transactionTimeoutMs),
    heldMs: unlessZero(own.heldMs ?? config.idleTransactionTimeoutMs ?? pooled),
    idleMs: unlessZero(own.idleMs ?? config.clientIdleTimeoutMs),
  };
}

function unlessZero(ms: number | undefined): number | undefined {
  return ms === 0 ? undefined : ms;
}

function upstreamOf(config: TenantConfig, own: TenantOverrides): TenantUpstream | undefined {
  if (own.upstreamHost === undefined && own.upstreamPort === undefined) return undefined;
  return { host: own.upstreamHost ?? config.upstreamHost, port: own.upstreamPort ?? config.upstreamPort };
}
