/**
 * An upstream connection during login: dialled, read message by message, destroyed on every path that does not hand it
 * over to forwarding.
 */
import type { Duplex } from "node:stream";
import { TLSSocket } from "node:tls";
import { endPointHash } from "../../protocol/scram/channel-binding.ts";
import { MessageStream } from "../message-stream.ts";
import type { Identity } from "../tenant/identity.ts";
import type { Greeting } from "./await-ready.ts";
import type { Dial, UpstreamAddress } from "./dial.ts";

/** What a login over this connection can rely on. */
export interface UpstreamChannel {
  /** True where nobody in between can read a password: TLS, or a Unix-domain socket. */
  readonly isPrivate: boolean;
  /** What SCRAM can be bound to; undefined in plain text, and where the server's certificate has no digest. */
  endPoint(): Buffer | undefined;
}

export interface OpeningUpstream extends Disposable {
  readonly stream: MessageStream;
  readonly address: UpstreamAddress;
  readonly channel: UpstreamChannel;
  /** Gives the socket away, with what was read and not used: from now on disposing does nothing. */
  handOver(): { readonly socket: Duplex; readonly unread: Buffer };
}

/** An upstream session that is logged in and idle; its context is not set. */
export interface LoggedIn extends Disposable {
  readonly identity: Identity;
  readonly upstream: OpeningUpstream;
  /** What the client must see of the login. */
  readonly greeting: Greeting;
}

/** @throws ProxyError upstream_unreachable (08001); whatever aborts `signal`. */
export async function openUpstream(dial: Dial, signal: AbortSignal): Promise<OpeningUpstream> {
  const { socket, address } = await dial(signal);
  const stream = new MessageStream(socket);
  let isHandedOver = false;
  return {
    stream,
    address,
    channel: {
      isPrivate: "path" in address || socket instanceof TLSSocket,
      endPoint: () => endPointOf(socket),
    },
    handOver() {
      isHandedOver = true;
      return { socket, unread: stream.detach() };
    },
    [Symbol.dispose]() {
      if (!isHandedOver) socket.destroy();
    },
  };
}

function endPointOf(socket: Duplex): Buffer | undefined {
  const certificate = socket instanceof TLSSocket ? socket.getPeerX509Certificate() : undefined;
  return certificate && endPointHash(certificate.raw);
}
