/**
 * The first stage of a session: encryption requests are answered, TLS is begun where both sides want it, until a
 * StartupMessage or a CancelRequest comes. It writes nothing but the one-byte answers and the handshake.
 */
import type { Duplex } from "node:stream";
import type { PeerCertificate, TLSSocket } from "node:tls";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { decodeStartupPacket, type CancelRequest, type StartupMessage } from "../../protocol/startup.ts";
import type { MessageStream } from "../message-stream.ts";
import type { ClientTls } from "./client-tls.ts";

const ACCEPTED = Buffer.from("S");
const REFUSED = Buffer.from("N");

/** The first byte of a TLS ClientHello; no packet of PostgreSQL's is long enough to begin with it. */
const TLS_HANDSHAKE = 0x16;

/** How a client has come in. */
export interface Negotiated {
  readonly opening: StartupMessage | CancelRequest;
  /** The client from now on: encrypted, where it was asked for. */
  readonly client: MessageStream;
  /** The TLS version, for the log; undefined in plain text. */
  readonly tls: string | undefined;
  /** The client's, where one is demanded. */
  readonly certificate: PeerCertificate | undefined;
}

/** Where the client came to. */
export interface Door {
  /** True for `tls_port`, where plain text is refused. */
  readonly isTlsPort: boolean;
  /** Nobody is in between, and libpq cannot encrypt it: TLS is not demanded there, a certificate is. */
  readonly isUnixSocket: boolean;
}

export interface NegotiateServices {
  readonly config: Pick<Config, "clientTlsSslmode">;
  /** Undefined where no certificate is configured. */
  readonly clientTls: ClientTls | undefined;
  /** Puts a reader on a socket; its predecessor has been taken off. */
  readonly read: (socket: Duplex) => MessageStream;
}

/**
 * [PG protocol-flow/START-UP], [PG protocol-flow/SSL]: at most one SSLRequest and one GSSENCRequest, and nothing may
 * follow a packet before it is answered. A CancelRequest is taken in plain text, and without a certificate, even where
 * TLS is required: libpq up to version 16 and many drivers send it so, as PostgreSQL allows.
 *
 * @throws ProxyError startup_*, login_message or tls_* (08P01), protocol_version (0A000), tls_required or
 *   client_certificate (28000).
 */
export async function negotiate(
  first: MessageStream,
  door: Door,
  services: NegotiateServices,
  signal: AbortSignal,
): Promise<Negotiated> {
  const { clientTls } = services;
  let client = first;
  let socket: TLSSocket | undefined;
  let packet = await (clientTls === undefined
    ? client.readStartupPacket(signal)
    : client.readStartupPacketOrTls(TLS_HANDSHAKE, signal));
  if (clientTls !== undefined && packet[0] === TLS_HANDSHAKE) {
    socket = await encrypt(client, clientTls, packet, signal);
    client = services.read(socket);
    packet = await client.readStartupPacket(signal);
  }

  // Behind TLS neither may be asked for.
  const answered = new Set<string>(socket === undefined ? [] : ["ssl", "gssenc"]);
  for (; ; packet = await client.readStartupPacket(signal)) {
    const opening = decodeStartupPacket(packet);
    if (opening.kind === "startup" || opening.kind === "cancel") {
      if (client.hasUnread) throw new ProxyError("login_message");
      const certificate = opening.kind === "startup" ? assertSecure(socket, door, services) : undefined;
      return { opening, client, tls: socket && (socket.getProtocol() ?? "TLS"), certificate };
    }
    if (answered.has(opening.kind)) throw new ProxyError("startup_repeated");
    answered.add(opening.kind);
    const isAccepted = opening.kind === "ssl" && clientTls !== undefined;
    if (client.hasUnread) throw new ProxyError(isAccepted ? "tls_unencrypted" : "startup_pipelined");
    client.write(isAccepted ? ACCEPTED : REFUSED);
    if (!isAccepted) continue;
    socket = await encrypt(client, clientTls, undefined, signal);
    client = services.read(socket);
    answered.add("gssenc");
  }
}

/** Takes `client` off its socket and handshakes there; `hello` is what a client of direct TLS has sent already. */
function encrypt(
  client: MessageStream,
  clientTls: ClientTls,
  hello: Buffer | undefined,
  signal: AbortSignal,
): Promise<TLSSocket> {
  client.detach();
  if (hello !== undefined) client.socket.unshift(hello);
  return clientTls.handshake(client.socket, hello !== undefined, signal);
}

/** Whether the client may send a StartupMessage in this way; returns its certificate, where one is demanded. */
function assertSecure(
  socket: TLSSocket | undefined,
  { isTlsPort, isUnixSocket }: Door,
  { config, clientTls }: NegotiateServices,
): PeerCertificate | undefined {
  const isDemanded = !["disable", "allow"].includes(config.clientTlsSslmode) && !isUnixSocket;
  if (socket === undefined && (isDemanded || isTlsPort)) throw new ProxyError("tls_required");
  if (clientTls?.demandsCertificate !== true) return undefined;
  if (socket === undefined) throw new ProxyError("client_certificate", { detail: "a Unix-domain socket has none" });
  return clientTls.certificateOf(socket);
}
