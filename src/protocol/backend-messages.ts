/**
 * The backend messages that pgvpd reads or writes itself, as pure functions over one message's body. Whatever is
 * malformed throws a ProxyError `upstream_protocol`, and the connection is destroyed.
 * Rows of a tenant never come here: only login, and the answers to our own statements.
 */
import { ProxyError } from "../errors/proxy-error.ts";
import { MAX_CANCEL_SECRET, MIN_CANCEL_SECRET } from "./limits.ts";
import { authentication, backend, IDLE } from "./message-types.ts";
import { encodeMessage, type Message } from "./message.ts";

/** Of a column in RowDescription, behind its name: table, attribute, type, length, modifier, format. */
const FIELD_BYTES = 4 + 2 + 4 + 2 + 4 + 2;

/**
 * An ErrorResponse from an error of ours: severity, SQLSTATE, text and hint of the catalogue, nothing else.
 *
 *     Byte1('E')  Int32 length  { Byte1 field  String value }...  Byte1(0)
 */
export function encodeErrorResponse(error: ProxyError): Buffer {
  const { severity, sqlstate } = error.definition;
  const fields = [`S${severity}`, `V${severity}`, `C${sqlstate}`, `M${error.message}`];
  if (error.hint !== undefined) fields.push(`H${error.hint}`);
  const body = fields.map((field) => `${field.replaceAll("\0", "")}\0`).join("");
  return encodeMessage(backend.errorResponse, Buffer.from(`${body}\0`));
}

/** `Byte1('R') Int32 8 Int32 3`: asks for the password in clear text. */
export function encodeCleartextPasswordRequest(): Buffer {
  return encodeAuthentication(authentication.cleartextPassword, "");
}

/** `Byte1('R') Int32 length Int32 10 { String mechanism }... Byte1(0)`: begins SASL, most wanted mechanism first. */
export function encodeSaslRequest(mechanisms: readonly string[]): Buffer {
  return encodeAuthentication(authentication.sasl, `${mechanisms.join("\0")}\0\0`);
}

/** `Byte1('R') Int32 length Int32 11 Bytes data`: the server-first-message. */
export function encodeSaslContinue(data: string): Buffer {
  return encodeAuthentication(authentication.saslContinue, data);
}

/** `Byte1('R') Int32 length Int32 12 Bytes data`: the server-final-message. */
export function encodeSaslFinal(data: string): Buffer {
  return encodeAuthentication(authentication.saslFinal, data);
}

function encodeAuthentication(kind: number, data: string): Buffer {
  const head = Buffer.alloc(4);
  head.writeInt32BE(kind);
  return encodeMessage(backend.authentication, Buffer.concat([head, Buffer.from(data, "latin1")]));
}

/** The mechanisms of an AuthenticationSASL. */
export function decodeSaslMechanisms(body: Buffer): string[] {
  return body.toString("latin1", 4).split("\0").filter(Boolean);
}

/** The kind of an Authentication message; the rest of its body is `body.subarray(4)`. */
export function decodeAuthentication(body: Buffer): number {
  if (body.length < 4) throw malformed("an Authentication message without its kind");
  return body.readInt32BE(0);
}

export interface ProtocolNegotiation {
  readonly minor: number;
  /** Names of `_pq_.` parameters that the sender does not know. */
  readonly unknownOptions: readonly string[];
}

/**
 * NegotiateProtocolVersion. The version is the whole number, 196608 + minor, whatever the documentation says.
 *
 *     Byte1('v')  Int32 length  Int32 version  Int32 count  { String name }...
 */
export function encodeNegotiateProtocolVersion(negotiation: ProtocolNegotiation): Buffer {
  const head = Buffer.alloc(8);
  head.writeInt32BE((3 << 16) | negotiation.minor, 0);
  head.writeInt32BE(negotiation.unknownOptions.length, 4);
  const names = negotiation.unknownOptions.map((name) => Buffer.from(`${name}\0`, "latin1"));
  return encodeMessage(backend.negotiateProtocolVersion, Buffer.concat([head, ...names]));
}

/** @throws ProxyError upstream_protocol when the version is not of protocol 3 or the names do not add up. */
export function decodeNegotiateProtocolVersion(body: Buffer): ProtocolNegotiation {
  if (body.length < 8) throw malformed("a short NegotiateProtocolVersion");
  const version = body.readUInt32BE(0);
  const major = version >>> 16;
  if (major !== 3 && version > 0xffff) throw malformed(`NegotiateProtocolVersion with version ${version}`);
  const names = body.toString("latin1", 8).split("\0");
  if (names.pop() !== "" || names.length !== body.readInt32BE(4)) {
    throw malformed("NegotiateProtocolVersion with a wrong count");
  }
  return { minor: version & 0xffff, unknownOptions: names };
}

/** What a client needs to cancel: `Byte1('K')  Int32 length  Int32 processId  Bytes secret`. */
export interface BackendKey {
  readonly processId: number;
  readonly secret: Buffer;
}

/** @throws ProxyError upstream_protocol: a secret has exactly 4 bytes in protocol 3.0, 4 to 256 in 3.2. */
export function decodeBackendKeyData(body: Buffer, minor: number): BackendKey {
  const secret = body.subarray(4);
  const longest = minor >= 2 ? MAX_CANCEL_SECRET : MIN_CANCEL_SECRET;
  if (secret.length < MIN_CANCEL_SECRET || secret.length > longest) {
    throw malformed(`BackendKeyData with a secret of ${secret.length} bytes in protocol 3.${minor}`);
  }
  return { processId: body.readInt32BE(0), secret };
}

/** `Byte1('S')  Int32 length  String name  String value`, as text that compares byte for byte. */
export function decodeParameterStatus(body: Buffer): { readonly name: string; readonly value: string } {
  const [name, value, rest, ...more] = body.toString("latin1").split("\0");
  if (name === undefined || value === undefined || rest !== "" || more.length > 0) {
    throw malformed("a ParameterStatus that is not two strings");
  }
  return { name, value };
}

/** @throws ProxyError upstream_protocol unless a ReadyForQuery says "idle": the only status a session may begin in. */
export function assertIdle(body: Buffer): void {
  if (body.length !== 1 || body[0] !== IDLE) throw malformed("a ReadyForQuery that is not idle");
}

/** The names of a RowDescription's columns. @throws ProxyError upstream_protocol. */
export function decodeRowDescription(body: Buffer): string[] {
  if (body.length < 2) throw malformed("a short RowDescription");
  const names: string[] = [];
  let at = 2;
  for (let columns = body.readUInt16BE(0); columns > 0; columns -= 1) {
    const end = body.indexOf(0, at);
    if (end === -1 || end + 1 + FIELD_BYTES > body.length) throw malformed("a truncated RowDescription");
    names.push(body.toString("utf8", at, end));
    at = end + 1 + FIELD_BYTES;
  }
  if (at !== body.length) throw malformed("a RowDescription with bytes behind its last column");
  return names;
}

/** One row of our own statements, in text format; null where the value is NULL. @throws ProxyError upstream_protocol. */
export function decodeDataRow(body: Buffer): (string | null)[] {
  if (body.length < 2) throw malformed("a short DataRow");
  const values: (string | null)[] = [];
  let at = 2;
  const columns = body.readUInt16BE(0);
  while (values.length < columns) {
    if (at + 4 > body.length) throw malformed("a truncated DataRow");
    const length = body.readInt32BE(at);
    at += 4;
    if (length < -1 || at + length > body.length) throw malformed("a truncated DataRow");
    values.push(length === -1 ? null : body.toString("utf8", at, at + length));
    at += Math.max(length, 0);
  }
  if (at !== body.length) throw malformed("a DataRow with bytes behind its last column");
  return values;
}

/**
 * The same ErrorResponse with severity FATAL, everything else byte for byte: an error of our own statement that is the
 * client's fault ends its login, as it would have in PostgreSQL's own start-up.
 */
export function withFatalSeverity(response: Message): Message {
  const fields = response.body.toString("latin1").split("\0");
  const fatal = fields.map((field) => (/^[SV]/.test(field) ? `${field[0]}FATAL` : field));
  const bytes = encodeMessage(response.type, Buffer.from(fatal.join("\0"), "latin1"));
  return { type: response.type, body: bytes.subarray(5), bytes };
}

/** The SQLSTATE of an ErrorResponse; XX000 where it has none. */
export function sqlstateOf(body: Buffer): string {
  return errorFields(body).get("C") ?? "XX000";
}

/** The fields of an ErrorResponse or NoticeResponse that the log may hold: severity, SQLSTATE and message. */
export function describeErrorResponse(body: Buffer): string {
  const fields = errorFields(body);
  return `${fields.get("V") ?? fields.get("S") ?? "ERROR"} ${fields.get("C") ?? "XX000"}: ${fields.get("M") ?? ""}`;
}

function errorFields(body: Buffer): Map<string, string> {
  return new Map(
    body
      .toString()
      .split("\0")
      .map((field) => [field.slice(0, 1), field.slice(1)]),
  );
}

function malformed(detail: string): ProxyError {
  return new ProxyError("upstream_protocol", { detail });
}
