/**
 * The first stage of a session: encryption requests are answered, until a StartupMessage or a CancelRequest comes.
 * It writes nothing but the one-byte answers.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import { decodeStartupPacket, type CancelRequest, type StartupMessage } from "../../protocol/startup.ts";
import type { MessageStream } from "../message-stream.ts";

const REFUSED = Buffer.from("N");

/**
 * [PG protocol-flow/START-UP], [PG protocol-flow/SSL]: at most one SSLRequest and one GSSENCRequest, each answered `N`,
 * and nothing may follow a packet before it is answered.
 *
 * @throws ProxyError startup_* or login_message (08P01), protocol_version (0A000).
 */
export async function negotiate(client: MessageStream, signal: AbortSignal): Promise<StartupMessage | CancelRequest> {
  const refused = new Set<string>();
  for (;;) {
    const packet = decodeStartupPacket(await client.readStartupPacket(signal));
    if (client.hasUnread) throw new ProxyError(packet.kind === "startup" ? "login_message" : "startup_pipelined");
    if (packet.kind === "startup" || packet.kind === "cancel") return packet;
    if (refused.has(packet.kind)) throw new ProxyError("startup_repeated");
    refused.add(packet.kind);
    client.write(REFUSED);
  }
}
