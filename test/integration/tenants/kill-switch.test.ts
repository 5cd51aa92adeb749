/**
 * A tenant that is denied while the real program runs loses its sessions within a second, whatever they do, and nothing
 * that they had begun is committed.
 */
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend, startupMessage } from "../../support/bytes.ts";
import { POOL_MODES } from "../../support/pool-modes.ts";
import { RawClient } from "../../support/raw-client.ts";
import { untilRunning } from "../../support/server-side.ts";
import { errorOf, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";
import { startTenantProgram, type TenantProgram } from "../../support/tenant-program.ts";

const RESOLVER_PASSWORD = "the password of resolvers";

/** Answers at once, but for the user "slow". */
const RESOLVERS = `
  [[resolver]]
  name = "plan"
  query = "SELECT 'gold' || pg_sleep(CASE $1 WHEN 'slow' THEN 60 ELSE 0 END)::text AS plan"
  params = ["app.user"]
  inject = { "app.plan" = "plan" }
  timeout = 60`;

let fixture: TenantFixture;
beforeAll(async () => {
  fixture = await startTenantFixture();
  await fixture.asSuperuser(`CREATE ROLE resolver LOGIN PASSWORD '${RESOLVER_PASSWORD}'`);
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
});

/** How a session ended: what its client was told, and when. */
interface End {
  readonly message: string;
  readonly at: number;
}

const endOf = async (failed: Promise<Error & { code?: string }>): Promise<End> => {
  const { code, message } = await failed;
  return { message: `${code} ${message}`, at: performance.now() };
};

/** A session in each of the states that a tenant can have one in; each holds a connection of its pool, or waits for it. */
async function openAll(program: TenantProgram, tenant: string): Promise<Record<string, Promise<End>>> {
  const lost = (client: Client): Promise<Error> => new Promise((resolve) => client.once("error", resolve));
  const write = (what: string): string =>
    `insert into notes (tenant_id, body) values ('${tenant}', '${what} is never committed')`;
  const raw = (): Promise<RawClient> => {
    const { port } = program.proxy;
    const user = `app_user.${tenant}:ann`;
    const password = String(new Client(program.through(tenant)).password);
    return RawClient.logIn({ host: "127.0.0.1", port }, { user, password, parameters: { database: "postgres" } });
  };
  const told = async (client: RawClient): Promise<End> => {
    await client.untilClosed();
    return { message: `${client.error["C"]} ${client.error["M"]}`, at: performance.now() };
  };

  const resolving = endOf(errorOf(new Client(program.through(`${tenant}:slow`)).connect()));
  const [idle, inside, querying, writing, copying, unsynced, pipelining] = await Promise.all([
    program.connect(`${tenant}:ann`),
    program.connect(`${tenant}:bob`),
    program.connect(`${tenant}:ann`),
    program.connect(`${tenant}:ann`),
    raw(),
    raw(),
    raw(),
  ]);
  await idle.query("select 1");
  await inside.query("begin");
  await inside.query(write("a transaction"));
  await querying.query("begin");
  await querying.query(write("a transaction with a query"));
  const queried = endOf(errorOf(querying.query(`select pg_sleep(60), '${tenant} queries'`)));
  const wrote = endOf(errorOf(writing.query(`${write("a statement")}, ('${tenant}', 'nor ' || pg_sleep(4))`)));
  copying.send(frontend.query("copy plain from stdin"));
  await copying.readUntil("G");
  copying.send(frontend.copyData("1\ta COPY is never committed\n"));
  unsynced.send(frontend.parse(write("an unsynced statement")), frontend.bind(), frontend.execute(), frontend.flush);
  await unsynced.readUntil("C");
  pipelining.send(frontend.query(`select pg_sleep(60), '${tenant} pipelines'`), frontend.query(write("a pipeline")));
  await Promise.all([
    untilRunning(fixture, `${tenant} queries`),
    untilRunning(fixture, `${tenant} pipelines`),
    untilRunning(fixture, `'${tenant}', 'nor '`),
  ]);
  await expect
    .poll(() => program.show(`/sessions?tenant=${tenant}`), { interval: 10 })
    .toMatchObject({
      sessions: expect.arrayContaining([expect.objectContaining({ state: "resolving" })]) as unknown,
    });
  return {
    idle: endOf(lost(idle)),
    "in a transaction": endOf(lost(inside)),
    "in a query of a transaction": queried,
    "in a statement that writes": wrote,
    "in a COPY": told(copying),
    "behind a statement without a Sync": told(unsynced),
    "in a pipeline": told(pipelining),
    "in a resolver at login": resolving,
  };
}

/** Who waits for a connection of the pool, where all that the tenant may have are held. */
async function openWaiting(
  program: TenantProgram,
  tenant: string,
  connected: Client | undefined,
): Promise<Record<string, Promise<End>>> {
  const logsIn = endOf(errorOf(new Client(program.through(`${tenant}:eve`)).connect()));
  const asks = connected === undefined ? undefined : endOf(errorOf(connected.query("select 1")));
  const waiting = asks === undefined ? 1 : 2;
  const count = async (): Promise<unknown> => {
    const { pools } = (await program.show("/pools")) as { pools: { waiting: number }[] };
    return pools[0]?.waiting;
  };
  await expect.poll(count, { interval: 10 }).toBe(waiting);
  return { "waiting for a connection at login": logsIn, ...(asks && { "waiting for a connection": asks }) };
}

describe.each(POOL_MODES)("in $mode mode", (poolMode) => {
  const { mode } = poolMode;
  let program: TenantProgram;
  beforeAll(async () => {
    program = await startTenantProgram(fixture, {
      mode: poolMode,
      resolvers: RESOLVERS,
      settings: {
        context_variables: "app.current_tenant_id,app.user",
        resolver_user: "resolver",
        resolver_password: RESOLVER_PASSWORD,
        handshake_timeout: 60,
        // Another tenant finds a connection while this one holds all that it may.
        ...(mode !== "passthrough" && { tenant_pool_size: mode === "session" ? 7 : 6, pool_size: 9 }),
      },
    });
  });
  afterAll(async () => {
    await program[Symbol.asyncDispose]();
  });

  const deny: Record<string, [string, (tenant: string) => Promise<unknown>, () => Promise<unknown>]> = {
    "tenants.toml and SIGHUP": [
      "moved",
      (tenant) => program.reload(`[[tenant]]\nmatch = "${tenant}"\ndeny = "moved"\n`),
      () => program.reload(""),
    ],
    "tenant_deny and SIGHUP": [
      "tenant_deny lists it",
      (tenant) => program.reload("", { tenant_deny: `nobody,${tenant}` }),
      () => program.reload(""),
    ],
    "the HTTP API": [
      "not paid",
      (tenant) => program.order(`/tenants/deny?tenant=${tenant}&reason=not%20paid`),
      () => program.order("/tenants/allow?tenant=initech"),
    ],
  };
  const tenants = ["acme", "hooli", "initech"];

  it.each(
    Object.entries(deny).map(([how, [reason, off, on]], at) => [how, tenants[at] as string, reason, off, on] as const),
  )("%s ends all sessions of %s within a second, and what they do", async (_how, tenant, reason, off, on) => {
    const other = await program.connect("globex:ann");
    await other.query("begin");
    const connected = mode === "transaction" ? await program.connect(`${tenant}:eve`) : undefined;
    const ends = await openAll(program, tenant);
    if (mode !== "passthrough") Object.assign(ends, await openWaiting(program, tenant, connected));
    const late = await RawClient.open({ host: "127.0.0.1", port: program.proxy.port });
    late.send(startupMessage({ user: `app_user.${tenant}:ann`, database: "postgres" }));
    await late.readMessage();

    const begun = performance.now();
    await off(tenant);
    const took: Record<string, number> = {};
    for (const [state, end] of Object.entries(ends)) {
      const { message, at } = await end;
      took[state] = Math.round(at - begun);
      const words = `57P01 terminating connection: tenant "${tenant}" may not connect any more: ${reason}`;
      expect(message, state).toBe(words);
    }
    expect(Math.max(...Object.values(took)), JSON.stringify(took)).toBeLessThan(1_000);

    // What ran on the server has ended, and not as if nothing had been.
    const running = `SELECT query FROM pg_stat_activity WHERE usename = 'app_user' AND (state = 'active' OR strpos(query, '${tenant}') > 0 AND state <> 'idle')`;
    await expect.poll(() => fixture.asSuperuser(running), { timeout: 10_000, interval: 20 }).toEqual([]);
    expect(
      await fixture.asSuperuser(
        `SELECT body FROM notes WHERE tenant_id = '${tenant}' AND body ~ 'never committed|nor' UNION SELECT body FROM plain`,
      ),
    ).toEqual([]);
    expect(await program.show(`/sessions?tenant=${tenant}`)).toMatchObject({ total: 1 });
    late.socket.destroy();

    const refused = await errorOf(program.connect(`${tenant}:ann`));
    expect([refused.code, refused.message]).toEqual(["28000", `tenant "${tenant}" may not connect: ${reason}`]);
    expect((await other.query("select current_tenant_id() as tenant")).rows).toEqual([{ tenant: "globex" }]);
    await other.end();
    await on();
    const back = await program.connect(`${tenant}:ann`);
    await back.query("select 1");
    await back.end();
    await expect.poll(() => program.metric("pgvpd_connections_active"), { interval: 10 }).toBe(0);
  });
});
