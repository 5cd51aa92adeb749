/**
 * The built program when its surroundings fail: an upstream that is down, comes up, or is killed under its sessions, and
 * a limit of open files that is reached. The listener survives, other sessions go on, and clients hear what happened.
 */
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect, createServer, type Server, type Socket } from "node:net";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend, startupMessage } from "../../support/bytes.ts";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { availableVersions } from "../../support/postgres.ts";
import { canMeasureProcesses, openDescriptors } from "../../support/process-usage.ts";
import { startProxyProcess, type ProxyProcess } from "../../support/proxy-process.ts";
import { RawClient } from "../../support/raw-client.ts";
import { untilRunning } from "../../support/server-side.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const login = { user: "app_user.acme", password: PASSWORD, parameters: { database: "postgres" } };

/** What a login that fails is told. */
async function refusal(proxy: ProxyProcess): Promise<Readonly<Record<string, string>>> {
  const client = await RawClient.open(proxy);
  await client.logIn(login);
  return client.error;
}

async function countNotes(client: RawClient): Promise<string | undefined> {
  const answer = await client.query("SELECT count(*) FROM notes");
  return answer.find(({ type }) => type === "D")?.body.toString("latin1", 6);
}

describe("an upstream", () => {
  let fixture: TenantFixture;
  beforeAll(async () => {
    fixture = await startTenantFixture({ version: "18" });
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it("that is down is 08001 for each client, and works as soon as it is up", async () => {
    const door = await openDoor(fixture.server.port);
    door.close();
    await once(door, "close");
    await using proxy = await startProxyProcess({ settings: { upstream_port: door.port } });
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(await refusal(proxy)).toMatchObject({
        S: "FATAL",
        C: "08001",
        M: "could not connect to the upstream server",
      });
    }
    const line = await proxy.waitForLog(({ code }) => code === "upstream_unreachable");
    expect(line["detail"]).toContain(`127.0.0.1:${door.port}`);
    expect(line["level"]).toBe("error");

    const open = await openDoor(fixture.server.port, door.port);
    using client = await RawClient.logIn(proxy, login);
    expect(await countNotes(client)).toBe("2");
    client.send(frontend.terminate);
    await client.untilClosed();
    open.close();
    expect(await proxy.stop()).toEqual({ code: 0, signal: null });
  });

  it("that accepts and says nothing is 08001 when handshake_timeout is over", async () => {
    const mute = createServer(() => {}).listen(0, "127.0.0.1");
    await once(mute, "listening");
    await using proxy = await startProxyProcess({ settings: { upstream_port: portOf(mute), handshake_timeout: 0.2 } });
    expect(await refusal(proxy)).toMatchObject({ C: "08001", M: "the upstream server did not answer in time" });
    await proxy.stop();
    mute.close();
  });

  it("that says nothing is left as soon as the client is gone", async () => {
    const mute = createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
    await once(mute, "listening");
    const dialled = once(mute, "connection");
    await using proxy = await startProxyProcess({ settings: { upstream_port: portOf(mute), handshake_timeout: 600 } });
    using client = await RawClient.open(proxy);
    client.send(startupMessage({ user: "app_user.acme" }));
    const [upstream] = (await dialled) as [Socket];
    const closed = once(upstream, "end");
    upstream.resume();
    client.socket.end();
    await closed;
    await client.untilClosed();
    upstream.destroy();
    mute.close();
    expect(await proxy.stop()).toEqual({ code: 0, signal: null });
  });

  it("whose name does not resolve is 08001, and the log has the name", async () => {
    const name = `${"x".repeat(64)}.invalid`; // too long for a label: no resolver has to be asked
    await using proxy = await startProxyProcess({ settings: { upstream_host: name } });
    expect(await refusal(proxy)).toMatchObject({ C: "08001" });
    const line = await proxy.waitForLog(({ code }) => code === "upstream_unreachable");
    expect(line["detail"]).toContain(name);
  });

  it("that has no connection left says so in its own words", async () => {
    await fixture.asSuperuser("ALTER ROLE app_user CONNECTION LIMIT 1");
    await using proxy = await startProxyProcess({ settings: { upstream_port: fixture.server.port } });
    using _first = await RawClient.logIn(proxy, login);
    expect(await refusal(proxy)).toMatchObject({ C: "53300", M: 'too many connections for role "app_user"' });
    await fixture.asSuperuser("ALTER ROLE app_user CONNECTION LIMIT -1");
  });

  it("that ends a session says so in its own words, and the others go on", async () => {
    await using proxy = await startProxyProcess({ settings: { upstream_port: fixture.server.port } });
    using ended = await RawClient.logIn(proxy, login);
    using other = await RawClient.logIn(proxy, login);
    ended.send(frontend.query("SELECT pg_sleep(60), 'terminated'"));
    await fixture.asSuperuser(`SELECT pg_terminate_backend(${await untilRunning(fixture, "terminated")})`);
    await ended.untilClosed();
    expect(ended.error).toMatchObject({ C: "57P01", M: "terminating connection due to administrator command" });
    expect(await countNotes(other)).toBe("2");
  });
});

describe.each(availableVersions().filter((version) => ["15", "18"].includes(version)))("PostgreSQL %s", (version) => {
  it("stopped at once (pg_ctl stop -m immediate) ends its sessions with an error, and the listener survives", async () => {
    await using fixture = await startTenantFixture({ version });
    await using proxy = await startProxyProcess({ settings: { upstream_port: fixture.server.port } });
    const idle = await RawClient.logIn(proxy, login);
    const busy = await RawClient.logIn(proxy, login);
    busy.send(frontend.query("SELECT pg_sleep(60), 'busy'"));
    await untilRunning(fixture, "busy");

    const pidFile = await readFile(path.join(fixture.server.dataDir, "postmaster.pid"), "utf8");
    process.kill(Number(pidFile.split("\n")[0]), "SIGQUIT");
    for (const client of [idle, busy]) {
      await client.untilClosed();
      // PostgreSQL's own last words where it found the time for them, else ours.
      expect(client.error["C"]).toMatch(/^(57P01|57P02|08006)$/);
      expect(client.error["S"]).toMatch(/^(FATAL|WARNING)$/);
    }
    expect(await refusal(proxy)).toMatchObject({ C: expect.stringMatching(/^(08001|08006|57P03)$/) as string });
    expect(await proxy.stop()).toEqual({ code: 0, signal: null });
  });

  it("killed behind a session's back is 08006 for the client", async () => {
    await using fixture = await startTenantFixture({ version });
    await using proxy = await startProxyProcess({ settings: { upstream_port: fixture.server.port } });
    using client = await RawClient.logIn(proxy, login);
    process.kill(client.key?.processId ?? 0, "SIGKILL");
    await client.untilClosed();
    expect(client.error).toMatchObject({
      S: "FATAL",
      C: "08006",
      M: "the upstream server closed the connection unexpectedly",
    });
    // The server restarts itself; it is stopped when that is done.
    const isBack = async (): Promise<boolean> =>
      (await fixture.asSuperuser("SELECT pg_is_in_recovery() AS recovering"))[0]?.["recovering"] === false;
    await expect.poll(() => isBack().catch(() => false), { timeout: 20_000, interval: 20 }).toBe(true);
    using later = await RawClient.logIn(proxy, login);
    expect(await countNotes(later)).toBe("2");
  });
});

describeWithTools(["prlimit"], "the limit of open files", (prlimit = "") => {
  it.skipIf(!canMeasureProcesses)("reached is survived: the listener accepts again when there is room", async () => {
    await using fixture = await startTenantFixture({ version: "18" });
    await using proxy = await startProxyProcess({ settings: { upstream_port: fixture.server.port } });
    const limit = openDescriptors(proxy.pid) + 11;
    execFileSync(prlimit, ["--pid", String(proxy.pid), `--nofile=${limit}:${limit}`]);

    // Five sessions take ten descriptors; what comes then finds one or none left, on either side of the proxy.
    const sessions: RawClient[] = [];
    for (let count = 0; count < 5; count++) sessions.push(await RawClient.logIn(proxy, login));
    const surplus = await Promise.all(Array.from({ length: 20 }, () => RawClient.open(proxy)));
    const told = await Promise.all(
      surplus.map(async (client) => {
        await client.logIn(login);
        client.socket.destroy();
        if (client.key !== undefined) return "let in"; // by the descriptor that one that was refused gave back
        return client.error["C"] ?? "closed";
      }),
    );
    for (const outcome of told) expect(outcome).toMatch(/^(08001|closed|let in)$/);

    await proxy.waitForLog(({ detail }) => String(detail).includes("EMFILE"));
    for (const client of sessions) expect(await countNotes(client)).toBe("2");

    for (const client of sessions) {
      client.send(frontend.terminate);
      await client.untilClosed();
    }
    using later = await RawClient.logIn(proxy, login);
    expect(await countNotes(later)).toBe("2");
    later.send(frontend.terminate);
    await later.untilClosed();
    expect(await proxy.stop()).toEqual({ code: 0, signal: null });
  });
});

/** A port that passes connections on: an upstream that can be down while its server runs. */
async function openDoor(target: number, port = 0): Promise<Server & { port: number }> {
  const door = createServer((socket) => {
    const inside = connect(target, "127.0.0.1");
    socket.pipe(inside).pipe(socket);
    socket.on("error", () => inside.destroy());
    inside.on("error", () => socket.destroy());
  }).listen(port, "127.0.0.1");
  await once(door, "listening");
  return Object.assign(door, { port: portOf(door) });
}

function portOf(listener: Server): number {
  const address = listener.address();
  return address !== null && typeof address === "object" ? address.port : 0;
}
