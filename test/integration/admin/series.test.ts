/**
 * However many tenants come, /metrics has the same series, and no more than a bounded number of them for pools. Some hundred
 * tenants unless PGVPD_TEST_TENANTS says how many.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ask } from "../../support/admin-client.ts";
import { RawClient } from "../../support/raw-client.ts";
import { client as frontend } from "../../support/bytes.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";
import { POOL_PASSWORD, startPooledProxy } from "../../support/pooled-proxy.ts";

const tenants = Number(process.env["PGVPD_TEST_TENANTS"] ?? 100);
const roles = 105;
const atOnce = 8;
/** Far more than it takes, however busy the machine is. */
const limitMs = 60_000 + tenants * 50;

let fixture: TenantFixture;

beforeAll(async () => {
  fixture = await startTenantFixture({ version: "18", settings: { max_connections: "200" } });
});
afterAll(() => fixture?.[Symbol.asyncDispose]());

/** Everything that a tenant could be counted by is on. */
const policy = {
  admin_port: 0,
  audit_log: "off",
  login_throttle: 0,
  tenant_deny: "denied-*",
  tenant_max_connections: 4,
  tenant_rate_limit: 100,
  tenant_query_timeout: 60,
  query_timeout: 60,
  transaction_timeout: 60,
  idle_transaction_timeout: 60,
  client_idle_timeout: 60,
};

async function metricsOf(proxy: TenantFixture["proxy"]): Promise<string> {
  const { port } = proxy.adminAddresses[0] as { port: number };
  return (await ask({ port }, "/metrics")).text;
}

const seriesOf = (text: string): string[] =>
  text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.replace(/ \S+$/, ""));

/** The value of one series. */
const valueOf = (text: string, series: string): number =>
  Number(
    text
      .split("\n")
      .find((line) => line.startsWith(`${series} `))
      ?.split(" ")[1],
  );

/** Some at a time. */
async function inLanes(names: readonly string[], work: (name: string) => Promise<void>): Promise<void> {
  const left = names.values();
  const lane = async (): Promise<void> => {
    for (const name of left) await work(name);
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

describe.each([
  ["passthrough", PASSWORD, {}],
  ["transaction mode", POOL_PASSWORD, { pool_mode: "transaction" }],
] as const)("in %s", (_, password, mode) => {
  it(`${tenants} tenants do not add a series`, { timeout: limitMs }, async () => {
    const { proxy, port } = await (password === PASSWORD
      ? fixture.proxyWith(policy)
      : startPooledProxy(fixture, { ...policy, ...mode }));
    const visit = async (user: string, secret: string = password): Promise<string> => {
      const client = await RawClient.open({ host: "127.0.0.1", port });
      await client.logIn({ user: `app_user.${user}`, password: secret, parameters: { database: "postgres" } });
      if (client.key === undefined) return client.error["C"] ?? "";
      await client.query("SELECT 1");
      client.send(frontend.terminate);
      await client.untilClosed();
      return "";
    };
    /** One of each kind of tenant: who is welcome, who is not, who does not know the password. */
    const visitAs = async (name: string): Promise<void> => {
      expect(await visit(name)).toBe("");
      expect(await visit(`denied-${name}`)).toBe("28000");
      if (name.endsWith("0")) expect(await visit(`mistaken-${name}`, "a wrong password")).toBe("28P01");
    };
    const accepted = 'pgvpd_logins_total{outcome="accepted"}';
    const denied = 'pgvpd_tenant_rejected_total{reason="deny"}';

    await visitAs("tenant-00");
    const before = await metricsOf(proxy);
    await inLanes(
      Array.from({ length: tenants }, (__, index) => `tenant-${index + 1}`),
      visitAs,
    );
    const after = await metricsOf(proxy);

    expect(seriesOf(after)).toEqual(seriesOf(before));
    expect(valueOf(after, accepted) - valueOf(before, accepted)).toBe(tenants);
    expect(valueOf(after, denied) - valueOf(before, denied)).toBe(tenants);
    expect(after).not.toContain("tenant-");
  });
});

it("more pairs of database and role than a hundred share a series", { timeout: 60_000 }, async () => {
  const names = Array.from({ length: roles }, (_, index) => `series_${index}`);
  const [known] = await fixture.asSuperuser("SELECT rolpassword FROM pg_authid WHERE rolname = 'app_user'");
  const verifier = String(known?.["rolpassword"]);
  await fixture.asSuperuser(names.map((name) => `CREATE ROLE ${name} LOGIN PASSWORD '${verifier}'`).join(";"));
  const { proxy, port } = await startPooledProxy(fixture, { admin_port: 0 });
  await inLanes(names, async (name) => {
    const login = { user: `${name}.acme`, password: POOL_PASSWORD, parameters: { database: "postgres" } };
    using client = await RawClient.logIn({ host: "127.0.0.1", port }, login);
    await client.query("SELECT 1");
  });
  const text = await metricsOf(proxy);
  for (const gauge of ["pgvpd_pool_connections_total", "pgvpd_pool_connections_idle", "pgvpd_pool_waiting"]) {
    expect(seriesOf(text).filter((series) => series.startsWith(`${gauge}{`))).toHaveLength(101);
  }
  expect(valueOf(text, 'pgvpd_pool_connections_total{database="others",role="others"}')).toBe(roles - 100);
});
