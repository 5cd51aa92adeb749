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
 * The answer to AuthenticationMD5Password: 'md5' || md5(md5(password || role) || salt). [PG protocol-flow/START-UP]
 *
 * @param salt the request's 4 bytes.
 */
export function encodeMd5Password(password: Buffer, role: string, salt: Buffer): Buffer {
  const inner = createHash("md5").update(password).update(role).digest("hex");
  const outer = createHash("md5").update(inner).update(salt).digest("hex");
  return encodeMessage(frontend.password, Buffer.from(`md5${outer}\0`));
}
