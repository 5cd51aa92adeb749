/** Limits of tenants and clients in whole sessions: after which proof they count, and that nothing is left of them. */
import { describe, expect, it } from "vitest";
import { cancelRequest, startupMessage } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { openWire } from "../support/wire-session.ts";

const REJECTED = "pgvpd_tenant_rejected_total";

describe("a tenant", () => {
  it("that is denied hears why when it has proved its credential, and not before", async () => {
    const wire = openWire({ config: { tenantDeny: ["acme"] }, upstream: { auth: "scram" } });
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
    expect(client.errorResponse["M"]).toBe('tenant "acme" may not connect: tenant_deny lists it');
    expect(client.hasEnded).toBe(true);
    expect(wire.upstream.hasEnded).toBe(true);
    expect(await wire.metric(REJECTED, { reason: "deny" })).toBe(1);
  });

  it("without a password uses none of its places", async () => {
    const wire = openWire({ config: { tenantMaxConnections: 1 }, upstream: { auth: "scram" } });
    const { session } = await wire.logIn({ answers: false });
    expect(session.state).toBe("authenticating");
    const second = await wire.logIn();
    expect(second.session.state).toBe("forwarding");
  });

  it("gets exactly ten of a hundred logins at once, and its places back however they end", async () => {
    const wire = openWire({ config: { tenantMaxConnections: 10 } });
    for (let round = 0; round < 2; round += 1) {
      const all = Array.from({ length: 100 }, () => {
        const connection = wire.connect();
        connection.client.send(startupMessage({ user: "app_user.acme" }));
        return connection;
      });
      await quiescence();
      const inside = all.filter(({ session }) => session.state === "forwarding");
      expect(inside.length).toBe(10);
      const refused = all.filter(({ client }) => client.sqlstate === "53300");
      expect(refused.length).toBe(90);
      expect(wire.services.admissions.countOf("acme")).toBe(10);
      for (const { client } of inside) client.socket.destroy();
      await quiescence();
      expect(wire.services.admissions.countOf("acme")).toBe(0);
    }
    expect(await wire.metric(REJECTED, { reason: "limit" })).toBe(180);
  });

  it("is known by tenant_variable", async () => {
    const wire = openWire({
      config: { contextVariables: ["app.user", "app.tenant"], tenantVariable: "app.tenant", tenantDeny: ["globex"] },
    });
    const refused = await wire.logIn({ user: "app_user.ann:globex" });
    expect(refused.client.errorResponse["M"]).toContain('tenant "globex" may not connect');
    const { session } = await wire.logIn({ user: "app_user.globex:acme" });
    expect(session.state).toBe("forwarding");
  });

  it("that is denied at run time is ended at once, and bypass users are not", async () => {
    const wire = openWire();
    const acme = await wire.logIn();
    const globex = await wire.logIn({ user: "app_user.globex" });
    const admin = await wire.logIn({ user: "postgres" });
    wire.services.admissions.deny("*", "maintenance");
    await quiescence();
    expect(acme.client.sqlstate).toBe("57P01");
    expect(globex.client.sqlstate).toBe("57P01");
    expect(globex.client.hasEnded).toBe(true);
    expect(admin.session.state).toBe("forwarding");
  });
});

describe("max_client_conn", () => {
  it("refuses who comes beyond it with 53300, and serves a CancelRequest all the same", async () => {
    const wire = openWire({ config: { maxClientConn: 1 } });
    const { client } = await wire.logIn();
    const second = await wire.logIn();
    expect(second.client.sqlstate).toBe("53300");
    expect(second.client.errorResponse["M"]).toBe("too many clients: max_client_conn is 1");
    const cancelling = wire.connect();
    cancelling.client.send(cancelRequest(4711, Buffer.from("none")));
    await quiescence();
    expect(await wire.metric("pgvpd_cancel_requests_total")).toBe(1);
    for (const open of [client, second.client, cancelling.client]) open.socket.destroy();
    await quiescence();
    const third = await wire.logIn();
    expect(third.session.state).toBe("forwarding");
  });

  it("is counted for each address, too", async () => {
    const wire = openWire({ config: { maxClientConnPerAddress: 1 } });
    await wire.logIn({ address: "192.0.2.1" });
    const second = await wire.logIn({ address: "192.0.2.1" });
    expect(second.client.errorResponse["M"]).toContain("max_client_conn_per_address is 1");
    const other = await wire.logIn({ address: "192.0.2.2" });
    expect(other.session.state).toBe("forwarding");
  });

  it("closes what is far beyond it unheard", async () => {
    const wire = openWire({ config: { maxClientConn: 1 } });
    for (let n = 0; n < 101; n += 1) wire.connect();
    const { client, session } = wire.connect();
    await quiescence();
    expect(session.state).toBe("closed");
    expect(client.hasEnded).toBe(true);
  });
});
