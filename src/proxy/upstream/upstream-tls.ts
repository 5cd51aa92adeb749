/**
 * TLS to the upstream server: SSLRequest, one byte of answer, the handshake with the server's certificate verified. There
 * is no way back to plain text: a server that says no ends the login.
 */
import { isIP, type Socket } from "node:net";
import { connect, type SecureContext, type TLSSocket } from "node:tls";
import type { Config } from "../../config/settings.ts";
import { loadTlsFiles } from "../../config/tls-files.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { awaitHandshake } from "../../lib/tls-handshake.ts";
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

/** The name that PostgreSQL expects in ALPN from who begins with TLS, and gives back. */
const ALPN = "postgresql";

export class UpstreamTls {
  readonly #config: UpstreamTlsConfig;
  #context: SecureContext;

  /** @throws Error naming the file that cannot be read or used. */
  constructor(config: UpstreamTlsConfig, context = loadContext(config)) {
    this.#config = config;
    this.#context = context;
  }

  /** The same for another server, with what the files held when they were read last. */
  forServer(config: UpstreamTlsConfig): UpstreamTls {
    return new UpstreamTls(config, this.#context);
  }

  /** Takes what `common` has read. */
  takeFrom(common: UpstreamTls): void {
    this.#context = common.#context;
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
      if (this.#config.upstreamTlsNegotiation === "postgres") assertAccepted(await askForTls(raw, signal));
      return await this.#handshake(raw, signal);
    } catch (cause) {
      raw.destroy();
      signal.throwIfAborted();
      if (cause instanceof ProxyError) throw cause;
      const isDirect = this.#config.upstreamTlsNegotiation === "direct";
      const { code, message } = cause as NodeJS.ErrnoException;
      throw refusal(
        EXPLANATIONS[code ?? ""] ?? (isDirect ? NOT_DIRECT : `the handshake failed (${code ?? message})`),
        cause,
      );
    }
  }

  async #handshake(raw: Socket, signal: AbortSignal): Promise<TLSSocket> {
    const { upstreamHost, upstreamTlsVerify, upstreamTlsNegotiation } = this.#config;
    const isDirect = upstreamTlsNegotiation === "direct";
    const socket = connect({
      socket: raw,
      secureContext: this.#context,
      rejectUnauthorized: upstreamTlsVerify,
      // The certificate is checked against this; SNI takes names only.
      host: upstreamHost,
      ...(isIP(upstreamHost) === 0 && { servername: upstreamHost }),
      ...(isDirect && { ALPNProtocols: [ALPN] }),
    });
    await awaitHandshake(socket, "secureConnect", signal);
    if (isDirect && socket.alpnProtocol !== ALPN) throw refusal(NOT_DIRECT);
    return socket;
  }
}

/**
 * Sends SSLRequest.
 *
 * @returns what came in answer, as latin1: one character where all is well, none when the server has closed.
 * @throws the socket's error; whatever aborts `signal`.
 */
export function askForTls(raw: Socket, signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const settle = (deliver: () => void): void => {
      signal.removeEventListener("abort", onAbort);
      raw.off("data", onData).off("error", onError).off("end", onEnd).off("close", onEnd);
      raw.pause();
      deliver();
    };
    const onData = (chunk: Buffer): void => settle(() => resolve(chunk.toString("latin1")));
    const onEnd = (): void => settle(() => resolve(""));
    const onError = (error: Error): void => settle(() => reject(error));
    const onAbort = (): void => settle(() => reject(signal.reason as Error));
    signal.addEventListener("abort", onAbort);
    raw.on("data", onData).on("error", onError).on("end", onEnd).on("close", onEnd);
    raw.write(SSL_REQUEST_PACKET);
  });
}

/** What comes behind the one byte came from somebody in between. An error in plain text may have, too: it is not passed on. */
function assertAccepted(answer: string): void {
  if (answer === "S") return;
  if (answer === "N") throw refusal("it does not accept TLS: set ssl = on in its postgresql.conf");
  if (answer === "") throw refusal("it closed the connection when it was asked for TLS");
  if (/^[SN]/.test(answer)) throw refusal("received unencrypted data after SSL response");
  if (answer.startsWith("E")) throw refusal("it answers with an error: look into its log");
  throw refusal("what answers there is not PostgreSQL");
}

function refusal(problem: string, cause?: unknown): ProxyError {
  return new ProxyError("upstream_tls", { params: { problem }, ...(cause !== undefined && { cause }) });
}

const UNKNOWN_CA = "its certificate is signed by an authority that is not known here: set upstream_tls_ca";
const EXPIRED = "its certificate, or its authority's, has expired";
const NOT_DIRECT =
  "it does not take TLS without being asked: upstream_tls_negotiation = direct needs PostgreSQL 17 or newer";

/** OpenSSL's and Node's codes, in terms of what to do about them. */
const EXPLANATIONS: Readonly<Record<string, string>> = {
  SELF_SIGNED_CERT_IN_CHAIN: UNKNOWN_CA,
  DEPTH_ZERO_SELF_SIGNED_CERT: UNKNOWN_CA,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNKNOWN_CA,
  UNABLE_TO_GET_ISSUER_CERT: UNKNOWN_CA,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNKNOWN_CA,
  CERT_SIGNATURE_FAILURE: UNKNOWN_CA,
  CERT_HAS_EXPIRED: EXPIRED,
  CERT_NOT_YET_VALID: "its certificate, or its authority's, is not valid yet",
  ERR_TLS_CERT_ALTNAME_INVALID: "its certificate is for another name than upstream_host",
  ERR_SSL_UNSUPPORTED_PROTOCOL: "it speaks no TLS 1.2 or newer",
  ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION: "it speaks no TLS 1.2 or newer",
};

function loadContext({ upstreamTlsCert, upstreamTlsKey, upstreamTlsCa }: UpstreamTlsConfig): SecureContext {
  return loadTlsFiles({
    cert: { setting: "upstream_tls_cert", path: upstreamTlsCert },
    key: { setting: "upstream_tls_key", path: upstreamTlsKey },
    ca: { setting: "upstream_tls_ca", path: upstreamTlsCa },
  });
}
