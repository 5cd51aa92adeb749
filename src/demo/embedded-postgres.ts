/**
 * Runs a real PostgreSQL server as a child: creates a data folder, starts the server on 127.0.0.1, waits until it
 * accepts connections, stops and reaps it. As root the server runs as `nobody`.
 * Used by `pgvpd demo` and by the tests; pgvpd itself never starts a database. The server never outlives this process:
 * a watcher holds the other end of a pipe and stops it when we are gone, even by SIGKILL.
 */
import assert from "node:assert/strict";
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chown, open, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import path from "node:path";
import { promisify } from "node:util";
import { systemClock } from "../lib/clock.ts";
import type { PostgresBinaries } from "./postgres-binaries.ts";
import { commandOf } from "./process-table.ts";
import { createServerFolder, type ServerAccount } from "./server-account.ts";

const run = promisify(execFile);
const startLimitMs = 60_000;
const pollMs = 10;

/** How clients prove who they are: one method for every user, or the text of a whole pg_hba.conf. */
export type HostAuth = "trust" | "scram" | "md5" | (string & {});

export interface ClusterOptions {
  readonly binaries: PostgresBinaries;
  readonly account: ServerAccount;
  /** Created where it is missing. Its parent must be passable for `account`. */
  readonly dataDir: string;
  readonly auth: HostAuth;
  /** Of the superuser `postgres`. */
  readonly password: string;
  /** On top of an otherwise empty environment, in which initdb looks for `TZ`. */
  readonly env?: Readonly<Record<string, string>>;
  /** Ends initdb, which then removes what it has made. */
  readonly signal?: AbortSignal;
}

export interface ServerOptions {
  readonly binaries: PostgresBinaries;
  readonly account: ServerAccount;
  /** A cluster that `createCluster` made, or a copy of one. */
  readonly dataDir: string;
  /** Server log; appended to. */
  readonly logFile: string;
  /** A free one is chosen where none is given. */
  readonly port?: number;
  /** Folder of the Unix socket; none where it is not given. */
  readonly socketDir?: string;
  /** postgresql.conf settings, given on the command line; `fsync: "off"` for tests. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly env?: Readonly<Record<string, string>>;
}

export interface RunningServer {
  readonly host: "127.0.0.1";
  readonly port: number;
  readonly pid: number;
  /** Settles when the server has ended, for whatever reason. */
  readonly ended: Promise<void>;
  /** Fast shutdown, then by force; resolves when the process is reaped. May be called more than once. */
  stop(): Promise<void>;
  /** SIGKILL: the server recovers at its next start. */
  kill(): void;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Runs initdb: superuser `postgres`, UTF8, locale C.UTF-8 where the system has it. */
export async function createCluster(options: ClusterOptions): Promise<void> {
  const { account, auth, binaries, dataDir } = options;
  await createServerFolder(dataDir, account);
  const passwordFile = `${dataDir}.password`;
  await writeFile(passwordFile, `${options.password}\n`, { mode: 0o600 });
  if (account.uid !== undefined) await chown(passwordFile, account.uid, account.gid ?? account.uid);
  const method = auth === "trust" || auth === "md5" ? auth : "scram-sha-256";
  const args = ["-D", dataDir, "-U", "postgres", "-A", method, `--pwfile=${passwordFile}`, "-E", "UTF8", "--no-sync"];
  const signal = options.signal === undefined ? {} : { signal: options.signal };
  const child = { ...account, ...signal, cwd: "/", env: { PATH: "/usr/bin:/bin", ...options.env } };
  try {
    const initdb = path.join(binaries.binDir, "initdb");
    await run(initdb, [...args, "--locale=C.UTF-8"], child).catch((error: unknown) => {
      if (!String(error).includes("invalid locale name")) throw error;
      return run(initdb, [...args, "--locale=C"], child); // macOS has no C.UTF-8
    });
  } catch (error) {
    throw new Error(`initdb could not create ${dataDir}\n${errorOutput(error)}`, { cause: error });
  } finally {
    await rm(passwordFile, { force: true });
  }
  if (!["trust", "scram", "md5"].includes(auth)) await writeFile(path.join(dataDir, "pg_hba.conf"), auth);
}

/** What a failed command said: its stderr, or why it could not be run at all. */
function errorOutput(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return "stderr" in error && typeof error.stderr === "string" && error.stderr !== "" ? error.stderr : error.message;
}

/** Starts the server and resolves when it accepts connections. Throws with the end of its log where it does not. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  await stopStaleServer(options.dataDir);
  for (let attempt = 1; ; attempt += 1) {
    const port = options.port ?? (await freePort());
    const started = await launch(options, port);
    if (typeof started !== "string") return started;
    const isPortTaken = started.includes("could not create any TCP/IP sockets");
    if (!isPortTaken || options.port !== undefined || attempt === 10) {
      throw new Error(`PostgreSQL ${options.binaries.version} did not start on port ${port}:\n${started.trimEnd()}`);
    }
  }
}

/** A port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  assert(typeof address === "object" && address !== null); // a TCP socket has a port
  return address.port;
}

/** The running server, or what it wrote to its log before it gave up. */
async function launch(options: ServerOptions, port: number): Promise<RunningServer | string> {
  const { account, binaries, dataDir } = options;
  const settings = {
    listen_addresses: "127.0.0.1",
    unix_socket_directories: options.socketDir ?? "",
    ...options.settings,
  };
  const args = ["-D", dataDir, "-p", String(port)];
  for (const [name, value] of Object.entries(settings)) args.push("-c", `${name}=${value}`);

  await using log = await open(options.logFile, "a", 0o600);
  const logStart = (await log.stat()).size;
  const child = spawn(path.join(binaries.binDir, "postgres"), args, {
    ...account,
    cwd: "/",
    env: { PATH: "/usr/bin:/bin", ...options.env },
    stdio: ["ignore", log.fd, log.fd],
    detached: true, // a Ctrl-C on the terminal is for us: we stop the server when the proxy is done with it
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  await once(child, "spawn");
  const watcher = watch(child, account);
  void ended.then(() => watcher.kill("SIGKILL"));

  const giveUpAt = systemClock.now() + startLimitMs;
  while (!(await isReady(dataDir, child))) {
    if (hasEnded(child)) return (await readFile(options.logFile)).subarray(logStart).toString();
    if (systemClock.now() > giveUpAt) {
      await stop(child, ended);
      throw new Error(`PostgreSQL accepted no connection within ${startLimitMs / 1000} s; see ${options.logFile}`);
    }
    await pause(pollMs);
  }
  return {
    host: "127.0.0.1",
    port,
    pid: child.pid ?? 0,
    ended,
    stop: () => stop(child, ended),
    kill: () => void child.kill("SIGKILL"),
    [Symbol.asyncDispose]: () => stop(child, ended),
  };
}

/** As `pg_ctl --wait` does: line 1 of postmaster.pid is the server's pid, line 8 its state. */
async function isReady(dataDir: string, child: ChildProcess): Promise<boolean> {
  const lines = await readPidFile(dataDir);
  return Number(lines[0]) === child.pid && lines[7]?.trim() === "ready";
}

async function readPidFile(dataDir: string): Promise<string[]> {
  const text = await readFile(path.join(dataDir, "postmaster.pid"), "utf8").catch(() => "");
  return text.split("\n");
}

/** Its `read` ends when our end of the pipe does, that is, when this process is gone. */
function watch(server: ChildProcess, account: ServerAccount): ChildProcess {
  const watcher = spawn("/bin/sh", ["-c", 'read -r _; kill -INT "$1"', "pgvpd-watcher", String(server.pid)], {
    ...account,
    cwd: "/",
    env: {},
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  watcher.on("error", () => {}); // no /bin/sh: then only `stop` stops the server
  watcher.unref();
  return watcher;
}

async function stop(child: ChildProcess, ended: Promise<void>): Promise<void> {
  for (const [signal, limitMs] of [["SIGINT", 10_000] as const, ["SIGQUIT", 5_000] as const]) {
    if (hasEnded(child)) return;
    child.kill(signal); // fast, then immediate shutdown
    if (await settlesWithin(ended, limitMs)) return;
  }
  child.kill("SIGKILL");
  await ended;
}

/** A server that an earlier run left in this data folder: asked to stop, then made to. */
export async function stopStaleServer(dataDir: string): Promise<void> {
  const pid = Number((await readPidFile(dataDir))[0]);
  if (!(pid > 1) || !(await isServerOf(pid, dataDir))) return;
  for (const [signal, limitMs] of [["SIGINT", 10_000] as const, ["SIGQUIT", 5_000] as const]) {
    process.kill(pid, signal);
    const giveUpAt = systemClock.now() + limitMs;
    while (systemClock.now() < giveUpAt) {
      if (!(await isServerOf(pid, dataDir))) return;
      await pause(pollMs);
    }
  }
  throw new Error(`a PostgreSQL server (pid ${pid}) uses ${dataDir} already and does not stop`);
}

/** A pid may have been given to another program since: its command line must name the data folder. */
async function isServerOf(pid: number, dataDir: string): Promise<boolean> {
  return (await commandOf(pid)).includes(dataDir);
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}

function pause(delayMs: number): Promise<void> {
  return new Promise((resolve) => systemClock.after(delayMs, resolve));
}

async function settlesWithin(work: Promise<void>, limitMs: number): Promise<boolean> {
  const { promise: timeIsUp, resolve } = deferred();
  using _timer = systemClock.after(limitMs, resolve);
  return await Promise.race([work.then(() => true), timeIsUp.then(() => false)]);
}

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {};
  const promise = new Promise<void>((settle) => (resolve = settle));
  return { promise, resolve };
}
