/** Each limit of tenants and clients at its edge, on a real server: who is just within gets in, the next one hears why not. */
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { SettingValues } from "../../../src/index.ts";
import { POOL_MODES } from "../../support/pool-modes.ts";
import { RawClient, sendCancel } from "../../support/raw-client.ts";
import { errorOf, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const UUID = "0b6f7c52-9f3e-4c1d-8a57-3d2e1f0a9b8c";
/** The tenant, and who it is of its users. */
const TWO = "app.current_tenant_id,app.user";
const SPELLINGS = [UUID.toUpperCase(), `{${UUID}}`, UUID.replaceAll("-", "")];

let fixture: TenantFixture;
beforeAll(async () => {
  // A client that is passed through is a connection of the server's before it has proved anything.
  fixture = await startTenantFixture({ settings: { max_connections: "150" } });
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
});

describe.each(POOL_MODES)("in $mode mode", ({ mode, settings, password }) => {
  async function open(more: SettingValues) {
    const { proxy, port } = await fixture.proxyWith({ ...settings, ...more });
    const connect = async (tenant: string): Promise<Client> => {
      const user = `app_user.${tenant}`;
      const client = new Client({ host: "127.0.0.1", port, user, password, database: "postgres" });
      client.on("error", () => {});
      await client.connect();
      onTestFinished(() => client.end());
      return client;
    };
    const refusal = async (tenant: string): Promise<string> => {
      const { code, message } = await errorOf(connect(tenant));
      return `${code} ${message}`;
    };
    const metric = async (line: RegExp): Promise<string | undefined> => line.exec(await proxy.metrics.metrics())?.[1];
    return { port, connect, refusal, metric };
  }

  /** Of each connection: undefined where it got in. */
  async function outcomes(logins: readonly Promise<Client>[]) {
    const results = await Promise.allSettled(logins);
    const inside = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    const errors = results.flatMap((result) =>
      result.status === "rejected" ? [result.reason as Error & { code: string }] : [],
    );
    return { inside, errors };
  }

  it("tenant_deny goes by the tenant alone, exact or by a pattern", async () => {
    const { connect, refusal, metric } = await open({ context_variables: TWO, tenant_deny: "blocked,tri*" });
    await Promise.all(["acme:blocked", "blocked2:ann", "Blocked:ann", "tr:ial"].map(connect));
    const denied = "may not connect: tenant_deny lists it";
    expect(await refusal("blocked:user1")).toBe(`28000 tenant "blocked" ${denied}`);
    expect(await refusal("trial:acme")).toBe(`28000 tenant "trial" ${denied}`);
    expect(await refusal("tri:acme")).toBe(`28000 tenant "tri" ${denied}`);
    expect(await metric(/^pgvpd_tenant_rejected_total\{reason="deny"\} (\d+)$/m)).toBe("3");
  });

  it("tenant_allow goes by the tenant alone, in any spelling of a UUID", async () => {
    const { connect, refusal } = await open({ context_variables: TWO, tenant_allow: `acme,glo*,${UUID}` });
    await Promise.all(["acme:user1", "globex:ann", ...SPELLINGS.map((name) => `${name}:ann`)].map(connect));
    for (const tenant of ["acm", "acme2", "ACME", "user1"]) {
      const reason = "may not connect: tenant_allow does not list it";
      expect(await refusal(`${tenant}:acme`)).toBe(`28000 tenant "${tenant}" ${reason}`);
    }
  });

  it("tenant_deny knows every spelling of a UUID", async () => {
    const { refusal } = await open({ tenant_deny: `{${UUID.toUpperCase()}}` });
    for (const name of [UUID, ...SPELLINGS]) {
      expect(await refusal(name)).toBe(`28000 tenant "${name}" may not connect: tenant_deny lists it`);
    }
  });

  it("tenant_max_connections = 10 lets exactly ten of a hundred in at once, and ten again when those have left", async () => {
    const { connect, metric } = await open({ tenant_max_connections: 10, pool_size: 20 });
    for (const [logins, rejected] of [
      [100, "90"],
      [20, "100"],
    ] as const) {
      const { inside, errors } = await outcomes(Array.from({ length: logins }, () => connect("acme")));
      expect(inside.length).toBe(10);
      const words = new Set(errors.map(({ code, message }) => `${code} ${message}`));
      expect([...words]).toEqual(['53300 too many connections of tenant "acme": tenant_max_connections is 10']);
      await connect("globex");
      await Promise.all(inside.map((client) => client.query("select 1")));
      expect(await metric(/^pgvpd_tenant_rejected_total\{reason="limit"\} (\d+)$/m)).toBe(rejected);
      await Promise.all(inside.map((client) => client.end()));
      await expect.poll(() => metric(/^pgvpd_connections_active (\d+)$/m)).toBe(logins === 100 ? "1" : "2");
    }
  });

  it("tenant_max_connections counts the spellings of a UUID, and all users of a tenant, together", async () => {
    const { connect, refusal } = await open({
      tenant_max_connections: 2,
      context_variables: TWO,
    });
    await connect(`${SPELLINGS[0]}:ann`);
    const second = await connect(`${SPELLINGS[1]}:bob`);
    expect(await refusal(`${SPELLINGS[2]}:eve`)).toMatch(/^53300 .*tenant_max_connections is 2$/);
    await second.end();
    await expect.poll(() => connect(`${SPELLINGS[2]}:eve`)).toBeInstanceOf(Client);
  });

  it("tenant_rate_limit lets so many in at once, and then so many in a second", async () => {
    const { connect, refusal } = await open({ tenant_rate_limit: 3, pool_size: 20 });
    const begun = performance.now();
    const { inside, errors } = await outcomes(Array.from({ length: 30 }, () => connect("acme")));
    const seconds = (performance.now() - begun) / 1_000;
    expect(inside.length).toBeGreaterThanOrEqual(3);
    expect(inside.length).toBeLessThanOrEqual(3 + Math.floor(3 * seconds));
    const words = new Set(errors.map(({ code, message }) => `${code} ${message}`));
    expect([...words]).toEqual(['53300 too many new connections of tenant "acme": tenant_rate_limit is 3 a second']);
    await connect("globex");
    await expect.poll(() => refusal("acme").catch(() => "got in"), { interval: 100 }).toBe("got in");
  });

  it("max_client_conn refuses the next one, and carries its CancelRequest out", async () => {
    const { connect, refusal, port } = await open({ max_client_conn: 2 });
    const client = await connect("acme");
    const other = await connect("globex");
    expect(await refusal("acme")).toBe("53300 too many clients: max_client_conn is 2");
    const slow = errorOf(client.query("select pg_sleep(60)"));
    const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
    const secret = Buffer.alloc(4);
    secret.writeInt32BE(secretKey);
    let isCancelled = false;
    const cancel = (): Promise<unknown> => sendCancel({ host: "127.0.0.1", port }, { processId: processID, secret });
    void slow.then(() => (isCancelled = true));
    // One that comes before the query does is lost, as with PostgreSQL.
    await expect.poll(async () => (await cancel(), isCancelled), { timeout: 10_000 }).toBe(true);
    expect((await slow).code).toBe("57014");
    await other.end();
    await expect.poll(() => connect("acme")).toBeInstanceOf(Client);
  });

  it("max_client_conn_per_address refuses the next one from there, and none from elsewhere", async () => {
    const { connect, refusal, port } = await open({ max_client_conn_per_address: 2, listen_host: "127.0.0.1" });
    await connect("acme");
    const second = await connect("acme");
    const limit = "max_client_conn_per_address is 2";
    expect(await refusal("globex")).toBe(`53300 too many connections from host "127.0.0.1": ${limit}`);
    const elsewhere = { host: "127.0.0.1", port, localAddress: "127.0.0.2" };
    const login = { user: "app_user.globex", password, parameters: { database: "postgres" } };
    using other = await RawClient.logIn(elsewhere, login);
    expect((await other.query("select 1")).at(-1)?.type).toBe("Z");
    await second.end();
    await expect.poll(() => connect("acme")).toBeInstanceOf(Client);
  });

  it.skipIf(mode === "passthrough")("tenant_pool_size bounds what a tenant holds of a pool", async () => {
    const { connect } = await open({ tenant_pool_size: 2, pool_size: 3, pool_checkout_timeout: 1 });
    const holders = [await connect("acme"), await connect("acme")];
    for (const holder of holders) await holder.query("begin");
    const beyond = async (): Promise<void> => {
      const third = await connect("acme");
      await third.query("select 1");
    };
    const refused = await errorOf(beyond());
    expect([refused.code, refused.message]).toEqual([
      "53300",
      'no pooled connection became free within 1 s: tenant "acme" holds all it may, tenant_pool_size is 2',
    ]);
    // The third connection of the pool is for others.
    await (await connect("globex")).query("select 1");
    const waiting = beyond();
    await holders[0]?.query("commit");
    if (mode === "session") await holders[0]?.end();
    await waiting;
  });
});
