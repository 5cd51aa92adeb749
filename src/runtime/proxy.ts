/**
 * The composition root: puts the services together, opens the listeners, starts a Session for each connection, and ends
 * them. It holds no logic of a session, and reads no configuration source.
 */
import { clientAuthOf, hasUpstreamCredential } from "../config/login-method.ts";
import { AllowedNetworks } from "../config/networks.ts";
import type { CodeResolver } from "../config/resolvers-file.ts";
import type { Config } from "../config/settings.ts";
import { ProxyError } from "../errors/proxy-error.ts";
import { systemClock } from "../lib/clock.ts";
import { Deadline } from "../lib/deadline.ts";
import { TokenBucket } from "../lib/token-bucket.ts";
import type { Logger } from "../observe/logger.ts";
import { Metrics } from "../observe/metrics.ts";
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
import { createPool } from "./create-pool.ts";
import type { ProxyServices } from "../proxy/services.ts";
import { Session } from "../proxy/session.ts";
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

export class ProxyServer {
  readonly metrics = new Metrics();
  readonly #config: Config;
  readonly #log: Logger;
  readonly #resolversInCode: readonly CodeResolver[];
  readonly #sessions = new Map<Session, Promise<void>>();
  #listeners: Listener[] = [];
  #clientTls: ClientTls | undefined;
  #upstreamTls: UpstreamTls | undefined;
  #credentials: Credentials | undefined;
  #roleDefaults: RoleDefaults | undefined;
  #seal: Seal | undefined;
  #resolvers: Resolvers | undefined;
  #pool: Pool | undefined;
  #nextId = 1;
  #draining: Promise<void> | undefined;

  /** @param resolvers functions of the embedding program. */
  constructor(config: Config, log: Logger, resolvers: readonly CodeResolver[] = []) {
    // A session that clients share has begun before its client came: the context comes by query.
    this.#config = config.poolMode === "none" ? config : { ...config, contextInjection: "query" };
    this.#resolversInCode = resolvers;
    this.#log = log;
  }

  /** Connections that are open now. */
  get sessionCount(): number {
    return this.#sessions.size;
  }

  /**
   * Opens the listeners.
   *
   * @returns where clients can connect.
   * @throws Error with a text for the operator when an address cannot be had; nothing is left open then.
   */
  async start(): Promise<readonly ListenAddress[]> {
    const config = this.#config;
    const directRead = await this.#checkDirectRead();
    this.#clientTls =
      config.tlsCert === undefined || config.clientTlsSslmode === "disable" ? undefined : new ClientTls(config);
    this.#upstreamTls = config.upstreamTls ? new UpstreamTls(config) : undefined;
    this.#warn();
    const dial = createDial(config, this.#upstreamTls);
    const login = { config, clock: systemClock, dial, keyCache: new KeyCache(), log: this.#log };
    this.#credentials = Credentials.open(config, login);
    this.#roleDefaults = new RoleDefaults(login);
    this.#resolvers = new Resolvers(config, this.#resolversInCode, { ...login, metrics: this.metrics });
    const { contextSeal, contextKeyFile, contextSealTtlMs } = config;
    if (contextSeal !== "off" && contextKeyFile !== undefined)
      this.#seal = new Seal({ contextKeyFile, contextSealTtlMs });
    const safeRoles = new SafeRoles(systemClock);
    const unsealed = createUnsealed(systemClock);
    const roleDefaults = this.#roleDefaults;
    if (config.poolMode !== "none") {
      this.#pool = createPool({
        ...login,
        roleDefaults,
        safeRoles,
        seal: this.#seal,
        unsealed,
        upstreamTls: this.#upstreamTls,
        metrics: this.metrics,
        directRead,
      });
    }
    const services: ProxyServices = {
      ...login,
      clientTls: this.#clientTls,
      upstreamTls: this.#upstreamTls,
      networks: new AllowedNetworks(config.allowFrom),
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
    this.#listeners = await listen(
      config,
      (connection) => {
        const session = new Session(this.#nextId++, connection, services);
        const served = session.serve().finally(() => this.#sessions.delete(session));
        this.#sessions.set(session, served);
      },
      this.#log,
      systemClock,
    );
    this.#learnDefaults();
    return this.#listeners.map(({ address }) => address);
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
   * Reads certificates, keys, CAs, credentials_file and context_key_file again, for connections from now on; those that are open keep
   * theirs. What roles have as their defaults is learned anew.
   *
   * @throws Error naming the file that cannot be used; everything stays as it was then.
   */
  reload(): void {
    const reloads = [this.#clientTls, this.#upstreamTls, this.#credentials, this.#seal, this.#resolvers].map((part) =>
      part?.prepareReload(),
    );
    for (const take of reloads) take?.();
    this.#roleDefaults?.forget();
    this.#learnDefaults();
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
    this.#closeOwnConnections();
  }

  async #drain(): Promise<void> {
    this.#stopListening();
    using _timer = systemClock.after(this.#config.drainTimeoutMs, () => void this.closeNow());
    await Promise.all(this.#sessions.values());
    this.#closeOwnConnections();
  }

  #closeOwnConnections(): void {
    this.#credentials?.close();
    this.#roleDefaults?.close();
    this.#resolvers?.close();
    this.#pool?.close();
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
