/**
 * The server that the demo shows pgvpd on: the embedded PostgreSQL with its data in the demo's folder, or the one that
 * `--database-url` names, which is only connected to.
 */
import { existsSync } from "node:fs";
import { readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { Client, type ClientConfig } from "pg";
import { readDatabaseUrl, type DatabaseUrl } from "../config/database-url.ts";
import type { SettingValues } from "../config/load.ts";
import type { DemoFolder } from "./demo-folder.ts";
import { createCluster, startServer, stopStaleServer } from "./embedded-postgres.ts";
import { findEmbeddedPostgres } from "./postgres-binaries.ts";
import { serverAccount } from "./server-account.ts";
import { bold, progress, say } from "./terminal.ts";

/** A server, seen by somebody who may create databases and roles in it. */
export interface DemoServer extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  /** pgvpd's settings of TLS to it. */
  readonly tls: SettingValues;
  /** The demo may do as it likes in a server that it started. */
  readonly isOurs: boolean;
  /** Settles when a server that we started ends; never for another one. */
  readonly ended: Promise<void>;
  /** Options for a client of the superuser, or whoever the URL names, in that database. */
  client(database: string): ClientConfig;
  /** The database that exists in any case. */
  readonly maintenanceDatabase: string;
  /** Ends a server that we started, at once. */
  kill(): void;
}

/** Starts the embedded PostgreSQL on the folder's data, which is created first where it is missing. */
export async function startEmbeddedServer(
  folder: DemoFolder,
  isFresh: boolean,
  signal: AbortSignal,
): Promise<DemoServer> {
  const account = await serverAccount();
  const binaries = await findEmbeddedPostgres(account);
  const name = `postgres-${/^\d+/.exec(binaries.version)?.[0] ?? ""}`;
  const dataDir = path.join(folder.path, name);
  const unfinished = `${dataDir}.new`;
  if (isFresh) await removeData(folder.path);
  await rm(unfinished, { recursive: true, force: true });
  if (!existsSync(dataDir)) {
    await progress(`Creating a database in ${folder.path}`, async () => {
      const password = folder.passwords.superuser;
      await createCluster({ binaries, account, dataDir: unfinished, auth: "scram", password, signal });
      await rename(unfinished, dataDir);
    });
  } else {
    say(`Using the database of an earlier demo in ${folder.path} ${bold("(--fresh starts over)")}`);
  }
  const logFile = path.join(folder.path, "postgres.log");
  await rm(logFile, { force: true });
  const server = await progress(`Starting PostgreSQL ${binaries.version}`, () =>
    startServer({ binaries, account, dataDir, logFile, settings: { shared_buffers: "32MB" } }),
  );
  return {
    host: server.host,
    port: server.port,
    tls: {},
    isOurs: true,
    ended: server.ended,
    maintenanceDatabase: "postgres",
    client: (database) => ({
      host: server.host,
      port: server.port,
      user: "postgres",
      password: folder.passwords.superuser,
      database,
      ssl: false,
    }),
    kill: () => server.kill(),
    [Symbol.asyncDispose]: () => server.stop(),
  };
}

/** The server of `--database-url`. Nothing is sent to it yet. */
export function useServer(databaseUrl: string): DemoServer {
  const { connectionString, ssl, settings } = readUrl(databaseUrl);
  const named = new Client({ connectionString }); // it knows how such URLs are read
  return {
    host: named.host,
    port: named.port,
    tls: settings,
    isOurs: false,
    ended: new Promise(() => {}),
    maintenanceDatabase: named.database ?? "postgres",
    client(database) {
      const url = new URL(connectionString);
      url.pathname = `/${encodeURIComponent(database)}`;
      return { connectionString: url.href, ssl: ssl ?? false };
    },
    kill: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

function readUrl(databaseUrl: string): DatabaseUrl {
  try {
    return readDatabaseUrl(databaseUrl);
  } catch (cause) {
    throw new Error(`--database-url: ${(cause as Error).message}`, { cause });
  }
}

/** Of every PostgreSQL version that the demo has used. */
async function removeData(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!name.startsWith("postgres-")) continue;
    await stopStaleServer(path.join(folder, name));
    await rm(path.join(folder, name), { recursive: true, force: true });
  }
}
