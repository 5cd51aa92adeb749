/**
 * The sockets that clients connect to: one for each address of `listen_host`, and a Unix-domain socket where
 * `unix_socket_dir` says so. A failed accept (no file descriptor left) is logged and survived.
 */
import { chmod } from "node:fs/promises";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { join } from "node:path";
import type { Config } from "../../config/settings.ts";
import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../observe/logger.ts";
import type { ClientConnection } from "../client-connection.ts";
import { removeStale } from "./stale-socket.ts";

type ListenConfig = Pick<
  Config,
  "listenHosts" | "port" | "tlsPort" | "unixSocketDir" | "tcpKeepalive" | "tcpKeepidleMs"
>;

/** As PostgreSQL's own sockets: who may connect is decided by the login. */
const SOCKET_MODE = 0o777;

/** The kernel's queue of connections that are not accepted yet; the kernel caps it at net.core.somaxconn. */
const BACKLOG = 4096;

/** A burst of failed accepts is one line in the log, not thousands. */
const ACCEPT_ERROR_EVERY_MS = 1_000;

/** Where a listener can be reached. */
export type ListenAddress =
  { readonly host: string; readonly port: number; readonly isTlsPort: boolean } | { readonly path: string };

export interface Listener {
  readonly address: ListenAddress;
  /** Accepts no more; connections that are open stay open. */
  close(): Promise<void>;
}

/**
 * Opens all listeners of the configuration, or none.
 *
 * @throws Error with a text that names the address and what to do (EADDRINUSE, EACCES, EADDRNOTAVAIL).
 */
export async function listen(
  config: ListenConfig,
  onConnection: (connection: ClientConnection) => void,
  log: Logger,
  clock: Clock,
): Promise<Listener[]> {
  const listeners: Listener[] = [];
  try {
    // With port 0 the system chooses a port for the first address, and the others share it.
    let { port, tlsPort } = config;
    for (const host of config.listenHosts) {
      const listener = await open({ host, port, isTlsPort: false }, config, onConnection, log, clock);
      if ("port" in listener.address) ({ port } = listener.address);
      listeners.push(listener);
      if (tlsPort === undefined) continue;
      const second = await open({ host, port: tlsPort, isTlsPort: true }, config, onConnection, log, clock);
      if ("port" in second.address) ({ port: tlsPort } = second.address);
      listeners.push(second);
    }
    if (config.unixSocketDir !== undefined) {
      const path = join(config.unixSocketDir, `.s.PGSQL.${port}`);
      await removeStale(path);
      listeners.push(await open({ path }, config, onConnection, log, clock));
      await chmod(path, SOCKET_MODE);
    }
    return listeners;
  } catch (error) {
    await Promise.all(listeners.map((listener) => listener.close()));
    throw error;
  }
}

async function open(
  wanted: ListenAddress,
  config: ListenConfig,
  onConnection: (connection: ClientConnection) => void,
  log: Logger,
  clock: Clock,
): Promise<Listener> {
  const server = createServer({
    allowHalfOpen: true,
    pauseOnConnect: true,
    noDelay: true,
    keepAlive: config.tcpKeepalive,
    keepAliveInitialDelay: config.tcpKeepidleMs,
  });
  await bind(server, wanted);
  const isTlsPort = "port" in wanted && wanted.isTlsPort;
  server.on("connection", (socket) => onConnection(describeConnection(socket, isTlsPort)));
  let loggedAt = Number.NEGATIVE_INFINITY;
  server.on("error", (error: NodeJS.ErrnoException) => {
    if (clock.now() - loggedAt < ACCEPT_ERROR_EVERY_MS) return;
    loggedAt = clock.now();
    log.error(
      { err: error },
      `could not accept a connection (${error.code}): raise the limit of open files (ulimit -n)`,
    );
  });
  const bound = server.address() as AddressInfo | string;
  const address = typeof bound === "string" ? { path: bound } : { host: bound.address, port: bound.port, isTlsPort };
  return { address, close: () => new Promise((resolve) => server.close(() => resolve())) };
}

function bind(server: Server, wanted: ListenAddress): Promise<void> {
  const where =
    "path" in wanted
      ? { path: wanted.path }
      : { port: wanted.port, ...(wanted.host === "*" ? {} : { host: wanted.host }) };
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(explain(error, wanted)));
    server.listen({ ...where, backlog: BACKLOG }, () => {
      server.removeAllListeners("error");
      resolve();
    });
  });
}

function explain(error: NodeJS.ErrnoException, wanted: ListenAddress): Error {
  const where = "path" in wanted ? wanted.path : `${wanted.host}:${wanted.port}`;
  const advice: Record<string, string> = {
    EADDRINUSE: "it is in use: stop the other program, or choose another port",
    EACCES: "permission denied: choose a port above 1023, or a folder that this user may write to",
    EADDRNOTAVAIL: "this machine has no such address: set listen_host to one it has",
    ENOENT: "there is no such folder: set unix_socket_dir to one that exists",
  };
  return new Error(`cannot listen on ${where}: ${advice[error.code ?? ""] ?? error.message}`, { cause: error });
}

function describeConnection(socket: Socket, isTlsPort: boolean): ClientConnection {
  const { remoteAddress, remotePort } = socket;
  if (remoteAddress === undefined) {
    // A Unix-domain socket has no remote address; neither has a TCP client that is gone already, and it gets nowhere.
    return { socket, peer: "unix", address: undefined, isLocal: socket.localAddress === undefined, isTlsPort };
  }
  const isLocal = remoteAddress === "::1" || /^(::ffff:)?127\./.test(remoteAddress);
  return { socket, peer: `${remoteAddress}:${remotePort}`, address: remoteAddress, isLocal, isTlsPort };
}
