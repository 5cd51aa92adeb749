/**
 * What the suites of the pool start from: a server with two tenants, a proxy in each mode whose pool has one session, so
 * that every client gets the same backend, and a look at everything that a client may find in it.
 */
import { expect } from "vitest";
import type { Proxy, SettingValues } from "../../src/index.ts";
import type { ReadMessage } from "../support/bytes.ts";
import type { StartOptions } from "../support/postgres.ts";
import { RawClient, type Place } from "../support/raw-client.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../support/tenant-fixture.ts";
import { Client } from "pg";

export type Mode = "session" | "transaction";
export const modes: readonly Mode[] = ["session", "transaction"];

export const POOL_PASSWORD = "the password of the pool";

export interface PoolFixture extends TenantFixture {
  /** A superuser's session of its own. */
  readonly admin: Client;
  pool(mode: Mode, settings?: SettingValues): Promise<PooledProxy>;
}

export interface PooledProxy {
  readonly proxy: Proxy;
  readonly place: Place;
  readonly logIn: (user: string, database?: string) => Promise<RawClient>;
}

export async function startPoolFixture(options: StartOptions): Promise<PoolFixture> {
  const fixture = await startTenantFixture(options);
  const admin = new Client({ connectionString: fixture.server.url() });
  await admin.connect();
  const pool: PoolFixture["pool"] = async (mode, settings = {}) => {
    const { proxy, port } = await fixture.proxyWith({
      pool_mode: mode,
      pool_password: POOL_PASSWORD,
      upstream_password: PASSWORD,
      pool_size: 1,
      pool_checkout_timeout: 15,
      ...settings,
    });
    const place = { host: "127.0.0.1", port };
    const logIn: PooledProxy["logIn"] = (user, database = "postgres") =>
      RawClient.logIn(place, { user: `app_user.${user}`, password: POOL_PASSWORD, parameters: { database } });
    return { proxy, place, logIn };
  };
  const stop = async (): Promise<void> => {
    await admin.end();
    await fixture[Symbol.asyncDispose]();
  };
  return { ...fixture, admin, pool, [Symbol.asyncDispose]: stop };
}

/** Everything of others that a session could show, and what has to be the client's own. */
const LOOK = `SELECT pg_backend_pid(), current_tenant_id(), session_user, current_user,
  current_setting('app.current_tenant_id'), current_setting('search_path'), current_setting('statement_timeout'),
  (SELECT count(*) FROM notes WHERE tenant_id IS DISTINCT FROM current_tenant_id()),
  (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
  (SELECT count(*) FROM pg_cursors WHERE is_holdable OR name LIKE 'kept%'),
  (SELECT count(*) FROM pg_prepared_statements WHERE from_sql),
  (SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%acme%'),
  (SELECT count(*) FROM pg_listening_channels()),
  (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND (locktype = 'advisory' OR mode LIKE '%Exclusive%' AND relation = 'notes'::regclass)),
  pg_current_xact_id_if_assigned() IS NULL,
  (SELECT string_agg(body, ',' ORDER BY id) FROM notes)`;

/** What a client of the tenant has to see where nothing of anybody else's is left. */
export function untouched(tenant: "acme" | "globex"): (string | null)[] {
  const rows = tenant === "acme" ? "a1,a2" : "g1,g2,g3";
  const none = Array.from({ length: 7 }, () => "0");
  return [tenant, "app_user", "app_user", tenant, '"$user", public', "0", ...none, "t", rows];
}

export interface Sight {
  readonly pid: string;
  readonly seen: readonly (string | null)[];
}

export async function look(client: RawClient): Promise<Sight> {
  const [pid, ...seen] = valuesOf(await client.query(LOOK));
  if (pid === undefined || pid === null) throw new Error(`no look, but ${JSON.stringify(client.error)}`);
  return { pid, seen };
}

/** The values of all rows behind each other. */
export function valuesOf(messages: readonly ReadMessage[]): (string | null)[] {
  return messages.filter(({ type }) => type === "D").flatMap(({ body }) => rowOf(body));
}

function rowOf(body: Buffer): (string | null)[] {
  const values: (string | null)[] = [];
  for (let at = 2, left = body.readInt16BE(0); left > 0; left -= 1) {
    const length = body.readInt32BE(at);
    at += 4;
    values.push(length < 0 ? null : body.toString("utf8", at, at + Math.max(length, 0)));
    at += Math.max(length, 0);
  }
  return values;
}

/** Sessions of the pool by their state: total, idle, and who waits. */
export async function sizesOf(proxy: Proxy): Promise<{ total: number; idle: number; waiting: number }> {
  const text = await proxy.metrics.metrics();
  const sum = (name: string): number =>
    [...text.matchAll(new RegExp(`^${name}(?:{[^}]*})? (\\d+)`, "gm"))].reduce(
      (all, [, value]) => all + Number(value),
      0,
    );
  return {
    total: sum("pgvpd_pool_connections_total"),
    idle: sum("pgvpd_pool_connections_idle"),
    waiting: sum("pgvpd_pool_waiting"),
  };
}

/** Nobody is logged in upstream but what the pools say that they have. */
export async function expectBackends(fixture: PoolFixture, count: number): Promise<void> {
  await expect
    .poll(async () => {
      const { rows } = await fixture.admin.query<{ n: number }>(
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE usename = 'app_user'",
      );
      return rows[0]?.n;
    })
    .toBe(count);
}
