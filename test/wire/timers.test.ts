/** Timers of tenants in a session that is passed through, message by message. */
import { describe, expect, it } from "vitest";
import { client as frontend, server } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { openWire, type WireOptions } from "../support/wire-session.ts";

const LIMIT = 2_000;

async function forwarding(config: WireOptions["config"], user = "app_user.acme") {
  const wire = openWire({
    config: { allowUnsafeRoles: true, ...config },
    upstream: { play: async (upstream) => void (await upstream.logIn()) },
  });
  const { client, session } = await wire.logIn({ user });
  const { upstream } = wire;
  client.received = Buffer.alloc(0);
  const pass = async (ms: number): Promise<void> => {
    for (let left = ms; left > 0; left -= 100) {
      wire.clock.advance(100);
      await quiescence();
    }
  };
  return { wire, client, session, upstream, pass };
}

describe("timers", () => {
  it("query_timeout ends a query with 57014, not those that are short", async () => {
    const { client, upstream, pass } = await forwarding({ queryTimeoutMs: LIMIT });
    for (let n = 0; n < 5; n += 1) {
      client.send(frontend.query("select 1"));
      await pass(LIMIT / 2);
      upstream.send(server.readyForQuery("T"));
      await pass(LIMIT / 2);
    }
    client.received = Buffer.alloc(0);
    client.send(frontend.query("select pg_sleep(9)"));
    await pass(LIMIT - 100);
    expect(client.types).toBe("");
    await pass(1_000);
    expect(client.sqlstate).toBe("57014");
    expect(client.errorResponse["M"]).toBe("canceling statement due to query_timeout: it has run for 2 s");
    expect(upstream.hasEnded).toBe(true);
  });

  it("idle_transaction_timeout ends who sits in a transaction, not who is outside of one", async () => {
    const { client, upstream, pass } = await forwarding({ idleTransactionTimeoutMs: LIMIT });
    await pass(3 * LIMIT);
    client.send(frontend.query("begin"));
    await quiescence();
    upstream.send(server.readyForQuery("T"));
    await pass(LIMIT + 1_000);
    expect(client.sqlstate).toBe("25P03");
  });

  it("idle_transaction_timeout ends who has sent a Parse, and no Sync", async () => {
    const { client, upstream, pass } = await forwarding({ idleTransactionTimeoutMs: LIMIT });
    client.send(frontend.parse("lock table notes"), frontend.bind(), frontend.execute(), frontend.flush);
    await quiescence();
    upstream.send(server.parseComplete, server.bindComplete, server.commandComplete("LOCK TABLE"));
    await pass(LIMIT + 1_000);
    expect(client.sqlstate).toBe("25P03");
  });

  it("transaction_timeout ends a transaction however much happens in it", async () => {
    const { client, upstream, pass } = await forwarding({ transactionTimeoutMs: LIMIT });
    for (let n = 0; n < 4 && !client.hasEnded; n += 1) {
      client.send(frontend.query("select 1"));
      await pass(LIMIT / 4);
      upstream.send(server.readyForQuery("T"));
      await pass(LIMIT / 4);
    }
    await pass(500);
    expect(client.sqlstate).toBe("25P04");
  });

  it("client_idle_timeout ends who is idle, not a query that is slow", async () => {
    const { client, upstream, pass } = await forwarding({ clientIdleTimeoutMs: LIMIT });
    client.send(frontend.query("select pg_sleep(9)"));
    await pass(3 * LIMIT);
    upstream.send(server.readyForQuery());
    await pass(LIMIT - 100);
    expect(client.hasEnded).toBe(false);
    await pass(1_000);
    expect(client.sqlstate).toBe("57P05");
    expect(client.errorResponse["M"]).toBe("terminating connection due to idle-session timeout");
  });

  it("tenant_query_timeout ends silence, and never a session that is used", async () => {
    const { wire, client, upstream, pass } = await forwarding({ tenantQueryTimeoutMs: LIMIT });
    for (let n = 0; n < 10; n += 1) {
      client.send(frontend.query("select 1"));
      upstream.send(server.readyForQuery());
      await pass(LIMIT - 200);
    }
    expect(client.hasEnded).toBe(false);
    await pass(1_200);
    expect(client.sqlstate).toBe("57P05");
    expect(await wire.metric("pgvpd_tenant_timeouts_total")).toBe(1);
  });

  it("are not for users of superuser_bypass", async () => {
    const { session, pass } = await forwarding({ clientIdleTimeoutMs: LIMIT }, "postgres");
    await pass(3 * LIMIT);
    expect(session.state).toBe("forwarding");
  });
});
