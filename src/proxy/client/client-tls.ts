/**
 * TLS with clients: the certificate that pgvpd shows, and the handshake that turns an accepted socket into an encrypted
 * one. The certificate can be replaced while connections are open; those keep the one they began with.
 */
import { once } from "node:events";
import type { Duplex } from "node:stream";
import { TLSSocket, type PeerCertificate, type SecureContext } from "node:tls";
import type { Config } from "../../config/settings.ts";
import { loadTlsFiles } from "../../config/tls-files.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { raceAbort } from "../../lib/deadline.ts";

type ClientTlsConfig = Pick<Config, "tlsCert" | "tlsKey" | "clientTlsCaFile" | "clientTlsSslmode">;

/** The name that PostgreSQL's clients give in ALPN; direct TLS without it may be a cross-protocol attack. */
const ALPN = "postgresql";

/** What a completed handshake leaves. */
export interface EncryptedClient {
  readonly socket: TLSSocket;
  /** The client's certificate, where it showed one that `client_tls_ca_file` vouches for. */
  readonly certificate: PeerCertificate | undefined;
}

export class ClientTls {
  readonly #config: ClientTlsConfig;
  #context: SecureContext;

  /** @throws Error naming the file that cannot be read or used. */
  constructor(config: ClientTlsConfig) {
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
   * Handshakes over `raw`, whose unread bytes have been put back. [PG protocol-flow/SSL]
   *
   * @param isDirect the client began with TLS instead of an SSLRequest: then it must name "postgresql" in ALPN.
   * @throws ProxyError tls_handshake (08P01), client_certificate (28000); whatever aborts `signal`.
   */
  async handshake(raw: Duplex, isDirect: boolean, signal: AbortSignal): Promise<EncryptedClient> {
    const { clientTlsSslmode } = this.#config;
    const mustVerify = clientTlsSslmode === "verify-ca" || clientTlsSslmode === "verify-full";
    const socket = new TLSSocket(raw as never, {
      isServer: true,
      secureContext: this.#context,
      requestCert: mustVerify,
      rejectUnauthorized: false,
      ALPNProtocols: [ALPN],
    });
    const failed = once(socket, "close").then(() => {
      throw new ProxyError("tls_handshake", { detail: "the connection was closed" });
    });
    try {
      await raceAbort(Promise.race([once(socket, "secure"), failed]), signal);
    } catch (cause) {
      socket.destroy();
      signal.throwIfAborted();
      throw cause instanceof ProxyError ? cause : new ProxyError("tls_handshake", { cause });
    }
    if (isDirect && socket.alpnProtocol !== ALPN) {
      socket.destroy();
      throw new ProxyError("tls_handshake", { detail: "direct TLS without ALPN" });
    }
    if (mustVerify && !socket.authorized) {
      throw new ProxyError("client_certificate", { detail: String(socket.authorizationError) });
    }
    return { socket, certificate: mustVerify ? socket.getPeerCertificate() : undefined };
  }
}

function loadContext({ tlsCert, tlsKey, clientTlsCaFile }: ClientTlsConfig): SecureContext {
  return loadTlsFiles({
    cert: { setting: "tls_cert", path: tlsCert },
    key: { setting: "tls_key", path: tlsKey },
    ca: { setting: "client_tls_ca_file", path: clientTlsCaFile },
  });
}
