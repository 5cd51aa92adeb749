/**
 * The database that the demo shows: `pgvpd_demo` with pgvpd's SQL installed, three tables that two tenants share, and the
 * role that tenants log in as. Made once and kept; whatever stands there already under these names and is not the demo's
 * own is refused, never changed. Its own is told by a COMMENT.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { Client } from "pg";
import { readSealKeys, renderKeyInstallation } from "../config/seal-keys.ts";
import type { DemoFolder } from "./demo-folder.ts";
import type { DemoServer } from "./demo-server.ts";
import { say, yellow } from "./terminal.ts";

export const demoDatabase = "pgvpd_demo";
const mark = "created by pgvpd demo; it may be dropped";
const sqlFolder = path.join(import.meta.dirname, "../../sql");

/** What stands on the server before the demo touches it. */
export interface DemoPlan {
  readonly role: string;
  readonly databaseExists: boolean;
  readonly roleExists: boolean;
  /** For sql/setup.sql, which creates app_user where it is missing. */
  readonly appUserExists: boolean;
  /** A superuser can seal the context: sql/seal.sql. */
  readonly isSealed: boolean;
  /** For sql/seal.sql, which creates pgvpd_owner where it is missing. */
  readonly ownerExists: boolean;
}

/**
 * Looks only. On a server of somebody's own the tenants' role is the demo's alone: app_user may be in use there.
 * Throws where the database or the role exists and is not ours.
 */
export async function planDemoDatabase(server: DemoServer): Promise<DemoPlan> {
  const role = server.isOurs ? "app_user" : "pgvpd_demo_user";
  return withClient(server, server.maintenanceDatabase, async (client) => {
    const { rows } = await client.query<{ kind: string; comment: string | null }>(
      `SELECT 'database' AS kind, shobj_description(oid, 'pg_database') AS comment FROM pg_database WHERE datname = $1
       UNION ALL SELECT 'role', shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $2
       UNION ALL SELECT rolname, NULL FROM pg_roles WHERE rolname IN ('app_user', 'pgvpd_owner')
       UNION ALL SELECT 'superuser', NULL WHERE current_setting('is_superuser') = 'on'`,
      [demoDatabase, role],
    );
    const find = (kind: string): boolean => {
      const found = rows.find((row) => row.kind === kind);
      const isDemos = kind === "database" || kind === "role";
      if (found !== undefined && !server.isOurs && isDemos && found.comment !== mark) {
        const name = kind === "role" ? role : demoDatabase;
        throw new Error(`the ${kind} ${name} exists on that server and is not the demo's: it is left alone`);
      }
      return found !== undefined;
    };
    return {
      role,
      databaseExists: find("database"),
      roleExists: find("role"),
      appUserExists: find("app_user"),
      isSealed: find("superuser"),
      ownerExists: find("pgvpd_owner"),
    };
  });
}

/** Makes true what `plan` found missing, and gives the role its password. `isFresh` drops the database first. */
export async function createDemoDatabase(
  server: DemoServer,
  plan: DemoPlan,
  folder: DemoFolder,
  isFresh: boolean,
): Promise<void> {
  const password = folder.passwords.application;
  await withClient(server, server.maintenanceDatabase, async (client) => {
    const [database, role] = [client.escapeIdentifier(demoDatabase), client.escapeIdentifier(plan.role)];
    if (!plan.roleExists) await client.query(`CREATE ROLE ${role} LOGIN`);
    await client.query("SET password_encryption = 'scram-sha-256'");
    await client.query(`ALTER ROLE ${role} PASSWORD ${client.escapeLiteral(password)}`);
    await client.query(`COMMENT ON ROLE ${role} IS ${client.escapeLiteral(mark)}`);
    if (plan.databaseExists && isFresh) await client.query(`DROP DATABASE ${database} WITH (FORCE)`);
    if (!plan.databaseExists || isFresh) {
      await client.query(`CREATE DATABASE ${database} TEMPLATE template0 ENCODING 'UTF8'`);
      await client.query(`COMMENT ON DATABASE ${database} IS ${client.escapeLiteral(mark)}`);
    }
  });
  await withClient(server, demoDatabase, async (client) => {
    client.on("notice", (notice) => {
      if (notice.severity === "WARNING") say(yellow(`WARNING: ${notice.message}`));
    });
    const files = ["setup.sql", "helpers.sql", ...(plan.isSealed ? ["seal.sql"] : [])];
    for (const file of files) await client.query(await readFile(path.join(sqlFolder, file), "utf8"));
    if (plan.isSealed) await client.query(renderKeyInstallation(readSealKeys(folder.keyFile)));
    await createTables(client, plan.role);
  });
}

/** Runs `work` with a client that is closed afterwards, whatever happens. */
async function withClient<T>(server: DemoServer, database: string, work: (client: Client) => Promise<T>): Promise<T> {
  const client = new Client(server.client(database));
  client.on("error", () => {}); // the query under way rejects with it
  try {
    await client.connect();
  } catch (cause) {
    throw explainTls(cause as NodeJS.ErrnoException);
  }
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

/** The same error, or for a certificate that is not trusted one that says what to do. */
function explainTls(cause: NodeJS.ErrnoException): Error {
  const isUnknown = /SELF_SIGNED|UNABLE_TO/.test(cause.code ?? "");
  if (!isUnknown) return cause;
  const advice = "name its authority with sslrootcert=FILE in --database-url, or do not verify with sslmode=require";
  return new Error(`the server's certificate is not trusted (${cause.message}): ${advice}`, { cause });
}

/** All or nothing; tables of an earlier run keep their rows. The rows come first: protected tables take none without a tenant. */
async function createTables(client: Client, role: string): Promise<void> {
  const { rows } = await client.query(
    "SELECT to_regclass('public.contacts') AS found WHERE to_regclass('public.contacts') IS NOT NULL",
  );
  await client.query("BEGIN");
  if (rows.length === 0) await client.query(tables);
  for (const table of ["contacts", "orders", "invoices"]) {
    await client.query("SELECT public.pgvpd_protect($1, 'tenant_id', $2)", [`public.${table}`, role]);
  }
  await client.query("COMMIT");
}

const tables = `
CREATE TABLE public.contacts (
  id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  tenant_id text NOT NULL DEFAULT public.current_tenant_id(),
  name text NOT NULL,
  email text NOT NULL
);
CREATE TABLE public.orders (
  id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  tenant_id text NOT NULL DEFAULT public.current_tenant_id(),
  contact_id integer NOT NULL REFERENCES public.contacts,
  item text NOT NULL,
  price numeric(10,2) NOT NULL
);
CREATE TABLE public.invoices (
  id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  tenant_id text NOT NULL DEFAULT public.current_tenant_id(),
  order_id integer NOT NULL REFERENCES public.orders,
  is_paid boolean NOT NULL
);
CREATE INDEX ON public.contacts (tenant_id);
CREATE INDEX ON public.orders (tenant_id);
CREATE INDEX ON public.invoices (tenant_id);

INSERT INTO public.contacts (tenant_id, name, email) VALUES
  ('acme', 'Wile E. Coyote', 'wile@acme.example'), ('acme', 'Road Runner', 'beep@acme.example'),
  ('globex', 'Hank Scorpio', 'hank@globex.example'), ('globex', 'Frank Grimes', 'frank@globex.example'),
  ('globex', 'Mindy Simmons', 'mindy@globex.example');
INSERT INTO public.orders (tenant_id, contact_id, item, price) VALUES
  ('acme', 1, 'rocket skates', 249.00), ('acme', 1, 'giant magnet', 1200.00), ('acme', 2, 'bird seed', 4.50),
  ('globex', 3, 'flamethrower', 899.00), ('globex', 4, 'lunch box', 12.75);
INSERT INTO public.invoices (tenant_id, order_id, is_paid) VALUES
  ('acme', 1, true), ('acme', 2, false), ('acme', 3, true), ('globex', 4, true), ('globex', 5, false);
`;
