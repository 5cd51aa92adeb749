/** Puts the pool together: how it opens sessions, makes them a client's, cancels and ends them. */
import type { Config } from "../config/settings.ts";
import type { Semaphore } from "../lib/semaphore.ts";
import { preparePooled, type PreparePooledServices } from "../proxy/context/prepare-pooled.ts";
import { HELLO_QUESTION } from "../proxy/context/seal.ts";
import { openPooled, terminateBackend, type OpenPooledServices } from "../proxy/pool/open-pooled.ts";
import { Pool } from "../proxy/pool/pool.ts";
import type { PoolGroup } from "../proxy/pool/pool-group.ts";
import { sendCancel } from "../proxy/upstream/forward-cancel.ts";
import type { UpstreamTls } from "../proxy/upstream/upstream-tls.ts";

const CANCEL_LIMIT_MS = 5_000;

export interface CreatePoolServices extends OpenPooledServices, PreparePooledServices {
  readonly config: Config;
  /** Which it joins, to be seen and paused with the others. */
  readonly pools: PoolGroup;
  /** `tenant_pool_size` of a tenant. */
  readonly poolSizeOf: (tenant: string) => number | undefined;
  readonly ownLogins: Semaphore;
  readonly upstreamTls: UpstreamTls | undefined;
  readonly directRead: boolean;
}

export function createPool(services: CreatePoolServices): Pool {
  const { config, clock, log, pools, poolSizeOf, upstreamTls } = services;
  const pool = new Pool({
    config,
    clock,
    log,
    poolSizeOf,
    ownLogins: services.ownLogins,
    hello: HELLO_QUESTION,
    directRead: services.directRead,
    open: (login, signal) => openPooled(login, services, signal),
    prepare: (session, borrower, extent, signal) => preparePooled(session, borrower, extent, services, signal),
    terminate: (session, login) => terminateBackend(session, login, services),
    cancel: async (session) => {
      const { address, key } = session;
      if (key === undefined) return;
      using _held = session.holdForCancel();
      await sendCancel({ address, key }, { config, upstreamTls }, AbortSignal.timeout(CANCEL_LIMIT_MS)).catch(() => {});
    },
  });
  pools.add(pool);
  return pool;
}
