/**
 * The library's door: start and stop a proxy inside a Node.js program or a test.
 *
 *     import { createProxy } from "pgvpd";
 *
 *     const proxy = createProxy({ upstream_host: "127.0.0.1", upstream_port: 5432, port: 0 });
 *     const [address] = await proxy.start();
 *     // ... connect to address.port as app_user.acme ...
 *     await proxy.stop();
 */
import type { Registry } from "prom-client";
import type { AdminAddress } from "./admin/admin-server.ts";
import { loadSettings, type SettingValues } from "./config/load.ts";
import type { CodeResolver, ResolvedValues, ResolveRequest } from "./config/resolvers-file.ts";
import { createLogger, type Logger } from "./observe/logger.ts";
import type { ListenAddress } from "./proxy/listen/listener.ts";
import { ProxyServer } from "./runtime/proxy.ts";

export type { AdminAddress, CodeResolver, ListenAddress, Logger, ResolvedValues, ResolveRequest, SettingValues };

export interface ProxyOptions {
  /** A pino logger of the caller's; by default one after `log_level` and `log_format`, on stdout. */
  readonly logger?: Logger;
  /** Context resolvers that are functions: beside those of `resolvers`, under the same rules. */
  readonly resolvers?: readonly CodeResolver[];
}

/** A proxy of this process. Nothing runs before `start`. */
export interface Proxy {
  /**
   * Opens the listeners, once `doctor` has looked.
   *
   * @returns where clients connect; with `port: 0` the port that the system chose.
   * @throws Error naming the address that cannot be had, or what doctor = enforce does not let pass.
   */
  start(): Promise<readonly ListenAddress[]>;
  /** Accepts no more, and ends what is left after `drain_timeout` seconds. Resolves when nothing is open. */
  drain(): Promise<void>;
  /** Accepts no more and ends every session now (57P01). Resolves when nothing is open. */
  stop(): Promise<void>;
  /**
   * Ends the sessions of tenants that match, and admits none of them until `allowTenant`.
   *
   * @param pattern a tenant; `*` stands for any characters.
   * @param reason which the tenant's clients are told.
   */
  denyTenant(pattern: string, reason: string): void;
  /** Takes back `denyTenant` of the same pattern. @returns false where there was none. */
  allowTenant(pattern: string): boolean;
  /** Client connections that are open. */
  readonly sessionCount: number;
  /** Where the HTTP API can be reached, with `admin_port` or `admin_socket`. */
  readonly adminAddresses: readonly AdminAddress[];
  /** The metrics of this proxy: `await proxy.metrics.metrics()` is the Prometheus text. */
  readonly metrics: Registry;
}

/**
 * A proxy with the given settings, under the names and with the values of pgvpd.conf. Neither a file nor the environment
 * is read: what is not given has its default.
 *
 * @throws ConfigError listing every setting that is unknown or not valid.
 */
export function createProxy(settings: SettingValues = {}, options: ProxyOptions = {}): Proxy {
  const { config, effective } = loadSettings(settings);
  const logger = options.logger ?? createLogger({ level: config.logLevel, format: config.logFormat });
  const server = new ProxyServer(config, logger, { resolvers: options.resolvers, settings: effective });
  return {
    start: async () => {
      if (config.doctor !== "off") await (await import("./doctor/at-start.ts")).examineAtStart(config, logger);
      return server.start();
    },
    drain: () => server.drain(),
    stop: () => server.closeNow(),
    denyTenant: (pattern, reason) => server.denyTenant(pattern, reason),
    allowTenant: (pattern) => server.allowTenant(pattern),
    get sessionCount() {
      return server.sessionCount;
    },
    get adminAddresses() {
      return server.adminAddresses;
    },
    metrics: server.metrics.registry,
  };
}
