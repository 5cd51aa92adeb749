/**
 * A real server with the SQL helpers installed, two tenants with data, and a proxy in front of it: what the integration
 * and isolation suites start from. Everything is closed again by `await using`.
 */
import { readFile } from "node:fs/promises";
import { Client, type ClientConfig } from "pg";
import { createProxy, type Proxy, type SettingValues } from "../../src/index.ts";
import { startPostgres, type PostgresServer, type StartOptions } from "./postgres.ts";

export const PASSWORD = "the password of app_user";

export interface TenantFixture extends AsyncDisposable {
  readonly server: PostgresServer;
  readonly proxy: Proxy;
  /** Where the proxy listens, on 127.0.0.1. */
  readonly port: number;
  /** Connection values of a user through the proxy, in a form that `new Client` takes. */
  through(user: string, more?: ClientConfig): ClientConfig;
  /** A connected client through the proxy; the caller ends it, or the fixture does. */
  connect(user: string, more?: ClientConfig): Promise<Client>;
  /** Runs SQL directly on the server, as superuser. */
  asSuperuser(sql: string, database?: string): Promise<Record<string, unknown>[]>;
  /** Another proxy in front of the same server. */
  proxyWith(settings: SettingValues): Promise<{ readonly proxy: Proxy; readonly port: number }>;
}

const SCHEMA = `
  ALTER ROLE app_user PASSWORD '${PASSWORD}';
  CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL, body text);
  SELECT public.pgvpd_protect('notes', 'tenant_id');
  INSERT INTO notes (tenant_id, body) VALUES ('acme', 'a1'), ('acme', 'a2'), ('globex', 'g1'), ('globex', 'g2'), ('globex', 'g3');
  CREATE TABLE plain (id int, body text);
  GRANT ALL ON plain TO app_user;
`;

export async function startTenantFixture(
  options: StartOptions & { readonly proxy?: SettingValues } = {},
): Promise<TenantFixture> {
  const server = await startPostgres(options);
  const open: { end(): Promise<void> }[] = [];
  const proxies: Proxy[] = [];
  const asSuperuser: TenantFixture["asSuperuser"] = async (sql, database = "postgres") => {
    const client = new Client({ connectionString: server.url(database) });
    await client.connect();
    try {
      const result = await client.query<Record<string, unknown>>(sql);
      return result.rows;
    } finally {
      await client.end();
    }
  };
  const proxyWith: TenantFixture["proxyWith"] = async (settings) => {
    const proxy = createProxy({
      port: 0,
      upstream_host: server.host,
      upstream_port: server.port,
      log_level: "off",
      ...settings,
    });
    const [address] = await proxy.start();
    proxies.push(proxy);
    return { proxy, port: address !== undefined && "port" in address ? address.port : 0 };
  };
  const stop = async (): Promise<void> => {
    await Promise.all(open.map((client) => client.end().catch(() => {})));
    await Promise.all(proxies.map((proxy) => proxy.stop()));
    await server.stop();
  };

  try {
    for (const file of ["setup.sql", "helpers.sql"]) {
      await asSuperuser(await readFile(new URL(`../../sql/${file}`, import.meta.url), "utf8"));
    }
    await asSuperuser(SCHEMA);
    const { proxy, port } = await proxyWith(options.proxy ?? {});
    const through: TenantFixture["through"] = (user, more = {}) => ({
      host: "127.0.0.1",
      port,
      user,
      password: user === server.superuser ? server.password : PASSWORD,
      database: "postgres",
      ...more,
    });
    const connect: TenantFixture["connect"] = async (user, more) => {
      const client = new Client(through(user, more));
      // A test that ends the connection from the other side looks at the error itself.
      client.on("error", () => {});
      await client.connect();
      open.push(client);
      return client;
    };
    return { server, proxy, port, through, connect, asSuperuser, proxyWith, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The error that `work` rejects with; fails where it does not. */
export async function errorOf(
  work: Promise<unknown>,
): Promise<Error & { code?: string; severity?: string; hint?: string }> {
  try {
    await work;
  } catch (error) {
    return error as Error & { code?: string };
  }
  throw new Error("expected an error");
}
