/**
 * The one table of settings. From it come the parsers of file, environment and flags, `--help`, pgvpd.conf.example and
 * docs/configuration.md; the type Config is inferred from it.
 */
import {
  checkAdminHost,
  checkAuthMethods,
  checkContextVariables,
  checkListenHosts,
  checkRole,
  checkRoles,
  checkServerNames,
  checkSocketPath,
  checkUpstreamHost,
  checkUpstreamParameters,
} from "./names.ts";
import { checkNetworks } from "./networks.ts";
import { Secret } from "./secret.ts";
import { boolean, integer, list, oneOf, optional, seconds, text, type SettingType } from "./setting-types.ts";

export type SettingGroup =
  | "Listening"
  | "Upstream"
  | "Tenant and context"
  | "Roles and parameters"
  | "Doctor"
  | "Login"
  | "TLS"
  | "Timeouts"
  | "Logging"
  | "Pool"
  | "Resolvers"
  | "Tenant policy"
  | "Admin API";

export interface Setting<T> {
  /** Its name in the file. */
  readonly name: string;
  readonly group: SettingGroup;
  readonly type: SettingType<T>;
  /** As one would write it in the file; empty where the setting is not set. */
  readonly default: string;
  /** One line, for help and documentation. */
  readonly doc: string;
  /** Older names that a file may use. */
  readonly aliases: readonly string[];
  /** Without the hyphens; undefined for a secret, which a command line would show to everybody. */
  readonly flag: string | undefined;
  /** One letter, without the hyphen. */
  readonly shortFlag: string | undefined;
  readonly env: string;
  readonly isSecret: boolean;
  /** A reload takes its new value; any other setting needs a restart. */
  readonly isReloadable: boolean;
}

type Definition<T> = Pick<Setting<T>, "name" | "group" | "type" | "doc"> &
  Partial<Pick<Setting<T>, "default" | "aliases" | "flag" | "shortFlag" | "env" | "isSecret" | "isReloadable">>;

function setting<T>(definition: Definition<T>): Setting<T> {
  return {
    default: "",
    aliases: [],
    env: `PGVPD_${definition.name.toUpperCase()}`,
    isSecret: false,
    isReloadable: false,
    shortFlag: undefined,
    ...definition,
    flag: definition.isSecret ? undefined : (definition.flag ?? definition.name.replaceAll("_", "-")),
  };
}

const port = integer(0, 65_535);
const folder = text("the path of a folder");
const file = text("the path of a file");
const timeout = seconds(0.001, 86_400);
const secret: SettingType<Secret | undefined> = {
  allowed: "a password",
  parse: (value) => (value === "" ? undefined : new Secret(value)),
};

export const settings = {
  port: setting({
    name: "port",
    group: "Listening",
    type: port,
    default: "6432",
    aliases: ["listen_port"],
    shortFlag: "p",
    doc: "Port that clients connect to; 0 lets the system choose.",
  }),
  listenHosts: setting({
    name: "listen_host",
    group: "Listening",
    type: list("addresses, separated by commas", checkListenHosts),
    default: "127.0.0.1",
    aliases: ["host"],
    env: "PGVPD_HOST",
    doc: "Addresses to listen on, IPv4 or IPv6; * is every address of the machine.",
  }),
  unixSocketDir: setting({
    name: "unix_socket_dir",
    group: "Listening",
    type: optional(folder),
    doc: "Folder for a Unix-domain socket beside the port; not set: none.",
  }),
  maxClientConn: setting({
    name: "max_client_conn",
    group: "Listening",
    type: optional(integer(1, 1_000_000)),
    doc: "Most client connections at once. Not set: as many as the system gives.",
    isReloadable: true,
  }),
  maxClientConnPerAddress: setting({
    name: "max_client_conn_per_address",
    group: "Listening",
    type: optional(integer(1, 1_000_000)),
    doc: "Most client connections from one address at once, or from one /64 of IPv6. Not set: any.",
    isReloadable: true,
  }),
  tcpKeepalive: setting({
    name: "tcp_keepalive",
    group: "Listening",
    type: boolean,
    default: "true",
    doc: "TCP keepalive on client and upstream sockets.",
  }),
  tcpKeepidleMs: setting({
    name: "tcp_keepidle",
    group: "Listening",
    type: seconds(1, 32_767),
    default: "60",
    doc: "Seconds of silence before the first keepalive probe.",
  }),

  upstreamHost: setting({
    name: "upstream_host",
    group: "Upstream",
    type: text("a host name, an address or the folder of a socket", checkUpstreamHost),
    default: "127.0.0.1",
    doc: "PostgreSQL's host; each address of a name is tried. A value that begins with / is the folder of its socket.",
  }),
  upstreamPort: setting({
    name: "upstream_port",
    group: "Upstream",
    type: integer(1, 65_535),
    default: "5432",
    doc: "PostgreSQL's port; also part of the socket's name.",
  }),
  upstreamStartupParameters: setting({
    name: "upstream_startup_parameters",
    group: "Upstream",
    type: list("*, none, or names with a - before them", checkUpstreamParameters),
    default: "*",
    doc: "Parameters that pgvpd pins at login: * is all, -name leaves one out, none is for a pooler that refuses them.",
  }),

  tenantSeparator: setting({
    name: "tenant_separator",
    group: "Tenant and context",
    type: text("at least one character"),
    default: ".",
    aliases: ["separator"],
    flag: "separator",
    doc: "What stands between role and tenant in the user name; its first occurrence counts.",
  }),
  contextVariables: setting({
    name: "context_variables",
    group: "Tenant and context",
    type: list("names of session variables, separated by commas", checkContextVariables),
    default: "app.current_tenant_id",
    aliases: ["context"],
    flag: "context",
    doc: "Session variables that the user name's values go to; the first one is the tenant, unless tenant_variable names another.",
  }),
  valueSeparator: setting({
    name: "value_separator",
    group: "Tenant and context",
    type: text("at least one character"),
    default: ":",
    doc: "What stands between the values, where there is more than one context variable.",
  }),
  contextInjection: setting({
    name: "context_injection",
    group: "Tenant and context",
    type: oneOf("startup", "query"),
    default: "startup",
    doc: "startup: in the upstream's StartupMessage, no round trip. query: by set_config after login, works through poolers.",
  }),
  setRole: setting({
    name: "set_role",
    group: "Tenant and context",
    type: optional(text("the name of a role", checkRole)),
    doc: "Role that a tenant's session takes on; not set: the login role.",
  }),

  stampApplicationName: setting({
    name: "stamp_application_name",
    group: "Tenant and context",
    type: boolean,
    default: "false",
    doc: "Puts the tenant before the client's application_name, for pg_stat_activity and logs: acme: psql.",
  }),
  contextSeal: setting({
    name: "context_seal",
    group: "Tenant and context",
    type: oneOf("off", "on", "require"),
    default: "off",
    doc: "Seals the context, so that no SQL can change it. on: where sql/seal.sql is installed, else a warning. require: else refused.",
  }),
  contextKeyFile: setting({
    name: "context_key_file",
    group: "Tenant and context",
    type: optional(file),
    doc: "Keys that the context is sealed with; pgvpd key create makes it.",
  }),
  contextSealTtlMs: setting({
    name: "context_seal_ttl",
    group: "Tenant and context",
    type: seconds(60, 31_536_000),
    default: "86400",
    doc: "Seconds that a context of the signed carrier is good for; the session has to connect again then.",
  }),

  superuserBypass: setting({
    name: "superuser_bypass",
    group: "Roles and parameters",
    type: list("user names, separated by commas"),
    default: "postgres",
    aliases: ["superuser"],
    flag: "superuser",
    doc: "Users that pass untouched, without a tenant: for administration, migrations and dumps.",
  }),
  loginRoles: setting({
    name: "login_roles",
    group: "Roles and parameters",
    type: list("role names, separated by commas", checkRoles),
    doc: "Roles that a tenant's user name may log in as; not set: any that is safe.",
  }),
  allowUnsafeRoles: setting({
    name: "allow_unsafe_roles",
    group: "Roles and parameters",
    type: boolean,
    default: "false",
    doc: "Lets tenants in as a SUPERUSER, BYPASSRLS, REPLICATION or CREATEROLE role: row-level security does not hold there.",
  }),
  clientParameters: setting({
    name: "client_parameters",
    group: "Roles and parameters",
    type: list("parameter names, separated by commas, or *"),
    default: "*",
    doc: "Startup parameters that a tenant's client may send; others are refused.",
  }),
  ignoreStartupParameters: setting({
    name: "ignore_startup_parameters",
    group: "Roles and parameters",
    type: list("parameter names, separated by commas"),
    doc: "Startup parameters of a tenant's client that are dropped silently.",
  }),

  doctor: setting({
    name: "doctor",
    group: "Doctor",
    type: oneOf("off", "warn", "enforce"),
    default: "off",
    doc: "Looks for ways from tenant to tenant at start. warn: they are logged. enforce: pgvpd does not start with an error.",
  }),
  doctorDatabases: setting({
    name: "doctor_database",
    group: "Doctor",
    type: list("names of databases, separated by commas"),
    doc: "Databases that doctor looks at, as the first of login_roles; pgvpd needs an upstream credential of its own.",
  }),

  clientAuth: setting({
    name: "client_auth",
    group: "Login",
    type: optional(oneOf("relay", "scram", "cleartext")),
    doc: "Who checks a client's password. relay: PostgreSQL. scram, cleartext (over TLS alone): pgvpd. Not set: relay; scram with a pool.",
  }),
  credentialsFile: setting({
    name: "credentials_file",
    group: "Login",
    type: optional(file),
    doc: 'SCRAM verifiers of clients, a line each: "role" "SCRAM-SHA-256$..." tenants=acme,globex*; PgBouncer\'s auth_file works.',
  }),
  authUser: setting({
    name: "auth_user",
    group: "Login",
    type: optional(text("the name of a role", checkRole)),
    doc: "Role that pgvpd runs auth_query as; not set: verifiers are not looked up in the database.",
  }),
  authQuery: setting({
    name: "auth_query",
    group: "Login",
    type: text("an SQL query"),
    default: "SELECT login_name, verifier, is_bound FROM pgvpd.find_credential($1, $2)",
    doc: "Finds the verifier of the login role $1 and the tenant $2: name, verifier, and whether it is bound to the tenant.",
  }),
  authDbname: setting({
    name: "auth_dbname",
    group: "Login",
    type: text("the name of a database"),
    default: "postgres",
    doc: "Database that auth_query runs in.",
  }),
  authCacheTtlMs: setting({
    name: "auth_cache_ttl",
    group: "Login",
    type: seconds(0, 3_600),
    default: "5",
    doc: "Seconds that an answer of auth_query is used again.",
  }),
  poolPassword: setting({
    name: "pool_password",
    group: "Login",
    type: secret,
    isSecret: true,
    doc: "One password for all tenants' clients; upstream pgvpd then logs in with upstream_password.",
  }),
  poolPasswordFile: setting({
    name: "pool_password_file",
    group: "Login",
    type: optional(file),
    doc: "File that holds pool_password.",
  }),
  upstreamPassword: setting({
    name: "upstream_password",
    group: "Login",
    type: secret,
    isSecret: true,
    doc: "Password that pgvpd logs in upstream with, where it has ended a client's authentication itself, and for doctor.",
  }),
  upstreamPasswordFile: setting({
    name: "upstream_password_file",
    group: "Login",
    type: optional(file),
    doc: "File that holds upstream_password.",
  }),
  upstreamRequireAuth: setting({
    name: "upstream_require_auth",
    group: "Login",
    type: list("scram-sha-256, md5, password, none", checkAuthMethods),
    doc: "How the upstream server may ask pgvpd to log in. Not set: scram-sha-256; none too, where no upstream_password is set.",
  }),
  scramIterations: setting({
    name: "scram_iterations",
    group: "Login",
    type: integer(4_096, 100_000),
    default: "4096",
    doc: "Iterations of the verifiers that pgvpd makes, and of those that it pretends to have: set what PostgreSQL has.",
  }),
  allowFrom: setting({
    name: "allow_from",
    group: "Login",
    type: list("networks, separated by commas; user@network for one of superuser_bypass", checkNetworks),
    doc: "Networks that clients may come from, as 10.0.0.0/8; postgres@127.0.0.1 limits that bypass user. Not set: any.",
  }),
  loginThrottleMs: setting({
    name: "login_throttle",
    group: "Login",
    type: seconds(0, 60),
    default: "1",
    doc: "Most seconds that a login waits after five failures in a minute of its address and user; 0: none.",
  }),

  tlsCert: setting({
    name: "tls_cert",
    group: "TLS",
    type: optional(file),
    doc: "Certificate that clients see, with its chain, PEM: clients can use TLS on every port.",
  }),
  tlsKey: setting({
    name: "tls_key",
    group: "TLS",
    type: optional(file),
    doc: "Private key of tls_cert, PEM.",
  }),
  tlsPort: setting({
    name: "tls_port",
    group: "TLS",
    type: optional(port),
    doc: "Additional port that demands TLS.",
  }),
  clientTlsSslmode: setting({
    name: "client_tls_sslmode",
    group: "TLS",
    type: oneOf("disable", "allow", "require", "verify-ca", "verify-full"),
    default: "allow",
    doc: "allow: TLS for who wants it. require: for all. verify-ca: with a client certificate. verify-full: of that name.",
  }),
  clientTlsCaFile: setting({
    name: "client_tls_ca_file",
    group: "TLS",
    type: optional(file),
    doc: "CA that signs the clients' certificates, PEM.",
  }),
  clientCertMap: setting({
    name: "client_cert_map",
    group: "TLS",
    type: oneOf("tenant", "role"),
    default: "tenant",
    doc: "What a client's certificate must name under verify-full, as its CN or an alternative name.",
  }),
  upstreamTls: setting({
    name: "upstream_tls",
    group: "TLS",
    type: boolean,
    default: "false",
    doc: "TLS to PostgreSQL; there is no fallback to plain text.",
  }),
  upstreamTlsVerify: setting({
    name: "upstream_tls_verify",
    group: "TLS",
    type: boolean,
    default: "true",
    doc: "Verify PostgreSQL's certificate and host name.",
  }),
  upstreamTlsCa: setting({
    name: "upstream_tls_ca",
    group: "TLS",
    type: optional(file),
    doc: "CA that signs PostgreSQL's certificate, PEM; not set: those that Node.js knows.",
  }),
  upstreamTlsNegotiation: setting({
    name: "upstream_tls_negotiation",
    group: "TLS",
    type: oneOf("postgres", "direct"),
    default: "postgres",
    doc: "postgres: ask for TLS first. direct: begin with TLS, a round trip less, from PostgreSQL 17 on.",
  }),
  upstreamTlsCert: setting({
    name: "upstream_tls_cert",
    group: "TLS",
    type: optional(file),
    doc: "Certificate that pgvpd shows to PostgreSQL, PEM.",
  }),
  upstreamTlsKey: setting({
    name: "upstream_tls_key",
    group: "TLS",
    type: optional(file),
    doc: "Private key of upstream_tls_cert, PEM.",
  }),

  handshakeTimeoutMs: setting({
    name: "handshake_timeout",
    group: "Timeouts",
    type: timeout,
    default: "30",
    aliases: ["handshake_timeout_secs"],
    doc: "Seconds from the accepted connection to the first ReadyForQuery: one limit over the whole login.",
  }),
  halfCloseTimeoutMs: setting({
    name: "half_close_timeout",
    group: "Timeouts",
    type: timeout,
    default: "30",
    doc: "Seconds that the other direction stays open when one side has closed.",
  }),
  drainTimeoutMs: setting({
    name: "drain_timeout",
    group: "Timeouts",
    type: seconds(0, 86_400),
    default: "30",
    doc: "Seconds that open connections may go on after SIGTERM or SIGINT.",
  }),

  logLevel: setting({
    name: "log_level",
    group: "Logging",
    type: oneOf("trace", "debug", "info", "warn", "error", "off"),
    default: "info",
    doc: "The least important lines that are logged.",
    isReloadable: true,
  }),
  logFormat: setting({
    name: "log_format",
    group: "Logging",
    type: oneOf("auto", "json", "pretty"),
    default: "auto",
    doc: "json: a JSON object a line. pretty: for people. auto: pretty on a terminal.",
  }),
  logConnections: setting({
    name: "log_connections",
    group: "Logging",
    type: boolean,
    default: "true",
    doc: "A line for each login.",
  }),
  logDisconnections: setting({
    name: "log_disconnections",
    group: "Logging",
    type: boolean,
    default: "true",
    doc: "A line for each end, with duration and bytes.",
  }),
  auditLog: setting({
    name: "audit_log",
    group: "Logging",
    type: text("off, stdout or the path of a file"),
    default: "off",
    doc: "A JSON line for each login, each end and each change by the HTTP API. off, stdout (among the log's), or a file.",
  }),

  poolMode: setting({
    name: "pool_mode",
    group: "Pool",
    type: oneOf("none", "session", "transaction"),
    default: "none",
    doc: "none: an upstream connection for each client. session or transaction: shared ones.",
  }),
  poolSize: setting({
    name: "pool_size",
    group: "Pool",
    type: integer(1, 100_000),
    default: "20",
    doc: "Most upstream connections for each database and role.",
  }),
  poolIdleTimeoutMs: setting({
    name: "pool_idle_timeout",
    group: "Pool",
    type: timeout,
    default: "300",
    doc: "Seconds after which an idle pooled connection is closed.",
  }),
  poolCheckoutTimeoutMs: setting({
    name: "pool_checkout_timeout",
    group: "Pool",
    type: timeout,
    default: "5",
    doc: "Seconds that a client waits for a pooled connection.",
  }),
  tenantPoolSize: setting({
    name: "tenant_pool_size",
    group: "Pool",
    type: optional(integer(1, 100_000)),
    doc: "Most pooled connections that one tenant may hold for a database and role. Not set: pool_size.",
    isReloadable: true,
  }),
  queryWaitNotifyMs: setting({
    name: "query_wait_notify",
    group: "Pool",
    type: seconds(0, 86_400),
    default: "5",
    doc: "Seconds after which a client that waits for a pooled connection gets a NOTICE. 0: none.",
  }),
  minPoolSize: setting({
    name: "min_pool_size",
    group: "Pool",
    type: integer(0, 100_000),
    default: "0",
    doc: "Pooled connections that stay open for each database and role once it was used.",
  }),
  reservePoolSize: setting({
    name: "reserve_pool_size",
    group: "Pool",
    type: integer(0, 100_000),
    default: "0",
    doc: "Connections beyond pool_size, opened while a client waits for longer than reserve_pool_timeout.",
  }),
  reservePoolTimeoutMs: setting({
    name: "reserve_pool_timeout",
    group: "Pool",
    type: timeout,
    default: "3",
    doc: "Seconds that a client waits before connections of reserve_pool_size are opened.",
  }),
  maxDbConnections: setting({
    name: "max_db_connections",
    group: "Pool",
    type: integer(0, 100_000),
    default: "0",
    doc: "Most pooled connections to one database, whatever the role. 0: as many as pool_size gives.",
  }),
  allowDatabases: setting({
    name: "allow_databases",
    group: "Pool",
    type: list("names of databases, separated by commas"),
    doc: "Databases that tenants may connect to. Not set: all.",
  }),
  serverCheckDelayMs: setting({
    name: "server_check_delay",
    group: "Pool",
    type: seconds(0, 86_400),
    default: "30",
    doc: "Seconds after which an idle pooled connection is tried before it is lent again.",
  }),
  serverLifetimeMs: setting({
    name: "server_lifetime",
    group: "Pool",
    type: timeout,
    default: "3600",
    doc: "Seconds after which a pooled connection is closed when nobody uses it.",
  }),
  serverConnectLimit: setting({
    name: "server_connect_limit",
    group: "Pool",
    type: integer(1, 100_000),
    default: "50",
    doc: "Most logins of pgvpd's own to a server at the same time, pooled or not. With relay a client logs in by itself.",
  }),
  maxPreparedStatements: setting({
    name: "max_prepared_statements",
    group: "Pool",
    type: integer(1, 100_000),
    default: "200",
    doc: "Most named prepared statements that a pooled connection keeps in transaction mode.",
  }),
  sessionState: setting({
    name: "session_state",
    group: "Pool",
    type: oneOf("follow", "pin", "refuse"),
    default: "follow",
    doc: "State that outlives a transaction. follow: settings go with the client, other state pins it. pin: settings pin too. refuse: 0A000.",
  }),
  trackExtraParameters: setting({
    name: "track_extra_parameters",
    group: "Pool",
    type: list("parameter names, separated by commas"),
    default:
      "search_path, statement_timeout, lock_timeout, idle_in_transaction_session_timeout, extra_float_digits, bytea_output, client_min_messages, default_transaction_isolation, default_transaction_deferrable, jit, work_mem",
    doc: "Settings besides those that PostgreSQL reports whose SET follows the client in transaction mode.",
  }),
  maintenanceUser: setting({
    name: "maintenance_user",
    group: "Pool",
    type: optional(text("the name of a role", checkRole)),
    doc: "Role that ends backends which do not end by themselves. Not set: the login role.",
  }),
  maintenancePassword: setting({
    name: "maintenance_password",
    group: "Pool",
    type: secret,
    isSecret: true,
    doc: "Password of maintenance_user. Not set: upstream_password.",
  }),
  maintenancePasswordFile: setting({
    name: "maintenance_password_file",
    group: "Pool",
    type: optional(file),
    doc: "File that holds maintenance_password.",
  }),

  resolvers: setting({
    name: "resolvers",
    group: "Resolvers",
    type: optional(file),
    doc: "TOML file of context resolvers.",
  }),
  resolverConnection: setting({
    name: "resolver_connection",
    group: "Resolvers",
    type: optional(oneOf("dedicated", "session")),
    doc: "Where resolvers run. dedicated: connections of resolver_user. session: the client's own. Not set: dedicated with resolver_user.",
  }),
  resolverUser: setting({
    name: "resolver_user",
    group: "Resolvers",
    type: optional(text("the name of a role", checkRole)),
    doc: "Role that resolvers run as, over connections that no client touches.",
  }),
  resolverPassword: setting({
    name: "resolver_password",
    group: "Resolvers",
    type: secret,
    isSecret: true,
    doc: "Password of resolver_user; not set: upstream_password.",
  }),
  resolverPasswordFile: setting({
    name: "resolver_password_file",
    group: "Resolvers",
    type: optional(file),
    doc: "File that holds resolver_password.",
  }),
  resolverSearchPath: setting({
    name: "resolver_search_path",
    group: "Resolvers",
    type: list("schemas, separated by commas"),
    default: "public",
    doc: "Schemas that resolvers' queries find unqualified names in; pg_catalog comes first, pg_temp last.",
  }),
  resolverPoolSize: setting({
    name: "resolver_pool_size",
    group: "Resolvers",
    type: integer(1, 100),
    default: "4",
    doc: "Most connections of resolver_user for each database.",
  }),

  tenantVariable: setting({
    name: "tenant_variable",
    group: "Tenant policy",
    type: optional(text("one of context_variables")),
    doc: "The context variable that limits, lists and pools know a tenant by. Not set: the first one.",
  }),
  tenants: setting({
    name: "tenants",
    group: "Tenant policy",
    type: optional(file),
    doc: "TOML file of settings for some tenants alone: limits, timeouts, denials, a server of their own.",
    isReloadable: true,
  }),
  tenantAllow: setting({
    name: "tenant_allow",
    group: "Tenant policy",
    type: list("tenants, separated by commas"),
    doc: "Only these tenants may connect; * stands for any characters.",
    isReloadable: true,
  }),
  tenantDeny: setting({
    name: "tenant_deny",
    group: "Tenant policy",
    type: list("tenants, separated by commas"),
    doc: "These tenants may not connect; * stands for any characters.",
    isReloadable: true,
  }),
  tenantMaxConnections: setting({
    name: "tenant_max_connections",
    group: "Tenant policy",
    type: optional(integer(1, 1_000_000)),
    doc: "Most connections of a tenant at once.",
    isReloadable: true,
  }),
  tenantRateLimit: setting({
    name: "tenant_rate_limit",
    group: "Tenant policy",
    type: optional(integer(1, 1_000_000)),
    doc: "Most new connections of a tenant in a second, on average; so many may come at once.",
    isReloadable: true,
  }),
  tenantQueryTimeoutMs: setting({
    name: "tenant_query_timeout",
    group: "Tenant policy",
    type: optional(seconds(0, 86_400)),
    aliases: ["tenant_idle_timeout"],
    doc: "Seconds without a byte in either direction after which a tenant's connection is ended (57P05).",
    isReloadable: true,
  }),
  queryTimeoutMs: setting({
    name: "query_timeout",
    group: "Tenant policy",
    type: optional(seconds(0, 86_400)),
    doc: "Seconds that a tenant's query may run: then it is cancelled and the connection ended (57014).",
    isReloadable: true,
  }),
  transactionTimeoutMs: setting({
    name: "transaction_timeout",
    group: "Tenant policy",
    type: optional(seconds(0, 86_400)),
    doc: "Seconds that a tenant's transaction may last (25P04).",
    isReloadable: true,
  }),
  idleTransactionTimeoutMs: setting({
    name: "idle_transaction_timeout",
    group: "Tenant policy",
    type: optional(seconds(0, 86_400)),
    doc: "Seconds that a tenant's client may keep the server waiting inside of a transaction (25P03). 0: any. Not set: 60 with pool_mode = transaction.",
    isReloadable: true,
  }),
  clientIdleTimeoutMs: setting({
    name: "client_idle_timeout",
    group: "Tenant policy",
    type: optional(seconds(0, 86_400)),
    doc: "Seconds that a tenant's client may be idle outside of a transaction (57P05).",
    isReloadable: true,
  }),

  adminPort: setting({
    name: "admin_port",
    group: "Admin API",
    type: optional(port),
    doc: "Port of the HTTP API: health, metrics, status; not set: none. 0 lets the system choose.",
  }),
  adminHost: setting({
    name: "admin_host",
    group: "Admin API",
    type: text("an address", checkAdminHost),
    default: "127.0.0.1",
    doc: "Address of admin_port. Beyond loopback, without TLS, only /health and /ready answer, and /metrics with a token.",
  }),
  adminSocket: setting({
    name: "admin_socket",
    group: "Admin API",
    type: optional(text("the path of a socket, at most 100 bytes", checkSocketPath)),
    doc: "Path of a Unix-domain socket of the HTTP API, which pgvpd's own user alone can open.",
  }),
  adminTlsCert: setting({
    name: "admin_tls_cert",
    group: "Admin API",
    type: optional(file),
    doc: "Certificate of admin_port, with its chain, PEM: the port speaks HTTPS then.",
  }),
  adminTlsKey: setting({
    name: "admin_tls_key",
    group: "Admin API",
    type: optional(file),
    doc: "Private key of admin_tls_cert, PEM.",
  }),
  adminTokensFile: setting({
    name: "admin_tokens_file",
    group: "Admin API",
    type: optional(file),
    doc: "Who may ask the HTTP API what: a line name:scopes:hash each, made by pgvpd token.",
  }),
  adminServerNames: setting({
    name: "admin_server_names",
    group: "Admin API",
    type: list("host names, separated by commas", checkServerNames),
    doc: "Names that the HTTP API is addressed by, beside localhost and addresses.",
  }),
} as const;

export type SettingKey = keyof typeof settings;

/** The effective configuration: a value for each setting, in the units of its property's name. */
export type Config = { readonly [K in SettingKey]: (typeof settings)[K] extends Setting<infer T> ? T : never };

/** The table as a list, where the values' types do not matter. */
export const settingList: readonly (readonly [SettingKey, Setting<unknown>])[] = Object.entries(settings) as never;
