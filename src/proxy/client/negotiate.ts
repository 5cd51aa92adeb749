/**
 * The first stage of a session: encryption requests are answered, TLS is begun where both sides want it, until a
 * StartupMessage or a CancelRequest comes. It writes nothing but the one-byte answers and the handshake.
 */
import type { Duplex } from "node:stream";
import type { PeerCertificate } from "node:tls";
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
  readonly certificate: PeerCertificate | undefined;
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
 * follow a packet before it is answered. A CancelRequest is taken in plain text even where TLS is required: libpq up to
 * version 16 and many drivers send it so, as PostgreSQL allows.
 *
 * @param isTlsPort the client came to `tls_port`, where plain text is refused.
 * @throws ProxyError startup_*, login_message or tls_* (08P01), protocol_version (0A000), tls_required (28000).
 */
export async function negotiate(
  first: MessageStream,
  isTlsPort: boolean,
  { config, clientTls, read }: NegotiateServices,
  signal: AbortSignal,
): Promise<Negotiated> {
  let client = first;
  let tls: string | undefined;
  let certificate: PeerCertificate | undefined;
  const encrypt = async (raw: Duplex, isDirect: boolean): Promise<void> => {
    const encrypted = await (clientTls as ClientTls).handshake(raw, isDirect, signal);
    client = read(encrypted.socket);
    tls = encrypted.socket.getProtocol() ?? "TLS";
    ({ certificate } = encrypted);
  };

  let bytes = await (clientTls === undefined
    ? first.readStartupPacket(signal)
    : first.readStartupPacketOrTls(TLS_HANDSHAKE, signal));
  if (bytes[0] === TLS_HANDSHAKE) {
    const { socket } = first;
    first.detach();
    socket.unshift(bytes);
    await encrypt(socket, true);
    bytes = await client.readStartupPacket(signal);
  }
  const answered = new Set<string>(tls === undefined ? [] : ["ssl", "gssenc"]);
  for (; ; bytes = await client.readStartupPacket(signal)) {
    const packet = decodeStartupPacket(bytes);
    if (packet.kind === "startup" || packet.kind === "cancel") {
      if (client.hasUnread) throw new ProxyError("login_message");
      const needsTls = isTlsPort || !["disable", "allow"].includes(config.clientTlsSslmode);
      if (packet.kind === "startup" && needsTls && tls === undefined) throw new ProxyError("tls_required");
      return { opening: packet, client, tls, certificate };
    }
    if (answered.has(packet.kind)) throw new ProxyError("startup_repeated");
    answered.add(packet.kind);
    const isAccepted = packet.kind === "ssl" && clientTls !== undefined && tls === undefined;
    if (client.hasUnread) throw new ProxyError(isAccepted ? "tls_unencrypted" : "startup_pipelined");
    client.write(isAccepted ? ACCEPTED : REFUSED);
    if (!isAccepted) continue;
    const { socket } = client;
    client.detach();
    await encrypt(socket, false);
    answered.add("gssenc");
  }
}
