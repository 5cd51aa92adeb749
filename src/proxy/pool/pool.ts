/**
 * Upstream sessions that clients share, by database and login role. Nothing of one client reaches the next: an idle
 * session is clean, behind the barrier, or warm for one identity, and in doubt it is destroyed.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline, pause, raceAbort } from "../../lib/deadline.ts";
import type { Semaphore } from "../../lib/semaphore.ts";
import type { Logger } from "../../observe/logger.ts";
import type { PoolCounts, PoolSize } from "../../observe/pool-metrics.ts";
import type { Borrower } from "./borrower.ts";
import { Bucket, type Applicant, type Waiter } from "./bucket.ts";

export type { Applicant } from "./bucket.ts";
import type { PooledLogin } from "./open-pooled.ts";
import { PreparedStatements } from "./prepared.ts";
import { sqlstateOf } from "../../protocol/backend-messages.ts";
import { UpstreamRefusal } from "../upstream/await-ready.ts";
import { runBarrier, type BarrierQuestion } from "./barrier.ts";
import type { OpenedSession } from "./pooled-session.ts";
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

/** What the pool is composed of: how sessions are opened, cancelled and made a client's. */
export interface PoolServices {
  readonly config: Config;
  readonly clock: Clock;
  readonly log: Logger;
  /** Most sessions that a tenant may hold, for each database and role. */
  poolSizeOf(tenant: string): number | undefined;
  /** Bounds logins to the server, the pool's and others. */
  readonly ownLogins: Semaphore;
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
  /** Whether sockets may be moved to direct reads: see socket/direct-read.ts. */
  readonly directRead: boolean;
}

/** Takes back what was asked for with `request`, whatever has become of it. */
export interface Request {
  cancel(): void;
}

export class Pool {
  readonly statements: PreparedStatements;
  readonly reader: SqlReader;
  readonly counts: PoolCounts = { checkouts: 0, reuses: 0, creates: 0, checkins: 0, discards: 0, timeouts: 0 };
  readonly #services: PoolServices;
  readonly #buckets = new Map<string, Bucket>();
  readonly #lent = new Set<PooledSession>();
  #sweep: Disposable | undefined;
  #isClosed = false;
  #isPaused = false;
  /** Who waits in `pause`. */
  readonly #pausing = new Set<() => void>();

  constructor(services: PoolServices) {
    const { contextVariables, trackExtraParameters } = services.config;
    this.#services = services;
    this.reader = new SqlReader(contextVariables, trackExtraParameters);
    this.statements = new PreparedStatements(this.reader);
  }

  /** How many sessions there are, by database and role. */
  *sizes(): Generator<PoolSize> {
    for (const { database, role, total, idle, waiting } of this.#buckets.values()) {
      yield { database, role, total, idle: idle.length, waiting: waiting.size };
    }
  }

  /** A session that is the borrower's as it is; undefined where that takes a round trip, or a wait. */
  take(borrower: Borrower, holder: object): PooledSession | undefined {
    const { tenant } = borrower.identity;
    const bucket = this.#find(borrower);
    if (this.#isPaused || bucket.waiting.size > 0 || !this.#mayHold(bucket, tenant)) return undefined;
    const session = bucket.choose(borrower, holder);
    if (session === undefined || !this.#isReady(session, borrower)) return undefined;
    if (!this.#removeIdle(bucket, session)) return undefined;
    this.counts.checkouts += 1;
    this.counts.reuses += 1;
    bucket.count(tenant, 1);
    session.tenant = tenant;
    this.#lent.add(session);
    return session;
  }

  /**
   * Asks for a session with the borrower's context and settings in force. The applicant hears of it once,
   * unless the request is cancelled: with ProxyError pool_timeout, tenant_pool_timeout (53300) or pool_paused (57P03) after `pool_checkout_timeout`, context_failed,
   * unsafe_role, upstream_*; with UpstreamRefusal where a setting of the client's fails.
   */
  request(borrower: Borrower, holder: object, applicant: Applicant): Request {
    const bucket = this.#find(borrower);
    this.counts.checkouts += 1;
    const since = this.#services.clock.now();
    const waiter: Waiter = {
      since,
      borrower,
      holder,
      applicant,
      isNotified: false,
      isGone: false,
      hasLostNew: false,
      limit: undefined,
    };
    const leave = bucket.waiting.add(borrower.identity.tenant, waiter);
    this.#serve(bucket);
    return {
      cancel: () => {
        waiter.isGone = true;
        leave();
        waiter.limit?.abort(new RequestCancelled());
      },
    };
  }

  /** The same as a promise. @throws whatever aborts `signal`. */
  acquire(borrower: Borrower, holder: object, signal: AbortSignal): Promise<PooledSession> {
    return new Promise((resolve, reject) => {
      let request: Request | undefined;
      const abort = (): void => {
        request?.cancel();
        reject(signal.reason as Error);
      };
      if (signal.aborted) return abort();
      const settle = (): void => signal.removeEventListener("abort", abort);
      signal.addEventListener("abort", abort, { once: true });
      request = this.request(borrower, holder, {
        onGranted: (session) => {
          settle();
          resolve(session);
        },
        onRefused: (error) => {
          settle();
          reject(error instanceof Error ? error : new Error(String(error)));
        },
      });
    });
  }

  /** Whether somebody waits whom this session could serve. */
  hasWaiters({ bucket }: PooledSession): boolean {
    return bucket.waiting.size > 0;
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
    this.counts.checkins += 1;
    if (isTainted || session.wasCancelled || this.#services.config.poolMode === "session") {
      session.takeBack(0);
      session.whenNotCancelled(() => void this.#clean(session, true));
      return;
    }
    session.warmFor = borrower.key;
    session.idleSince = this.#services.clock.now();
    this.#keep(session);
  }

  /**
   * The client has left the session in any state: it is cleaned, and lent to the next.
   *
   * @param bytesLeft of the server's message that the client has seen the beginning of.
   * @param unread what has come and was not passed on, a message cut apart.
   */
  reclaim(session: PooledSession, bytesLeft: number, unread?: Buffer): void {
    this.counts.checkins += 1;
    if (!session.isOpen || this.#isClosed) return this.destroy(session);
    session.takeBack(bytesLeft, unread);
    session.whenNotCancelled(() => void this.#clean(session, false));
  }

  /** Destroys a session that is lent, whatever it does. */
  destroy(session: PooledSession): void {
    if (!this.#lent.has(session)) return;
    this.#unlend(session);
    this.#discard(session, session.isOpen && !session.isClean);
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  /**
   * Nobody gets a session any more, until `resume`; whoever asks waits. Idle sessions are closed, so that the server can
   * be restarted. Resolves when all that are lent are back and closed, or when it is paused no more.
   *
   * @throws whatever aborts `signal`; it is paused all the same.
   */
  async pause(signal: AbortSignal): Promise<void> {
    this.#isPaused = true;
    for (const bucket of this.#buckets.values()) {
      for (const session of bucket.idle.slice()) if (this.#removeIdle(bucket, session)) this.#discard(session, false);
    }
    if (this.#isEmpty()) return;
    let end!: () => void;
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#pausing.add(end);
    try {
      await raceAbort(ended, signal);
    } finally {
      this.#pausing.delete(end);
    }
  }

  resume(): void {
    this.#isPaused = false;
    for (const end of this.#pausing) end();
    for (const bucket of this.#buckets.values()) this.#serve(bucket);
  }

  /** Closes what is idle; what is lent is destroyed when it comes back. */
  close(): void {
    this.#isClosed = true;
    this.#sweep?.[Symbol.dispose]();
    for (const bucket of this.#buckets.values()) {
      for (const session of bucket.idle.splice(0)) this.#discard(session, false);
      bucket.waiting.drain((waiter) => waiter.applicant.onRefused(new ProxyError("shutdown")));
    }
  }

  // Who gets what.

  /** Grants what is there to who waits. */
  #serve(bucket: Bucket): void {
    if (bucket.isServing || this.#isPaused || this.#isClosed) return;
    bucket.isServing = true;
    try {
      while (bucket.waiting.size > 0) {
        const hasRoom = this.#hasRoom(bucket);
        if (bucket.idle.length === 0 && !hasRoom) return;
        const waiter = bucket.waiting.take((tenant) => this.#mayHold(bucket, tenant));
        if (waiter === undefined) return;
        this.#grant(bucket, waiter, hasRoom);
      }
    } finally {
      bucket.isServing = false;
    }
  }

  #grant(bucket: Bucket, waiter: Waiter, hasRoom: boolean): void {
    const { borrower, holder } = waiter;
    const { tenant } = borrower.identity;
    const session = bucket.choose(borrower, holder);
    const isOwn = session !== undefined && (session.isClean || session.warmFor === borrower.key);
    if (hasRoom && !isOwn) {
      bucket.total += 1;
      bucket.count(tenant, 1);
      void this.#makeReady(bucket, waiter, undefined);
      return;
    }
    if (session === undefined || !this.#removeIdle(bucket, session)) {
      bucket.waiting.add(tenant, waiter); // what was idle is lost
      return;
    }
    this.counts.reuses += 1;
    bucket.count(tenant, 1);
    session.tenant = tenant;
    this.#lent.add(session);
    if (this.#isReady(session, borrower)) waiter.applicant.onGranted(session);
    else void this.#makeReady(bucket, waiter, session);
  }

  /** Opens a session where none is given, and prepares it. */
  async #makeReady(bucket: Bucket, waiter: Waiter, given: PooledSession | undefined): Promise<void> {
    const { clock } = this.#services;
    const { borrower } = waiter;
    let session = given;
    try {
      using limit = new Deadline(clock, PREPARE_LIMIT_MS, () => new ProxyError("upstream_timeout"));
      const { signal } = limit;
      waiter.limit = limit;
      session ??= await this.#open(bucket, borrower, signal);
      await this.#prepare(session, borrower, signal);
      if (waiter.isGone) throw new RequestCancelled();
    } catch (error) {
      if (session === undefined) this.#giveUp(bucket, borrower);
      else this.#giveBack(session, error);
      if (waiter.isGone) return;
      // It was idle and has died unnoticed, or the server went away right behind the login: the next one.
      const mayRetry = session !== undefined && !session.isOpen && isLost(error);
      if (mayRetry && (given !== undefined || !waiter.hasLostNew)) {
        waiter.hasLostNew ||= given === undefined;
        bucket.waiting.add(borrower.identity.tenant, waiter);
        this.#serve(bucket);
      } else waiter.applicant.onRefused(error);
      return;
    }
    waiter.applicant.onGranted(session);
  }

  /** A session could not be opened. */
  #giveUp(bucket: Bucket, { identity: { tenant } }: Borrower): void {
    bucket.count(tenant, -1);
    this.#countGone(bucket);
  }

  /** A session could not be prepared, or is not wanted any more. */
  #giveBack(session: PooledSession, error: unknown): void {
    // A setting of the client's has failed, or the client is gone: that is nothing against the session.
    if (session.isOpen && error instanceof UpstreamRefusal) void this.#clean(session, true);
    else if (session.isOpen && error instanceof RequestCancelled) void this.#clean(session, false);
    else this.destroy(session);
  }

  #mayHold(bucket: Bucket, tenant: string): boolean {
    const most = this.#services.poolSizeOf(tenant);
    return most === undefined || bucket.heldBy(tenant) < most;
  }

  /** The borrower's context and settings are in force. */
  #isReady(session: PooledSession, borrower: Borrower): boolean {
    return session.warmFor === borrower.key && this.#isFresh(session) && !needsChange(session, borrower);
  }

  /** What has been idle for long is tried, by giving it its context again; a signed context expires. */
  #isFresh({ warmSince, idleSince, isSealed }: PooledSession): boolean {
    const { clock, config } = this.#services;
    const now = clock.now();
    return now - idleSince <= config.serverCheckDelayMs && (!isSealed || now - warmSince < config.contextSealTtlMs / 2);
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
    const bucket = new Bucket(database, loginRole);
    this.#buckets.set(name, bucket);
    this.#sweep ??= this.#services.clock.after(SWEEP_MS, this.#onSweep);
    return bucket;
  }

  #unlend(session: PooledSession): void {
    this.#lent.delete(session);
    session.bucket.count(session.tenant, -1);
  }

  /** A session is no more, or could not be opened: there is room for another one. */
  #countGone(bucket: Bucket): void {
    bucket.total -= 1;
    if (this.#isPaused && this.#isEmpty()) for (const end of this.#pausing) end();
    this.#serve(bucket);
  }

  /** No session is open, or being opened. */
  #isEmpty(): boolean {
    for (const { total } of this.#buckets.values()) if (total > 0) return false;
    return true;
  }

  // What becomes of a session.

  async #prepare(session: PooledSession, borrower: Borrower, signal: AbortSignal): Promise<void> {
    borrower.assumeEncoding(session.baseline.get("server_encoding"));
    const isOwn = session.warmFor === borrower.key && this.#isFresh(session) && !hasForeignSettings(session, borrower);
    if (isOwn && !needsChange(session, borrower)) return;
    const discards = !isOwn && !session.isClean;
    if (discards) {
      session.statements.clear();
      session.hasLeftovers = false;
    }
    session.unnamedOf = undefined; // our own statements are unnamed
    session.warmFor = undefined;
    session.readMessages();
    await this.#services.prepare(session, borrower, { discards, setsContext: !isOwn }, signal);
    session.hello = undefined;
    session.isClean = false;
    session.warmFor = borrower.key;
    if (!isOwn) session.warmSince = this.#services.clock.now();
  }

  /** Tries again while the server is not there, for as long as a client may wait. */
  async #open(bucket: Bucket, borrower: Borrower, signal: AbortSignal): Promise<PooledSession> {
    const { clock, config } = this.#services;
    const until = clock.now() + config.poolCheckoutTimeoutMs;
    for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
      try {
        return await this.#openOnce(bucket, borrower, signal);
      } catch (error) {
        if (signal.aborted || !isTransient(error) || clock.now() + pauseMs > until) throw error;
        await pause(clock, pauseMs, signal);
      }
    }
  }

  async #openOnce(bucket: Bucket, borrower: Borrower, signal: AbortSignal): Promise<PooledSession> {
    const { role, database } = bucket;
    using _place = await this.#services.ownLogins.enter(signal);
    const opened = await this.#services.open({ role, database, secrets: borrower.secrets }, signal);
    this.counts.creates += 1;
    const session = new PooledSession(bucket, opened, this.#services.directRead);
    session.tenant = borrower.identity.tenant;
    this.#lent.add(session);
    return session;
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
      for (const [name, value] of parameters) session.report(name, value);
      if (session.stream.hasUnread) throw new ProxyError("barrier_failed", { detail: "bytes behind the barrier" });
      // A cancel that is still on its way must not reach the next client.
      await new Promise<void>((resolve) => session.whenNotCancelled(resolve));
      session.becomeClean(asked === undefined ? undefined : [row]);
      session.idleSince = clock.now();
      this.#keep(session);
    } catch (error) {
      const { database, role } = session.bucket;
      log.warn({ database, role, err: error }, "a pooled session could not be reset: destroyed");
      this.destroy(session);
    }
  }

  /** A session that is clean or warm is nobody's again. */
  #keep(session: PooledSession): void {
    this.#unlend(session);
    const isTooOld = this.#services.clock.now() - session.openedAt > this.#services.config.serverLifetimeMs;
    if (this.#isClosed || this.#isPaused || isTooOld || !session.isOpen) this.#discard(session, false);
    else this.#rest(session);
  }

  #rest(session: PooledSession): void {
    const { bucket } = session;
    bucket.idle.push(session);
    session.rest(this.#onIdleLost);
    this.#serve(bucket);
  }

  readonly #onIdleLost = (session: PooledSession): void => {
    if (session.bucket.remove(session)) this.#discard(session, false);
  };

  /** @returns false where it was lost meanwhile, and is destroyed. */
  #removeIdle(bucket: Bucket, session: PooledSession): boolean {
    if (!bucket.remove(session)) return false;
    if (session.wake()) return true;
    this.#discard(session, false);
    return false;
  }

  /** @param mayRun something may still run in it: it counts until it is known to be gone. */
  #discard(session: PooledSession, mayRun: boolean): void {
    const { log } = this.#services;
    const { bucket } = session;
    session.destroy();
    this.counts.discards += 1;
    const finish = (): void => this.#countGone(bucket);
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
      using _place = await this.#services.ownLogins.enter(signal);
      const opened = await this.#services.open({ role, database, secrets: {} }, signal);
      const session = new PooledSession(bucket, opened, this.#services.directRead);
      this.counts.creates += 1;
      session.idleSince = this.#services.clock.now();
      if (this.#isClosed || this.#isPaused) this.#discard(session, false);
      else this.#rest(session);
    } catch {
      this.#countGone(bucket); // whoever needs one hears why there is none
    }
  }

  /** Once a second: who has waited, and what has been idle, for too long. */
  readonly #onSweep = (): void => {
    const { clock, config } = this.#services;
    const now = clock.now();
    for (const [name, bucket] of this.#buckets) {
      this.#sweepIdle(bucket, now);
      this.#sweepWaiting(bucket, now);
      if (bucket.total === 0 && bucket.waiting.size === 0) {
        this.#buckets.delete(name); // names of databases that clients make up do not pile up
      } else if (!this.#isPaused && bucket.total < config.minPoolSize && bucket.waiting.size === 0) {
        void this.#openSpare(bucket);
      }
    }
    if (!this.#isClosed) this.#sweep = clock.after(SWEEP_MS, this.#onSweep);
  };

  #sweepIdle(bucket: Bucket, now: number): void {
    const { poolIdleTimeoutMs, serverLifetimeMs, minPoolSize } = this.#services.config;
    for (const session of bucket.idle.slice()) {
      const isIdleTooLong = now - session.idleSince > poolIdleTimeoutMs && bucket.total > minPoolSize;
      const isTooOld = now - session.openedAt > serverLifetimeMs;
      if ((isIdleTooLong || isTooOld) && this.#removeIdle(bucket, session)) this.#discard(session, false);
    }
  }

  #sweepWaiting(bucket: Bucket, now: number): void {
    const { poolCheckoutTimeoutMs, queryWaitNotifyMs, reservePoolTimeoutMs } = this.#services.config;
    bucket.usesReserve = false;
    const late: Waiter[] = [];
    for (const waiter of bucket.waiting) {
      if (now - waiter.since > reservePoolTimeoutMs) bucket.usesReserve = true;
      if (now - waiter.since > poolCheckoutTimeoutMs) late.push(waiter);
      else if (queryWaitNotifyMs > 0 && now - waiter.since > queryWaitNotifyMs && !waiter.isNotified) {
        waiter.isNotified = true;
        waiter.applicant.onLate?.();
      }
    }
    for (const waiter of late) {
      bucket.waiting.remove(waiter.borrower.identity.tenant, waiter);
      this.counts.timeouts += 1;
      waiter.applicant.onRefused(this.#whyLate(bucket, waiter));
    }
    if (bucket.usesReserve) this.#serve(bucket);
  }

  #whyLate(bucket: Bucket, { borrower }: Waiter): ProxyError {
    const { poolCheckoutTimeoutMs, poolSize: size } = this.#services.config;
    const { tenant } = borrower.identity;
    const seconds = poolCheckoutTimeoutMs / 1000;
    if (this.#isPaused) return new ProxyError("pool_paused", { params: { seconds } });
    if (this.#mayHold(bucket, tenant)) return new ProxyError("pool_timeout", { params: { size, seconds } });
    const limit = this.#services.poolSizeOf(tenant) as number;
    return new ProxyError("tenant_pool_timeout", { params: { tenant, limit, seconds } });
  }
}

class RequestCancelled extends Error {}

function isLost(error: unknown): boolean {
  return error instanceof ProxyError && error.code === "upstream_login_lost";
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
