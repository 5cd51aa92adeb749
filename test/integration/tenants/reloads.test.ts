/** Reloads of the real program while it is used: what changes holds for the next login, and nobody notices the rest. */
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { POOL_MODES } from "../../support/pool-modes.ts";
import { errorOf, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";
import { startTenantProgram, type TenantProgram } from "../../support/tenant-program.ts";

const RELOADS = process.env["PGVPD_TEST_LONG"] === "1" ? 100 : 25;
const CLIENTS = 16;

let fixture: TenantFixture;
beforeAll(async () => {
  fixture = await startTenantFixture();
});
afterAll(async () => {
  await fixture[Symbol.asyncDispose]();
});

describe.each(POOL_MODES)("in $mode mode", (mode) => {
  let program: TenantProgram;
  beforeAll(async () => {
    program = await startTenantProgram(fixture, { mode, settings: { log_connections: false } });
  });
  afterAll(async () => {
    await program[Symbol.asyncDispose]();
  });

  it.each([
    ["tenant_max_connections", 'too many connections of tenant "acme": tenant_max_connections is 1'],
    ["max_client_conn", "too many clients: max_client_conn is 1"],
    ["max_client_conn_per_address", 'too many connections from host "127.0.0.1": max_client_conn_per_address is 1'],
  ])("%s that a reload lowers and raises holds for the next login, and ends nobody", async (setting, message) => {
    await program.reload("");
    const first = await program.connect("acme");
    await (await program.connect("acme")).end();
    await expect.poll(() => program.metric("pgvpd_connections_active"), { interval: 10 }).toBe(1);
    await program.reload("", { [setting]: 1 });
    const refused = await errorOf(program.connect("acme"));
    expect([refused.code, refused.message]).toEqual(["53300", message]);
    await first.query("select 1");
    await program.reload("", { [setting]: 2 });
    // The place of who was refused may be taken for a moment more.
    const second = await vi.waitFor(() => program.connect("acme"));
    await Promise.all([first.end(), second.end()]);
  });

  it(`${RELOADS} reloads under load fail no connection and no query`, { timeout: 120_000 }, async () => {
    await program.reload("");
    const limit = new AbortController();
    const done = { connections: 0, queries: 0 };
    const use = async (client: Client, tenant: string): Promise<void> => {
      const { rows } = await client.query("select current_tenant_id() as tenant, count(*)::int as count from notes");
      expect(rows).toEqual([{ tenant, count: tenant === "acme" ? 2 : 3 }]);
      await client.query("begin");
      await client.query("insert into plain values (1, 'under load')");
      await client.query("rollback");
      done.queries += 4;
    };
    const load = async (at: number): Promise<void> => {
      const tenant = at % 2 === 0 ? "acme" : "globex";
      const stays = at % 4 < 2 ? await program.connect(tenant) : undefined;
      while (!limit.signal.aborted) {
        const client = stays ?? new Client(program.through(tenant));
        if (stays === undefined) {
          await client.connect();
          done.connections += 1;
        }
        await use(client, tenant);
        if (stays === undefined) await client.end();
      }
    };
    const loads = Promise.all(Array.from({ length: CLIENTS }, (_, at) => load(at)));
    // One that fails is seen at once, and not after all the reloads.
    for (let n = 0; n < RELOADS; n += 1) {
      const tenants = `[[tenant]]\nmatch = "acme"\ntenant_max_connections = ${100 + n}\nquery_timeout = ${60 + n}\n`;
      const line = await Promise.race([
        program.reload(n % 2 === 0 ? tenants : "", { max_client_conn: 1_000 + n, client_idle_timeout: 600 + n }),
        loads,
      ]);
      expect(line).toMatchObject({ msg: expect.stringMatching(/^reloaded/) as unknown });
    }
    limit.abort();
    await loads;
    expect(done.connections).toBeGreaterThan(CLIENTS);
    expect(program.proxy.log.filter(({ level }) => level === "error" || level === "fatal")).toEqual([]);
    expect(await program.show("/status")).toMatchObject({ tenant: { rejected_deny: 0, timeouts: 0 } });
  });
});
