/**
 * Scenario of a burst of logins: 200 clients log in by SCRAM at the same moment, while another one, which was there
 * before, goes on asking one question after the other. The clients derive their keys once, so that what is measured is
 * the peer and the server. One round is as many bursts as fit.
 */
import { client as frontend } from "../../test/support/bytes.ts";
import { RawClient } from "../../test/support/raw-client.ts";
import { cpuSince, cpuTime } from "../measure/processes.ts";
import type { RunningPeer, Target } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";

const clients = 200;

export const loginBurst: Scenario = {
  name: "login-burst",
  title: `${clients} logins (scram) at the same moment, while one more client runs queries`,
  upstream: "scram",
  needsPgbench: false,
  metrics: [
    { key: "loginsPerSecond", label: "logins/s", digits: 0, hasRatio: true },
    { key: "loginMedianMs", label: "p50 ms", digits: 0, hasRatio: false },
    { key: "loginP99Ms", label: "p99 ms", digits: 0, hasRatio: true },
    { key: "cpuUs", label: "CPU us/login", digits: 0, hasRatio: true },
    { key: "queryP99Ms", label: "query p99 ms", digits: 1, hasRatio: false },
    { key: "queryMaxMs", label: "query max ms", digits: 1, hasRatio: false },
    { key: "aloneP99Ms", label: "query alone p99 ms", digits: 2, hasRatio: false },
  ],
  measure: measureBursts,
};

async function measureBursts({ target, processGroup }: RunningPeer, bench: Bench): Promise<Sample> {
  using querying = await logIn(target);
  const alone = await repeatQuery(querying, (startedAt) => performance.now() - startedAt < 500);

  const loginMs: number[] = [];
  let burstMs = 0;
  let isOver = false;
  const queries = repeatQuery(querying, () => !isOver);
  const before = cpuTime(processGroup);
  try {
    while (burstMs < bench.seconds * 1000) {
      const startedAt = performance.now();
      const loggedIn = await Promise.all(Array.from({ length: clients }, () => timedLogin(target, loginMs)));
      burstMs += performance.now() - startedAt;
      await Promise.all(loggedIn.map(leave));
    }
  } finally {
    isOver = true;
  }
  const spent = cpuSince(before, processGroup);
  const queryMs = await queries;
  return {
    loginsPerSecond: (loginMs.length * 1000) / burstMs,
    loginMedianMs: quantile(loginMs, 0.5),
    loginP99Ms: quantile(loginMs, 0.99),
    queryP99Ms: quantile(queryMs, 0.99),
    queryMaxMs: quantile(queryMs, 1),
    aloneP99Ms: quantile(alone, 0.99),
    ...(spent === undefined ? {} : { cpuUs: spent.totalUs / loginMs.length }),
  };
}

function logIn(target: Target): Promise<RawClient> {
  const { user, password, database } = target;
  return RawClient.logIn(target, { user, password, parameters: { database } });
}

async function timedLogin(target: Target, loginMs: number[]): Promise<RawClient> {
  const startedAt = performance.now();
  const client = await logIn(target);
  loginMs.push(performance.now() - startedAt);
  return client;
}

/** Resolves when the connection is closed: the next burst finds the server's places free. */
async function leave(client: RawClient): Promise<void> {
  client.send(frontend.terminate);
  await client.untilClosed();
}

/** Asks again and again, at least once; returns how long each answer took, in milliseconds. */
async function repeatQuery(client: RawClient, goesOn: (startedAt: number) => boolean): Promise<number[]> {
  const startedAt = performance.now();
  const took: number[] = [];
  do {
    const askedAt = performance.now();
    await client.query("SELECT 1");
    took.push(performance.now() - askedAt);
  } while (goesOn(startedAt));
  return took;
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
