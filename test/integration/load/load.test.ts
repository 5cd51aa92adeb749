/**
 * Many sessions, many logins in a row, clients that do not read or send without end: the proxy, a process of its own in
 * front of a scripted upstream, keeps its memory, gives its descriptors back and is idle afterwards. Nothing here is
 * about speed. PGVPD_LOAD=0.1 makes everything a tenth.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { client as frontend, header, server } from "../../support/bytes.ts";
import { startLoadUpstream, streamLength, streamQuery, type LoadUpstream } from "../../support/load-upstream.ts";
import {
  canMeasureProcesses,
  descriptorLimit,
  openSockets,
  processorMs,
  residentMiB,
} from "../../support/process-usage.ts";
import { startProxyProcess, type ProxyProcess } from "../../support/proxy-process.ts";
import { RawClient } from "../../support/raw-client.ts";

const factor = Number(process.env["PGVPD_LOAD"] ?? "1");
/** This process holds both ends, the client's and the upstream's; the proxy holds as many. */
const mostIdle = canMeasureProcesses ? Math.floor((descriptorLimit() - 500) / 2) : 0;
const idleWanted = Math.round(5_000 * factor);
const idle = Math.min(idleWanted, mostIdle);
const shortage = idle < idleWanted ? ` (ulimit -n allows no more; ${idleWanted} wanted)` : "";
const connects = Math.round(20_000 * factor);
const busy = Math.round(idle / 5);
const MEBIBYTE = 1024 * 1024;
const GIBIBYTE = 1024 * MEBIBYTE;
const resultBytes = Math.round(GIBIBYTE * factor);
const bindBytes = Math.round((GIBIBYTE / 2) * factor);

describe.skipIf(!canMeasureProcesses)("the proxy under load", () => {
  let upstream: LoadUpstream;
  let proxy: ProxyProcess;
  let socketsAtStart: number;
  const logIn = (tenant: string): Promise<RawClient> => RawClient.logIn(proxy, { user: `app_user.${tenant}` });
  const warmUp = async (): Promise<void> => {
    for (let round = 0; round < 50; round++) {
      using client = await logIn("warm");
      await client.query("warm");
    }
  };
  const untilEmpty = (): Promise<void> =>
    expect
      .poll(() => [upstream.connections, openSockets(proxy.pid)], { timeout: 30_000, interval: 50 })
      .toEqual([0, socketsAtStart]);

  beforeAll(async () => {
    upstream = await startLoadUpstream();
    const { host, port } = upstream;
    const settings = { upstream_host: host, upstream_port: port, log_connections: false, log_disconnections: false };
    proxy = await startProxyProcess({ settings });
    socketsAtStart = openSockets(proxy.pid);
    await warmUp();
  });
  afterAll(async () => {
    await proxy?.stop();
    await upstream?.[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    await untilEmpty();
    const before = processorMs(proxy.pid);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    expect(processorMs(proxy.pid) - before, "processor time of an idle second, in ms").toBeLessThan(100);
    expect(proxy.log.filter(({ level }) => level === "error")).toEqual([]);
  });

  it(`holds ${idle} idle sessions${shortage} and serves others meanwhile`, { timeout: 120_000 }, async () => {
    const before = residentMiB(proxy.pid);
    const held = await openMany(idle, 100, () => logIn("idle"));
    expect(upstream.connections).toBe(idle);
    using other = await logIn("busy");
    for (let round = 0; round < 100; round++) expect((await other.query("still there?")).at(-1)?.type).toBe("Z");
    // Two sockets, two read buffers of which an idle session touches little, and the session itself.
    const perSession = ((residentMiB(proxy.pid) - before) * 1024) / idle;
    expect(perSession, "KiB a session").toBeLessThan(200);
    for (const client of held) client.socket.destroy();
  });

  it(
    `holds ${busy} idle sessions that have each read 1 MiB, and not what they read it with`,
    { timeout: 120_000 },
    async () => {
      const before = residentMiB(proxy.pid);
      const held = await openMany(busy, 20, async () => {
        const client = await logIn("reader");
        const received = countBytes(client, MEBIBYTE);
        client.send(frontend.query(streamQuery(MEBIBYTE)));
        await received;
        return client;
      });
      expect(upstream.connections).toBe(busy);
      expect(((residentMiB(proxy.pid) - before) * 1024) / busy, "KiB a session").toBeLessThan(200);
      for (const client of held) client.socket.destroy();
    },
  );

  it(`survives ${connects} logins in a row, and its memory stays`, { timeout: 180_000 }, async () => {
    const before = upstream.logins;
    let measured = 0;
    await openMany(connects, 16, async (index) => {
      const client = await logIn(`tenant${index % 100}`);
      client.send(frontend.terminate);
      await client.untilClosed();
      if (index === Math.floor(connects / 2)) measured = residentMiB(proxy.pid);
    });
    expect(upstream.logins - before).toBe(connects);
    expect(residentMiB(proxy.pid) - measured, "MiB gained by the second half").toBeLessThan(64);
  });

  it("survives 1000 connects that send nothing and close", { timeout: 60_000 }, async () => {
    await openMany(1_000, 50, async (index) => {
      const client = await RawClient.open(proxy);
      if (index % 2 === 0) client.socket.resetAndDestroy();
      else client.socket.end();
      await client.untilClosed();
    });
  });

  it(
    `holds a result of ${Math.round(resultBytes / 1024 / 1024)} MiB back that its client does not read`,
    { timeout: 120_000 },
    async () => {
      const before = residentMiB(proxy.pid);
      using sluggish = await logIn("sluggish");
      sluggish.socket.pause();
      const streamedBefore = upstream.streamedBytes;
      sluggish.send(frontend.query(streamQuery(resultBytes)));
      using other = await logIn("other");
      // It has come to rest when no byte more was taken while another client asked a hundred times.
      let taken = -1;
      let peak = 0;
      while (taken !== upstream.streamedBytes) {
        taken = upstream.streamedBytes;
        for (let round = 0; round < 100; round++) {
          expect((await other.query("unaffected?")).at(-1)?.type).toBe("Z");
        }
        peak = Math.max(peak, residentMiB(proxy.pid));
      }
      expect(taken - streamedBefore).toBeGreaterThan(0);
      expect(taken - streamedBefore, "bytes between upstream and client").toBeLessThan(64 * 1024 * 1024);
      expect(peak - before, "MiB gained").toBeLessThan(64);
    },
  );

  it(
    `passes a result of ${Math.round(resultBytes / 1024 / 1024)} MiB to a client that reads, whole and in bounded memory`,
    { timeout: 120_000 },
    async () => {
      const before = residentMiB(proxy.pid);
      using client = await logIn("reader");
      const received = countBytes(client, resultBytes);
      client.send(frontend.query(streamQuery(resultBytes)));
      let peak = 0;
      const watch = setInterval(() => (peak = Math.max(peak, residentMiB(proxy.pid))), 50);
      expect(await received.finally(() => clearInterval(watch))).toBe(streamLength(resultBytes));
      expect(peak - before, "MiB gained").toBeLessThan(96);
    },
  );

  it(
    `passes a Bind of ${Math.round(bindBytes / 1024 / 1024)} MiB on in bounded memory`,
    { timeout: 120_000 },
    async () => {
      const before = residentMiB(proxy.pid);
      using client = await logIn("sender");
      const receivedBefore = upstream.receivedBytes;
      client.send(header("B", bindBytes + 4));
      const piece = Buffer.alloc(1024 * 1024, 0x20);
      let peak = 0;
      for (let sent = 0; sent < bindBytes; sent += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, bindBytes - sent));
        await new Promise<void>((resolve) => client.socket.write(part, () => resolve()));
        peak = Math.max(peak, residentMiB(proxy.pid));
      }
      await expect.poll(() => upstream.receivedBytes - receivedBefore, { timeout: 30_000 }).toBe(bindBytes + 5);
      expect((await client.query("still there?")).at(-1)?.type).toBe("Z");
      expect(peak - before, "MiB gained").toBeLessThan(64);
    },
  );
});

/** Runs `open` so many times, `width` at a time. */
async function openMany<T>(count: number, width: number, open: (index: number) => Promise<T>): Promise<T[]> {
  const opened: T[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < count) opened.push(await open(next++));
  };
  await Promise.all(Array.from({ length: width }, worker));
  return opened;
}

/** Reads up to a ReadyForQuery behind at least `least` bytes, and keeps nothing; resolves with the number of bytes. */
function countBytes({ socket }: RawClient, least: number): Promise<number> {
  socket.removeAllListeners("data");
  const ready = server.readyForQuery();
  let count = 0;
  let end = Buffer.alloc(0);
  return new Promise((resolve, reject) => {
    socket.on("data", (chunk: Buffer) => {
      count += chunk.length;
      end = Buffer.concat([end, chunk]).subarray(-ready.length);
      if (count > least && end.equals(ready)) resolve(count);
    });
    socket.on("close", () => reject(new Error(`closed behind ${count} bytes`)));
  });
}
