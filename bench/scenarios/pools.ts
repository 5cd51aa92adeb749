/**
 * Scenarios of pools: small queries of more clients than there are upstream sessions, with the context of one tenant and
 * of a thousand. PgBouncer knows no context: for many tenants the application sets it itself, in a transaction of its own
 * around each query, which is what an application in front of PgBouncer has to do.
 */
import { RawClient } from "../../test/support/raw-client.ts";
import { pgbench, type QueryMode } from "../measure/pgbench.ts";
import { cpuSince, cpuTime } from "../measure/processes.ts";
import type { RunningPeer, Target } from "../peer.ts";
import type { Bench, Metric, Sample, Scenario } from "../scenario.ts";

/** Upstream sessions that each peer may open. */
export const poolSize = 20;

const tenants = 1_000;
const atOnce = 64;
const accounts = 100_000;

const tps: Metric = { key: "tps", label: "tps", digits: 0, hasRatio: true };
const cpu: Metric = { key: "cpuUs", label: "CPU us/tx", digits: 1, hasRatio: true };
const latency: Metric = { key: "p99Ms", label: "p99 ms", digits: 1, hasRatio: true };

export const poolScenarios: readonly Scenario[] = [
  queryScenario("pool-simple", "simple", 64),
  queryScenario("pool-prepared", "prepared", 64),
  {
    name: "pool-tenants",
    title: `${tenants} tenants, ${atOnce} transactions at a time over ${poolSize} upstream sessions; behind PgBouncer the client sets the context`,
    upstream: "trust",
    needsPgbench: false,
    peers: [],
    metrics: [tps, cpu, latency],
    measure: measureTenants,
  },
];

export const poolScenarioNames: readonly string[] = poolScenarios.map(({ name }) => name);

function queryScenario(name: string, mode: QueryMode, clients: number): Scenario {
  return {
    name,
    title: `pgbench -S -M ${mode}, ${clients} clients over ${poolSize} upstream sessions`,
    upstream: "trust",
    needsPgbench: true,
    peers: ["direct"],
    metrics: [tps, cpu],
    measure: (peer, bench) => measureQueries(peer, bench, mode, clients),
  };
}

async function measureQueries(
  { target, processGroup }: RunningPeer,
  { workbench, seconds }: Bench,
  mode: QueryMode,
  clients: number,
): Promise<Sample> {
  await pgbench(workbench, target, { clients, mode, length: { transactions: 1 } });
  const before = cpuTime(processGroup);
  const figures = await pgbench(workbench, target, { clients, mode, length: { seconds } });
  const spent = cpuSince(before, processGroup);
  return { tps: figures.tps, ...(spent !== undefined && { cpuUs: spent.totalUs / figures.transactions }) };
}

async function measureTenants({ target, processGroup }: RunningPeer, { seconds }: Bench): Promise<Sample> {
  const knowsTenants = target.user.includes(".");
  const clients = knowsTenants ? await logInAll(target, tenants) : await logInAll(target, atOnce);
  try {
    const milliseconds: number[] = [];
    const before = cpuTime(processGroup);
    const startedAt = performance.now();
    const end = startedAt + seconds * 1000;
    const free = clients.slice();
    const lane = async (): Promise<void> => {
      while (performance.now() < end) {
        const [client] = free.splice(Math.floor(Math.random() * free.length), 1) as [RawClient];
        const begun = performance.now();
        await transaction(client, knowsTenants);
        milliseconds.push(performance.now() - begun);
        free.push(client);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, lane));
    const elapsed = performance.now() - startedAt;
    const spent = cpuSince(before, processGroup);
    milliseconds.sort((a, b) => a - b);
    return {
      tps: (milliseconds.length * 1000) / elapsed,
      p99Ms: milliseconds[Math.floor(milliseconds.length * 0.99)] ?? Number.NaN,
      ...(spent !== undefined && { cpuUs: spent.totalUs / milliseconds.length }),
    };
  } finally {
    for (const client of clients) client[Symbol.dispose]();
  }
}

async function transaction(client: RawClient, knowsTenants: boolean): Promise<void> {
  const select = `SELECT abalance FROM pgbench_accounts WHERE aid = ${1 + Math.floor(Math.random() * accounts)}`;
  if (knowsTenants) {
    await client.query(select);
    return;
  }
  await client.query("BEGIN");
  await client.query(`SELECT set_config('app.current_tenant_id', 't${Math.floor(Math.random() * tenants)}', true)`);
  await client.query(select);
  await client.query("COMMIT");
}

/** Each client of pgvpd's is another tenant. */
async function logInAll({ user, password, database, ...place }: Target, count: number): Promise<RawClient[]> {
  const [role] = user.split(".");
  const clients: RawClient[] = [];
  for (let at = 0; at < count; at += 1) {
    const login = { user: user.includes(".") ? `${role}.t${at}` : user, password, parameters: { database } };
    clients.push(await RawClient.logIn(place, login));
  }
  return clients;
}
