/**
 * Protocol bytes for tests, written out field by field and independent of the encoders under test. Everything here may
 * be malformed on purpose: lengths are computed only where the name says so.
 */

export const int16 = (value: number): Buffer => {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
};

export const int32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value | 0);
  return bytes;
};

/** A string and its terminator. */
export const cstring = (text: string | Buffer): Buffer =>
  Buffer.concat([typeof text === "string" ? Buffer.from(text) : text, Buffer.alloc(1)]);

type Part = Buffer | string | number;

/** Parts behind each other: a string is its UTF-8 bytes, a number one byte. */
export const bytes = (...parts: Part[]): Buffer =>
  Buffer.concat(
    parts.map((part) =>
      typeof part === "number" ? Buffer.of(part) : typeof part === "string" ? Buffer.from(part) : part,
    ),
  );

/** `Byte1 type  Int32 length  body` with the right length. */
export const message = (type: string, ...body: Part[]): Buffer => {
  const content = bytes(...body);
  return bytes(type, int32(content.length + 4), content);
};

/** A message header that lies about what follows. */
export const header = (type: string, length: number): Buffer => bytes(type, int32(length));

/** `Int32 length` and the rest of a startup packet, with the right length. */
export const startupPacket = (...rest: Part[]): Buffer => {
  const content = bytes(...rest);
  return bytes(int32(content.length + 4), content);
};

export const PROTOCOL_3_0 = int32(196_608);
export const SSL_REQUEST = startupPacket(int32(80_877_103));
export const GSSENC_REQUEST = startupPacket(int32(80_877_104));

/** `{ String name  String value }...`, without the terminator of the list. */
const pairs = (parameters: Readonly<Record<string, string | Buffer>>): Buffer =>
  Buffer.concat(Object.entries(parameters).flatMap(([name, value]) => [cstring(name), cstring(value)]));

/** A StartupMessage of protocol 3.minor. */
export const startupMessage = (parameters: Readonly<Record<string, string | Buffer>>, minor = 0): Buffer =>
  startupPacket(int32(196_608 + minor), pairs(parameters), 0);

export const cancelRequest = (processId: number, secret: Buffer): Buffer =>
  startupPacket(int32(80_877_102), int32(processId), secret);

/** Messages of a client. */
export const client = {
  /** `String portal String statement`, all formats text, no values but these. */
  bind: (portal = "", statement = "", ...values: string[]): Buffer =>
    message(
      "B",
      cstring(portal),
      cstring(statement),
      int16(0),
      int16(values.length),
      ...values.flatMap((value) => [int32(Buffer.byteLength(value)), value]),
      int16(0),
    ),
  closeStatement: (name: string): Buffer => message("C", "S", cstring(name)),
  copyData: (data: string): Buffer => message("d", data),
  copyDone: message("c"),
  copyFail: (reason: string): Buffer => message("f", cstring(reason)),
  describeStatement: (name: string): Buffer => message("D", "S", cstring(name)),
  execute: (portal = "", maxRows = 0): Buffer => message("E", cstring(portal), int32(maxRows)),
  flush: message("H"),
  parse: (sql: string, name = ""): Buffer => message("P", cstring(name), cstring(sql), int16(0)),
  password: (password: string): Buffer => message("p", cstring(password)),
  query: (sql: string): Buffer => message("Q", cstring(sql)),
  saslInitial: (mechanism: string, response: string): Buffer =>
    message("p", cstring(mechanism), int32(Buffer.byteLength(response)), response),
  saslResponse: (response: string): Buffer => message("p", response),
  sync: message("S"),
  terminate: message("X"),
};

/** Messages of a server. */
export const server = {
  authenticationOk: message("R", int32(0)),
  cleartextPassword: message("R", int32(3)),
  md5Password: (salt: Buffer): Buffer => message("R", int32(5), salt),
  sasl: (...mechanisms: string[]): Buffer => message("R", int32(10), ...mechanisms.map(cstring), 0),
  saslContinue: (text: string): Buffer => message("R", int32(11), text),
  saslFinal: (text: string): Buffer => message("R", int32(12), text),
  parameterStatus: (name: string, value: string): Buffer => message("S", cstring(name), cstring(value)),
  backendKeyData: (processId: number, secret: Buffer): Buffer => message("K", int32(processId), secret),
  readyForQuery: (status = "I"): Buffer => message("Z", status),
  notice: (text: string): Buffer => message("N", cstring("SNOTICE"), cstring("C00000"), cstring(`M${text}`), 0),
  error: (sqlstate: string, text: string, severity = "FATAL"): Buffer =>
    message("E", cstring(`S${severity}`), cstring(`V${severity}`), cstring(`C${sqlstate}`), cstring(`M${text}`), 0),
  negotiateProtocolVersion: (version: number, ...options: string[]): Buffer =>
    message("v", int32(version), int32(options.length), ...options.map(cstring)),
  commandComplete: (tag: string): Buffer => message("C", cstring(tag)),
  parseComplete: message("1"),
  bindComplete: message("2"),
  closeComplete: message("3"),
  /** `Byte1('D') Int32 length Int16 count { Int32 length  Bytes value }...` */
  dataRow: (...values: (string | null)[]): Buffer =>
    message(
      "D",
      int16(values.length),
      ...values.flatMap((value) => (value === null ? [int32(-1)] : [int32(Buffer.byteLength(value)), value])),
    ),
};

/** One message as tests look at it. */
export interface ReadMessage {
  readonly type: string;
  readonly body: Buffer;
  readonly bytes: Buffer;
}

/** The whole messages in `stream`, and what is left behind the last one. */
export function readMessages(stream: Buffer): { messages: ReadMessage[]; rest: Buffer } {
  const messages: ReadMessage[] = [];
  let at = 0;
  while (at + 5 <= stream.length) {
    const end = at + 1 + stream.readInt32BE(at + 1);
    if (end < at + 5) throw new Error(`a length field of ${stream.readInt32BE(at + 1)} at byte ${at}`);
    if (end > stream.length) break;
    messages.push({
      type: stream.toString("latin1", at, at + 1),
      body: stream.subarray(at + 5, end),
      bytes: stream.subarray(at, end),
    });
    at = end;
  }
  return { messages, rest: stream.subarray(at) };
}

/** The fields of an ErrorResponse or NoticeResponse by their letter. */
export function errorFields(body: Buffer): Readonly<Record<string, string>> {
  const fields = body.toString().split("\0").filter(Boolean);
  return Object.fromEntries(fields.map((field) => [field.slice(0, 1), field.slice(1)]));
}
