/**
 * What an idle client costs in memory: the growth of the proxy's processes when many clients log in, and again after
 * each of them has asked one question, as the idle connections of an application's pool have. As many clients come and go
 * before, so that what a process keeps from its logins is not counted. The kernel's own socket buffers are in neither figure.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { memoryKib } from "../measure/processes.ts";
import { RawClient } from "../measure/raw-client.ts";
import type { RunningPeer } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";

const atOnce = 32;
const settleMs = 500;

export const idleMemory: Scenario = {
  name: "idle-memory",
  title: "memory of the proxy for each idle client, in front of a scripted server that trusts",
  upstream: "scripted",
  needsPgbench: false,
  skipsDirect: true,
  needsFreshPeer: true,
  metrics: [
    { key: "loggedInKib", label: "KiB/client logged in", digits: 1, hasRatio: true },
    { key: "usedKib", label: "KiB/client after a query", digits: 1, hasRatio: true },
  ],
  measure: measureIdleMemory,
};

async function measureIdleMemory(peer: RunningPeer, bench: Bench): Promise<Sample> {
  await repeat(bench.idleConnections, async () => {
    const passing = await RawClient.login(peer.target);
    await passing.query("SELECT 1");
    passing.close();
  });
  const clients: RawClient[] = [];
  try {
    const before = await settledMemoryKib(peer);
    await repeat(bench.idleConnections, async () => {
      clients.push(await RawClient.login(peer.target));
    });
    const loggedIn = await settledMemoryKib(peer);
    await repeat(clients.length, async (index) => {
      await clients[index]?.query("SELECT 1");
    });
    const used = await settledMemoryKib(peer);
    if (before === undefined || loggedIn === undefined || used === undefined) return {};
    return { loggedInKib: (loggedIn - before) / clients.length, usedKib: (used - before) / clients.length };
  } finally {
    for (const client of clients) client.close();
  }
}

async function settledMemoryKib(peer: RunningPeer): Promise<number | undefined> {
  await sleep(settleMs);
  return memoryKib(peer.processGroup);
}

/** Calls `once` with 0 to times - 1, a few at the same time. */
async function repeat(times: number, once: (index: number) => Promise<void>): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < times) await once(next++);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}
