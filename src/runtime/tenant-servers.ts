/**
 * The services for tenants that have a server of their own: what belongs to a server is made for each when its first
 * client comes - connections, pools, resolvers, what is known of roles - and everything else is shared.
 */
import type { TenantUpstream } from "../config/tenant-policy.ts";
import { Semaphore } from "../lib/semaphore.ts";
import { SafeRoles } from "../proxy/context/role-safety.ts";
import type { PoolGroup } from "../proxy/pool/pool-group.ts";
import type { ProxyServices } from "../proxy/services.ts";
import { createDial } from "../proxy/upstream/dial.ts";
import { RoleDefaults } from "../proxy/upstream/role-defaults.ts";
import { createPool } from "./create-pool.ts";

export class TenantServers {
  readonly #shared: ProxyServices;
  readonly #pools: PoolGroup;
  readonly #servers = new Map<string, ProxyServices>();

  /** @param shared the services for everybody else. */
  constructor(shared: ProxyServices, pools: PoolGroup) {
    this.#shared = shared;
    this.#pools = pools;
  }

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
    // Files are read at the start and at a reload alone, and then for all servers at once.
    const upstreamTls = shared.upstreamTls?.forServer(config);
    const login = { config, clock, dial: createDial(config, upstreamTls), keyCache, log };
    const own = {
      ...shared,
      ...login,
      ownLogins: new Semaphore(config.serverConnectLimit),
      upstreamTls,
      roleDefaults: new RoleDefaults(login),
      safeRoles: new SafeRoles(clock),
      resolvers: shared.resolvers.forServer(config, { ...login, metrics }),
      isOwnServer: true,
    };
    if (config.poolMode === "none") return own;
    return { ...own, pool: createPool({ ...own, pools: this.#pools, poolSizeOf: admissions.poolSizeOf }) };
  }

  /** Takes what the shared services have read anew. */
  takeReload(): void {
    const common = this.#shared;
    for (const { upstreamTls, resolvers, roleDefaults } of this.#servers.values()) {
      if (common.upstreamTls !== undefined) upstreamTls?.takeFrom(common.upstreamTls);
      resolvers.takeFrom(common.resolvers);
      roleDefaults.forget();
    }
  }

  close(): void {
    for (const { pool, resolvers, roleDefaults } of this.#servers.values()) {
      pool?.close();
      resolvers.close();
      roleDefaults.close();
    }
  }
}
