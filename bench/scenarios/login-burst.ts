/**
 * Scenario of a burst of logins: 200 clients log in by SCRAM at the same moment, again and again, while pgbench, which
 * was there before, asks one question after the other. The clients derive their keys once, so that what is measured is
 * the peer and the server.
 */
import { client as frontend } from "../../test/support/bytes.ts";
import { RawClient } from "../../test/support/raw-client.ts";
import { pgbench } from "../measure/pgbench.ts";
import type { RunningPeer, Target } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";
import { quantile } from "../statistics.ts";

const clients = 200;

export const loginBurst: Scenario = {
  name: "login-burst",
  title: `${clients} logins (scram) at the same moment, while one client of pgbench -S runs on`,
  upstream: "scram",
  needsPgbench: true,
  metrics: [
    { key: "loginsPerSecond", label: "logins/s", digits: 0, hasRatio: true },
    { key: "loginMedianMs", label: "p50 ms", digits: 0, hasRatio: false },
    { key: "loginP99Ms", label: "p99 ms", digits: 0, hasRatio: true },
    { key: "queryP99Ms", label: "query p99 ms", digits: 1, hasRatio: false },
    { key: "queryMaxMs", label: "query max ms", digits: 1, hasRatio: false },
    { key: "aloneP99Ms", label: "query alone p99 ms", digits: 2, hasRatio: false },
  ],
  measure: measureBursts,
};

async function measureBursts({ target }: RunningPeer, bench: Bench): Promise<Sample> {
  const alone = await queries(target, bench, 1);
  const [meanwhile, bursts] = await Promise.all([queries(target, bench, bench.seconds), burst(target, bench.seconds)]);
  return {
    loginsPerSecond: (bursts.loginMs.length * 1000) / bursts.totalMs,
    loginMedianMs: quantile(bursts.loginMs, 0.5),
    loginP99Ms: quantile(bursts.loginMs, 0.99),
    queryP99Ms: quantile(meanwhile, 0.99),
    queryMaxMs: quantile(meanwhile, 1),
    aloneP99Ms: quantile(alone, 0.99),
  };
}

/** Bursts until the time is over; what it takes to leave is not counted. */
async function burst(target: Target, seconds: number): Promise<{ loginMs: readonly number[]; totalMs: number }> {
  const loginMs: number[] = [];
  let totalMs = 0;
  const end = performance.now() + seconds * 1000;
  do {
    const startedAt = performance.now();
    const loggedIn = await Promise.all(Array.from({ length: clients }, () => timedLogin(target, loginMs)));
    totalMs += performance.now() - startedAt;
    await Promise.all(loggedIn.map(leave));
  } while (performance.now() < end);
  return { loginMs, totalMs };
}

/** How long each query took, in milliseconds. */
async function queries(target: Target, bench: Bench, seconds: number): Promise<readonly number[]> {
  const run = { clients: 1, mode: "simple", length: { seconds }, isTimed: true } as const;
  return (await pgbench(bench.workbench, target, run)).latenciesMs;
}

async function timedLogin(target: Target, loginMs: number[]): Promise<RawClient> {
  const { user, password, database } = target;
  const startedAt = performance.now();
  const client = await RawClient.logIn(target, { user, password, parameters: { database } });
  loginMs.push(performance.now() - startedAt);
  return client;
}

/** Resolves when the connection is closed: the next burst finds the server's places free. */
async function leave(client: RawClient): Promise<void> {
  client.send(frontend.terminate);
  await client.untilClosed();
}
