/**
 * The timers of one session that forwards. Nothing is done for a message: the session is looked at now and then, and what
 * has not changed since the look before goes on being counted. So a timer is never early, and at most a quarter of its time,
 * or a second, late.
 */
import type { TenantTimeouts } from "../../config/tenant-policy.ts";
import type { ErrorCode } from "../../errors/catalogue.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import type { TimerWheel } from "../../lib/timer-wheel.ts";
import type { Activity } from "./activity.ts";

const SHORTEST_INTERVAL_MS = 50;
const LONGEST_INTERVAL_MS = 500;
const LOOKS = 8;

export interface TimedSession {
  readonly activity: Activity;
  expire(error: ProxyError): void;
}

export class SessionTimers implements Disposable {
  readonly #session: TimedSession;
  readonly #clock: Clock;
  readonly #wheel: TimerWheel;
  #timeouts: TenantTimeouts | undefined;
  #watch: Disposable | undefined;
  #last: Activity | undefined;
  // Since when it goes on, as far as the looks have seen it.
  #silentSince = 0;
  #queryId = Number.NaN;
  #querySince = 0;
  #transactionId = Number.NaN;
  #isInside = false;
  #transactionSince = 0;
  #heldSince = 0;
  #idleSince = 0;

  constructor(session: TimedSession, { clock, wheel }: { readonly clock: Clock; readonly wheel: TimerWheel }) {
    this.#session = session;
    this.#clock = clock;
    this.#wheel = wheel;
  }

  /** These hold from now on; what goes on has begun when it began. */
  use(timeouts: TenantTimeouts): void {
    this.#timeouts = timeouts;
    this[Symbol.dispose]();
    const shortest = Math.min(...Object.values(timeouts).filter((ms): ms is number => ms !== undefined));
    if (shortest === Infinity) return;
    this.#look();
    const interval = Math.min(Math.max(shortest / LOOKS, SHORTEST_INTERVAL_MS), LONGEST_INTERVAL_MS);
    this.#watch = this.#wheel.every(interval, () => this.#look());
  }

  [Symbol.dispose](): void {
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
  }

  #look(): void {
    const now = this.#clock.now();
    const { activity } = this.#session;
    this.#follow(activity, now);
    this.#last = activity;
    const { state } = activity;
    const { silenceMs, queryMs, transactionMs, heldMs, idleMs } = this.#timeouts as TenantTimeouts;
    const isUnclear = state === "unclear";
    if (isUnclear || state === "busy") this.#check("query_timeout", queryMs, now - this.#querySince);
    if (isUnclear || state === "held") this.#check("idle_transaction", heldMs, now - this.#heldSince);
    if (isUnclear || state === "busy" || state === "held") {
      this.#check("transaction_timeout", transactionMs, now - this.#transactionSince);
    }
    if (isUnclear || state === "idle") this.#check("client_idle", idleMs, now - this.#idleSince);
    this.#check("silence_timeout", silenceMs, now - this.#silentSince);
  }

  #follow(activity: Activity, now: number): void {
    const last = this.#last;
    const { state, clientReads, upstreamReads, answers, transactions } = activity;
    const isClientSilent = clientReads === last?.clientReads;
    if (!isClientSilent || upstreamReads !== last?.upstreamReads) this.#silentSince = now;
    if (!isClientSilent || state !== last?.state) {
      this.#heldSince = now;
      this.#idleSince = now;
    }
    if (answers !== this.#queryId || (mayRun(state) && !mayRun(last?.state))) this.#querySince = now;
    this.#queryId = answers;
    if (transactions !== this.#transactionId || !this.#isInside) this.#transactionSince = now;
    this.#transactionId = transactions;
    if (state !== "waiting") this.#isInside = state !== "idle";
  }

  #check(code: ErrorCode, limitMs: number | undefined, passedMs: number): void {
    if (limitMs === undefined || passedMs < limitMs || this.#watch === undefined) return;
    this[Symbol.dispose]();
    this.#session.expire(new ProxyError(code, { params: { seconds: limitMs / 1_000 } }));
  }
}

function mayRun(state: Activity["state"] | undefined): boolean {
  return state === "busy" || state === "unclear";
}
