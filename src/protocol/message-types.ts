/**
 * The type bytes of the messages that pgvpd acts on, by the names of the PostgreSQL documentation. Frontend and backend
 * messages share letters, so each direction has its own table. [PG protocol-message-formats]
 */

export const frontend = {
  /** PasswordMessage, SASLInitialResponse and SASLResponse: the only message allowed during login. */
  password: 0x70,
  bind: 0x42,
  close: 0x43,
  copyData: 0x64,
  copyDone: 0x63,
  copyFail: 0x66,
  describe: 0x44,
  execute: 0x45,
  flush: 0x48,
  functionCall: 0x46,
  parse: 0x50,
  query: 0x51,
  sync: 0x53,
  terminate: 0x58,
} as const;

export const backend = {
  authentication: 0x52,
  backendKeyData: 0x4b,
  bindComplete: 0x32,
  closeComplete: 0x33,
  commandComplete: 0x43,
  copyBothResponse: 0x57,
  copyInResponse: 0x47,
  dataRow: 0x44,
  emptyQueryResponse: 0x49,
  functionCallResponse: 0x56,
  errorResponse: 0x45,
  negotiateProtocolVersion: 0x76,
  noData: 0x6e,
  noticeResponse: 0x4e,
  notificationResponse: 0x41,
  parameterDescription: 0x74,
  parameterStatus: 0x53,
  parseComplete: 0x31,
  portalSuspended: 0x73,
  readyForQuery: 0x5a,
  rowDescription: 0x54,
} as const;

/** The Int32 that follows an Authentication message's length. */
export const authentication = {
  ok: 0,
  cleartextPassword: 3,
  md5Password: 5,
  sasl: 10,
  saslContinue: 11,
  saslFinal: 12,
} as const;

/** Transaction status in ReadyForQuery: idle, outside of a transaction. */
export const IDLE = 0x49;
