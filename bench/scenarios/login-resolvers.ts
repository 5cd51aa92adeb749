/**
 * What resolvers add to a login: one client logs in and leaves, again and again, through the same program without
 * resolvers, with a chain of three whose answers are kept, and with one that is asked at every login.
 */
import { client as frontend } from "../../test/support/bytes.ts";
import { RawClient } from "../../test/support/raw-client.ts";
import type { RunningPeer } from "../peer.ts";
import type { Bench, Sample, Scenario } from "../scenario.ts";
import { quantile } from "../statistics.ts";

export const loginResolvers: Scenario = {
  name: "login-resolvers",
  title:
    "1 client, a login (trust) after the other, with a chain of three resolvers: three round trips where none is kept",
  upstream: "trust",
  needsPgbench: false,
  peers: ["pgvpd"],
  metrics: [
    { key: "medianMs", label: "p50 ms", digits: 2, hasRatio: false },
    { key: "p99Ms", label: "p99 ms", digits: 2, hasRatio: false },
  ],
  measure,
};

async function measure({ target }: RunningPeer, { seconds }: Bench): Promise<Sample> {
  const { user, password, database } = target;
  const tookMs: number[] = [];
  const end = performance.now() + seconds * 1000;
  do {
    const startedAt = performance.now();
    const client = await RawClient.logIn(target, { user, password, parameters: { database } });
    tookMs.push(performance.now() - startedAt);
    client.send(frontend.terminate);
    await client.untilClosed();
  } while (performance.now() < end);
  return { medianMs: quantile(tookMs, 0.5), p99Ms: quantile(tookMs, 0.99) };
}
