/**
 * The listeners of the HTTP API: a port, a Unix-domain socket, or both. It opens them, reads tokens and certificates again
 * when it is told to, and closes them.
 */
import { chmod } from "node:fs/promises";
import type { FastifyInstance } from "fastify";
import type { Server } from "node:https";
import { isIPv4, type AddressInfo } from "node:net";
import type { SecureContextOptions } from "node:tls";
import { loadAdminTokens, type AdminTokens } from "../config/admin-tokens.ts";
import type { Config } from "../config/settings.ts";
import { loadAdminTls } from "../config/tls-files.ts";
import { removeStale } from "../proxy/listen/stale-socket.ts";
import { createApi } from "./api.ts";
import type { Exposure } from "./gate.ts";
import type { AdminPorts } from "./ports.ts";

type AdminConfig = Pick<
  Config,
  "adminPort" | "adminHost" | "adminSocket" | "adminTlsCert" | "adminTlsKey" | "adminTokensFile" | "adminServerNames"
>;

/** Its owner alone. */
const SOCKET_MODE = 0o600;

/** Where the API can be reached. */
export type AdminAddress =
  { readonly host: string; readonly port: number; readonly isTls: boolean } | { readonly path: string };

interface Listener {
  readonly api: FastifyInstance;
  readonly address: AdminAddress;
}

export class AdminServer {
  readonly #config: AdminConfig;
  readonly #ports: AdminPorts;
  #tokens: AdminTokens;
  #listeners: Listener[] = [];

  /** @throws Error naming the file of tokens that cannot be used. */
  constructor(config: AdminConfig, ports: AdminPorts) {
    this.#config = config;
    this.#ports = ports;
    this.#tokens = loadAdminTokens(config.adminTokensFile);
  }

  get addresses(): readonly AdminAddress[] {
    return this.#listeners.map(({ address }) => address);
  }

  /** Opens the listeners, or none. @throws Error naming the address or the file that cannot be had. */
  async start(): Promise<void> {
    const { adminPort, adminSocket } = this.#config;
    try {
      if (adminPort !== undefined) await this.#listenAtPort(adminPort);
      if (adminSocket !== undefined) await this.#listenAtSocket(adminSocket);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** Reads tokens and certificate again. @returns what puts them to use. @throws Error naming the file that cannot be used. */
  prepareReload(): () => void {
    const tokens = loadAdminTokens(this.#config.adminTokensFile);
    const tls = loadAdminTls(this.#config);
    return () => {
      this.#tokens = tokens;
      for (const { api, address } of this.#listeners) {
        if (tls !== undefined && "isTls" in address && address.isTls) (api.server as Server).setSecureContext(tls);
      }
    };
  }

  /** Ends what is being answered, too. */
  async close(): Promise<void> {
    const listeners = this.#listeners;
    this.#listeners = [];
    await Promise.all(listeners.map(({ api }) => api.close()));
  }

  async #listenAtPort(port: number): Promise<void> {
    const { adminHost } = this.#config;
    const tls = loadAdminTls(this.#config);
    const exposure = exposureOf(adminHost, tls !== undefined);
    const host = adminHost === "*" ? "::" : adminHost;
    const api = await this.#createApi(exposure, tls);
    await listen(api, { host, port }, `${adminHost}:${port}`);
    const { port: bound } = api.server.address() as AddressInfo;
    this.#listeners.push({ api, address: { host: adminHost, port: bound, isTls: tls !== undefined } });
    if (exposure === "exposed") {
      this.#ports.log.warn(
        { host: adminHost },
        "the HTTP API is open to a network without TLS: it answers /health and /ready, /metrics with a token, and nothing" +
          " else; set admin_tls_cert and admin_tls_key, or admin_host = 127.0.0.1",
      );
    }
  }

  async #listenAtSocket(path: string): Promise<void> {
    const api = await this.#createApi("socket", undefined);
    await removeStale(path);
    // Nobody else may open it in the moment before its mode is set.
    const before = process.umask(0o177);
    try {
      await listen(api, { path }, path);
    } finally {
      process.umask(before);
    }
    this.#listeners.push({ api, address: { path } });
    await chmod(path, SOCKET_MODE);
  }

  #createApi(exposure: Exposure, tls: SecureContextOptions | undefined): Promise<FastifyInstance> {
    const { adminServerNames: serverNames } = this.#config;
    return createApi(this.#ports, { exposure, serverNames, tokens: () => this.#tokens }, tls);
  }
}

function exposureOf(host: string, isEncrypted: boolean): Exposure {
  const isLoopback = host === "::1" || (isIPv4(host) && host.startsWith("127."));
  return isLoopback ? "loopback" : isEncrypted ? "encrypted" : "exposed";
}

async function listen(
  api: FastifyInstance,
  where: { readonly host: string; readonly port: number } | { readonly path: string },
  name: string,
): Promise<void> {
  try {
    await api.listen(where);
  } catch (error) {
    await api.close();
    const { code, message } = error as NodeJS.ErrnoException;
    const advice: Record<string, string> = {
      EADDRINUSE: "it is in use: stop the other program, or choose another",
      EACCES: "permission denied: choose a port above 1023, or a folder that this user may write to",
      EADDRNOTAVAIL: "this machine has no such address: set admin_host to one it has",
      ENOENT: "there is no such folder: set admin_socket to a path in one that exists",
    };
    throw new Error(`cannot open the HTTP API on ${name}: ${advice[code ?? ""] ?? message}`, { cause: error });
  }
}
