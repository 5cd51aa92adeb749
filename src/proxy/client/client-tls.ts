/**
 * TLS with clients: the certificate that pgvpd shows, the handshake that turns an accepted socket into an encrypted one,
 * and what the client's own certificate is worth. pgvpd's certificate can be replaced while connections are open; those
 * keep the one they began with.
 */
import type { Duplex } from "node:stream";
import { TLSSocket, type PeerCertificate, type SecureContext } from "node:tls";
import type { Config } from "../../config/settings.ts";
import { loadTlsFiles } from "../../config/tls-files.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { awaitHandshake } from "../../lib/tls-handshake.ts";

type ClientTlsConfig = Pick<Config, "tlsCert" | "tlsKey" | "clientTlsCaFile" | "clientTlsSslmode">;

/** The name that PostgreSQL's clients give in ALPN; direct TLS without it may be a cross-protocol attack. */
const ALPN = "postgresql";

export class ClientTls {
  readonly #config: ClientTlsConfig;
  #context: SecureContext;

  /** @throws Error naming the file that cannot be read or used. */
  constructor(config: ClientTlsConfig) {
    this.#config = config;
    this.#context = loadContext(config);
  }

  /** True for `verify-ca` and `verify-full`. */
  get demandsCertificate(): boolean {
    return this.#config.clientTlsSslmode.startsWith("verify-");
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
   * Handshakes over `raw`, whose unread bytes have been put back. A client certificate is asked for where one is
   * demanded, and looked at by `certificateOf`: a refusal in the handshake would leave the client without a word.
   *
   * @param isDirect the client began with TLS instead of an SSLRequest: then it must name "postgresql" in ALPN.
   * @throws ProxyError tls_handshake (08P01); whatever aborts `signal`. `raw` is destroyed then. [PG protocol-flow/SSL]
   */
  async handshake(raw: Duplex, isDirect: boolean, signal: AbortSignal): Promise<TLSSocket> {
    const socket = new TLSSocket(raw, {
      isServer: true,
      secureContext: this.#context,
      requestCert: this.demandsCertificate,
      rejectUnauthorized: false,
      ALPNProtocols: [ALPN],
    });
    try {
      await awaitHandshake(socket, "secure", signal);
    } catch (cause) {
      signal.throwIfAborted();
      // OpenSSL's errors have a reason, which says it without addresses and file names.
      const { reason, message } = cause as Error & { reason?: string };
      throw new ProxyError("tls_handshake", { detail: reason ?? message });
    }
    if (isDirect && socket.alpnProtocol !== ALPN) {
      socket.destroy();
      throw new ProxyError("tls_handshake", { detail: "direct TLS without the protocol postgresql in ALPN" });
    }
    return socket;
  }

  /**
   * The certificate that the client has shown, vouched for by `client_tls_ca_file`.
   *
   * @throws ProxyError client_certificate (28000).
   */
  certificateOf(socket: TLSSocket): PeerCertificate {
    if (socket.getPeerX509Certificate() === undefined) {
      throw new ProxyError("client_certificate", { detail: "the client has shown none" });
    }
    const error = verifyError(socket);
    if (error !== null) throw new ProxyError("client_certificate", { detail: error.message });
    return socket.getPeerCertificate();
  }
}

/**
 * What OpenSSL found wrong with the peer's certificate; null for nothing, and also where there is none. Node has a
 * documented way to ask for sockets of tls.Server alone. Should this one go, the session ends with a TypeError.
 */
function verifyError(socket: TLSSocket): Error | null {
  return (socket as unknown as { _handle: { verifyError(): Error | null } })._handle.verifyError();
}

function loadContext({ tlsCert, tlsKey, clientTlsCaFile }: ClientTlsConfig): SecureContext {
  return loadTlsFiles({
    cert: { setting: "tls_cert", path: tlsCert },
    key: { setting: "tls_key", path: tlsKey },
    ca: { setting: "client_tls_ca_file", path: clientTlsCaFile },
  });
}
