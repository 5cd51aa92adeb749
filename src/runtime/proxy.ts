/**
 * The composition root: puts the services together, opens the listeners, starts a Session for each connection, and ends
 * them. It holds no logic of a session, and reads no configuration source.
 */
import type { AdminAddress, AdminServer } from "../admin/admin-server.ts";
import type { AdminPorts } from "../admin/ports.ts";
import { checkUpstream } from "../check/check-upstream.ts";
import { explainLogin } from "../check/explain-login.ts";
import type { EffectiveSetting } from "../config/load.ts";
import { clientAuthOf, hasUpstreamCredential } from "../config/login-method.ts";
import { AllowedNetworks } from "../config/networks.ts";
import type { CodeResolver } from "../config/resolvers-file.ts";
import { takeReloadable, type ShownConfig } from "../config/reloaded.ts";
import { loadTenants } from "../config/tenants-file.ts";
import { TenantPolicy } from "../config/tenant-policy.ts";
import type { Config } from "../config/settings.ts";
import { ProxyError } from "../errors/proxy-error.ts";
import { systemClock } from "../lib/clock.ts";
import { Deadline } from "../lib/deadline.ts";
import { Semaphore } from "../lib/semaphore.ts";
import { TimerWheel } from "../lib/timer-wheel.ts";
import { TokenBucket } from "../lib/token-bucket.ts";
import { pinoLevel, type Logger } from "../observe/logger.ts";
import { observePool } from "../observe/pool-metrics.ts";
import { Admissions } from "../proxy/admit/admissions.ts";
import { ClientPlaces } from "../proxy/admit/client-places.ts";
import { readVersion } from "../lib/version.ts";
import { AuditLog } from "../observe/audit-log.ts";
import { Metrics, type Traffic } from "../observe/metrics.ts";
import { collectProcessMetrics } from "../observe/process-metrics.ts";
import { Resolvers } from "../proxy/context/resolvers.ts";
import { createUnsealed } from "../proxy/context/inject-context.ts";
import { Seal } from "../proxy/context/seal.ts";
import { SafeRoles } from "../proxy/context/role-safety.ts";
import { Credentials } from "../proxy/auth/credentials.ts";
import { LoginThrottle } from "../proxy/auth/login-throttle.ts";
import { ClientTls } from "../proxy/client/client-tls.ts";
import { isDirectReadSafe } from "../proxy/socket/direct-read-check.ts";
import { listen, type ListenAddress, type Listener } from "../proxy/listen/listener.ts";
import type { Pool } from "../proxy/pool/pool.ts";
import { PoolGroup } from "../proxy/pool/pool-group.ts";
import { createPool } from "./create-pool.ts";
import { TenantServers } from "./tenant-servers.ts";
import type { ProxyServices } from "../proxy/services.ts";
import { Session, type SessionInfo } from "../proxy/session.ts";
import { createCancelKeys } from "../proxy/upstream/cancel-keys.ts";
import { createDial } from "../proxy/upstream/dial.ts";
import { KeyCache } from "../proxy/upstream/key-cache.ts";
import { RoleDefaults } from "../proxy/upstream/role-defaults.ts";
import { leftOut } from "../proxy/upstream/tenant-startup.ts";
import { UpstreamTls } from "../proxy/upstream/upstream-tls.ts";

/** CancelRequests a second that are passed on, and how many at once: far above what people and drivers send. */
const CANCELS_PER_SECOND = 500;
const CANCEL_BURST = 2_000;

const DIRECT_READ_CHECK_MS = 1_000;

/** An upstream server that has answered, or not, is not asked again for so long. */
const REACHABLE_MS = 2_000;

export interface ProxyOptions {
  /** Functions of the embedding program. */
  readonly resolvers?: readonly CodeResolver[] | undefined;
  /** What the HTTP API shows of the configuration. */
  readonly settings?: readonly EffectiveSetting[];
  /** Reads the configuration anew, for a reload; not set: it stays as it was given. */
  readonly readConfig?: () => ShownConfig;
  /** What a drain that the HTTP API asks for sets off; by default the drain alone. */
  readonly onDrainAsked?: () => void;
}

export class ProxyServer {
  readonly metrics = new Metrics();
  readonly #config: Config;
  /** As it was given, with what reloads have taken. */
  #shown: ShownConfig;
  readonly #log: Logger;
  readonly #places: ClientPlaces;
  readonly #admissions: Admissions;
  readonly #options: ProxyOptions;
  readonly #sessions = new Map<Session, Promise<void>>();
  #listeners: Listener[] = [];
  #clientTls: ClientTls | undefined;
  #upstreamTls: UpstreamTls | undefined;
  #credentials: Credentials | undefined;
  #roleDefaults: RoleDefaults | undefined;
  #seal: Seal | undefined;
  #resolvers: Resolvers | undefined;
  #pool: Pool | undefined;
  readonly #pools = new PoolGroup();
  #servers: TenantServers | undefined;
  #audit: AuditLog | undefined;
  #admin: AdminServer | undefined;
  #processMetrics: Disposable | undefined;
  #reachable: { readonly since: number; readonly answer: Promise<boolean> } | undefined;
  /** Undefined before it was asked first. */
  #wasReachable: boolean | undefined;
  #nextId = 1;
  #draining: Promise<void> | undefined;

  constructor(config: Config, log: Logger, options: ProxyOptions = {}) {
    // A session that clients share has begun before its client came: the context comes by query.
    this.#config = config.poolMode === "none" ? config : { ...config, contextInjection: "query" };
    this.#shown = { config, effective: options.settings ?? [] };
    this.#options = options;
    this.#log = log;
    observePool(this.metrics.registry, this.#pools);
    this.#places = new ClientPlaces(config);
    this.#admissions = new Admissions(new TenantPolicy(config), {
      clock: systemClock,
      countRejected: (reason) => this.metrics.tenantRejected.inc({ reason }),
    });
  }

  /** Connections that are open now. */
  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Where the HTTP API can be reached. */
  get adminAddresses(): readonly AdminAddress[] {
    return this.#admin?.addresses ?? [];
  }

  /**
   * Opens the listeners.
   *
   * @returns where clients can connect.
   * @throws Error with a text for the operator when an address cannot be had; nothing is left open then.
   */
  async start(): Promise<readonly ListenAddress[]> {
    const config = this.#config;
    this.#admissions.use(new TenantPolicy(config, loadTenants(config)));
    const directRead = await this.#checkDirectRead();
    this.#clientTls =
      config.tlsCert === undefined || config.clientTlsSslmode === "disable" ? undefined : new ClientTls(config);
    this.#upstreamTls = config.upstreamTls ? new UpstreamTls(config) : undefined;
    this.#warn();
    const dial = createDial(config, this.#upstreamTls);
    const login = { config, clock: systemClock, dial, keyCache: new KeyCache(), log: this.#log };
    this.#credentials = Credentials.open(config, login);
    this.#roleDefaults = new RoleDefaults(login);
    this.#resolvers = new Resolvers(config, this.#options.resolvers ?? [], { ...login, metrics: this.metrics });
    const { contextSeal, contextKeyFile, contextSealTtlMs } = config;
    if (contextSeal !== "off" && contextKeyFile !== undefined)
      this.#seal = new Seal({ contextKeyFile, contextSealTtlMs });
    const safeRoles = new SafeRoles(systemClock);
    const unsealed = createUnsealed(systemClock);
    const roleDefaults = this.#roleDefaults;
    const pools = this.#pools;
    const ownLogins = new Semaphore(config.serverConnectLimit);
    if (config.poolMode !== "none") {
      this.#pool = createPool({
        ...login,
        ownLogins,
        pools,
        poolSizeOf: this.#admissions.poolSizeOf,
        roleDefaults,
        safeRoles,
        seal: this.#seal,
        unsealed,
        upstreamTls: this.#upstreamTls,
        directRead,
      });
    }
    this.#audit = AuditLog.open(config, this.#log, this.metrics);
    const services: ProxyServices = {
      servicesOf: (upstream) => servers.of(upstream),
      ...login,
      wheel: new TimerWheel(systemClock),
      audit: this.#audit,
      ownLogins,
      clientTls: this.#clientTls,
      upstreamTls: this.#upstreamTls,
      networks: new AllowedNetworks(config.allowFrom),
      places: this.#places,
      admissions: this.#admissions,
      throttle: new LoginThrottle(systemClock, config.loginThrottleMs),
      credentials: this.#credentials,
      roleDefaults,
      cancelKeys: createCancelKeys(),
      cancelRate: new TokenBucket(systemClock, CANCELS_PER_SECOND, CANCEL_BURST),
      resolvers: this.#resolvers,
      pool: this.#pool,
      safeRoles,
      seal: this.#seal,
      unsealed,
      metrics: this.metrics,
      directRead,
    };
    const servers = new TenantServers(services, pools);
    this.#servers = servers;
    this.metrics.openSessionBytes = () => totalOf([...this.#sessions.keys()].map(({ bytes }) => bytes));
    try {
      await this.#startAdmin();
      this.#listeners = await this.#listen(services);
    } catch (error) {
      await this.#close();
      throw error;
    }
    this.#learnDefaults();
    return this.#listeners.map(({ address }) => address);
  }

  async #listen(services: ProxyServices): Promise<Listener[]> {
    return listen(
      this.#config,
      (connection) => {
        const session = new Session(this.#nextId++, connection, services);
        const served = session.serve().finally(() => this.#sessions.delete(session));
        this.#sessions.set(session, served);
      },
      this.#log,
      systemClock,
    );
  }

  async #startAdmin(): Promise<void> {
    if (this.#config.adminPort === undefined && this.#config.adminSocket === undefined) return;
    this.#processMetrics = collectProcessMetrics(this.metrics.registry);
    // What nobody asked for is not loaded.
    const { AdminServer } = await import("../admin/admin-server.ts");
    this.#admin = new AdminServer(this.#config, this.#adminPorts());
    await this.#admin.start();
    for (const address of this.#admin.addresses) this.#log.info(address, "the HTTP API is open");
  }

  #adminPorts(): AdminPorts {
    return {
      version: readVersion(),
      metrics: this.metrics,
      log: this.#log,
      audit: this.#audit,
      settings: () => this.#shown.effective,
      isAccepting: () => this.#listeners.length > 0,
      isDraining: () => this.#draining !== undefined,
      uptimeSeconds: () => systemClock.now() / 1000,
      isUpstreamReachable: () => this.#isUpstreamReachable(),
      sessions: () => this.#sessionInfos(),
      hasPools: this.#config.poolMode !== "none",
      pools: this.#pools,
      resolvers: () => this.#resolvers?.list ?? [],
      explain: (user, database) =>
        explainLogin(user, database, this.#config, this.#log, (tenant) => this.#admissions.termsOf(tenant)),
      deniedTenants: () => this.deniedTenants,
      terminate: (conn) => this.#terminate(conn),
      denyTenant: (pattern, reason) => this.denyTenant(pattern, reason),
      allowTenant: (pattern) => this.allowTenant(pattern),
      clearResolverCache: () => this.#resolvers?.clearCache(),
      reload: () => this.reload(),
      drain: this.#options.onDrainAsked ?? (() => void this.drain()),
    };
  }

  *#sessionInfos(): Generator<SessionInfo> {
    for (const session of this.#sessions.keys()) yield session.info;
  }

  #terminate(conn: number): boolean {
    const session = [...this.#sessions.keys()].find(({ id }) => id === conn);
    session?.terminate(new ProxyError("terminated"));
    return session !== undefined;
  }

  /** However many ask, PostgreSQL is asked once in a while. */
  #isUpstreamReachable(): Promise<boolean> {
    const now = systemClock.now();
    if (this.#reachable === undefined || now - this.#reachable.since > REACHABLE_MS) {
      this.#reachable = { since: now, answer: this.#askUpstream() };
    }
    return this.#reachable.answer;
  }

  async #askUpstream(): Promise<boolean> {
    const findings = await checkUpstream(this.#config, REACHABLE_MS);
    const isReachable = findings.some(({ verdict }) => verdict === "ok");
    if (isReachable === this.#wasReachable) return isReachable;
    this.#wasReachable = isReachable;
    if (isReachable) this.#log.info("an upstream server answers");
    else this.#log.warn({ findings: findings.map(({ text }) => text) }, "not ready: no upstream server answers");
    return isReachable;
  }

  /** Of what the configuration allows, and what that costs. */
  #warn(): void {
    const { upstreamStartupParameters, upstreamTls, upstreamTlsVerify } = this.#config;
    const parameters = leftOut(upstreamStartupParameters);
    if (parameters.length > 0) {
      this.#log.warn(
        { parameters },
        "not pinned at login: a tenant's ALTER ROLE ... SET of them changes later sessions",
      );
    }
    if (upstreamTls && !upstreamTlsVerify) {
      this.#log.warn("upstream_tls_verify is off: who stands in between can pass for the upstream server");
    }
    if (this.#clientTls !== undefined && upstreamTls && clientAuthOf(this.#config) === "relay") {
      this.#log.warn(
        "TLS on both legs with client_auth = relay: clients of libpq need channel_binding=disable; without it they are" +
          " refused, and those with sslmode=prefer come again in plain text, unless client_tls_sslmode = require",
      );
    }
  }

  /** In the background: a login that comes before it is done learns its own. */
  #learnDefaults(): void {
    const { loginRoles, authDbname } = this.#config;
    if (clientAuthOf(this.#config) === "relay" || !hasUpstreamCredential(this.#config)) return;
    void this.#roleDefaults?.learnAll(loginRoles, authDbname);
  }

  /**
   * Reads the configuration, `tenants`, certificates, keys, CAs, credentials_file, context_key_file and resolvers again.
   * Limits of tenants hold at once, and a tenant that is denied now loses its sessions; other connections that are open keep
   * what they have. What roles have as their defaults is learned anew.
   *
   * @throws Error naming what cannot be used; everything stays as it was then.
   */
  reload(): void {
    const reloaded = takeReloadable(this.#shown, this.#options.readConfig?.() ?? this.#shown);
    const { config, needRestart } = reloaded;
    const policy = new TenantPolicy(config, loadTenants(config));
    const parts = [
      this.#clientTls,
      this.#upstreamTls,
      this.#credentials,
      this.#seal,
      this.#resolvers,
      this.#admin,
      // The last one: it opens a file, which nobody would close.
      this.#audit,
    ];
    const reloads = parts.map((part) => part?.prepareReload());
    for (const take of reloads) take?.();
    this.#servers?.takeReload();
    reloaded.takeSecrets();
    this.#shown = reloaded;
    this.#places.use(config);
    this.#admissions.use(policy);
    this.#log.level = pinoLevel(config.logLevel);
    this.#roleDefaults?.forget();
    this.#learnDefaults();
    this.#log.info("reloaded settings of tenants, limits, log_level, certificates, credentials and resolvers");
    if (needRestart.length > 0) {
      this.#log.warn({ settings: needRestart }, "these settings have changed and take effect with a restart");
    }
  }

  /**
   * Ends the sessions of tenants that match, and admits none, until `allowTenant` or the end of the program.
   *
   * @param pattern a tenant, or with `*` for any characters.
   * @param reason which the tenant's clients are told.
   */
  denyTenant(pattern: string, reason: string): void {
    this.#admissions.deny(pattern, reason);
  }

  /** Takes `denyTenant` of the same pattern back. @returns false where there was none. */
  allowTenant(pattern: string): boolean {
    return this.#admissions.allow(pattern);
  }

  /** What `denyTenant` has denied. */
  get deniedTenants(): readonly { readonly pattern: string; readonly reason: string }[] {
    return this.#admissions.denials;
  }

  /**
   * Accepts no more, waits for the sessions that are open, and ends those that are left after `drain_timeout` with
   * 57P01. Resolves when none is left. A second call gets the same promise.
   */
  drain(): Promise<void> {
    this.#draining ??= this.#drain();
    return this.#draining;
  }

  /** Ends every session at once, with 57P01 where a client can still hear it; does not wait for `drain_timeout`. */
  async closeNow(): Promise<void> {
    this.#stopListening();
    for (const session of this.#sessions.keys()) session.terminate(new ProxyError("shutdown"));
    await Promise.all(this.#sessions.values());
    await this.#close();
  }

  async #drain(): Promise<void> {
    this.#stopListening();
    using _timer = systemClock.after(this.#config.drainTimeoutMs, () => void this.closeNow());
    await Promise.all(this.#sessions.values());
    await this.#close();
  }

  async #close(): Promise<void> {
    this.#credentials?.close();
    this.#roleDefaults?.close();
    this.#resolvers?.close();
    this.#pool?.close();
    this.#servers?.close();
    this.#processMetrics?.[Symbol.dispose]();
    await this.#admin?.close();
    await this.#audit?.close();
  }

  /** Does not wait: a server's close does so for its connections, and those are waited for as sessions. */
  #stopListening(): void {
    for (const listener of this.#listeners) void listener.close();
    this.#listeners = [];
  }

  async #checkDirectRead(): Promise<boolean> {
    using deadline = new Deadline(systemClock, DIRECT_READ_CHECK_MS, () => new Error("the check took too long"));
    const isSafe = await isDirectReadSafe(deadline.signal);
    if (!isSafe) this.#log.warn("this Node.js does not take the fast read path: forwarding costs more CPU");
    return isSafe;
  }
}

function totalOf(traffic: readonly Traffic[]): Traffic {
  return traffic.reduce(
    (sum, { fromClient, fromUpstream }) => ({
      fromClient: sum.fromClient + fromClient,
      fromUpstream: sum.fromUpstream + fromUpstream,
    }),
    { fromClient: 0, fromUpstream: 0 },
  );
}
