/**
 * The services for tenants that have a server of their own: what belongs to a server is made for each when its first
 * client comes - connections, pools, resolvers, what is known of roles - and everything else is shared.
 */
import type { TenantUpstream } from "../config/tenant-policy.ts";
import type { CodeResolver } from "../config/resolvers-file.ts";
import { Semaphore } from "../lib/semaphore.ts";
import { Resolvers } from "../proxy/context/resolvers.ts";
import { SafeRoles } from "../proxy/context/role-safety.ts";
import type { PoolGroup } from "../proxy/pool/pool-group.ts";
import type { ProxyServices } from "../proxy/services.ts";
import { createDial } from "../proxy/upstream/dial.ts";
import { RoleDefaults } from "../proxy/upstream/role-defaults.ts";
import { UpstreamTls } from "../proxy/upstream/upstream-tls.ts";
import { createPool } from "./create-pool.ts";

export class TenantServers {
  readonly #shared: ProxyServices;
  readonly #resolversInCode: readonly CodeResolver[];
  readonly #pools: PoolGroup;
  readonly #servers = new Map<string, ProxyServices>();

  /** @param shared the services for everybody else. */
  constructor(shared: ProxyServices, resolversInCode: readonly CodeResolver[], pools: PoolGroup) {
    this.#shared = shared;
    this.#resolversInCode = resolversInCode;
    this.#pools = pools;
  }

  /** @throws Error where a file that is needed cannot be read. */
  of({ host, port }: TenantUpstream): ProxyServices {
    const name = JSON.stringify([host, port]);
    const known = this.#servers.get(name);
    if (known !== undefined) return known;
    const made = this.#make(host, port);
    this.#servers.set(name, made);
    return made;
  }

  #make(upstreamHost: string, upstreamPort: number): ProxyServices {
    const shared = this.#shared;
    const { metrics, clock, log, keyCache, admissions } = shared;
    const config = { ...shared.config, upstreamHost, upstreamPort };
    const upstreamTls = config.upstreamTls ? new UpstreamTls(config) : undefined;
    const login = { config, clock, dial: createDial(config, upstreamTls), keyCache, log };
    const own = {
      ...shared,
      ...login,
      ownLogins: new Semaphore(config.serverConnectLimit),
      upstreamTls,
      roleDefaults: new RoleDefaults(login),
      safeRoles: new SafeRoles(clock),
      resolvers: new Resolvers(config, this.#resolversInCode, { ...login, metrics }),
      isOwnServer: true,
    };
    if (config.poolMode === "none") return own;
    return { ...own, pool: createPool({ ...own, pools: this.#pools, poolSizeOf: admissions.poolSizeOf }) };
  }

  /** As the reloads of the shared services. */
  prepareReload(): () => void {
    const reloads = [...this.#servers.values()].flatMap(({ upstreamTls, resolvers, roleDefaults }) => [
      upstreamTls?.prepareReload(),
      resolvers.prepareReload(),
      () => roleDefaults.forget(),
    ]);
    return () => {
      for (const take of reloads) take?.();
    };
  }

  close(): void {
    for (const { pool, resolvers, roleDefaults } of this.#servers.values()) {
      pool?.close();
      resolvers.close();
      roleDefaults.close();
    }
  }
}
