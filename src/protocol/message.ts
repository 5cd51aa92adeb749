/**
 * One message after the startup phase, of either direction: `Byte1 type  Int32 length  body`, where the length counts
 * itself and the body, not the type.
 */

export interface Message {
  readonly type: number;
  /** What follows the length field. A view into `bytes`. */
  readonly body: Buffer;
  /** The whole message, type byte included: memory that nobody writes to again. */
  readonly bytes: Buffer;
}

/** Type and length. */
export const HEADER_BYTES = 5;

/** A message in memory of its own. */
export function encodeMessage(type: number, body: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(body.length + HEADER_BYTES);
  bytes[0] = type;
  bytes.writeInt32BE(body.length + 4, 1);
  body.copy(bytes, HEADER_BYTES);
  return bytes;
}
