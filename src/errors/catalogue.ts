/**
 * Every error that pgvpd itself can send: its stable code, SQLSTATE, severity, whose fault it is, and the text that a
 * client may see. docs/errors.md and the `code` and `blame` labels of the metrics come from this table.
 * `{name}` in a text is replaced by a parameter of the ProxyError; anything else about an error stays in the log.
 */

/** Whose fault an error is: it is a metric label, and decides the level at which the error is logged. */
export type Blame = "client" | "tenant" | "upstream" | "proxy";

export interface ErrorDefinition {
  readonly sqlstate: string;
  readonly severity: "FATAL" | "ERROR";
  readonly blame: Blame;
  /** The ErrorResponse's message. */
  readonly text: string;
  /** The ErrorResponse's hint: what to do next. */
  readonly hint?: string;
}

function fatal(sqlstate: string, blame: Blame, text: string, hint?: string): ErrorDefinition {
  return { sqlstate, severity: "FATAL", blame, text, ...(hint === undefined ? {} : { hint }) };
}

export const catalogue = {
  // The StartupMessage, as bytes.
  startup_length: fatal("08P01", "client", "invalid length of startup packet"),
  startup_layout: fatal("08P01", "client", "invalid startup packet layout"),
  startup_repeated: fatal("08P01", "client", "too many encryption requests before the startup packet"),
  startup_pipelined: fatal("08P01", "client", "received data before the answer to an encryption request"),
  protocol_version: fatal(
    "0A000",
    "client",
    "unsupported frontend protocol {version}: server supports 3.0 to 3.2",
    "Connect with a client that speaks PostgreSQL protocol 3.",
  ),

  tls_unencrypted: fatal("08P01", "client", "received unencrypted data after SSL request"),
  tls_handshake: fatal("08P01", "client", "the TLS handshake failed"),
  tls_required: fatal(
    "28000",
    "client",
    "connection requires TLS",
    "Connect with sslmode=require or higher: client_tls_sslmode or tls_port demands it.",
  ),
  client_certificate: fatal(
    "28000",
    "client",
    "connection requires a valid client certificate",
    "client_tls_sslmode demands one, signed by an authority in client_tls_ca_file.",
  ),
  certificate_name: fatal(
    "28000",
    "tenant",
    'certificate authentication failed for user "{user}"',
    "client_tls_sslmode is verify-full: the certificate's common name, or an alternative name, must be the {what}.",
  ),

  // The StartupMessage, as an identity.
  user_missing: fatal("28000", "client", "no PostgreSQL user name specified in startup packet"),
  user_characters: fatal("28000", "client", "user name is not valid UTF-8 or holds control characters"),
  user_without_context: fatal(
    "28000",
    "client",
    "Username must contain context values separated by '{separator}'",
    "Connect as {example}.",
  ),
  user_without_role: fatal(
    "28000",
    "client",
    "user name has no role before the '{separator}'",
    "Connect as {example}.",
  ),
  tenant_empty: fatal(
    "28000",
    "client",
    "user name has no tenant: the value of {variable} is empty",
    "Connect as {example}.",
  ),
  context_count: fatal(
    "28000",
    "client",
    "Expected {expected} context value(s), got {actual}",
    "Connect as {example}: one value for each of context_variables, in that order.",
  ),
  name_too_long: fatal(
    "28000",
    "client",
    "{what} is longer than 63 bytes",
    "PostgreSQL would cut it down to another name.",
  ),
  database_characters: fatal("28000", "client", "database name is not valid UTF-8 or holds control characters"),
  login_role: fatal(
    "28000",
    "tenant",
    'role "{role}" may not be used by a tenant',
    "The setting login_roles lists the roles that may.",
  ),
  replication: fatal(
    "42501",
    "client",
    "replication connections are not allowed for a tenant",
    "A replication connection ignores row-level security. Use a user listed in superuser_bypass.",
  ),
  parameter_protected: fatal(
    "42501",
    "client",
    'parameter "{name}" may not be set',
    "pgvpd sets it from the user name.",
  ),
  parameter_not_listed: fatal(
    "42501",
    "client",
    'parameter "{name}" may not be set',
    "The setting client_parameters lists the parameters that may; ignore_startup_parameters drops one silently.",
  ),
  options_syntax: fatal(
    "22023",
    "client",
    "invalid command-line argument in the startup parameter options: {problem}",
    "Write -c name=value or --name=value, separated by spaces.",
  ),

  // Between the StartupMessage and ReadyForQuery.
  login_message: fatal(
    "08P01",
    "client",
    "unexpected data from the client during login",
    "During login a client may only answer authentication requests, with one message each.",
  ),
  message_length: fatal("08P01", "client", "invalid message length"),
  handshake_timeout: fatal(
    "57014",
    "client",
    "canceling authentication due to timeout",
    "The setting handshake_timeout limits the login.",
  ),
  authentication_method: fatal(
    "28000",
    "upstream",
    "the upstream server asks for an authentication method that cannot be relayed ({method})",
    "Use scram-sha-256, password or trust for this role in pg_hba.conf.",
  ),
  authentication_rounds: fatal("28000", "upstream", "too many authentication requests from the upstream server"),
  md5_relay: fatal(
    "28000",
    "upstream",
    "MD5 authentication cannot be relayed for a tenant's user name",
    "Give the role a SCRAM password (SET password_encryption = 'scram-sha-256', then ALTER ROLE ... PASSWORD), or connect over TLS or from this machine.",
  ),
  relay_certificate: fatal(
    "28000",
    "upstream",
    "the upstream server took pgvpd's certificate for a login, and the client has proved nothing",
    "Have pgvpd check the client itself (client_auth = scram), or PostgreSQL ask for a password too (clientcert=verify-full with scram-sha-256 in pg_hba.conf).",
  ),
  channel_binding: fatal(
    "28000",
    "client",
    "channel binding cannot be relayed: client and upstream server have different TLS connections",
    "Connect with channel_binding=disable, or have pgvpd end the authentication (client_auth = scram).",
  ),
  password_failed: fatal("28P01", "tenant", 'password authentication failed for user "{user}"'),
  address_not_allowed: fatal(
    "28000",
    "client",
    'connections of user "{user}" from host "{host}" are not allowed',
    "The setting allow_from lists the networks that may connect.",
  ),
  cleartext_without_tls: fatal(
    "28000",
    "client",
    "pgvpd takes a password in clear text over TLS alone",
    "Connect with sslmode=require or higher: client_auth is cleartext.",
  ),
  scram_message: fatal("08P01", "client", "malformed SCRAM message"),
  scram_downgrade: fatal(
    "28000",
    "client",
    "client supports SCRAM channel binding but thinks the server does not",
    "Somebody between client and pgvpd may have changed the list of mechanisms, or ends TLS there.",
  ),
  scram_binding: fatal(
    "28000",
    "client",
    "SCRAM channel binding check failed",
    "Client and pgvpd do not see the same certificate: is there something that ends TLS between them?",
  ),
  credentials_unavailable: fatal(
    "08001",
    "upstream",
    "pgvpd could not look up the credentials",
    "The log of pgvpd has the cause: auth_query, auth_user and auth_dbname say how it is done.",
  ),
  unsafe_role: fatal(
    "28000",
    "tenant",
    'role "{role}" is not safe for a tenant: {reason}',
    "Row-level security does not hold such a role. Use one without these attributes, or set allow_unsafe_roles.",
  ),
  context_failed: fatal("28000", "upstream", "the session context could not be set", "The log of pgvpd has the cause."),

  resolver_failed: fatal(
    "28000",
    "tenant",
    "the session context could not be resolved",
    "The log of pgvpd has the resolver and the cause.",
  ),

  // Limits.
  client_connections: fatal(
    "53300",
    "client",
    "too many clients: max_client_conn is {limit}",
    "Connect again later, or close connections that are not used.",
  ),
  address_connections: fatal(
    "53300",
    "client",
    'too many connections from host "{host}": max_client_conn_per_address is {limit}',
    "Connect again later, or close connections that are not used.",
  ),
  tenant_denied: fatal(
    "28000",
    "tenant",
    'tenant "{tenant}" may not connect: {reason}',
    "The settings tenant_allow, tenant_deny and tenants say who may.",
  ),
  tenant_connections: fatal(
    "53300",
    "tenant",
    'too many connections of tenant "{tenant}": tenant_max_connections is {limit}',
    "Close connections that are not used, or give the tenant's clients smaller pools.",
  ),
  tenant_rate: fatal(
    "53300",
    "tenant",
    'too many new connections of tenant "{tenant}": tenant_rate_limit is {limit} a second',
    "Keep connections open instead of connecting for each query, or connect again later.",
  ),
  tenant_ended: fatal(
    "57P01",
    "tenant",
    'terminating connection: tenant "{tenant}" may not connect any more: {reason}',
    "The settings tenant_allow, tenant_deny and tenants say who may.",
  ),

  // The upstream.
  upstream_unreachable: fatal(
    "08001",
    "upstream",
    "could not connect to the upstream server",
    "The log of pgvpd has the address and the cause.",
  ),
  upstream_timeout: fatal(
    "08001",
    "upstream",
    "the upstream server did not answer in time",
    "The setting handshake_timeout limits the login.",
  ),
  upstream_login: fatal(
    "28000",
    "upstream",
    "pgvpd could not log in to the upstream server",
    "The log of pgvpd has the cause.",
  ),
  upstream_login_lost: fatal("08006", "upstream", "the upstream server closed the connection during login"),
  upstream_protocol: fatal(
    "08001",
    "upstream",
    "the upstream server broke the protocol during login",
    "The log of pgvpd has the cause.",
  ),
  pool_timeout: fatal(
    "53300",
    "tenant",
    "no pooled connection became free within {seconds} s: all {size} are in use",
    "Raise pool_size or pool_checkout_timeout, or close connections that are not used.",
  ),
  tenant_pool_timeout: fatal(
    "53300",
    "tenant",
    'no pooled connection became free within {seconds} s: tenant "{tenant}" holds all it may, tenant_pool_size is {limit}',
    "Close connections that are not used, keep transactions short, or ask the operator for a higher tenant_pool_size.",
  ),
  pool_paused: fatal(
    "57P03",
    "proxy",
    "no connection within {seconds} s: the connection pools are paused",
    "An operator has paused them, as for a restart of the server; try again later.",
  ),
  database_not_allowed: fatal(
    "28000",
    "tenant",
    'database "{database}" is not allowed',
    "The setting allow_databases lists those that are.",
  ),
  idle_transaction: fatal(
    "25P03",
    "tenant",
    "terminating connection due to idle-in-transaction timeout",
    "idle_transaction_timeout is {seconds} s: commit or roll back sooner.",
  ),
  query_timeout: fatal(
    "57014",
    "tenant",
    "canceling statement due to query_timeout: it has run for {seconds} s",
    "Make the query faster, or ask the operator for a higher query_timeout.",
  ),
  transaction_timeout: fatal(
    "25P04",
    "tenant",
    "terminating connection due to transaction timeout",
    "transaction_timeout is {seconds} s: commit or roll back sooner.",
  ),
  client_idle: fatal(
    "57P05",
    "client",
    "terminating connection due to idle-session timeout",
    "client_idle_timeout is {seconds} s.",
  ),
  silence_timeout: fatal(
    "57P05",
    "client",
    "terminating connection: there was no byte in either direction for {seconds} s",
    "The setting tenant_query_timeout says how long that may be.",
  ),
  unknown_message: fatal("08P01", "client", "invalid frontend message type {type}"),
  query_canceled: {
    sqlstate: "57014",
    severity: "ERROR",
    blame: "client",
    text: "canceling statement due to user request",
  },
  copy_ambiguous: fatal(
    "0A000",
    "client",
    "a statement that another connection has prepared cannot be used behind a COPY that was mixed with other messages",
    "Send nothing between the COPY and its end.",
  ),
  barrier_failed: fatal("08006", "upstream", "the upstream session could not be reset"),
  upstream_lost: fatal("08006", "upstream", "the upstream server closed the connection unexpectedly"),
  upstream_stream: fatal("08006", "upstream", "the upstream server sent an invalid message"),

  upstream_tls: fatal(
    "08001",
    "upstream",
    "could not connect to the upstream server over TLS: {problem}",
    "The settings upstream_tls, upstream_tls_ca and upstream_tls_verify say how.",
  ),

  // The proxy.
  context_changed: fatal(
    "57P01",
    "tenant",
    "terminating connection: what its context was derived from has changed",
    "Connect again.",
  ),
  terminated: fatal("57P01", "proxy", "terminating connection due to administrator command"),
  shutdown: fatal("57P01", "proxy", "terminating connection: pgvpd is shutting down"),
  internal: fatal(
    "XX000",
    "proxy",
    "internal error",
    "The log of pgvpd has the cause. Other sessions are not affected.",
  ),
} as const satisfies Record<string, ErrorDefinition>;

export type ErrorCode = keyof typeof catalogue;
