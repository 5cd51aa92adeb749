/**
 * What the configuration says of each tenant: whether it may connect, and the limits that hold for it. A policy does not
 * change; a reload makes a new one.
 */
import type { Config } from "./settings.ts";
import { TenantMatch } from "./tenant-name.ts";

/** The settings of pgvpd.conf that a policy is made of. */
export type TenantConfig = Pick<Config, "tenantAllow" | "tenantDeny" | "tenantMaxConnections" | "tenantRateLimit">;

/** What holds for one tenant. */
export interface TenantTerms {
  /** Why it may not connect; undefined where it may. */
  readonly denied: string | undefined;
  readonly maxConnections: number | undefined;
  /** New connections a second. */
  readonly rateLimit: number | undefined;
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
    const { tenantMaxConnections: maxConnections, tenantRateLimit: rateLimit } = this.#config;
    return { denied: this.#whyDenied(canonical), maxConnections, rateLimit };
  }

  #whyDenied(canonical: string): string | undefined {
    const isAmong = (list: readonly TenantMatch[]): boolean => list.some((match) => match.matches(canonical));
    if (isAmong(this.#deny)) return "tenant_deny lists it";
    if (this.#allow.length > 0 && !isAmong(this.#allow)) return "tenant_allow does not list it";
    return undefined;
  }
}
