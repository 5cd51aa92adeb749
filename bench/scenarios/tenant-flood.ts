/**
 * What one tenant feels of another one's flood: pgbench asks short questions at a steady pace, first alone, then while
 * clients of another tenant log in as fast as they can and 200 of them run slow queries; with limits for tenants and
 * without. The time of a question counts from when it was due, so that those that were held up count as well.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Flood, type FloodFigures } from "../measure/flood.ts";
import { pgbench, type TimedTransaction } from "../measure/pgbench.ts";
import type { RunningPeer, Target } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";
import { quantile } from "../statistics.ts";

const clients = 8;
const rate = 400;
const slowClients = 200;
const loginClients = 40;
const sleepSeconds = 0.5;
/** Before the quiet time: logins, and until Node has compiled what runs often. */
const warmUpSeconds = 2;
/** Behind the flood, for what it has held up. */
const restSeconds = 2;

export const tenantFlood: Scenario = {
  name: "tenant-flood",
  title:
    `${clients} clients, ${rate} SELECTs a second, quiet and while another tenant floods: ${loginClients} log in and leave, half of ` +
    `them with a wrong password, and ${slowClients} want to run pg_sleep(${sleepSeconds})`,
  upstream: "scram",
  needsPgbench: true,
  peers: ["direct"],
  needsFreshPeer: true,
  isOnRequest: true,
  metrics: [
    { key: "quietMedianMs", label: "quiet p50 ms", digits: 2, hasRatio: false },
    { key: "quietP99Ms", label: "p99 ms", digits: 1, hasRatio: false },
    { key: "floodMedianMs", label: "flood p50 ms", digits: 2, hasRatio: false },
    { key: "floodP99Ms", label: "p99 ms", digits: 1, hasRatio: false },
    { key: "floodMaxMs", label: "max ms", digits: 0, hasRatio: false },
    { key: "loginsPerSecond", label: "its logins/s", digits: 0, hasRatio: false },
    { key: "refusedPerSecond", label: "refused/s", digits: 0, hasRatio: false },
    { key: "sleeping", label: "queries at once", digits: 0, hasRatio: false },
  ],
  measure,
};

async function measure({ target }: RunningPeer, { workbench, seconds }: Bench): Promise<Sample> {
  const plan = { seconds, slowClients, slowQuery: `SELECT pg_sleep(${sleepSeconds})`, loginClients };
  const flood = await Flood.prepare(workbench, { ...plan, target: otherTenant(target) });
  const total = warmUpSeconds + 2 * seconds + restSeconds;
  const run = { clients, rate, mode: "simple", length: { seconds: total }, isTimed: true } as const;
  const [{ timed }, quietSince, figures] = await Promise.all([
    pgbench(workbench, target, run),
    sleep(warmUpSeconds * 1000).then(() => Date.now()),
    sleep((warmUpSeconds + seconds) * 1000).then(() => flood.run()),
  ]);
  const { beganAtMs, endedAtMs } = figures;
  const quiet = latencies(timed, quietSince, beganAtMs);
  const flooded = latencies(timed, beganAtMs, endedAtMs);
  return {
    quietMedianMs: quantile(quiet, 0.5),
    quietP99Ms: quantile(quiet, 0.99),
    floodMedianMs: quantile(flooded, 0.5),
    floodP99Ms: quantile(flooded, 0.99),
    floodMaxMs: quantile(flooded, 1),
    ...rates(figures),
  };
}

/** Of those that were due in this time. */
function latencies(timed: readonly TimedTransaction[], since: number, until: number): readonly number[] {
  const due = timed.filter(({ beganAtMs }) => beganAtMs >= since && beganAtMs < until);
  if (due.length === 0) throw new Error("pgbench has asked nothing in the time that counts");
  return due.map(({ tookMs }) => tookMs);
}

function rates({ logins, refused, slowQueries, beganAtMs, endedAtMs }: FloodFigures): Sample {
  const seconds = (endedAtMs - beganAtMs) / 1000;
  return {
    loginsPerSecond: logins / seconds,
    refusedPerSecond: refused / seconds,
    sleeping: (slowQueries * sleepSeconds) / seconds,
  };
}

/** The server itself knows no tenants: there it is another client of the same role. */
function otherTenant({ user, ...target }: Target): Target {
  const [role, tenant] = user.split(".");
  return { ...target, user: tenant === undefined ? user : `${role}.flood` };
}
