/**
 * The sizes at which the protocol code says no. Each is PostgreSQL's own limit or below it.
 */

/** The StartupMessage's length field, which counts itself. PostgreSQL accepts 10,004. [PG protocol-message-formats] */
export const MAX_STARTUP_LENGTH = 10_000;

/** The length field and the request code: nothing in the startup phase is shorter. */
export const MIN_STARTUP_LENGTH = 8;

/** A PasswordMessage or SASL response, as PG_MAX_AUTH_TOKEN_LENGTH bounds it. */
export const MAX_AUTHENTICATION_MESSAGE = 65_535;

/** A backend message during login: everything that PostgreSQL sends there is far smaller. */
export const MAX_LOGIN_MESSAGE = 65_536;

/** The largest length field of any message after login: PQ_LARGE_MESSAGE_LIMIT, just under 1 GiB. */
export const MAX_MESSAGE_LENGTH = 0x3fff_ffff;

/** A cancel key's secret: exactly 4 bytes in protocol 3.0, up to 256 in 3.2. */
export const MIN_CANCEL_SECRET = 4;
export const MAX_CANCEL_SECRET = 256;

/** Role and database names: NAMEDATALEN - 1. PostgreSQL silently cuts longer ones down to another name. */
export const MAX_NAME_BYTES = 63;
