/**
 * What the suites of this folder start from: a server with organisations, teams and cases, of which a user sees his own,
 * those that his teams were granted and, as an admin, those of his organisation; in a database without the seal and in one
 * with it; and proxies that derive all this by resolvers, on connections of their own or the clients'.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client, type ClientConfig } from "pg";
import { pino } from "pino";
import { createKeyFile, readSealKeys, renderKeyInstallation } from "../../../src/config/seal-keys.ts";
import { createProxy, type CodeResolver, type Proxy, type SettingValues } from "../../../src/index.ts";
import type { PostgresServer, StartOptions } from "../../support/postgres.ts";
import { PASSWORD, startTenantFixture } from "../../support/tenant-fixture.ts";

export const RESOLVER_PASSWORD = "the password of resolver";

/** Where resolvers run. */
export type Place = "dedicated" | "session";

/** With and without the seal: the databases' names. */
export type DatabaseName = "plain" | "sealed";

export const user = (n: number): string => `0000abcd-0000-4000-8000-${String(n).padStart(12, "0")}`;
export const org = (n: number): string => `00000000-0000-4000-9000-${String(n).padStart(12, "0")}`;

const sqlOf = (name: string): string => readFileSync(new URL(`../../../sql/${name}`, import.meta.url), "utf8");

const SCHEMA = `
  CREATE ROLE resolver LOGIN PASSWORD '${RESOLVER_PASSWORD}';
  CREATE TABLE org_members (user_id uuid PRIMARY KEY, org_id uuid NOT NULL, role text NOT NULL DEFAULT 'member');
  CREATE TABLE team_members (user_id uuid, org_id uuid, team text);
  CREATE TABLE case_grants (team text, case_id int);
  CREATE TABLE cases (id int PRIMARY KEY, org_id uuid NOT NULL, creator_id uuid NOT NULL);
  GRANT SELECT ON org_members, team_members, case_grants TO resolver, app_user;
  SELECT pgvpd_protect_acl('cases', '[
    {"column": "creator_id", "var": "app.user_id", "type": "uuid"},
    {"column": "id", "var": "app.case_ids", "type": "integer_array"},
    {"column": "org_id", "var": "app.org_id", "type": "uuid", "when": "pgvpd_context(''app.org_role'') = ''admin''"}]');
  INSERT INTO cases SELECT n, ('00000000-0000-4000-9000-' || lpad((n % 3)::text, 12, '0'))::uuid,
    ('0000abcd-0000-4000-8000-' || lpad((n % 7)::text, 12, '0'))::uuid FROM generate_series(1, 60) AS n;
  ${sqlOf("resolvers.sql")}
  GRANT SELECT ON pgvpd.invalidations TO resolver;
  SELECT pgvpd.invalidate_on_change('org_members', 'org', '{user_id}');
  SELECT pgvpd.invalidate_on_change('team_members', 'teams', '{user_id,org_id}');
  SELECT pgvpd.invalidate_on_change('case_grants', 'cases');
`;

/** What a user must see, without any resolver: the same rules as one query. */
const TRUTH = `
  WITH o AS (SELECT * FROM org_members WHERE user_id = $1),
    t AS (SELECT team FROM team_members WHERE user_id = $1 AND org_id IN (SELECT org_id FROM o))
  SELECT id FROM cases WHERE creator_id = $1 OR id IN (SELECT case_id FROM case_grants JOIN t USING (team))
    OR org_id IN (SELECT org_id FROM o WHERE role = 'admin') ORDER BY id`;

/** The chain; `more` stands in each resolver. */
export const chain = (more = ""): string => `
[[resolver]]
name = "cases"
query = "SELECT case_id FROM case_grants WHERE team = ANY ($1::text[])"
params = ["app.teams"]
rows = "array"
inject = { "app.case_ids" = "case_id" }
${more}
[[resolver]]
name = "org"
query = "SELECT org_id, role FROM org_members WHERE user_id = $1"
params = ["app.user_id"]
inject = { "app.org_id" = "org_id", "app.org_role" = "role" }
${more}
[[resolver]]
name = "teams"
query = "SELECT team FROM team_members WHERE user_id = $1 AND org_id = $2"
params = ["app.user_id", "app.org_id"]
rows = "array"
inject = { "app.teams" = "team" }
${more}`;

/** One resolver, on its own. */
export const single = (query: string, more = ""): string => `
[[resolver]]
name = "one"
query = """${query}"""
params = ["app.user_id"]
inject = { "app.x" = "x" }
${more}`;

type LogLine = Readonly<Record<string, unknown>>;

export interface ResolverProxy {
  readonly port: number;
  readonly log: readonly LogLine[];
  /** A connected client as `app_user.<value>`; the stage ends it. */
  connect(value: string, more?: ClientConfig): Promise<Client>;
  /** Logs in, asks, leaves: the values of the first column. */
  ask(value: string, sql: string, more?: ClientConfig): Promise<unknown[]>;
  metric(name: string, labels?: Readonly<Record<string, string>>): Promise<number>;
  stop(): Promise<void>;
}

export interface ProxyOptions {
  readonly place: Place;
  readonly toml: string;
  readonly database?: DatabaseName;
  readonly settings?: SettingValues;
  /** Resolvers in code. */
  readonly resolvers?: readonly CodeResolver[];
}

export interface Stage extends AsyncDisposable {
  readonly server: PostgresServer;
  /** As superuser; `plain` unless another database is named. */
  sql(text: string, values?: unknown[], database?: string): Promise<Record<string, unknown>[]>;
  /** The ids of the cases that a user must see. */
  truth(value: string, database: DatabaseName): Promise<unknown[]>;
  /** Gives every table of the stage back its first rows. */
  reset(): Promise<void>;
  /** Of a proxy with these options: its resolvers stand in a file of its own. */
  settings(options: ProxyOptions): SettingValues;
  proxy(options: ProxyOptions): Promise<ResolverProxy>;
}

export async function startStage(options: StartOptions = {}): Promise<Stage> {
  const fixture = await startTenantFixture(options);
  const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-resolvers-"));
  const keyFile = path.join(folder, "context.key");
  const open: Client[] = [];
  const proxies: Proxy[] = [];
  let files = 0;

  const sql: Stage["sql"] = async (text, values, database = "plain") => {
    const client = new Client({ connectionString: fixture.server.url(database) });
    await client.connect();
    try {
      return (await client.query<Record<string, unknown>>(text, values)).rows;
    } finally {
      await client.end();
    }
  };

  const settingsOf: Stage["settings"] = ({ place, toml, database = "plain", settings = {} }) => {
    const file = path.join(folder, `resolvers-${files++}.toml`);
    writeFileSync(file, toml);
    const dedicated = { resolver_user: "resolver", resolver_password: RESOLVER_PASSWORD };
    const sealed = { context_seal: "require", context_key_file: keyFile };
    return {
      port: 0,
      upstream_host: fixture.server.host,
      upstream_port: fixture.server.port,
      context_variables: "app.user_id",
      resolvers: file,
      ...(place === "dedicated" ? dedicated : { resolver_connection: "session" }),
      ...(database === "sealed" ? sealed : {}),
      ...settings,
    };
  };

  const proxy: Stage["proxy"] = async (given) => {
    const { database = "plain", resolvers = [] } = given;
    const log: LogLine[] = [];
    const logger = pino({}, { write: (line: string) => void log.push(JSON.parse(line) as LogLine) });
    const started = createProxy(settingsOf(given), { logger, resolvers });
    const [address] = await started.start();
    proxies.push(started);
    const port = address !== undefined && "port" in address ? address.port : 0;
    const connect: ResolverProxy["connect"] = async (value, more) => {
      const login = { host: "127.0.0.1", port, user: `app_user.${value}`, password: PASSWORD, database };
      const client = new Client({ ...login, ...more });
      client.on("error", () => {});
      await client.connect();
      open.push(client);
      return client;
    };
    return {
      port,
      log,
      connect,
      async ask(value, text, more) {
        const client = await connect(value, more);
        const { rows } = await client.query<unknown[]>({ text, rowMode: "array" });
        await client.end();
        return rows.map((row) => row[0]);
      },
      async metric(name, labels = {}) {
        const values = (await started.metrics.getSingleMetric(name)?.get())?.values ?? [];
        return values
          .filter((value) => Object.entries(labels).every(([label, wanted]) => value.labels[label] === wanted))
          .reduce((sum, { value }) => sum + value, 0);
      },
      stop: () => started.stop(),
    };
  };

  const stop = async (): Promise<void> => {
    await Promise.all(open.map((client) => client.end().catch(() => {})));
    await Promise.all(proxies.map((one) => one.stop()));
    await fixture[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    createKeyFile(keyFile);
    await sql("CREATE DATABASE plain TEMPLATE postgres", [], "template1");
    await fixture.asSuperuser(SCHEMA, "plain");
    await sql("CREATE DATABASE sealed TEMPLATE plain", [], "template1");
    await fixture.asSuperuser(sqlOf("seal.sql"), "sealed");
    await fixture.asSuperuser(renderKeyInstallation(readSealKeys(keyFile)), "sealed");
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    server: fixture.server,
    sql,
    settings: settingsOf,
    proxy,
    truth: async (value, database) => (await sql(TRUTH, [value], database)).map(({ id }) => id),
    async reset() {
      for (const database of ["plain", "sealed"]) {
        await fixture.asSuperuser(
          `TRUNCATE org_members, team_members, case_grants;
           INSERT INTO org_members VALUES ('${user(1)}', '${org(1)}', 'member'), ('${user(2)}', '${org(1)}', 'admin'), ('${user(3)}', '${org(2)}', 'member');
           INSERT INTO team_members VALUES ('${user(1)}', '${org(1)}', 'red'), ('${user(1)}', '${org(2)}', 'blue'), ('${user(3)}', '${org(2)}', 'blue');
           INSERT INTO case_grants VALUES ('red', 10), ('red', 11), ('blue', 20)`,
          database,
        );
      }
    },
    [Symbol.asyncDispose]: stop,
  };
}
