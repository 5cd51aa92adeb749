/**
 * Scenarios of bulk data: one client repeats a COPY of some 200 MB until half the measuring time has passed. Wide rows
 * measure the moving of bytes, narrow ones what a proxy does for each message. COPY in goes into an unprotected table
 * through `WHERE false`, so that the server parses every row and stores none, and rounds do not slow each other down.
 */
import { cpuSince, cpuTime } from "../measure/processes.ts";
import { message, RawClient } from "../measure/raw-client.ts";
import type { RunningPeer } from "../peer.ts";
import type { Bench, Metric, Sample, Scenario } from "../scenario.ts";

const bytesPerMegabyte = 1e6;
const wideRow = `${"x".repeat(999)}\n`;
const rowsPerChunk = 64;
const chunksPerCopy = 3200;

const metrics: readonly Metric[] = [
  { key: "megabytesPerSecond", label: "MB/s", digits: 0, hasRatio: true },
  { key: "cpuUs", label: "CPU us/MB", digits: 0, hasRatio: true },
  { key: "userCpuUs", label: "of it user", digits: 0, hasRatio: false },
];

export const copyScenarios: readonly Scenario[] = [
  copyOutScenario("copy-out", "COPY TO STDOUT, rows of 1,000 bytes", "repeat('x', 999)", 200_000),
  copyOutScenario("copy-out-narrow", "COPY TO STDOUT, rows of 12 bytes", "'elevenbytes'", 2_000_000),
  copyInScenario(),
];

function copyOutScenario(name: string, title: string, expression: string, rows: number): Scenario {
  const sql = `COPY (SELECT ${expression} FROM generate_series(1, ${rows})) TO STDOUT`;
  return {
    name,
    title: `${title}, one client that reads and discards`,
    upstream: "trust",
    needsPgbench: false,
    metrics,
    measure: (peer, bench) =>
      measureCopies(peer, bench, async (client) => {
        const bytes = await client.query(sql);
        if (bytes < rows * 12) throw new Error(`COPY ended after ${bytes} bytes`);
        return bytes;
      }),
  };
}

function copyInScenario(): Scenario {
  const copyData = message("d", Buffer.from(wideRow));
  const chunk = Buffer.concat(Array.from({ length: rowsPerChunk }, () => copyData));
  return {
    name: "copy-in",
    title: "COPY FROM STDIN into an unprotected table, rows of 1,000 bytes, one client",
    upstream: "trust",
    needsPgbench: false,
    metrics,
    measure: (peer, bench) =>
      measureCopies(peer, bench, async (client) => {
        await client.copyIn("COPY bench_sink FROM STDIN WHERE false", chunk, chunksPerCopy);
        return chunk.length * chunksPerCopy;
      }),
  };
}

async function measureCopies(
  peer: RunningPeer,
  bench: Bench,
  copy: (client: RawClient) => Promise<number>,
): Promise<Sample> {
  const client = await RawClient.login(peer.target);
  try {
    const cpuBefore = cpuTime(peer.processGroup);
    const startedAt = performance.now();
    let bytes = 0;
    let elapsedMs = 0;
    while (elapsedMs < bench.seconds * 500) {
      bytes += await copy(client);
      elapsedMs = performance.now() - startedAt;
    }
    const spent = cpuSince(cpuBefore, peer.processGroup);
    const megabytes = bytes / bytesPerMegabyte;
    const speed = { megabytesPerSecond: megabytes / (elapsedMs / 1000) };
    if (spent === undefined) return speed;
    return { ...speed, cpuUs: spent.totalUs / megabytes, userCpuUs: spent.userUs / megabytes };
  } finally {
    client.close();
  }
}
