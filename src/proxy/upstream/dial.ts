/**
 * Opens the socket to the upstream server: a host name with one or more addresses, each tried in turn, or a folder with
 * a Unix-domain socket. It sends nothing. The only place of the data plane that creates client sockets.
 */
import { lookup } from "node:dns/promises";
import { connect, isIP, type NetConnectOpts, type Socket } from "node:net";
import { join } from "node:path";
import { ProxyError } from "../../errors/proxy-error.ts";
import { raceAbort } from "../../lib/deadline.ts";
import type { Config } from "../../config/settings.ts";
import type { UpstreamTls } from "./upstream-tls.ts";

/** One place where the upstream listens: what a CancelRequest must go back to. */
export type UpstreamAddress = { readonly host: string; readonly port: number } | { readonly path: string };

export interface Dialed {
  readonly socket: Socket;
  readonly address: UpstreamAddress;
}

/** How pgvpd reaches the upstream server; tests put a scripted one in its place. */
export type Dial = (signal: AbortSignal) => Promise<Dialed>;

/**
 * The dialer of a configuration. Every dial asks the resolver again, so that a name that moves is followed.
 *
 * @throws (from the dial) ProxyError upstream_unreachable (08001) when no address accepts.
 */
export function createDial(
  config: Pick<Config, "upstreamHost" | "upstreamPort" | "tcpKeepalive" | "tcpKeepidleMs">,
  tls: UpstreamTls | undefined,
): Dial {
  return async (signal) => {
    const failures: string[] = [];
    for (const address of await resolveAddresses(config.upstreamHost, config.upstreamPort, signal)) {
      try {
        return { socket: await openSocket(address, config, tls, signal), address };
      } catch (cause) {
        signal.throwIfAborted();
        // A server that answered, and is not trusted, ends the search: the next address is the same server's.
        if (cause instanceof ProxyError) throw cause;
        failures.push(`${describeAddress(address)}: ${(cause as Error).message}`);
      }
    }
    throw new ProxyError("upstream_unreachable", { detail: failures.join("; ") });
  };
}

/** A TCP address or the path of a socket, as the log shows it. */
export function describeAddress(address: UpstreamAddress): string {
  return "path" in address ? address.path : `${address.host}:${address.port}`;
}

async function resolveAddresses(host: string, port: number, signal: AbortSignal): Promise<UpstreamAddress[]> {
  if (host.startsWith("/")) return [{ path: join(host, `.s.PGSQL.${port}`) }];
  if (isIP(host) !== 0) return [{ host, port }];
  try {
    const found = await raceAbort(lookup(host, { all: true, verbatim: true }), signal);
    return found.map(({ address }) => ({ host: address, port }));
  } catch (cause) {
    signal.throwIfAborted();
    throw new ProxyError("upstream_unreachable", { detail: `${host}: ${(cause as Error).message}`, cause });
  }
}

/**
 * Connects to one address, and encrypts where `tls` says so. A Unix-domain socket is never encrypted: PostgreSQL does
 * not offer it there, and nobody is in between.
 *
 * @throws ProxyError upstream_tls (08001); the system's error when the address does not accept.
 */
export async function openSocket(
  address: UpstreamAddress,
  config: Pick<Config, "tcpKeepalive" | "tcpKeepidleMs">,
  tls: UpstreamTls | undefined,
  signal: AbortSignal,
): Promise<Socket> {
  const socket = await connectTo(address, config, signal);
  return tls === undefined || "path" in address ? socket : tls.encrypt(socket, signal);
}

/** Connects to one address. An abort of `signal` destroys the socket. */
export function connectTo(
  address: UpstreamAddress,
  config: Pick<Config, "tcpKeepalive" | "tcpKeepidleMs">,
  signal: AbortSignal,
): Promise<Socket> {
  const options: NetConnectOpts = {
    ...address,
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: config.tcpKeepalive,
    keepAliveInitialDelay: config.tcpKeepidleMs,
  };
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = connect(options);
    // Who reads the socket hears of its end as well; between two readers an error must not be nobody's.
    socket.on("error", () => {});
    const settle = (): void => {
      signal.removeEventListener("abort", abort);
      socket.off("connect", connected);
      socket.off("error", failed);
    };
    const connected = (): void => {
      settle();
      resolve(socket);
    };
    const failed = (error: Error): void => {
      settle();
      socket.destroy();
      reject(error);
    };
    const abort = (): void => failed(signal.reason as Error);
    signal.addEventListener("abort", abort);
    socket.once("connect", connected);
    socket.once("error", failed);
  });
}
