/**
 * What listen hands to a session.
 */
import type { Duplex } from "node:stream";

/** An accepted connection. */
export interface ClientConnection {
  readonly socket: Duplex;
  /** Where it comes from, for the log: `address:port`, or `unix`. */
  readonly peer: string;
  /** Where it comes from without the port; undefined for a Unix-domain socket. */
  readonly address: string | undefined;
  /** True for loopback addresses and Unix-domain sockets: nobody on a network sees its bytes. */
  readonly isLocal: boolean;
  /** True for `tls_port`, where plain text is refused. */
  readonly isTlsPort: boolean;
}
