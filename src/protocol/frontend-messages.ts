/**
 * The frontend messages that pgvpd reads or writes itself: the password of a login that cannot be relayed as it is.
 * Our own statements are written by pg-protocol's serializers (proxy/context).
 */
import { createHash } from "node:crypto";
import { ProxyError } from "../errors/proxy-error.ts";
import { frontend } from "./message-types.ts";
import { encodeMessage } from "./message.ts";

/**
 * The bytes of a clear-text PasswordMessage, without the terminator: `Byte1('p')  Int32 length  String password`.
 *
 * @throws ProxyError login_message (08P01) when it is not exactly one terminated string.
 */
export function decodePassword(body: Buffer): Buffer {
  if (body.length === 0 || body.indexOf(0) !== body.length - 1)
    throw new ProxyError("login_message", { detail: "not a password" });
  return body.subarray(0, -1);
}

/**
 * A SASLInitialResponse: the mechanism, and the client's first message.
 *
 *     Byte1('p')  Int32 length  String mechanism  Int32 length of data  Bytes data
 *
 * @throws ProxyError scram_message (08P01) for anything else; a client without a first message is one.
 */
export function decodeSaslInitialResponse(body: Buffer): { readonly mechanism: string; readonly data: string } {
  const end = body.indexOf(0);
  const start = end + 1 + 4;
  if (end === -1 || start > body.length || body.readInt32BE(end + 1) !== body.length - start) {
    throw new ProxyError("scram_message", { detail: "not a SASLInitialResponse" });
  }
  return { mechanism: body.toString("latin1", 0, end), data: body.toString("latin1", start) };
}

/** What PostgreSQL stores for a password of `password_encryption = md5`: 'md5' || md5(password || role). */
export function hashMd5Password(password: Buffer, role: string): string {
  return `md5${createHash("md5").update(password).update(role).digest("hex")}`;
}

/**
 * The answer to AuthenticationMD5Password: 'md5' || md5(hash || salt). [PG protocol-flow/START-UP]
 *
 * @param stored as hashMd5Password has it.
 * @param salt the request's 4 bytes.
 */
export function encodeMd5Response(stored: string, salt: Buffer): Buffer {
  const outer = createHash("md5").update(stored.slice("md5".length)).update(salt).digest("hex");
  return encodeMessage(frontend.password, Buffer.from(`md5${outer}\0`));
}
