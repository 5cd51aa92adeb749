/** A proxy with a pool in front of a fixture's server, for tests of what clients do with one. */
import { Client, type ClientConfig } from "pg";
import type { Proxy, SettingValues } from "../../src/index.ts";
import { RawClient } from "./raw-client.ts";
import { PASSWORD, type TenantFixture } from "./tenant-fixture.ts";

export const POOL_PASSWORD = "the password of the pool";

export interface PooledProxy {
  readonly proxy: Proxy;
  readonly port: number;
  /** Connection values of a tenant's client. */
  readonly through: (tenant: string, more?: ClientConfig) => ClientConfig;
  /** A connected client, which the caller ends. */
  connect(tenant: string, more?: ClientConfig): Promise<Client>;
  logIn(tenant: string, parameters?: Readonly<Record<string, string>>): Promise<RawClient>;
  /** Clients that kept their session since the proxy was started, by the reason. */
  pins(): Promise<Readonly<Record<string, number>>>;
}

/** In transaction mode, with two sessions, unless `settings` say otherwise. */
export async function startPooledProxy(fixture: TenantFixture, settings: SettingValues = {}): Promise<PooledProxy> {
  const { proxy, port } = await fixture.proxyWith({
    pool_mode: "transaction",
    pool_password: POOL_PASSWORD,
    upstream_password: PASSWORD,
    pool_size: 2,
    pool_checkout_timeout: 20,
    ...settings,
  });
  const through: PooledProxy["through"] = (tenant, more = {}) => ({
    host: "127.0.0.1",
    port,
    user: `app_user.${tenant}`,
    password: POOL_PASSWORD,
    database: "postgres",
    ...more,
  });
  return {
    proxy,
    port,
    through,
    connect: async (tenant, more) => {
      const client = new Client(through(tenant, more));
      client.on("error", () => {}); // a test that ends the connection from the other side looks at the error itself
      await client.connect();
      return client;
    },
    logIn: (tenant, parameters = {}) =>
      RawClient.logIn(
        { host: "127.0.0.1", port },
        { user: `app_user.${tenant}`, password: POOL_PASSWORD, parameters: { database: "postgres", ...parameters } },
      ),
    pins: async () => {
      const text = await proxy.metrics.metrics();
      const lines = [...text.matchAll(/^pgvpd_pool_pins_total\{reason="(\w+)"\} (\d+)$/gm)];
      return Object.fromEntries(lines.map(([, reason, count]) => [reason, Number(count)]));
    },
  };
}
