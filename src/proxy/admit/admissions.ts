/**
 * Which tenants have sessions, and how many: the fifth stage, for who has proved a credential. Each check and the count
 * behind it are one step without an await, so that of many logins at once exactly as many get in as may.
 */
import { canonicalTenant, TenantMatch } from "../../config/tenant-name.ts";
import type { TenantPolicy, TenantTerms } from "../../config/tenant-policy.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { TokenBucket } from "../../lib/token-bucket.ts";

export type RejectReason = "deny" | "limit" | "rate";

/** A session that has been admitted. */
export interface Admitted {
  /** Its tenant may not connect any more. */
  terminate(error: ProxyError): void;
  /** The configuration says something else of its tenant now. */
  onTerms(terms: TenantTerms): void;
}

/** A session's place among those of its tenant, until it is disposed of; a second time does nothing. */
export interface Admission extends Disposable {
  /** What holds now. */
  readonly terms: TenantTerms;
}

export interface AdmissionServices {
  readonly clock: Clock;
  countRejected(reason: RejectReason): void;
}

/** What is denied at run time, beside the configuration. */
const MAX_DENIALS = 1_000;

/** A bucket holds what flows in within this time, so that it is full again then, and no loss. */
const BURST_MS = 1_000;

const UNLIMITED = Infinity;
const MAX_POOL_SIZES = 10_000;

interface Rate {
  readonly perSecond: number;
  readonly bucket: TokenBucket;
  readonly usedAt: number;
}

export class Admissions {
  #policy: TenantPolicy;
  readonly #services: AdmissionServices;
  /** By canonical tenant; one without a session is not here. */
  readonly #sessions = new Map<string, Set<Admitted>>();
  /** By canonical tenant, the one that connected last at the end. */
  readonly #rates = new Map<string, Rate>();
  readonly #poolSizes = new Map<string, number>();
  /** By the pattern's text. */
  readonly #denials = new Map<string, { readonly match: TenantMatch; readonly reason: string }>();

  constructor(policy: TenantPolicy, services: AdmissionServices) {
    this.#policy = policy;
    this.#services = services;
  }

  /** What holds for a tenant now, in whatever spelling. */
  termsOf(tenant: string): TenantTerms {
    return this.#termsOf(canonicalTenant(tenant));
  }

  /** `tenant_pool_size` of a tenant; asked for each transaction, so it is remembered. */
  readonly poolSizeOf = (tenant: string): number | undefined => {
    const known = this.#poolSizes.get(tenant);
    if (known !== undefined) return known === UNLIMITED ? undefined : known;
    if (this.#poolSizes.size >= MAX_POOL_SIZES) this.#poolSizes.clear();
    const { poolSize } = this.termsOf(tenant);
    this.#poolSizes.set(tenant, poolSize ?? UNLIMITED);
    return poolSize;
  };

  /** How many sessions a tenant has, in whatever spelling. */
  countOf(tenant: string): number {
    return this.#sessions.get(canonicalTenant(tenant))?.size ?? 0;
  }

  /** How many tenants are remembered, for tests: none when all have left, and a second has passed. */
  get size(): number {
    this.#forgetRates();
    return this.#sessions.size + this.#rates.size;
  }

  /** @throws ProxyError tenant_denied (28000), tenant_connections or tenant_rate (53300): then nothing is kept. */
  admit(tenant: string, session: Admitted): Admission {
    const name = canonicalTenant(tenant);
    const { denied, maxConnections, rateLimit } = this.#termsOf(name);
    if (denied !== undefined) throw this.#reject("deny", "tenant_denied", { tenant, reason: denied });
    const sessions = this.#sessions.get(name) ?? new Set();
    if (maxConnections !== undefined && sessions.size >= maxConnections) {
      throw this.#reject("limit", "tenant_connections", { tenant, limit: maxConnections });
    }
    if (rateLimit !== undefined && !this.#takeToken(name, rateLimit)) {
      throw this.#reject("rate", "tenant_rate", { tenant, limit: rateLimit });
    }
    sessions.add(session);
    this.#sessions.set(name, sessions);
    const now = (): TenantTerms => this.#termsOf(name);
    return {
      get terms() {
        return now();
      },
      [Symbol.dispose]: () => this.#release(name, session),
    };
  }

  /**
   * Tenants that match have no session from now on, until `allow` or the end of the program.
   *
   * @throws RangeError when there are a thousand already.
   */
  deny(pattern: string, reason: string): void {
    const name = canonicalTenant(pattern);
    if (!this.#denials.has(name) && this.#denials.size >= MAX_DENIALS) {
      throw new RangeError(`more than ${MAX_DENIALS} patterns are denied: list tenants in tenant_deny or tenants`);
    }
    this.#denials.set(name, { match: new TenantMatch(pattern), reason });
    this.#apply();
  }

  /** Takes back `deny` of the same pattern. @returns false where there was none. */
  allow(pattern: string): boolean {
    return this.#denials.delete(canonicalTenant(pattern));
  }

  /** The patterns that are denied at run time, and why. */
  get denials(): { readonly pattern: string; readonly reason: string }[] {
    return [...this.#denials].map(([pattern, { reason }]) => ({ pattern, reason }));
  }

  /** Holds for sessions that are open, too: those of tenants that may not connect any more are ended. */
  use(policy: TenantPolicy): void {
    this.#policy = policy;
    this.#apply();
  }

  #apply(): void {
    this.#poolSizes.clear();
    for (const [name, sessions] of this.#sessions) {
      const terms = this.#termsOf(name);
      const { denied: reason } = terms;
      for (const session of sessions) {
        if (reason === undefined) session.onTerms(terms);
        else session.terminate(new ProxyError("tenant_ended", { params: { tenant: name, reason } }));
      }
    }
  }

  #termsOf(name: string): TenantTerms {
    const terms = this.#policy.termsOf(name);
    for (const { match, reason } of this.#denials.values()) {
      if (match.matches(name)) return { ...terms, denied: reason };
    }
    return terms;
  }

  #release(name: string, session: Admitted): void {
    const sessions = this.#sessions.get(name);
    sessions?.delete(session);
    if (sessions?.size === 0) this.#sessions.delete(name);
  }

  #takeToken(name: string, perSecond: number): boolean {
    this.#forgetRates();
    const { clock } = this.#services;
    const before = this.#rates.get(name);
    const bucket =
      before?.perSecond === perSecond
        ? before.bucket
        : new TokenBucket(clock, perSecond, (perSecond * BURST_MS) / 1_000);
    this.#rates.delete(name);
    this.#rates.set(name, { perSecond, bucket, usedAt: clock.now() });
    return bucket.take();
  }

  /** Those that are full again. */
  #forgetRates(): void {
    const fullSince = this.#services.clock.now() - BURST_MS;
    for (const [name, { usedAt }] of this.#rates) {
      if (usedAt > fullSince) return;
      this.#rates.delete(name);
    }
  }

  #reject(
    reason: RejectReason,
    code: "tenant_denied" | "tenant_connections" | "tenant_rate",
    params: Readonly<Record<string, string | number>>,
  ): ProxyError {
    this.#services.countRejected(reason);
    return new ProxyError(code, { params });
  }
}
