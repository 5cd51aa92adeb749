/**
 * Clients that go as nobody should, or come as nobody may, leave nothing behind in the real program: no count, no
 * connection of the pool, no descriptor, no memory.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SSL_REQUEST, startupMessage } from "../../support/bytes.ts";
import { POOL_MODES } from "../../support/pool-modes.ts";
import { canMeasureProcesses, openSockets, residentMiB } from "../../support/process-usage.ts";
import { RawClient } from "../../support/raw-client.ts";
import { startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";
import { startTenantProgram, type TenantProgram } from "../../support/tenant-program.ts";

/** Of each of five kinds. */
const REJECTIONS = process.env["PGVPD_TEST_LONG"] === "1" ? 2_000 : 20;

let fixture: TenantFixture;
beforeAll(async () => {
  fixture = await startTenantFixture();
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
});

const EACH = 2;
const HELD = 5 * EACH;
const WAITING = 3;

/** Opens `count` clients in each state, says so, and stays. */
const CLIENTS = `
  import { Client } from "pg";
  const [url, count] = process.argv.slice(1);
  const ignore = () => {};
  const states = {
    idle: async (client) => client.query("select 1"),
    inTransaction: async (client) => {
      await client.query("begin");
      await client.query("insert into plain values (1, 'of one that was killed')");
    },
    inQuery: async (client) => {
      await client.query("begin");
      await client.query("insert into plain values (1, 'of one that was killed')");
      client.query("select pg_sleep(60)").catch(ignore);
    },
    pinned: async (client) => client.query("listen news"),
    notReading: async (client) => {
      client.connection.stream.pause();
      client.query("select repeat('x', 1000000) from generate_series(1, 100)").catch(ignore);
    },
  };
  const all = Object.values(states).flatMap((become) => Array.from({ length: Number(count) }, async () => {
    const client = new Client(url);
    client.on("error", ignore);
    await client.connect();
    await become(client);
  }));
  await Promise.all(all);
  // These wait for the pool, where there is one.
  for (let n = 0; n < ${WAITING}; n += 1) {
    const client = new Client(url);
    client.on("error", ignore);
    client.connect().catch(ignore);
  }
  setTimeout(() => console.log("ready"), 100);
  setInterval(ignore, 1000);
`;

async function openClients(program: TenantProgram, tenant: string) {
  const url = program.through(tenant).connectionString ?? "";
  const child = spawn(process.execPath, ["--input-type=module", "-e", CLIENTS, url, String(EACH)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "close");
  const [line] = (await Promise.race([once(createInterface({ input: child.stdout }), "line"), ended])) as [unknown];
  expect(line).toBe("ready");
  return { send: (signal: NodeJS.Signals) => child.kill(signal), ended };
}

interface Pools {
  readonly pools: readonly { readonly total: number; readonly idle: number; readonly waiting: number }[];
}

/** Every count is zero again, in each place where it is to be seen, and the pool is whole. */
async function untilNothing(program: TenantProgram): Promise<void> {
  const counts = async () => ({
    sessions: ((await program.show("/sessions")) as { total: number }).total,
    tenants: ((await program.show("/tenants")) as { total: number }).total,
    status: ((await program.show("/status")) as { connections_active: number }).connections_active,
    metric: await program.metric("pgvpd_connections_active"),
    inUse: ((await program.show("/pools")) as Pools).pools.reduce(
      (sum, { total, idle, waiting }) => sum + total - idle + waiting,
      0,
    ),
  });
  const none = { sessions: 0, tenants: 0, status: 0, metric: 0, inUse: 0 };
  await expect.poll(counts, { timeout: 20_000, interval: 20 }).toEqual(none);
}

describe.each(POOL_MODES)("in $mode mode", (poolMode) => {
  const { mode, password } = poolMode;
  let program: TenantProgram;
  beforeAll(async () => {
    program = await startTenantProgram(fixture, {
      mode: poolMode,
      settings: {
        tenant_max_connections: HELD + WAITING,
        tenant_deny: "blocked",
        login_throttle: 0,
        // Who hangs during login is nobody's session yet.
        handshake_timeout: 3,
        half_close_timeout: 1,
        ...(mode !== "passthrough" && { pool_size: HELD }),
      },
      tenants: `[[tenant]]\nmatch = "fast"\ntenant_rate_limit = 1\n[[tenant]]\nmatch = "full"\ntenant_max_connections = 1\n`,
    });
  });
  afterAll(async () => {
    await program[Symbol.asyncDispose]();
  });

  const place = () => ({ host: "127.0.0.1", port: program.proxy.port });

  it("clients that are killed leave no count, no connection and no row, and their place to others", async () => {
    const clients = await openClients(program, "acme");
    expect(await program.show("/tenants")).toMatchObject({
      tenants: [{ tenant: "acme", connections: HELD + WAITING }],
    });
    clients.send("SIGKILL");
    await clients.ended;
    await untilNothing(program);
    // What nobody waits for any more would use the server beyond the tenant's limit.
    const running = "SELECT query FROM pg_stat_activity WHERE usename = 'app_user' AND state = 'active'";
    await expect.poll(() => fixture.asSuperuser(running), { timeout: 10_000, interval: 20 }).toEqual([]);
    expect(await fixture.asSuperuser("SELECT body FROM plain")).toEqual([]);
    const again = await Promise.all(Array.from({ length: HELD }, () => program.connect("acme")));
    await Promise.all(again.map((client) => client.end()));
    const next = await program.connect("globex");
    expect((await next.query("select pg_listening_channels()")).rows).toEqual([]);
    expect((await next.query("select current_tenant_id() as tenant")).rows).toEqual([{ tenant: "globex" }]);
    await next.end();
  });

  it("clients that hang, and never close, are ended when their tenant is denied, and leave nothing", async () => {
    const clients = await openClients(program, "hooli");
    clients.send("SIGSTOP");
    await program.order("/tenants/deny?tenant=hooli&reason=gone");
    await untilNothing(program);
    await program.order("/tenants/allow?tenant=hooli");
    expect(await fixture.asSuperuser("SELECT body FROM plain")).toEqual([]);
    clients.send("SIGKILL");
    await clients.ended;
  });

  it("logins that end in the middle, at any stage, leave nothing", async () => {
    const login = { user: "app_user.acme", password, parameters: { database: "postgres" } };
    const startup = startupMessage({ user: login.user, ...login.parameters });
    const end = async (client: RawClient, isAbrupt: boolean): Promise<void> => {
      if (isAbrupt) client.socket.resetAndDestroy();
      else client.socket.end();
      await client.untilClosed();
    };
    const sent: Buffer[] = [Buffer.alloc(0), SSL_REQUEST, startup.subarray(0, 3), startup.subarray(0, 20), startup];
    const ends = [true, false].flatMap((isAbrupt) => [
      ...sent.map(async (bytes) => {
        const client = await RawClient.open(place());
        client.send(bytes);
        if (bytes === startup) await client.readMessage();
        await end(client, isAbrupt);
      }),
      // In the SASLInitialResponse, behind it, in the last answer, behind it while the context is set.
      ...[5, 80, 150, 180, 240, 250].map(async (more) => {
        const client = await RawClient.open(place());
        await client.logIn({ ...login, endAfter: startup.length + more, isAbrupt });
        await end(client, isAbrupt);
      }),
    ]);
    await Promise.all(ends);
    await untilNothing(program);
  });

  it.skipIf(!canMeasureProcesses)(
    `${REJECTIONS} refused logins of each kind leave nothing behind`,
    { timeout: 600_000 },
    async () => {
      const held = await program.connect("full");
      const { pid } = program.proxy;
      const kinds: Record<string, { user: string; password: string; code: string }> = {
        deny: { user: "app_user.blocked", password, code: "28000" },
        limit: { user: "app_user.full", password, code: "53300" },
        rate: { user: "app_user.fast", password, code: "53300" },
        password: { user: "app_user.acme", password: "wrong", code: "28P01" },
        "a made-up tenant": { user: "app_user.tenant", password: "wrong", code: "28P01" },
      };
      const refuse = async (kind: string, at: number): Promise<void> => {
        const { user, password: given, code } = kinds[kind] as { user: string; password: string; code: string };
        const name = kind === "a made-up tenant" ? `${user}${at}` : user;
        using client = await RawClient.open(place());
        await client.logIn({ user: name, password: given, parameters: { database: "postgres" } });
        if (kind !== "rate" || client.error["C"] !== undefined) expect(client.error["C"], kind).toBe(code);
      };
      const refuseAll = async (count: number): Promise<void> => {
        for (const kind of Object.keys(kinds)) {
          let at = 0;
          const worker = async (): Promise<void> => {
            while (at < count) await refuse(kind, at++);
          };
          await Promise.all(Array.from({ length: 8 }, worker));
        }
      };
      await refuseAll(Math.min(REJECTIONS, 200));
      const before = { sockets: openSockets(pid), memory: residentMiB(pid) };
      await refuseAll(REJECTIONS);
      await expect.poll(() => program.metric("pgvpd_connections_active"), { interval: 20 }).toBe(1);
      await held.end();
      await untilNothing(program);
      expect(openSockets(pid)).toBeLessThanOrEqual(before.sockets);
      expect(residentMiB(pid) - before.memory, "MiB gained").toBeLessThan(96);
    },
  );
});
