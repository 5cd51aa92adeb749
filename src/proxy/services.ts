/**
 * What a session needs from the process around it. Whatever is shared by all sessions stands behind a small interface
 * that is asked at login, never for a message; runtime/ composes it, tests put their own parts in.
 */
import type { AllowedNetworks } from "../config/networks.ts";
import type { Config } from "../config/settings.ts";
import type { TenantUpstream } from "../config/tenant-policy.ts";
import type { Clock } from "../lib/clock.ts";
import type { Semaphore } from "../lib/semaphore.ts";
import type { TimerWheel } from "../lib/timer-wheel.ts";
import type { TokenBucket } from "../lib/token-bucket.ts";
import type { AuditLog } from "../observe/audit-log.ts";
import type { Logger } from "../observe/logger.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { Admissions } from "./admit/admissions.ts";
import type { ClientPlaces } from "./admit/client-places.ts";
import type { Credentials } from "./auth/credentials.ts";
import type { LoginThrottle } from "./auth/login-throttle.ts";
import type { ClientTls } from "./client/client-tls.ts";
import type { Resolvers } from "./context/resolvers.ts";
import type { SafeRoles } from "./context/role-safety.ts";
import type { RecentKeys } from "../lib/recent-keys.ts";
import type { Seal } from "./context/seal.ts";
import type { Pool } from "./pool/pool.ts";
import type { CancelKeys } from "./upstream/cancel-keys.ts";
import type { Dial } from "./upstream/dial.ts";
import type { KeyCache } from "./upstream/key-cache.ts";
import type { RoleDefaults } from "./upstream/role-defaults.ts";
import type { UpstreamTls } from "./upstream/upstream-tls.ts";

export interface ProxyServices {
  /** The same for a tenant with a server of its own. */
  servicesOf(upstream: TenantUpstream): ProxyServices;
  /** True where the server is a tenant's own. */
  readonly isOwnServer?: boolean;
  readonly config: Config;
  readonly clock: Clock;
  /** Looks at the sessions that have timers. */
  readonly wheel: TimerWheel;
  /** Undefined where no certificate is configured. */
  readonly clientTls: ClientTls | undefined;
  /** Undefined where `upstream_tls` is off. */
  readonly upstreamTls: UpstreamTls | undefined;
  /** Who may come from where. */
  readonly networks: AllowedNetworks;
  /** Counts connections, whoever they are of. */
  readonly places: ClientPlaces;
  /** Counts sessions of tenants. */
  readonly admissions: Admissions;
  readonly throttle: LoginThrottle;
  readonly credentials: Credentials;
  /** Keys that pgvpd logs in upstream with. */
  readonly keyCache: KeyCache;
  readonly roleDefaults: RoleDefaults;
  readonly dial: Dial;
  /** Bounds pgvpd's own logins to the server. One that is relayed goes at its client's pace, and would hold a place for it. */
  readonly ownLogins: Semaphore;
  readonly cancelKeys: CancelKeys;
  /** Bounds the CancelRequests of all clients together; nothing else bounds them. */
  readonly cancelRate: TokenBucket;
  readonly resolvers: Resolvers;
  /** Undefined with `pool_mode = none`. */
  readonly pool: Pool | undefined;
  readonly safeRoles: SafeRoles;
  /** Undefined with `context_seal = off`. */
  readonly seal: Seal | undefined;
  /** Databases without the seal that were warned of. */
  readonly unsealed: RecentKeys;
  /** Undefined with `audit_log = off`. */
  readonly audit?: AuditLog | undefined;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Whether sockets may be moved to direct reads: see socket/direct-read.ts. */
  readonly directRead: boolean;
}
