/**
 * Upstream sessions that clients share, by database and login role. Nothing of one client reaches the next: a session is
 * idle only behind the barrier, and in doubt it is destroyed.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline, raceAbort } from "../../lib/deadline.ts";
import { FairQueue } from "../../lib/fair-queue.ts";
import type { Logger } from "../../observe/logger.ts";
import type { Metrics } from "../../observe/metrics.ts";
import type { TenantIdentity } from "../tenant/identity.ts";
import { awaitReady, Greeting } from "../upstream/await-ready.ts";
import type { Dial } from "../upstream/dial.ts";
import { logIn, type LoginServices } from "../upstream/log-in.ts";
import { openUpstream, type LoggedIn, type OpeningUpstream } from "../upstream/open-upstream.ts";
import type { RoleDefaults } from "../upstream/role-defaults.ts";
import { encodePooledStartup } from "../upstream/tenant-startup.ts";
import { runBarrier } from "./barrier.ts";
import { PooledSession } from "./pooled-session.ts";

const BARRIER_LIMIT_MS = 5_000;
const CONNECT_LIMIT_MS = 10_000;

export interface PoolServices extends LoginServices {
  readonly config: Config;
  readonly clock: Clock;
  readonly dial: Dial;
  readonly roleDefaults: RoleDefaults;
  readonly metrics: Metrics;
  readonly log: Logger;
}

type Who = Pick<TenantIdentity, "database" | "loginRole" | "tenant">;

interface Idle {
  readonly session: PooledSession;
  readonly timer: Disposable;
}

interface Bucket {
  readonly database: string;
  readonly role: string;
  /** The one that was used last is at the end. */
  readonly idle: Idle[];
  /** Being opened, lent, being cleaned, idle. */
  total: number;
  readonly waiting: FairQueue<(session: PooledSession | undefined) => void>;
}

export class Pool {
  readonly #services: PoolServices;
  readonly #buckets = new Map<string, Bucket>();
  readonly #bucketOf = new WeakMap<PooledSession, Bucket>();
  #isClosed = false;

  constructor(services: PoolServices) {
    this.#services = services;
  }

  /**
   * A session that is clean: no context, no role, nothing of anybody.
   *
   * @throws ProxyError pool_timeout (53300) after `pool_checkout_timeout`; upstream_*; whatever aborts `signal`.
   */
  async checkout(who: Who, signal: AbortSignal): Promise<PooledSession> {
    const { metrics } = this.#services;
    metrics.poolCheckouts.inc();
    const bucket = this.#find(who);
    const session = this.#takeIdle(bucket) ?? (await this.#openOrWait(bucket, who.tenant, signal));
    this.#report(bucket);
    return session;
  }

  /**
   * Gives a session back: it is cleaned, and lent to the next.
   *
   * @param bytesLeft of the server's message that the client has not seen to its end; undefined where that is not known,
   *   or the client's own last message was not whole: then the session is destroyed.
   */
  checkin(session: PooledSession, bytesLeft: number | undefined): void {
    const bucket = this.#bucketOf.get(session) as Bucket;
    this.#services.metrics.poolCheckins.inc();
    if (bytesLeft === undefined || !session.isOpen || this.#isClosed) return this.#discard(bucket, session);
    session.takeBack(bytesLeft);
    void this.#clean(bucket, session);
  }

  /** What authenticate wants: a session for a tenant whose credential has been proved. [LoggedIn] */
  async lend(identity: TenantIdentity, signal: AbortSignal): Promise<LoggedIn> {
    const session = await this.checkout(identity, signal);
    const greeting = Greeting.of(session.parameters);
    let isHandedOver = false;
    const upstream: OpeningUpstream = {
      stream: session.stream,
      address: session.address,
      channel: { isPrivate: true, endPoint: () => undefined },
      handOver: () => {
        isHandedOver = true;
        return session.lend();
      },
      [Symbol.dispose]: () => {
        // It was not used: but what our own part has left in it is for the barrier, which the next client waits for.
        if (!isHandedOver) this.destroy(session);
      },
    };
    return {
      // Nothing of the client's travels in the StartupMessage of a session that is there already.
      identity: { ...identity, forwarded: [], heldBack: [...identity.forwarded, ...identity.heldBack] },
      upstream,
      greeting,
      lease: {
        key: session.key,
        giveBack: (bytesLeft) => this.checkin(session, bytesLeft),
      },
      [Symbol.dispose]: () => upstream[Symbol.dispose](),
    };
  }

  /** Destroys a session in place of giving it back. */
  destroy(session: PooledSession): void {
    this.#discard(this.#bucketOf.get(session) as Bucket, session);
  }

  /** Closes what is idle; what is lent is destroyed when it comes back. */
  close(): void {
    this.#isClosed = true;
    for (const bucket of this.#buckets.values()) {
      for (const { session, timer } of bucket.idle.splice(0)) {
        timer[Symbol.dispose]();
        this.#discard(bucket, session);
      }
    }
  }

  #find({ database, loginRole }: Who): Bucket {
    const name = `${database}\0${loginRole}`;
    const known = this.#buckets.get(name);
    if (known !== undefined) return known;
    const bucket: Bucket = { database, role: loginRole, idle: [], total: 0, waiting: new FairQueue() };
    this.#buckets.set(name, bucket);
    return bucket;
  }

  #takeIdle(bucket: Bucket): PooledSession | undefined {
    for (let idle = bucket.idle.pop(); idle !== undefined; idle = bucket.idle.pop()) {
      idle.timer[Symbol.dispose]();
      const { session } = idle;
      // Whatever a session says while it is idle, beside what the reader takes, is not what a clean one says.
      if (session.isOpen && !session.stream.hasUnread) {
        this.#services.metrics.poolReuses.inc();
        return session;
      }
      this.#discard(bucket, session);
    }
    return undefined;
  }

  async #openOrWait(bucket: Bucket, tenant: string, signal: AbortSignal): Promise<PooledSession> {
    const { clock, config, metrics } = this.#services;
    const { poolSize: size, poolCheckoutTimeoutMs } = config;
    using limit = new Deadline(clock, poolCheckoutTimeoutMs, () => {
      metrics.poolTimeouts.inc();
      return new ProxyError("pool_timeout", { params: { size, seconds: poolCheckoutTimeoutMs / 1000 } });
    });
    const waiting = AbortSignal.any([signal, limit.signal]);
    while (bucket.total >= size) {
      const session = await this.#wait(bucket, tenant, waiting);
      if (session !== undefined) return session;
    }
    return this.#open(bucket, signal);
  }

  /** Undefined: there is room for a new session. */
  async #wait(bucket: Bucket, tenant: string, signal: AbortSignal): Promise<PooledSession | undefined> {
    let give: (session: PooledSession | undefined) => void = () => {};
    let given: PooledSession | undefined;
    const turn = new Promise<void>((resolve) => {
      give = (session) => {
        given = session;
        resolve();
      };
    });
    const leave = bucket.waiting.add(tenant, give);
    try {
      await raceAbort(turn, signal);
      return given;
    } catch (error) {
      leave();
      // It was our turn, and we are gone: the next one's.
      if (given !== undefined) this.#lendOrKeep(bucket, given);
      else this.#wakeNext(bucket);
      throw error;
    }
  }

  async #open(bucket: Bucket, signal: AbortSignal): Promise<PooledSession> {
    const { clock, config, dial, roleDefaults, metrics } = this.#services;
    bucket.total += 1;
    let isOpened = false;
    try {
      using limit = new Deadline(clock, CONNECT_LIMIT_MS, () => new ProxyError("upstream_timeout"));
      const both = AbortSignal.any([signal, limit.signal]);
      const { role, database } = bucket;
      const defaults = await roleDefaults.of(role, database, {}, both);
      const upstream = await openUpstream(dial, both);
      try {
        const greeting = new Greeting();
        upstream.stream.write(encodePooledStartup(role, database, defaults, config));
        const minor = await logIn(upstream, { role, minor: 2, secrets: {} }, this.#services, greeting, both);
        await awaitReady(upstream.stream, greeting, minor, both);
        const { address, stream } = upstream;
        const session = new PooledSession(stream, { address, key: greeting.key, parameters: greeting.parameters });
        this.#bucketOf.set(session, bucket);
        metrics.poolCreates.inc();
        isOpened = true;
        return session;
      } catch (error) {
        upstream[Symbol.dispose]();
        throw error;
      }
    } finally {
      if (!isOpened) {
        bucket.total -= 1;
        this.#wakeNext(bucket);
      }
    }
  }

  async #clean(bucket: Bucket, session: PooledSession): Promise<void> {
    const { clock, log } = this.#services;
    try {
      using limit = new Deadline(
        clock,
        BARRIER_LIMIT_MS,
        () => new ProxyError("barrier_failed", { detail: "timeout" }),
      );
      const { parameters } = await runBarrier(session.stream, { isAtRest: false }, undefined, limit.signal);
      for (const [name, value] of parameters) session.parameters.set(name, value);
      if (session.stream.hasUnread) throw new ProxyError("barrier_failed", { detail: "bytes behind the barrier" });
      this.#lendOrKeep(bucket, session);
    } catch (error) {
      log.warn(
        { database: bucket.database, role: bucket.role, err: error },
        "a pooled session could not be reset: destroyed",
      );
      this.#discard(bucket, session);
    }
  }

  #lendOrKeep(bucket: Bucket, session: PooledSession): void {
    if (this.#isClosed) return this.#discard(bucket, session);
    const give = bucket.waiting.take(() => true);
    if (give !== undefined) {
      this.#services.metrics.poolReuses.inc();
      give(session);
      return;
    }
    const { clock, config } = this.#services;
    const timer = clock.after(config.poolIdleTimeoutMs, () => {
      bucket.idle.splice(
        bucket.idle.findIndex((idle) => idle.session === session),
        1,
      );
      this.#discard(bucket, session);
    });
    bucket.idle.push({ session, timer });
    this.#report(bucket);
  }

  #discard(bucket: Bucket, session: PooledSession): void {
    session.destroy();
    bucket.total -= 1;
    this.#services.metrics.poolDiscards.inc();
    this.#report(bucket);
    this.#wakeNext(bucket);
  }

  /** There is room for one more: whoever is first may open it. */
  #wakeNext(bucket: Bucket): void {
    if (bucket.total < this.#services.config.poolSize) bucket.waiting.take(() => true)?.(undefined);
  }

  #report({ database, role, total, idle }: Bucket): void {
    const { metrics } = this.#services;
    metrics.poolConnections.set({ database, role }, total);
    metrics.poolIdle.set({ database, role }, idle.length);
  }
}
