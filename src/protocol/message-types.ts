/**
 * The type bytes of the messages that pgvpd acts on, by the names of the PostgreSQL documentation. Frontend and backend
 * messages share letters, so each direction has its own table. [PG protocol-message-formats]
 */

export const frontend = {
  /** PasswordMessage, SASLInitialResponse and SASLResponse: the only message allowed during login. */
  password: 0x70,
  terminate: 0x58,
} as const;

export const backend = {
  authentication: 0x52,
  backendKeyData: 0x4b,
  bindComplete: 0x32,
  closeComplete: 0x33,
  commandComplete: 0x43,
  dataRow: 0x44,
  emptyQueryResponse: 0x49,
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
