/**
 * An upstream connection during login: dialled, read message by message, destroyed on every path that does not hand it
 * over to forwarding.
 */
import type { Duplex } from "node:stream";
import { MessageStream } from "../message-stream.ts";
import type { Dial, UpstreamAddress } from "./dial.ts";

export interface OpeningUpstream extends Disposable {
  readonly stream: MessageStream;
  readonly address: UpstreamAddress;
  /** Gives the socket away, with what was read and not used: from now on disposing does nothing. */
  handOver(): { readonly socket: Duplex; readonly unread: Buffer };
}

/** @throws ProxyError upstream_unreachable (08001); whatever aborts `signal`. */
export async function openUpstream(dial: Dial, signal: AbortSignal): Promise<OpeningUpstream> {
  const { socket, address } = await dial(signal);
  const stream = new MessageStream(socket);
  let isHandedOver = false;
  return {
    stream,
    address,
    handOver() {
      isHandedOver = true;
      return { socket, unread: stream.detach() };
    },
    [Symbol.dispose]() {
      if (!isHandedOver) socket.destroy();
    },
  };
}
