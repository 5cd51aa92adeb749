/**
 * Upstream sessions that clients share, by database and login role. Nothing of one client reaches the next: an idle
 * session is clean, behind the barrier, or warm for one identity, and in doubt it is destroyed.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline, pause, raceAbort } from "../../lib/deadline.ts";
import { FairQueue } from "../../lib/fair-queue.ts";
import { Semaphore } from "../../lib/semaphore.ts";
import type { Logger } from "../../observe/logger.ts";
import type { Metrics } from "../../observe/metrics.ts";
import type { Borrower } from "./borrower.ts";
import type { PooledLogin } from "./open-pooled.ts";
import { PreparedStatements } from "./prepared.ts";
import { sqlstateOf } from "../../protocol/backend-messages.ts";
import { UpstreamRefusal } from "../upstream/await-ready.ts";
import { runBarrier, type BarrierQuestion } from "./barrier.ts";
import type { Holder, OpenedSession } from "./pooled-session.ts";
import { PooledSession } from "./pooled-session.ts";
import { SqlReader } from "./sql-effects.ts";

/** The server starts, recovers or shuts down. */
const CANNOT_CONNECT_NOW = "57P03";
const BARRIER_LIMIT_MS = 5_000;
const BARRIER_CANCEL_MS = 1_000;
const PREPARE_LIMIT_MS = 10_000;
const SWEEP_MS = 1_000;
/** How long the upstream is left alone when it does not take connections. */
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 500;
/** `idle_transaction_timeout` in transaction mode, where it is not set. */
const IDLE_TRANSACTION_MS = 60_000;

/** What the pool is composed of: how sessions are opened, cancelled and made a client's. */
export interface PoolServices {
  readonly config: Config;
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Opens a session that is logged in, without context. */
  open(login: PooledLogin, signal: AbortSignal): Promise<OpenedSession>;
  /** Discards what is in the session, or sets the client's context and settings, or both. */
  prepare(
    session: PooledSession,
    borrower: Borrower,
    extent: { readonly discards: boolean; readonly setsContext: boolean; readonly isInTransaction?: boolean },
    signal: AbortSignal,
  ): Promise<void>;
  /** Sends a CancelRequest for the session. */
  cancel(session: PooledSession): Promise<void>;
  /** Ends a backend for which closing the connection may not have been enough. */
  terminate(session: PooledSession, login: Pick<PooledLogin, "role" | "database">): Promise<boolean>;
  /** What the barrier asks on the way, so that a sealed context takes a round trip less. */
  readonly hello: BarrierQuestion;
}

interface Waiter {
  readonly since: number;
  readonly borrower: Borrower;
  readonly holder: object;
  /** Undefined: there is room for a new session, which the waiter opens. */
  readonly grant: (session: PooledSession | undefined) => void;
}

interface Bucket {
  readonly database: string;
  readonly role: string;
  /** The one that was used last is at the end. */
  readonly idle: PooledSession[];
  /** Being opened, lent, being cleaned, idle, or destroyed and not known to be gone. */
  total: number;
  /** Sessions that are lent, by tenant. */
  readonly held: Map<string, number>;
  readonly waiting: FairQueue<Waiter>;
  /** Somebody waits for so long that connections of the reserve are opened. */
  usesReserve: boolean;
}

export class Pool {
  readonly statements: PreparedStatements;
  readonly reader: SqlReader;
  readonly #services: PoolServices;
  readonly #buckets = new Map<string, Bucket>();
  readonly #lent = new Map<PooledSession, { readonly bucket: Bucket; readonly tenant: string; holder?: Holder }>();
  readonly #logins: Semaphore;
  #sweep: Disposable | undefined;
  #isClosed = false;
  #isPaused = false;

  constructor(services: PoolServices) {
    const { contextVariables, trackExtraParameters } = services.config;
    this.#services = services;
    this.#logins = new Semaphore(services.config.serverConnectLimit);
    this.reader = new SqlReader(contextVariables, trackExtraParameters);
    this.statements = new PreparedStatements(this.reader);
  }

  /** A session that is the borrower's as it is; undefined where that takes a round trip, or a wait. */
  take(borrower: Borrower, holder: object): PooledSession | undefined {
    const { tenant } = borrower.identity;
    const bucket = this.#find(borrower);
    if (this.#isPaused || bucket.waiting.size > 0 || !this.#mayHold(bucket, tenant)) return undefined;
    const session = this.#choose(bucket, borrower, holder);
    if (session === undefined || !this.#isWarm(session, borrower) || needsChange(session, borrower)) return undefined;
    if (!this.#removeIdle(bucket, session)) return undefined;
    this.#services.metrics.poolCheckouts.inc();
    this.#services.metrics.poolReuses.inc();
    this.#count(bucket, tenant, 1);
    this.#lent.set(session, { bucket, tenant });
    return session;
  }

  /**
   * A session with the borrower's context and settings in force.
   *
   * @throws ProxyError pool_timeout (53300) after `pool_checkout_timeout`, context_failed, unsafe_role, upstream_*;
   *   UpstreamRefusal where a setting of the client's fails; whatever aborts `signal`.
   */
  async acquire(borrower: Borrower, holder: object, signal: AbortSignal): Promise<PooledSession> {
    const { clock, metrics } = this.#services;
    metrics.poolCheckouts.inc();
    const { tenant } = borrower.identity;
    for (;;) {
      const bucket = this.#find(borrower);
      const session = await this.#get(bucket, borrower, holder, signal);
      const isReused = session.idleSince > 0;
      this.#lent.set(session, { bucket, tenant });
      try {
        using limit = new Deadline(clock, PREPARE_LIMIT_MS, () => new ProxyError("upstream_timeout"));
        await this.#prepare(session, borrower, AbortSignal.any([signal, limit.signal]));
        return session;
      } catch (error) {
        const wasLost = !session.isOpen;
        // A setting of the client's has failed, or the client is gone: that is nothing against the session.
        if (!wasLost && error instanceof UpstreamRefusal) void this.#clean(session, true);
        else if (!wasLost && signal.aborted) void this.#clean(session, false);
        else this.destroy(session);
        // It was idle and has died unnoticed: the next one.
        if (isReused && wasLost && !signal.aborted) continue;
        throw error;
      }
    }
  }

  /** Who holds the session from now on, for the timers. */
  follow(session: PooledSession, holder: Holder): void {
    const lent = this.#lent.get(session);
    if (lent !== undefined) lent.holder = holder;
  }

  /** Whether somebody waits whom this session could serve. */
  hasWaiters(session: PooledSession): boolean {
    return (this.#lent.get(session)?.bucket.waiting.size ?? 0) > 0;
  }

  /** Sets context and role again in a session that is lent, where a statement of the client's has reset them. */
  async restore(
    session: PooledSession,
    borrower: Borrower,
    isInTransaction: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    await this.#services.prepare(session, borrower, { discards: false, setsContext: true, isInTransaction }, signal);
  }

  /**
   * The session is at rest, all answered and outside of a transaction: it stays warm for the borrower's identity.
   *
   * @param isTainted its context may be another one than the borrower's now.
   */
  release(session: PooledSession, borrower: Borrower, isTainted: boolean): void {
    const { metrics, clock } = this.#services;
    metrics.poolCheckins.inc();
    session.takeBack(0);
    if (isTainted || session.wasCancelled || this.#services.config.poolMode === "session") {
      session.whenNotCancelled(() => void this.#clean(session, true));
      return;
    }
    session.warmFor = borrower.key;
    session.idleSince = clock.now();
    this.#keep(session);
  }

  /**
   * The client has left the session in any state: it is cleaned, and lent to the next.
   *
   * @param bytesLeft of the server's message that the client has not seen to its end; undefined where that is not known,
   *   or the client's own last message was not whole: then the session is destroyed.
   */
  reclaim(session: PooledSession, bytesLeft: number | undefined): void {
    this.#services.metrics.poolCheckins.inc();
    if (bytesLeft === undefined || !session.isOpen || this.#isClosed) return this.destroy(session);
    session.takeBack(bytesLeft);
    session.whenNotCancelled(() => void this.#clean(session, false));
  }

  /** Destroys a session that is lent, whatever it does. */
  destroy(session: PooledSession): void {
    const lent = this.#lent.get(session);
    if (lent === undefined) return;
    this.#unlend(session);
    this.#discard(lent.bucket, session, session.isOpen && !session.isClean);
  }

  /** Nobody gets a session any more, until `resume`; resolves when all that are lent are back. */
  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    for (const bucket of this.#buckets.values()) this.#serve(bucket);
  }

  /** Closes what is idle; what is lent is destroyed when it comes back. */
  close(): void {
    this.#isClosed = true;
    this.#sweep?.[Symbol.dispose]();
    for (const bucket of this.#buckets.values()) {
      for (const session of bucket.idle.splice(0)) this.#discard(bucket, session, false);
    }
  }

  // Who gets what.

  async #get(bucket: Bucket, borrower: Borrower, holder: object, signal: AbortSignal): Promise<PooledSession> {
    const granted = await this.#wait(bucket, borrower, holder, signal);
    return granted ?? this.#open(bucket, borrower, signal);
  }

  async #wait(
    bucket: Bucket,
    borrower: Borrower,
    holder: object,
    signal: AbortSignal,
  ): Promise<PooledSession | undefined> {
    const { clock, config, metrics } = this.#services;
    let granted: { readonly session: PooledSession | undefined } | undefined;
    let settle: () => void = () => {};
    const leave = bucket.waiting.add(borrower.identity.tenant, {
      since: clock.now(),
      borrower,
      holder,
      grant: (session) => {
        granted = { session };
        settle();
      },
    });
    this.#serve(bucket);
    if (granted !== undefined) return (granted as { session: PooledSession | undefined }).session;
    const { poolCheckoutTimeoutMs, poolSize: size } = config;
    using limit = new Deadline(clock, poolCheckoutTimeoutMs, () => {
      metrics.poolTimeouts.inc();
      return new ProxyError("pool_timeout", { params: { size, seconds: poolCheckoutTimeoutMs / 1000 } });
    });
    try {
      const turn = new Promise<void>((resolve) => {
        settle = resolve;
      });
      await raceAbort(turn, AbortSignal.any([signal, limit.signal]));
    } catch (error) {
      leave();
      // It was our turn, and we are gone: the next one's.
      if (granted !== undefined) {
        this.#giveUp(bucket, borrower.identity.tenant, (granted as { session: PooledSession | undefined }).session);
      }
      throw error;
    }
    return (granted as unknown as { session: PooledSession | undefined }).session;
  }

  /** What was granted is not wanted any more. */
  #giveUp(bucket: Bucket, tenant: string, session: PooledSession | undefined): void {
    this.#count(bucket, tenant, -1);
    if (session === undefined) bucket.total -= 1;
    else if (session.isOpen) {
      this.#rest(bucket, session);
      return;
    } else this.#discard(bucket, session, false);
    this.#serve(bucket);
  }

  /** Grants what is there to who waits. */
  #serve(bucket: Bucket): void {
    if (this.#isPaused || this.#isClosed) return;
    while (bucket.waiting.size > 0) {
      const hasRoom = this.#hasRoom(bucket);
      if (bucket.idle.length === 0 && !hasRoom) return;
      const waiter = bucket.waiting.take((tenant) => this.#mayHold(bucket, tenant));
      if (waiter === undefined) return;
      const session = this.#choose(bucket, waiter.borrower, waiter.holder);
      const { tenant } = waiter.borrower.identity;
      const isOwn = session?.isClean === true || session?.warmFor === waiter.borrower.key;
      if (session === undefined || (!isOwn && hasRoom)) {
        if (!hasRoom) {
          bucket.waiting.add(tenant, waiter); // what was idle is lost
          continue;
        }
        bucket.total += 1;
        this.#count(bucket, tenant, 1);
        waiter.grant(undefined);
      } else if (this.#removeIdle(bucket, session)) {
        this.#services.metrics.poolReuses.inc();
        this.#count(bucket, tenant, 1);
        waiter.grant(session);
      } else {
        bucket.waiting.add(tenant, waiter);
      }
    }
  }

  /** Warm for the same client, for its identity, clean, the one of somebody else that was used longest ago. */
  #choose({ idle }: Bucket, { key }: Borrower, holder: object): PooledSession | undefined {
    let own: PooledSession | undefined;
    let clean: PooledSession | undefined;
    for (let at = idle.length - 1; at >= 0; at -= 1) {
      const session = idle[at] as PooledSession;
      if (session.warmFor === key) {
        if (session.lastHolder === holder) return session;
        own ??= session;
      } else if (session.isClean) clean ??= session;
    }
    return own ?? clean ?? idle[0];
  }

  #mayHold({ held }: Bucket, tenant: string): boolean {
    const { tenantPoolSize } = this.#services.config;
    return tenantPoolSize === undefined || (held.get(tenant) ?? 0) < tenantPoolSize;
  }

  /** A signed context expires: it is set again long before. */
  #isWarm({ warmFor, warmSince, idleSince, isSealed }: PooledSession, { key }: Borrower): boolean {
    if (warmFor !== key) return false;
    const { clock, config } = this.#services;
    const now = clock.now();
    // What has been idle for long is tried, and for that it gets its context again.
    if (now - idleSince > config.serverCheckDelayMs) return false;
    return !isSealed || now - warmSince < config.contextSealTtlMs / 2;
  }

  #hasRoom(bucket: Bucket): boolean {
    const { poolSize, reservePoolSize, maxDbConnections } = this.#services.config;
    if (bucket.total >= poolSize + (bucket.usesReserve ? reservePoolSize : 0)) return false;
    if (maxDbConnections === 0) return true;
    let total = 0;
    for (const other of this.#buckets.values()) if (other.database === bucket.database) total += other.total;
    return total < maxDbConnections;
  }

  #find({ identity: { database, loginRole } }: Borrower): Bucket {
    const name = `${database}\0${loginRole}`;
    const known = this.#buckets.get(name);
    if (known !== undefined) return known;
    const bucket: Bucket = {
      database,
      role: loginRole,
      idle: [],
      total: 0,
      held: new Map(),
      waiting: new FairQueue(),
      usesReserve: false,
    };
    this.#buckets.set(name, bucket);
    this.#sweep ??= this.#services.clock.after(SWEEP_MS, this.#onSweep);
    return bucket;
  }

  /** Counts what a tenant holds, or has been granted. */
  #count({ held }: Bucket, tenant: string, change: number): void {
    const count = (held.get(tenant) ?? 0) + change;
    if (count > 0) held.set(tenant, count);
    else held.delete(tenant);
  }

  #unlend(session: PooledSession): Bucket {
    const { bucket, tenant } = this.#lent.get(session) as { bucket: Bucket; tenant: string };
    this.#lent.delete(session);
    this.#count(bucket, tenant, -1);
    return bucket;
  }

  // What becomes of a session.

  async #prepare(session: PooledSession, borrower: Borrower, signal: AbortSignal): Promise<void> {
    borrower.assumeEncoding(session.baseline.get("server_encoding"));
    const isOwn =
      session.warmFor === borrower.key && this.#isWarm(session, borrower) && !hasForeignSettings(session, borrower);
    if (isOwn && !needsChange(session, borrower)) return;
    const discards = !isOwn && !session.isClean;
    if (discards) {
      session.statements.clear();
      session.unnamedOf = undefined;
    }
    session.warmFor = undefined;
    await this.#services.prepare(session, borrower, { discards, setsContext: !isOwn }, signal);
    session.hello = undefined;
    session.isClean = false;
    session.warmFor = borrower.key;
    if (!isOwn) session.warmSince = this.#services.clock.now();
  }

  async #open(bucket: Bucket, borrower: Borrower, signal: AbortSignal): Promise<PooledSession> {
    const { clock, config, metrics } = this.#services;
    const { role, database } = bucket;
    const until = clock.now() + config.poolCheckoutTimeoutMs;
    try {
      for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
        try {
          using _place = await this.#logins.enter(signal);
          const session = new PooledSession(
            await this.#services.open({ role, database, secrets: borrower.secrets }, signal),
          );
          metrics.poolCreates.inc();
          return session;
        } catch (error) {
          if (signal.aborted || !isTransient(error) || clock.now() + pauseMs > until) throw error;
          await pause(clock, pauseMs, signal);
        }
      }
    } catch (error) {
      bucket.total -= 1;
      this.#count(bucket, borrower.identity.tenant, -1);
      this.#serve(bucket);
      throw error;
    }
  }

  async #clean(session: PooledSession, isAtRest: boolean): Promise<void> {
    const { clock, log, hello: question } = this.#services;
    session.isClean = false;
    session.warmFor = undefined;
    try {
      using limit = new Deadline(
        clock,
        BARRIER_LIMIT_MS,
        () => new ProxyError("barrier_failed", { detail: "timeout" }),
      );
      using _cancel = clock.after(BARRIER_CANCEL_MS, () => void this.#services.cancel(session));
      const asked = session.isSealed ? question : undefined;
      const { row, parameters } = await runBarrier(session.stream, { isAtRest }, asked, limit.signal);
      for (const [name, value] of parameters) session.parameters.set(name, value);
      if (session.stream.hasUnread) throw new ProxyError("barrier_failed", { detail: "bytes behind the barrier" });
      // A cancel that is still on its way must not reach the next client.
      await new Promise<void>((resolve) => session.whenNotCancelled(resolve));
      session.becomeClean(asked === undefined ? undefined : [row]);
      session.idleSince = clock.now();
      this.#keep(session);
    } catch (error) {
      const bucket = this.#lent.get(session)?.bucket;
      log.warn(
        { database: bucket?.database, role: bucket?.role, err: error },
        "a pooled session could not be reset: destroyed",
      );
      this.destroy(session);
    }
  }

  /** A session that is clean or warm is nobody's again. */
  #keep(session: PooledSession): void {
    const bucket = this.#unlend(session);
    const isTooOld = this.#services.clock.now() - session.openedAt > this.#services.config.serverLifetimeMs;
    if (this.#isClosed || isTooOld || !session.isOpen) this.#discard(bucket, session, false);
    else this.#rest(bucket, session);
  }

  #rest(bucket: Bucket, session: PooledSession): void {
    bucket.idle.push(session);
    session.rest(() => {
      if (this.#removeIdle(bucket, session)) this.#discard(bucket, session, false);
    });
    this.#serve(bucket);
    this.#report(bucket);
  }

  /** @returns false where it was lost meanwhile, and is destroyed. */
  #removeIdle(bucket: Bucket, session: PooledSession): boolean {
    const at = bucket.idle.lastIndexOf(session);
    if (at === -1) return false;
    bucket.idle.splice(at, 1);
    if (session.wake()) return true;
    this.#discard(bucket, session, false);
    return false;
  }

  /** @param mayRun something may still run in it: it counts until it is known to be gone. */
  #discard(bucket: Bucket, session: PooledSession, mayRun: boolean): void {
    const { metrics, log } = this.#services;
    session.destroy();
    metrics.poolDiscards.inc();
    const finish = (): void => {
      bucket.total -= 1;
      this.#report(bucket);
      this.#serve(bucket);
    };
    if (!mayRun || this.#isClosed) return finish();
    this.#services
      .terminate(session, bucket)
      .catch((error: unknown) => log.warn({ err: error, database: bucket.database }, "a backend could not be ended"))
      .finally(finish);
  }

  /** Opens a session ahead, for `min_pool_size`. */
  async #openSpare(bucket: Bucket): Promise<void> {
    const { role, database } = bucket;
    const signal = AbortSignal.timeout(PREPARE_LIMIT_MS);
    bucket.total += 1;
    try {
      using _place = await this.#logins.enter(signal);
      const session = new PooledSession(await this.#services.open({ role, database, secrets: {} }, signal));
      this.#services.metrics.poolCreates.inc();
      session.idleSince = this.#services.clock.now();
      if (this.#isClosed) this.#discard(bucket, session, false);
      else this.#rest(bucket, session);
    } catch {
      bucket.total -= 1; // whoever needs one hears why there is none
    }
  }

  /** Nobody uses the database as this role any more: names of databases that clients make up do not pile up. */
  #forget(name: string, { database, role }: Bucket): void {
    const { metrics } = this.#services;
    this.#buckets.delete(name);
    metrics.poolConnections.remove({ database, role });
    metrics.poolIdle.remove({ database, role });
  }

  #report({ database, role, idle, total }: Bucket): void {
    const { metrics } = this.#services;
    metrics.poolConnections.set({ database, role }, total);
    metrics.poolIdle.set({ database, role }, idle.length);
  }

  /** Once a second: what has been idle for too long, on either side. */
  readonly #onSweep = (): void => {
    const { clock, config } = this.#services;
    const now = clock.now();
    const idleLimit = config.idleTransactionTimeoutMs ?? (config.poolMode === "transaction" ? IDLE_TRANSACTION_MS : 0);
    for (const { holder } of this.#lent.values()) {
      if (holder === undefined || idleLimit === 0) continue;
      if (holder.idleInTransactionMs(now) > idleLimit) holder.onIdleTooLong(idleLimit / 1000);
    }
    for (const [name, bucket] of this.#buckets) {
      for (const session of bucket.idle.slice()) {
        const isIdleTooLong = now - session.idleSince > config.poolIdleTimeoutMs && bucket.total > config.minPoolSize;
        const isTooOld = now - session.openedAt > config.serverLifetimeMs;
        if ((isIdleTooLong || isTooOld) && this.#removeIdle(bucket, session)) this.#discard(bucket, session, false);
      }
      bucket.usesReserve = false;
      for (const { since } of bucket.waiting) if (now - since > config.reservePoolTimeoutMs) bucket.usesReserve = true;
      if (bucket.usesReserve) this.#serve(bucket);
      if (bucket.total === 0 && bucket.waiting.size === 0) this.#forget(name, bucket);
      else if (bucket.total < config.minPoolSize && bucket.waiting.size === 0) void this.#openSpare(bucket);
    }
    if (!this.#isClosed) this.#sweep = clock.after(SWEEP_MS, this.#onSweep);
  };
}

/** The server is not there, or not yet: another try may find it. */
function isTransient(error: unknown): boolean {
  if (error instanceof UpstreamRefusal) return sqlstateOf(error.response.body) === CANNOT_CONNECT_NOW;
  return error instanceof ProxyError && ["upstream_unreachable", "upstream_login_lost"].includes(error.code);
}

/** Settings of another client are in force, which this one has never heard of. */
function hasForeignSettings({ applied }: PooledSession, { settings }: Borrower): boolean {
  for (const name of applied.keys()) if (!settings.has(name)) return true;
  return false;
}

/** A setting of the client's is not in force. */
function needsChange(session: PooledSession, borrower: Borrower): boolean {
  const { applied } = session;
  if (hasForeignSettings(session, borrower)) return true;
  for (const [name, value] of borrower.settings) if (applied.get(name) !== value) return true;
  return false;
}
