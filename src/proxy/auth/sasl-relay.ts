/**
 * What relaying SASL takes when client and upstream server have TLS connections of their own: channel binding ties the
 * login to one of them, so it cannot pass. Pure functions over messages. [PG sasl-authentication]
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import { authentication, backend } from "../../protocol/message-types.ts";
import { encodeMessage, type Message } from "../../protocol/message.ts";

const PLUS = "SCRAM-SHA-256-PLUS";

/**
 * AuthenticationSASL without the mechanism that binds the channel, and whether the server had offered it.
 *
 *     Byte1('R')  Int32 length  Int32 10  { String mechanism }...  Byte1(0)
 */
export function withoutChannelBinding(request: Message): { readonly bytes: Buffer; readonly wasOffered: boolean } {
  const mechanisms = request.body.toString("latin1", 4).split("\0").filter(Boolean);
  if (!mechanisms.includes(PLUS)) return { bytes: request.bytes, wasOffered: false };
  const kept = mechanisms.filter((mechanism) => mechanism !== PLUS).map((mechanism) => `${mechanism}\0`);
  const kind = Buffer.alloc(4);
  kind.writeInt32BE(authentication.sasl);
  const body = Buffer.concat([kind, Buffer.from(`${kept.join("")}\0`, "latin1")]);
  return { bytes: encodeMessage(backend.authentication, body), wasOffered: true };
}

/**
 * A client that says "I could bind, but you do not" (gs2 flag `y`) to a server that did offer it looks like a downgrade
 * there, and would fail with a text that nobody understands. One that wants binding (`p`) cannot be served either.
 *
 *     Byte1('p')  Int32 length  String mechanism  Int32 length  "n,," or "y,," or "p=tls-server-end-point,,"  ...
 *
 * @throws ProxyError channel_binding (28000), which names both ways out.
 */
export function assertNoChannelBinding(response: Message): void {
  const mechanismEnd = response.body.indexOf(0);
  const mechanism = response.body.toString("latin1", 0, mechanismEnd);
  const flag = response.body.toString("latin1", mechanismEnd + 5, mechanismEnd + 6);
  if (mechanism === PLUS || flag !== "n") throw new ProxyError("channel_binding");
}
