/** Each timer of a session at its edge: never early, a little late, and not for what has changed meanwhile. */
import { describe, expect, it } from "vitest";
import type { TenantTimeouts } from "../../../src/config/tenant-policy.ts";
import { TimerWheel } from "../../../src/lib/timer-wheel.ts";
import type { Activity } from "../../../src/proxy/forward/activity.ts";
import { SessionTimers } from "../../../src/proxy/forward/timers.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const NONE: TenantTimeouts = {
  silenceMs: undefined,
  queryMs: undefined,
  transactionMs: undefined,
  heldMs: undefined,
  idleMs: undefined,
};

type Change = Partial<Activity>;

function open(timeouts: Partial<TenantTimeouts>) {
  const clock = new FakeClock();
  const expired: string[] = [];
  const session = {
    activity: { state: "idle", clientReads: 0, upstreamReads: 0, answers: 0, transactions: 0 } as Activity,
    expire: ({ code }: { code: string }) => void expired.push(code),
  };
  const timers = new SessionTimers(session, { clock, wheel: new TimerWheel(clock) });
  timers.use({ ...NONE, ...timeouts });
  const become = (change: Change): void => void (session.activity = { ...session.activity, ...change });
  return { clock, expired, timers, become };
}

const LIMIT = 4_000;
const LATEST = LIMIT + 1_000;

const cases: readonly (readonly [string, Partial<TenantTimeouts>, Change, readonly Change[], readonly Change[]])[] = [
  // code, timeouts, the state that it is for, what begins it anew, what does not
  [
    "query_timeout",
    { queryMs: LIMIT },
    { state: "busy" },
    [{ answers: 7 }, { state: "idle" }],
    [{ clientReads: 7 }, { upstreamReads: 7 }, { transactions: 7 }],
  ],
  [
    "idle_transaction",
    { heldMs: LIMIT },
    { state: "held" },
    [{ clientReads: 7 }, { state: "idle" }],
    [{ upstreamReads: 7 }],
  ],
  ["client_idle", { idleMs: LIMIT }, { state: "idle" }, [{ clientReads: 7 }], [{ upstreamReads: 7 }]],
  [
    "transaction_timeout",
    { transactionMs: LIMIT },
    { state: "held" },
    [{ transactions: 7 }, { state: "idle" }],
    [{ answers: 7, clientReads: 7, upstreamReads: 7 }, { state: "waiting" }],
  ],
  [
    "silence_timeout",
    { silenceMs: LIMIT },
    { state: "busy" },
    [{ clientReads: 7 }, { upstreamReads: 7 }],
    [{ state: "held" }],
  ],
];

describe.each(cases)("%s", (code, timeouts, state, anew, asBefore) => {
  it("ends the session at its time, and once", () => {
    const { clock, expired, become } = open(timeouts);
    become(state);
    clock.advance(LIMIT - 1);
    expect(expired).toEqual([]);
    clock.advance(LATEST - LIMIT + 1);
    expect(expired).toEqual([code]);
    clock.advance(100 * LIMIT);
    expect(expired.length).toBe(1);
    expect(clock.openTimers).toEqual([]);
  });

  it.each(anew)("begins anew with %o", (change) => {
    const { clock, expired, become } = open(timeouts);
    become(state);
    clock.advance(LIMIT - 10);
    become(change);
    clock.advance(500);
    become(state);
    clock.advance(LIMIT - 501);
    expect(expired).toEqual([]);
    clock.advance(LATEST);
    expect(expired).toHaveLength(1);
  });

  it.each(asBefore)("goes on with %o", (change) => {
    const { clock, expired, become } = open(timeouts);
    become(state);
    clock.advance(LIMIT - 600);
    become(change);
    clock.advance(500);
    become(state);
    clock.advance(1_100);
    expect(expired).toHaveLength(1);
  });

  it("is not there when it is not set, nor any timer for it", () => {
    const { clock, expired, become } = open({});
    become(state);
    expect(clock.openTimers).toEqual([]);
    clock.advance(100 * LIMIT);
    expect(expired).toEqual([]);
  });

  it("that is set later holds for what goes on then", () => {
    const { clock, expired, become, timers } = open({ ...timeouts, transactionMs: 20 * LIMIT });
    become(state);
    clock.advance(LIMIT / 2);
    timers.use({ ...NONE, ...timeouts });
    clock.advance(LIMIT / 2 + 1_000);
    expect(expired).toHaveLength(1);
  });
});
