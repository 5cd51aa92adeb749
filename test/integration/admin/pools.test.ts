/** What the HTTP API shows of pools, and that it pauses them: with a real server, and clients that hold sessions. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { addAdminToken } from "../../../src/config/admin-tokens.ts";
import { ask, type Answer } from "../../support/admin-client.ts";
import { expectDocumented, type OpenApi } from "../../support/openapi.ts";
import { startPooledProxy, type PooledProxy } from "../../support/pooled-proxy.ts";
import { startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-admin-"));
const tokensFile = path.join(folder, "tokens");
const token = addAdminToken(tokensFile, "on-call", new Set(["read", "operate"]));

let fixture: TenantFixture;
let pooled: PooledProxy;
let port: number;
let api: OpenApi;

beforeAll(async () => {
  fixture = await startTenantFixture({ version: "18" });
  pooled = await startPooledProxy(fixture, { admin_port: 0, admin_tokens_file: tokensFile });
  ({ port } = pooled.proxy.adminAddresses[0] as { port: number });
  api = (await ask({ port }, "/openapi.json", { token })).json() as OpenApi;
});
afterAll(async () => {
  await fixture?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

async function documented(method: "GET" | "POST", where: string): Promise<Answer> {
  const answer = await ask({ port }, where, { method, token });
  expectDocumented(api, method, where, answer);
  return answer;
}
const get = async (where: string): Promise<unknown> => (await documented("GET", where)).json();

/** Status and answer of an order. */
async function order(where: string): Promise<readonly [number, unknown]> {
  const answer = await documented("POST", where);
  return [answer.status, answer.json()];
}
const done = [200, { status: "ok" }];

it("shows each pool in /pools and /status, and in /sessions who holds a connection, and why", async () => {
  const idle = await pooled.connect("acme");
  const waiting = await pooled.connect("acme");
  const active = await pooled.connect("acme");
  const pinned = await pooled.connect("globex");
  await idle.query("SELECT repeat('x', 10000)");
  await pinned.query("LISTEN news");
  await active.query("BEGIN");
  const answered = waiting.query("SELECT 1");
  await expect
    .poll(() => get("/sessions"))
    .toMatchObject({
      total: 4,
      sessions: [{ pool_state: "idle" }, { pool_state: "waiting" }, { pool_state: "active" }, { pin_reason: "listen" }],
    });
  const { sessions } = (await get("/sessions?limit=1")) as { sessions: { bytes_from_upstream: number }[] };
  expect(sessions[0]?.bytes_from_upstream).toBeGreaterThan(10_000);
  const bucket = { database: "postgres", role: "app_user", total: 2, idle: 0 };
  expect(await get("/pools")).toEqual({ total: 1, is_paused: false, pools: [{ ...bucket, waiting: 1 }] });
  expect(await get("/status")).toMatchObject({ pool: { creates: 2, buckets: [bucket] } });

  await active.query("COMMIT");
  await answered;
  await expect.poll(() => get("/pools")).toMatchObject({ pools: [{ total: 2, idle: 1, waiting: 0 }] });
  await Promise.all([idle, waiting, active, pinned].map((client) => client.end()));
});

it("pauses: no connection is left at the server, clients wait, and go on when it resumes", async () => {
  const [busy, other] = [await pooled.connect("acme"), await pooled.connect("globex")];
  await busy.query("BEGIN");
  expect(await order("/pools/pause?wait=0")).toEqual([202, { status: "waiting" }]);
  await expect.poll(() => get("/pools")).toMatchObject({ is_paused: true, pools: [{ total: 1, idle: 0 }] });
  const answered = other.query("SELECT 1 AS one");
  await expect.poll(() => get("/pools")).toMatchObject({ pools: [{ waiting: 1 }] });

  const paused = order("/pools/pause");
  await busy.query("COMMIT");
  expect(await paused).toEqual(done);
  const backends = "SELECT count(*)::int AS left FROM pg_stat_activity WHERE usename = 'app_user'";
  await expect.poll(() => fixture.asSuperuser(backends)).toMatchObject([{ left: 0 }]);
  expect(await get("/pools")).toMatchObject({ is_paused: true, pools: [{ total: 0, waiting: 1 }] });

  expect(await order("/pools/resume")).toEqual(done);
  expect((await answered).rows).toEqual([{ one: 1 }]);
  expect(await get("/pools")).toMatchObject({ is_paused: false });
  await Promise.all([busy, other].map((client) => client.end()));
});

it("is told that somebody else has resumed, and what is no number of seconds", async () => {
  const busy = await pooled.connect("acme");
  await busy.query("BEGIN");
  const paused = order("/pools/pause");
  await expect.poll(() => get("/pools")).toMatchObject({ is_paused: true });
  expect(await order("/pools/resume")).toEqual(done);
  expect(await paused).toEqual([409, { error: "the pools were resumed meanwhile" }]);
  await busy.query("COMMIT");
  expect((await order("/pools/pause?wait=31"))[0]).toBe(400);
  await busy.end();
});
