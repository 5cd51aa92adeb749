/**
 * Databases for the tests of sql/: every suite runs on each PostgreSQL version of this machine, and most of them twice,
 * installed by a superuser and installed by a role that merely owns the database, as on a managed platform.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import { Client, DatabaseError } from "pg";
import { afterAll, beforeAll, describe } from "vitest";
import { availableVersions, outerVersions, startPostgres, type PostgresServer } from "../../support/postgres.ts";

const sqlFolder = path.join(import.meta.dirname, "../../../sql");
const referenceFolder = path.join(import.meta.dirname, "../../support/reference-sql");

export const setupSql = readFileSync(path.join(sqlFolder, "setup.sql"), "utf8");
export const helpersSql = readFileSync(path.join(sqlFolder, "helpers.sql"), "utf8");
export const uninstallSql = readFileSync(path.join(sqlFolder, "uninstall.sql"), "utf8");
export const referenceSql = readFileSync(path.join(referenceFolder, "pgvpd-1.0.sql"), "utf8");
export const sqlFile = (name: string): string => path.join(sqlFolder, name);

export type Installer = "superuser" | "owner";

export interface Message {
  readonly severity: string;
  readonly text: string;
  readonly hint: string;
}

/** A fresh database. `owner` is the role that installs and owns the tables. */
export interface TestDatabase extends AsyncDisposable {
  readonly name: string;
  readonly server: PostgresServer;
  readonly admin: Client;
  readonly owner: Client;
  /** NOTICEs and WARNINGs that `owner` received since they were last taken. */
  takeMessages(): Message[];
  /** Runs statements as `app_user` in the context of `tenant` (undefined: no tenant was ever set) in one session. */
  as<T>(tenant: string | undefined, work: (session: Client) => Promise<T>): Promise<T>;
  connect(user: string): Promise<Client>;
}

let databases = 0;

/** The role that owns databases of installer "owner": it may log in, and nothing else. */
export const unprivilegedOwner = "platform_owner";

export async function createDatabase(server: PostgresServer, installer: Installer): Promise<TestDatabase> {
  const name = `sql_${++databases}`;
  const maintenance = await connectTo(server, "postgres", server.superuser);
  await maintenance.query(`DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '${unprivilegedOwner}') THEN CREATE ROLE ${unprivilegedOwner} LOGIN; END IF;
  END $$`);
  const ownerName = installer === "owner" ? unprivilegedOwner : server.superuser;
  await maintenance.query(`CREATE DATABASE ${name} OWNER ${ownerName}`);
  await maintenance.end();

  const admin = await connectTo(server, name, server.superuser);
  if (Number(server.version) < 15) {
    // What PostgreSQL 15 made the default, and setup.sql warns of where it is otherwise.
    await admin.query(`REVOKE CREATE ON SCHEMA public FROM PUBLIC; GRANT CREATE ON SCHEMA public TO ${ownerName}`);
  }
  const owner = await connectTo(server, name, ownerName);
  const open = new Set([admin, owner]);
  let messages: Message[] = [];
  owner.on("notice", (notice) => {
    messages.push({ severity: notice.severity ?? "", text: notice.message ?? "", hint: notice.hint ?? "" });
  });
  const connect = async (user: string): Promise<Client> => {
    const client = await connectTo(server, name, user);
    open.add(client);
    return client;
  };
  return {
    name,
    server,
    admin,
    owner,
    connect,
    takeMessages() {
      const taken = messages;
      messages = [];
      return taken;
    },
    async as(tenant, work) {
      const session = await connectTo(server, name, "app_user");
      try {
        if (tenant !== undefined)
          await session.query("SELECT set_config('app.current_tenant_id', $1, false)", [tenant]);
        return await work(session);
      } finally {
        await session.end();
      }
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([...open].map((client) => client.end()));
    },
  };
}

/** A database with setup.sql and helpers.sql, and the role app_user, which only an administrator can create. */
export async function createInstalledDatabase(server: PostgresServer, installer: Installer): Promise<TestDatabase> {
  const database = await createDatabase(server, installer);
  await createAppUser(database);
  await database.owner.query(setupSql);
  await database.owner.query(helpersSql);
  database.takeMessages();
  return database;
}

export async function createAppUser(database: TestDatabase): Promise<void> {
  await database.admin.query(`DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app_user') THEN CREATE ROLE app_user LOGIN; END IF;
  END $$`);
}

/** Removes the role, so that a test can see it created; every database of the server gives up what refers to it. */
export async function dropAppUser(server: PostgresServer): Promise<void> {
  const maintenance = await connectTo(server, "postgres", server.superuser);
  const { rows } = await maintenance.query<{ datname: string }>("SELECT datname FROM pg_database WHERE datallowconn");
  const { rowCount } = await maintenance.query("SELECT FROM pg_roles WHERE rolname = 'app_user'");
  if (rowCount === 1) {
    for (const { datname } of rows) {
      const client = await connectTo(server, datname, server.superuser);
      await client.query("DROP OWNED BY app_user");
      await client.end();
    }
    await maintenance.query("DROP ROLE app_user");
  }
  await maintenance.end();
}

async function connectTo(server: PostgresServer, database: string, user: string): Promise<Client> {
  const client = new Client({ connectionString: server.url(database, user) });
  await client.connect();
  return client;
}

/** Defines a suite once per PostgreSQL version, each with a server of its own. */
export function onEveryVersion(define: (server: () => PostgresServer, version: string) => void): void {
  onVersions(availableVersions(), define);
}

/** The same on the oldest and the newest version, for suites that take long. */
export function onOuterVersions(define: (server: () => PostgresServer, version: string) => void): void {
  onVersions(outerVersions(), define);
}

function onVersions(
  versions: readonly string[],
  define: (server: () => PostgresServer, version: string) => void,
): void {
  describe.each(versions)("PostgreSQL %s", (version) => {
    let server: PostgresServer | undefined;
    beforeAll(async () => {
      server = await startPostgres({ version, auth: "trust" });
    });
    afterAll(async () => {
      await server?.stop();
    });
    define(() => {
      if (server === undefined) throw new Error("the server is not running yet");
      return server;
    }, version);
  });
}

/** Resolves to what a failing query says; fails when the query succeeds. */
export async function failure(query: Promise<unknown>): Promise<DatabaseError> {
  try {
    await query;
  } catch (error) {
    if (error instanceof DatabaseError) return error;
    throw error;
  }
  throw new Error("the statement should have failed");
}

/** The values of the first column. */
export async function column(client: Client, text: string, values: unknown[] = []): Promise<unknown[]> {
  const { rows } = await client.query<unknown[]>({ text, values, rowMode: "array" });
  return rows.map((row) => row[0]);
}
