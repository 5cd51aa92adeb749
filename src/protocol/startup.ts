/**
 * The packets that open a connection: StartupMessage, SSLRequest, GSSENCRequest and CancelRequest. They are the only
 * ones without a type byte. Pure functions over a complete packet; who reads it from a socket is proxy/client.
 *
 *     StartupMessage  Int32 length  Int32 196608 + minor  { String name  String value }...  Byte1(0)
 *     CancelRequest   Int32 length  Int32 80877102  Int32 processId  Bytes secret
 *     SSLRequest      Int32 8       Int32 80877103
 *     GSSENCRequest   Int32 8       Int32 80877104
 */
import { ProxyError } from "../errors/proxy-error.ts";
import { MAX_CANCEL_SECRET, MAX_STARTUP_LENGTH, MIN_CANCEL_SECRET, MIN_STARTUP_LENGTH } from "./limits.ts";

const CANCEL_REQUEST = 80_877_102;
const SSL_REQUEST = 80_877_103;
const GSSENC_REQUEST = 80_877_104;

/** Asks for TLS; the answer is one byte, `S` or `N`. */
export const SSL_REQUEST_PACKET = Buffer.from([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);

/** The highest minor version of protocol 3 that pgvpd speaks. */
export const LATEST_MINOR = 2;

/** A name of the StartupMessage with its value as the client sent it; the bytes are the packet's own. */
export interface StartupParameter {
  readonly name: string;
  readonly value: Buffer;
}

export interface StartupMessage {
  readonly kind: "startup";
  /** The minor version of protocol 3 that the client asks for; may be above LATEST_MINOR. */
  readonly minor: number;
  readonly parameters: readonly StartupParameter[];
  /** The packet itself, length field included. */
  readonly packet: Buffer;
}

export interface CancelRequest {
  readonly kind: "cancel";
  readonly processId: number;
  readonly secret: Buffer;
  /** The packet itself, length field included. */
  readonly packet: Buffer;
}

export type StartupPacket = StartupMessage | CancelRequest | { readonly kind: "ssl" } | { readonly kind: "gssenc" };

/**
 * The whole length of a startup packet, told from its first 4 bytes, so that a reader never waits for, or holds, more.
 *
 * @throws ProxyError startup_length (08P01) for anything below 8 or above 10,000.
 */
export function startupPacketLength(lengthField: Buffer): number {
  const length = lengthField.readInt32BE(0);
  if (length < MIN_STARTUP_LENGTH || length > MAX_STARTUP_LENGTH) {
    throw new ProxyError("startup_length", { detail: `length field ${length}` });
  }
  return length;
}

/**
 * Decodes one complete packet of the startup phase. [PG protocol-flow/START-UP]
 *
 * @param packet exactly as many bytes as its length field says; the result refers to them.
 * @throws ProxyError startup_layout (08P01) or protocol_version (0A000).
 */
export function decodeStartupPacket(packet: Buffer): StartupPacket {
  const code = packet.readInt32BE(4);
  if (code === SSL_REQUEST || code === GSSENC_REQUEST) {
    if (packet.length !== 8) throw new ProxyError("startup_length");
    return { kind: code === SSL_REQUEST ? "ssl" : "gssenc" };
  }
  if (code === CANCEL_REQUEST) return decodeCancelRequest(packet);

  const major = code >>> 16;
  const minor = code & 0xffff;
  if (major !== 3) throw new ProxyError("protocol_version", { params: { version: `${major}.${minor}` } });
  return { kind: "startup", minor, parameters: decodeParameters(packet), packet };
}

function decodeCancelRequest(packet: Buffer): CancelRequest {
  const secret = packet.subarray(12);
  if (secret.length < MIN_CANCEL_SECRET || secret.length > MAX_CANCEL_SECRET) throw new ProxyError("startup_length");
  return { kind: "cancel", processId: packet.readInt32BE(8), secret, packet };
}

/** `Int32 length  Int32 80877102  Int32 processId  Bytes secret`. */
export function encodeCancelRequest({ processId, secret }: { processId: number; secret: Buffer }): Buffer {
  const packet = Buffer.alloc(12 + secret.length);
  packet.writeInt32BE(packet.length, 0);
  packet.writeInt32BE(CANCEL_REQUEST, 4);
  packet.writeInt32BE(processId, 8);
  secret.copy(packet, 12);
  return packet;
}

/** Reads the name-value pairs; the terminator must be the packet's last byte, and no name may come twice. */
function decodeParameters(packet: Buffer): StartupParameter[] {
  const parameters: StartupParameter[] = [];
  const seen = new Set<string>();
  let at = 8;
  for (;;) {
    const nameEnd = packet.indexOf(0, at);
    if (nameEnd === -1) throw new ProxyError("startup_layout", { detail: "no terminator" });
    if (nameEnd === at) break;
    const valueEnd = packet.indexOf(0, nameEnd + 1);
    if (valueEnd === -1) throw new ProxyError("startup_layout", { detail: "a value without its end" });

    const name = packet.toString("latin1", at, nameEnd);
    const folded = foldName(name);
    if (seen.has(folded)) throw new ProxyError("startup_layout", { detail: "a parameter comes twice" });
    seen.add(folded);
    parameters.push({ name, value: packet.subarray(nameEnd + 1, valueEnd) });
    at = valueEnd + 1;
  }
  if (at !== packet.length - 1) throw new ProxyError("startup_layout", { detail: "bytes after the terminator" });
  return parameters;
}

/**
 * A StartupMessage of protocol 3. Names and values go out as they are: nothing is quoted, nothing converted.
 *
 * @throws ProxyError startup_layout for a NUL, startup_length where the server would close without a word (08P01).
 */
export function encodeStartupMessage(
  minor: number,
  parameters: readonly { readonly name: string; readonly value: string | Buffer }[],
): Buffer {
  const parts: Buffer[] = [Buffer.alloc(8)];
  for (const { name, value } of parameters) {
    parts.push(
      terminated(Buffer.from(name, "latin1")),
      terminated(typeof value === "string" ? Buffer.from(value) : value),
    );
  }
  parts.push(Buffer.alloc(1));
  const packet = Buffer.concat(parts);
  if (packet.length > MAX_STARTUP_LENGTH) {
    throw new ProxyError("startup_length", { detail: `${packet.length} bytes with what pgvpd adds` });
  }
  packet.writeInt32BE(packet.length, 0);
  packet.writeInt32BE((3 << 16) | minor, 4);
  return packet;
}

/** A NUL inside a name or value would start a parameter of its own: refuse to encode it. */
function terminated(bytes: Buffer): Buffer {
  if (bytes.includes(0)) throw new ProxyError("startup_layout", { detail: "NUL in a startup parameter" });
  return Buffer.concat([bytes, Buffer.alloc(1)]);
}

/** Setting names are compared as PostgreSQL does: without case, ASCII letters only. */
export function foldName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => letter.toLowerCase());
}
