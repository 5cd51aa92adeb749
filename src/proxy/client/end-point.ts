/**
 * What a client can bind its SCRAM login to: the certificate of its own handshake, which a reload does not change.
 */
import type { Duplex } from "node:stream";
import { TLSSocket } from "node:tls";
import { endPointHash } from "../../protocol/scram/channel-binding.ts";

/** Undefined in plain text, and where the certificate's signature has no digest. */
export function endPointOf(socket: Duplex): Buffer | undefined {
  const certificate = socket instanceof TLSSocket ? socket.getX509Certificate() : undefined;
  return certificate && endPointHash(certificate.raw);
}
