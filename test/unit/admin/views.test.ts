/** What the HTTP API makes of what the program knows, where no test with a real program comes to it. */
import { describe, expect, it } from "vitest";
import { viewPools, viewSessions, viewTenants } from "../../../src/admin/views.ts";
import type { SessionInfo } from "../../../src/proxy/session.ts";

const session = (conn: number, tenant?: string): SessionInfo => ({
  conn,
  client: "unix",
  state: tenant === undefined ? "negotiating" : "forwarding",
  seconds: 1,
  bytes: { fromClient: conn, fromUpstream: 10 * conn },
  ...(tenant !== undefined && { tenant }),
});

describe("sessions", () => {
  const sessions = [session(1, "a"), session(2), session(3, "b"), session(4, "a")];

  it("are counted whole, and shown up to the limit", () => {
    expect(viewSessions(sessions, undefined, 2)).toMatchObject({ total: 4, sessions: [{ conn: 1 }, { conn: 2 }] });
    expect(viewSessions(sessions, "a", 10)).toMatchObject({ total: 2, sessions: [{ conn: 1 }, { conn: 4 }] });
    expect(viewSessions(sessions, "", 10)).toEqual({ total: 0, sessions: [] });
  });

  it("add up to tenants; one that has not said who it is has none", () => {
    const ports = { sessions: () => sessions, deniedTenants: () => [{ pattern: "b*", reason: "moved" }] };
    expect(viewTenants(ports, 1)).toEqual({
      total: 2,
      tenants: [{ tenant: "a", connections: 2, bytes_from_client: 5, bytes_from_upstream: 50 }],
      denied: [{ tenant: "b*", reason: "moved" }],
    });
    expect(viewTenants({ ...ports, sessions: () => [session(1, "__proto__")] }, 1).tenants).toMatchObject([
      { tenant: "__proto__", connections: 1 },
    ]);
  });

  it("of one tenant are found together, however it is spelled", () => {
    const uuid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    const spelled = [session(1, uuid), session(2, uuid.toUpperCase()), session(3, `{${uuid.replaceAll("-", "")}}`)];
    expect(viewSessions(spelled, `{${uuid}}`, 10).total).toBe(3);
    const tenants = viewTenants({ sessions: () => spelled, deniedTenants: () => [] }, 10);
    expect(tenants).toMatchObject({ total: 1, tenants: [{ tenant: uuid, connections: 3 }] });
  });
});

it("pools are shown largest first, up to the limit", () => {
  const sizes = [1, 3, 2].map((total) => ({ database: "d", role: `r${total}`, total, idle: 0, waiting: 0 }));
  const { total, is_paused, pools } = viewPools({ isPaused: true, sizes: () => sizes }, 2);
  expect([total, is_paused, ...pools.map(({ role }) => role)]).toEqual([3, true, "r3", "r2"]);
});
