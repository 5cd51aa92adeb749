/**
 * Logins of clients that do not keep to their turn, or go away, on real servers. What is sent behind a login's messages
 * is never executed: the server's own log says so. What a client leaves behind when it goes is nothing.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend, message, startupMessage } from "../../support/bytes.ts";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient, type RawLogin } from "../../support/raw-client.ts";
import {
  AUTH_BY_ROLE,
  createLoginRoles,
  loginRoles,
  readServerLog,
  untilNoBackends,
} from "../../support/server-side.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));

/** How many messages a client sends to log in, its StartupMessage included. */
const messagesOf = { scram: 3, trust: 1, md5: 2, cleartext: 2 } as const;
const methods = Object.keys(messagesOf) as (keyof typeof messagesOf)[];

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  const place = (): { host: string; port: number } => ({ host: "127.0.0.1", port: fixture.port });
  const loginOf = (method: keyof typeof loginRoles): RawLogin => ({
    user: `${loginRoles[method]}.acme`,
    password: PASSWORD,
    parameters: { database: "postgres" },
  });

  beforeAll(async () => {
    fixture = await startTenantFixture({ version, auth: AUTH_BY_ROLE, settings: { log_statement: "all" } });
    await createLoginRoles(fixture);
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it.each(methods)("a %s login sent byte by byte succeeds", async (method) => {
    using client = await RawClient.logIn(place(), { ...loginOf(method), byteByByte: true });
    const rows = await client.query("SELECT count(*) FROM notes");
    expect(rows.find(({ type }) => type === "D")?.body.toString("latin1", 6)).toBe("2");
  });

  const behind = methods.flatMap((method) =>
    Array.from({ length: messagesOf[method] }, (_, index) => ({ method, index })),
  );

  it.each(behind)("a Query behind message $index of a $method login is refused and never executed", async (attack) => {
    const { method, index } = attack;
    const marker = `pipelined_${method}_${index}`;
    const client = await RawClient.open(place());
    const pipelined = { behind: index, bytes: frontend.query(`CREATE TABLE ${marker} (); SELECT '${marker}'`) };
    await client.logIn({ ...loginOf(method), pipelined });
    expect(client.error["C"]).toBe("08P01");
    expect(client.types).not.toContain("Z");
    await untilNoBackends(fixture);
    await fixture.asSuperuser(`SELECT 'after ${marker}'`);
    const log = await readServerLog(fixture);
    expect(log).toContain(`after ${marker}`);
    expect(log.replaceAll(`after ${marker}`, "")).not.toContain(marker);
  });

  it.each([
    ["a second StartupMessage", startupMessage({ user: "app_user.globex", database: "postgres" })],
    ["Parse, Bind, Execute and Sync", Buffer.concat([message("P", "\0SELECT 'extended'\0", 0, 0), frontend.sync])],
    ["a second password", frontend.password(PASSWORD)],
    ["Terminate", frontend.terminate],
    ["garbage", Buffer.alloc(4096, 0xff)],
  ])("%s behind the last answer of a SCRAM login is refused with 08P01", async (_name, bytes) => {
    const client = await RawClient.open(place());
    await client.logIn({ ...loginOf("scram"), pipelined: { behind: 2, bytes } });
    expect(client.error["C"]).toBe("08P01");
    expect(client.types).not.toContain("Z");
  });

  it.each([
    ["a Query", frontend.query("SELECT 'smuggled'")],
    ["a password of length -1", Buffer.concat([Buffer.from("p"), Buffer.of(0xff, 0xff, 0xff, 0xff)])],
    ["a password of length 2^31-1", Buffer.concat([Buffer.from("p"), Buffer.of(0x7f, 0xff, 0xff, 0xff)])],
    ["a password of length 3", Buffer.concat([Buffer.from("p"), Buffer.of(0, 0, 0, 3)])],
  ])("%s in place of a password is refused with 08P01 at once", async (_name, bytes) => {
    const client = await RawClient.open(place());
    client.send(startupMessage({ user: "app_user.acme", database: "postgres" }));
    await client.readUntil("R");
    client.send(bytes);
    await client.untilClosed();
    expect(client.error["C"]).toBe("08P01");
    await untilNoBackends(fixture);
    expect(await readServerLog(fixture)).not.toContain("smuggled");
  });

  describe.each([
    { leaves: "ends its half", isAbrupt: false },
    { leaves: "resets the connection", isAbrupt: true },
  ])("a client that $leaves", ({ isAbrupt }) => {
    it.each(methods)("behind any byte of a %s login leaves nothing", async (method) => {
      const login = { ...loginOf(method), isAbrupt };
      const whole = await bytesOfLogin(place(), login);
      const before = resources();
      for (let from = 1; from < whole; from += 40) {
        const cuts = Array.from({ length: Math.min(40, whole - from) }, (_, index) => from + index);
        await Promise.all(
          cuts.map(async (endAfter) => {
            const client = await RawClient.open(place());
            await client.logIn({ ...login, endAfter });
            expect(client.types, `ended behind byte ${endAfter}`).not.toContain("Z");
          }),
        );
      }
      await expect.poll(() => fixture.proxy.sessionCount, { timeout: 20_000, interval: 10 }).toBe(0);
      await untilNoBackends(fixture);
      const after = resources();
      expect(after.sockets).toBeLessThanOrEqual(before.sockets);
      expect(after.timers).toBeLessThan(before.timers + 5);
    });
  });

  it("leaves the CPU idle after all of that", async () => {
    const start = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    const { user, system } = process.cpuUsage(start);
    expect((user + system) / 1000).toBeLessThan(300);
  });
});

/** How many bytes a client sends in such a login. */
async function bytesOfLogin(place: { host: string; port: number }, login: RawLogin): Promise<number> {
  using client = await RawClient.logIn(place, { ...login, isAbrupt: false });
  return client.socket.bytesWritten;
}

/** What keeps this process busy: the proxy runs in it. */
function resources(): { sockets: number; timers: number } {
  const active = process.getActiveResourcesInfo();
  return {
    sockets: active.filter((kind) => kind === "TCPSocketWrap").length,
    timers: active.filter((kind) => kind === "Timeout").length,
  };
}
