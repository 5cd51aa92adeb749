/**
 * TLS to the upstream server: SSLRequest, one byte of answer, the handshake with the server's certificate verified. There
 * is no way back to plain text: a server that says no ends the login.
 */
import { once } from "node:events";
import { isIP, type Socket } from "node:net";
import { connect, type SecureContext, type TLSSocket } from "node:tls";
import type { Config } from "../../config/settings.ts";
import { loadTlsFiles } from "../../config/tls-files.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { raceAbort } from "../../lib/deadline.ts";
import { SSL_REQUEST_PACKET } from "../../protocol/startup.ts";

type UpstreamTlsConfig = Pick<
  Config,
  | "upstreamHost"
  | "upstreamTlsVerify"
  | "upstreamTlsCa"
  | "upstreamTlsCert"
  | "upstreamTlsKey"
  | "upstreamTlsNegotiation"
>;

const ACCEPTED = 0x53;

export class UpstreamTls {
  readonly #config: UpstreamTlsConfig;
  #context: SecureContext;

  /** @throws Error naming the file that cannot be read or used. */
  constructor(config: UpstreamTlsConfig) {
    this.#config = config;
    this.#context = loadContext(config);
  }

  /**
   * Reads the files again.
   *
   * @returns what puts them to use, for connections from now on.
   * @throws Error naming the file that cannot be read or used.
   */
  prepareReload(): () => void {
    const context = loadContext(this.#config);
    return () => {
      this.#context = context;
    };
  }

  /**
   * Encrypts `raw`, on which nothing has been sent. [PG protocol-flow/SSL]
   *
   * @throws ProxyError upstream_tls (08001); whatever aborts `signal`. `raw` is destroyed then.
   */
  async encrypt(raw: Socket, signal: AbortSignal): Promise<TLSSocket> {
    try {
      if (this.#config.upstreamTlsNegotiation === "postgres") await requestTls(raw, signal);
      return await this.#handshake(raw, signal);
    } catch (cause) {
      raw.destroy();
      signal.throwIfAborted();
      throw cause instanceof ProxyError
        ? cause
        : new ProxyError("upstream_tls", { params: explain(cause as Error), cause });
    }
  }

  async #handshake(raw: Socket, signal: AbortSignal): Promise<TLSSocket> {
    const { upstreamHost, upstreamTlsVerify, upstreamTlsNegotiation } = this.#config;
    const socket = connect({
      socket: raw,
      secureContext: this.#context,
      rejectUnauthorized: upstreamTlsVerify,
      // SNI takes names only; the certificate is checked against `host` either way.
      host: upstreamHost,
      ...(isIP(upstreamHost) === 0 ? { servername: upstreamHost } : {}),
      ...(upstreamTlsNegotiation === "direct" ? { ALPNProtocols: ["postgresql"] } : {}),
    });
    await raceAbort(once(socket, "secureConnect"), signal);
    if (upstreamTlsNegotiation === "direct" && socket.alpnProtocol !== "postgresql") {
      throw new Error("the server does not speak direct TLS");
    }
    return socket;
  }
}

/** Sends SSLRequest and takes exactly one byte: anything behind it came from somebody in between. */
async function requestTls(raw: Socket, signal: AbortSignal): Promise<void> {
  raw.write(SSL_REQUEST_PACKET);
  const answer = await raceAbort(readOnce(raw), signal);
  raw.pause();
  if (answer.length !== 1) throw new Error("the server sent data before the TLS handshake");
  if (answer[0] !== ACCEPTED) throw new Error("the server does not accept TLS: set ssl = on there");
}

function readOnce(raw: Socket): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (deliver: () => void): void => {
      raw.off("data", onData).off("error", reject).off("end", onEnd);
      deliver();
    };
    const onData = (chunk: Buffer): void => settle(() => resolve(chunk));
    const onEnd = (): void => settle(() => reject(new Error("the server closed the connection")));
    raw.on("data", onData).on("error", reject).on("end", onEnd);
  });
}

/** OpenSSL's codes, in terms of what to do about them. */
function explain(error: NodeJS.ErrnoException): { problem: string } {
  const unknownCa = [
    "SELF_SIGNED_CERT_IN_CHAIN",
    "DEPTH_ZERO_SELF_SIGNED_CERT",
    "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
    "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
    "UNABLE_TO_GET_ISSUER_CERT",
  ];
  if (unknownCa.includes(error.code ?? "")) {
    return { problem: "its certificate is not signed by a known authority: set upstream_tls_ca" };
  }
  if (error.code === "ERR_TLS_CERT_ALTNAME_INVALID") {
    return { problem: "its certificate is for another host name than upstream_host" };
  }
  return { problem: error.message };
}

function loadContext({ upstreamTlsCert, upstreamTlsKey, upstreamTlsCa }: UpstreamTlsConfig): SecureContext {
  return loadTlsFiles({
    cert: { setting: "upstream_tls_cert", path: upstreamTlsCert },
    key: { setting: "upstream_tls_key", path: upstreamTlsKey },
    ca: { setting: "upstream_tls_ca", path: upstreamTlsCa },
  });
}
