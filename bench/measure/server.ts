/**
 * The PostgreSQL behind every peer: one server with two copies of pgbench's tables, one in a database that trusts and
 * one in a database that asks for SCRAM, and the unprivileged role that clients log in as. main.ts starts it before the
 * first scenario. It never touches a server that it did not start.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Client } from "pg";
import { availableVersions, startPostgres } from "../../test/support/postgres.ts";
import type { SealKind, Upstream } from "../peer.ts";
import { clientEnvironment, findPgbench } from "./pgbench.ts";
import { resolverTables } from "./resolvers.ts";
import type { Workbench } from "./workbench.ts";

/** The version whose pgbench Debian's stable release has; the embedded one where it is not installed. */
const preferredVersion = "15";
const scale = 10;
/** Room for the clients of login-burst, all at once. */
const maxConnections = 260;
const role = "app_user";
const password = "bench";
const databases = { trust: "bench_trust", scram: "bench_scram" } as const;
const sealDatabases: Readonly<Record<SealKind, string>> = {
  unsealed: "bench_unsealed",
  slot: "bench_slot",
  signed: "bench_signed",
};
/** Rows of the protected table for each of two tenants. */
const tenantRows = 100_000;

/** The superuser comes in without a password; clients by the rule of their database. */
const hostAuthentication = `
host all               postgres 127.0.0.1/32 trust
host ${databases.trust} all     127.0.0.1/32 trust
host ${databases.scram} all     127.0.0.1/32 scram-sha-256
host ${Object.values(sealDatabases).join(",")} all 127.0.0.1/32 trust
`;

const settings = {
  shared_buffers: "256MB",
  max_connections: String(maxConnections),
  fsync: "off",
  autovacuum: "off",
  max_wal_size: "2GB",
  log_min_messages: "fatal",
};

export interface BenchServer {
  readonly upstreams: Readonly<Record<"trust" | "scram", Upstream>>;
  /** As the server says it: `15.18 (Debian 15.18-0+deb12u1)`. */
  readonly version: string;
  /** Its process id, by which scenarios pin it. */
  readonly postmaster: number;
}

/** The major version to start: `wanted`, which must be there, or the preferred one, or the newest. */
export function chooseVersion(wanted: string | undefined): string {
  const available = availableVersions();
  const version = wanted ?? available.find((major) => major === preferredVersion) ?? available.at(-1);
  if (version !== undefined && available.includes(version)) return version;
  throw new Error(`there is no PostgreSQL ${wanted} on this machine; there are ${available.join(", ")}`);
}

export async function startBenchServer(
  workbench: Workbench,
  version: string,
  { sealed }: { readonly sealed: boolean },
): Promise<BenchServer> {
  const server = await startPostgres({ version, auth: hostAuthentication, settings });
  workbench.onClose(() => server.stop());

  const { serverVersion, verifier } = await prepare(workbench, server.port);
  const seal = sealed ? await prepareSeal(workbench, server.port, version) : undefined;
  const common = {
    host: server.host,
    port: server.port,
    user: role,
    password,
    seal,
    maxConnections: maxConnections - 20,
  };
  return {
    version: serverVersion,
    postmaster: Number(readFileSync(join(server.dataDir, "postmaster.pid"), "utf8").split("\n", 1)[0]),
    upstreams: {
      trust: { ...common, auth: "trust", database: databases.trust, scramVerifier: undefined },
      scram: { ...common, auth: "scram", database: databases.scram, scramVerifier: verifier },
    },
  };
}

/** Fills the databases; returns the server's version and the role's SCRAM verifier. */
async function prepare(workbench: Workbench, port: number): Promise<{ serverVersion: string; verifier: string }> {
  await asSuperuser(port, "postgres", [
    `CREATE ROLE ${role} LOGIN PASSWORD '${password}'`,
    `CREATE DATABASE ${databases.trust}`,
  ]);
  const pgbench = findPgbench();
  if (pgbench !== undefined) {
    const args = ["-i", "-q", "-s", String(scale), "-h", "127.0.0.1", "-p", String(port), "-U", "postgres"];
    await workbench.run(pgbench, [...args, databases.trust], 120, { env: clientEnvironment(password) });
  }
  await asSuperuser(port, databases.trust, [
    "CREATE UNLOGGED TABLE bench_sink (line text)",
    `GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO ${role}`,
    ...resolverTables(role),
    "CHECKPOINT",
  ]);
  const [serverVersion, verifier] = await asSuperuser(port, "postgres", [
    `CREATE DATABASE ${databases.scram} TEMPLATE ${databases.trust}`,
    `SELECT current_setting('server_version') AS value
       UNION ALL SELECT rolpassword FROM pg_authid WHERE rolname = '${role}'`,
  ]);
  if (serverVersion === undefined || verifier === undefined) throw new Error(`${role} has no SCRAM verifier`);
  return { serverVersion, verifier };
}

/** Databases with a protected table: one as sql/setup.sql leaves it, and one for each carrier that the version has. */
async function prepareSeal(workbench: Workbench, port: number, version: string): Promise<Upstream["seal"]> {
  const program = join(import.meta.dirname, "../../dist/main.js");
  const keyFile = join(workbench.folder, "context.key");
  await workbench.run(process.execPath, [program, "key", "create", "--file", keyFile], 10);
  const keys = await workbench.run(process.execPath, [program, "key", "install", "--file", keyFile], 10);
  const sql = (name: string): string => readFileSync(join(import.meta.dirname, "../../sql", name), "utf8");

  await asSuperuser(port, "postgres", [`CREATE DATABASE ${sealDatabases.unsealed}`]);
  await asSuperuser(port, sealDatabases.unsealed, [
    sql("setup.sql"),
    "CREATE TABLE accounts (id int PRIMARY KEY, tenant_id text NOT NULL, balance int NOT NULL)",
    `INSERT INTO accounts SELECT i, CASE WHEN i <= ${tenantRows} THEN 'acme' ELSE 'globex' END, i
       FROM generate_series(1, ${2 * tenantRows}) AS i`,
    "SELECT pgvpd_protect('accounts')",
    "VACUUM ANALYZE accounts",
  ]);
  for (const carrier of Number(version) >= 15 ? (["slot", "signed"] as const) : (["signed"] as const)) {
    const database = sealDatabases[carrier];
    await asSuperuser(port, "postgres", [`CREATE DATABASE ${database} TEMPLATE ${sealDatabases.unsealed}`]);
    await asSuperuser(port, database, [
      `SET pgvpd.carrier = '${carrier}'`,
      sql("seal.sql"),
      keys,
      "VACUUM ANALYZE accounts",
    ]);
  }
  return { databases: sealDatabases, keyFile };
}

/** Runs statements one by one; returns the column `value` of the last one's rows. */
async function asSuperuser(port: number, database: string, statements: readonly string[]): Promise<string[]> {
  const client = new Client({ host: "127.0.0.1", port, database, user: "postgres", password, ssl: false });
  client.on("error", () => undefined); // the server going away fails the query too
  await client.connect();
  try {
    let rows: { value: string }[] = [];
    for (const statement of statements) rows = (await client.query<{ value: string }>(statement)).rows;
    return rows.map((row) => row.value);
  } finally {
    await client.end();
  }
}
