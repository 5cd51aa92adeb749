/*
 * The PostgreSQL behind every peer: one server with two copies of pgbench's tables, one in a database that trusts and
 * one in a database that asks for SCRAM, and the unprivileged role that clients log in as. run.ts starts it when the
 * first scenario needs it. It never touches a server that it did not start.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Client } from "pg";
import { createCluster, startServer } from "../../src/demo/embedded-postgres.ts";
import { askVersion, findEmbeddedPostgres, type PostgresBinaries } from "../../src/demo/postgres-binaries.ts";
import { serverAccount } from "../../src/demo/server-account.ts";
import type { Upstream } from "../peer.ts";
import { clientEnvironment, findPgbench } from "./pgbench.ts";
import type { Workbench } from "./workbench.ts";

const debianBinaries = "/usr/lib/postgresql/15/bin";
const scale = 10;
const maxConnections = 200;
const role = "app_user";
const password = "bench";
const databases = { trust: "bench_trust", scram: "bench_scram" } as const;

/** The superuser comes in without a password; clients by the rule of their database. */
const hostAuthentication = `
host all               postgres 127.0.0.1/32 trust
host ${databases.trust} all     127.0.0.1/32 trust
host ${databases.scram} all     127.0.0.1/32 scram-sha-256
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
  /** By which scenarios pin it. */
  readonly postmaster: number;
}

/** PGVPD_BENCH_POSTGRES names another folder of PostgreSQL programs; then Debian's 15, then the embedded one. */
export async function findPostgres(): Promise<PostgresBinaries> {
  const account = await serverAccount();
  const chosen = process.env["PGVPD_BENCH_POSTGRES"];
  const binDir = chosen ?? debianBinaries;
  const version = existsSync(join(binDir, "initdb")) ? await askVersion(binDir, account) : undefined;
  if (version !== undefined) return { version, binDir };
  if (chosen !== undefined) throw new Error(`PGVPD_BENCH_POSTGRES: no PostgreSQL that runs in ${chosen}`);
  return findEmbeddedPostgres(account);
}

export async function startBenchServer(workbench: Workbench, binaries: PostgresBinaries): Promise<BenchServer> {
  const account = await serverAccount();
  const dataDir = join(workbench.folder, "data");
  await createCluster({ binaries, account, dataDir, auth: hostAuthentication, password });
  const logFile = join(workbench.folder, "postgres.log");
  const server = await startServer({ binaries, account, dataDir, logFile, settings });
  workbench.onClose(() => server.stop());

  const verifier = await prepare(workbench, server.port);
  const common = { host: server.host, port: server.port, user: role, password, maxConnections: maxConnections - 20 };
  return {
    postmaster: server.pid,
    upstreams: {
      trust: { ...common, auth: "trust", database: databases.trust, scramVerifier: undefined },
      scram: { ...common, auth: "scram", database: databases.scram, scramVerifier: verifier },
    },
  };
}

/** Fills the databases; returns the role's SCRAM verifier. */
async function prepare(workbench: Workbench, port: number): Promise<string> {
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
    "CHECKPOINT",
  ]);
  const [verifier] = await asSuperuser(port, "postgres", [
    `CREATE DATABASE ${databases.scram} TEMPLATE ${databases.trust}`,
    `SELECT rolpassword AS value FROM pg_authid WHERE rolname = '${role}'`,
  ]);
  if (verifier === undefined) throw new Error(`${role} has no SCRAM verifier`);
  return verifier;
}

/** Runs statements one by one; returns the column `value` of the last one's rows. */
async function asSuperuser(port: number, database: string, statements: readonly string[]): Promise<string[]> {
  const client = new Client({ host: "127.0.0.1", port, database, user: "postgres", password, ssl: false });
  await client.connect();
  try {
    let rows: { value: string }[] = [];
    for (const statement of statements) rows = (await client.query<{ value: string }>(statement)).rows;
    return rows.map((row) => row.value);
  } finally {
    await client.end();
  }
}
