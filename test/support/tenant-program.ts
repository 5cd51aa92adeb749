/**
 * The real program in front of a fixture's server, with a tenants.toml, a pgvpd.conf that the test changes while it runs,
 * and its HTTP API open.
 */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client, type ClientConfig } from "pg";
import type { SettingValues } from "../../src/index.ts";
import { addAdminToken } from "../../src/config/admin-tokens.ts";
import { adminOf, ask } from "./admin-client.ts";
import type { PoolMode } from "./pool-modes.ts";
import { startProxyProcess, type LogLine, type ProxyProcess } from "./proxy-process.ts";
import type { TenantFixture } from "./tenant-fixture.ts";

export interface TenantProgram extends AsyncDisposable {
  readonly proxy: ProxyProcess;
  /** Connection values of a tenant's client. */
  through(tenant: string): ClientConfig;
  /** A connected client, which ends with the program at the latest. */
  connect(tenant: string): Promise<Client>;
  /** Writes tenants.toml, and pgvpd.conf with `more`; sends SIGHUP. @returns the line that says what became of it. */
  reload(tenants: string, more?: SettingValues): Promise<LogLine>;
  /** What a GET of the HTTP API shows. */
  show(where: string): Promise<unknown>;
  /** The value of a metric without labels, or with those. */
  metric(name: string): Promise<number>;
  /** Sends an order to the HTTP API. @throws where it is not taken. */
  order(where: string): Promise<void>;
}

export interface ProgramOptions {
  readonly mode: Pick<PoolMode, "settings" | "password">;
  readonly settings?: SettingValues;
  /** Text of the tenants.toml that it starts with. */
  readonly tenants?: string;
  /** Text of a resolvers.toml. */
  readonly resolvers?: string;
}

export async function startTenantProgram(fixture: TenantFixture, options: ProgramOptions): Promise<TenantProgram> {
  const { mode, tenants = "", resolvers } = options;
  const folder = await mkdtemp(path.join(tmpdir(), "pgvpd-tenants-"));
  const at = (name: string): string => path.join(folder, name);
  const token = addAdminToken(at("tokens"), "on-call", new Set(["metrics", "read", "operate"]));
  await writeFile(at("tenants.toml"), tenants);
  if (resolvers !== undefined) await writeFile(at("resolvers.toml"), resolvers);
  const { host, port: upstream_port } = fixture.server;
  const settings = {
    ...mode.settings,
    upstream_host: host,
    upstream_port,
    tenants: at("tenants.toml"),
    ...(resolvers !== undefined && { resolvers: at("resolvers.toml") }),
    admin_port: 0,
    admin_tokens_file: at("tokens"),
    ...options.settings,
  };
  const proxy = await startProxyProcess({ settings });
  const place = await adminOf(proxy);
  const clients: Client[] = [];
  const through = (tenant: string): ClientConfig => ({
    connectionString: proxy.url(`app_user.${tenant}`, mode.password, "postgres"),
  });
  return {
    proxy,
    through,
    connect: async (tenant) => {
      const client = new Client(through(tenant));
      client.on("error", () => {}); // a test that ends the connection from the other side looks at the error itself
      await client.connect();
      clients.push(client);
      return client;
    },
    reload: async (text, more = {}) => {
      await writeFile(at("tenants.toml"), text);
      const values = { listen_host: "127.0.0.1", port: 0, log_format: "json", ...settings, ...more };
      const lines = Object.entries(values).map(([name, value]) => `${name} = ${value}\n`);
      await writeFile(proxy.configFile, lines.join(""));
      const before = proxy.log.length;
      process.kill(proxy.pid, "SIGHUP");
      const isNew = (line: LogLine): boolean => proxy.log.indexOf(line, before) !== -1;
      return proxy.waitForLog((line) => /^(reloaded|could not reload)/.test(String(line["msg"])) && isNew(line));
    },
    show: async (where) => (await ask(place, where, { token })).json(),
    metric: async (name) => {
      const { text } = await ask(place, "/metrics", { token });
      const line = text.split("\n").find((each) => each.startsWith(`${name} `));
      return Number(line?.slice(name.length + 1));
    },
    order: async (where) => {
      const { status, text } = await ask(place, where, { method: "POST", token });
      if (status !== 200) throw new Error(`${where}: ${status} ${text}`);
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all(clients.map((client) => client.end().catch(() => {})));
      await proxy.kill();
      await rm(folder, { recursive: true });
    },
  };
}
