/**
 * What the configuration says of each tenant: whether it may connect, and the limits that hold for it. A policy does not
 * change; a reload makes a new one.
 */
import type { Config } from "./settings.ts";
import { TenantMatch } from "./tenant-name.ts";

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
}

export class TenantPolicy {
  readonly #config: TenantConfig;
  readonly #allow: readonly TenantMatch[];
  readonly #deny: readonly TenantMatch[];

  constructor(config: TenantConfig) {
    this.#config = config;
    this.#allow = config.tenantAllow.map((text) => new TenantMatch(text));
    this.#deny = config.tenantDeny.map((text) => new TenantMatch(text));
  }

  /** @param canonical of canonicalTenant. */
  termsOf(canonical: string): TenantTerms {
    const config = this.#config;
    return {
      denied: this.#whyDenied(canonical),
      maxConnections: config.tenantMaxConnections,
      rateLimit: config.tenantRateLimit,
      poolSize: config.tenantPoolSize,
      timeouts: timeoutsOf(config),
    };
  }

  #whyDenied(canonical: string): string | undefined {
    const isAmong = (list: readonly TenantMatch[]): boolean => list.some((match) => match.matches(canonical));
    if (isAmong(this.#deny)) return "tenant_deny lists it";
    if (this.#allow.length > 0 && !isAmong(this.#allow)) return "tenant_allow does not list it";
    return undefined;
  }
}

function timeoutsOf(config: TenantConfig): TenantTimeouts {
  const pooled = config.poolMode === "transaction" ? POOLED_IDLE_TRANSACTION_MS : undefined;
  return {
    silenceMs: unlessZero(config.tenantQueryTimeoutMs),
    queryMs: unlessZero(config.queryTimeoutMs),
    transactionMs: unlessZero(config.transactionTimeoutMs),
    heldMs: unlessZero(config.idleTransactionTimeoutMs ?? pooled),
    idleMs: unlessZero(config.clientIdleTimeoutMs),
  };
}

function unlessZero(ms: number | undefined): number | undefined {
  return ms === 0 ? undefined : ms;
}
