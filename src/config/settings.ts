/**
 * The one table of settings. From it come the parsers of file, environment and flags, `--help`, pgvpd.conf.example and
 * docs/configuration.md; the type Config is inferred from it. A setting of a feature that is not built yet is known, and
 * refuses to start with anything but its default (`notYet`).
 */
import {
  checkContextVariables,
  checkListenHosts,
  checkRole,
  checkRoles,
  checkUpstreamHost,
  checkUpstreamParameters,
} from "./names.ts";
import { Secret } from "./secret.ts";
import { boolean, integer, list, oneOf, optional, seconds, text, type SettingType } from "./setting-types.ts";

export type SettingGroup =
  | "Listening"
  | "Upstream"
  | "Tenant and context"
  | "Roles and parameters"
  | "Timeouts"
  | "Logging"
  | "TLS"
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
  /** The feature that this version lacks. */
  readonly notYet: string | undefined;
  readonly isSecret: boolean;
}

type Definition<T> = Pick<Setting<T>, "name" | "group" | "type" | "doc"> &
  Partial<Pick<Setting<T>, "default" | "aliases" | "flag" | "shortFlag" | "env" | "notYet" | "isSecret">>;

function setting<T>(definition: Definition<T>): Setting<T> {
  return {
    default: "",
    aliases: [],
    env: `PGVPD_${definition.name.toUpperCase()}`,
    notYet: undefined,
    isSecret: false,
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

const CLIENT_TLS = "TLS for clients";
const UPSTREAM_TLS = "TLS to the upstream server";
const POOLING = "connection pooling";
const TENANT_POLICY = "limits and lists of tenants";

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
    doc: "Session variables that the user name's values go to; the first one is the tenant.",
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

  tlsPort: setting({
    name: "tls_port",
    group: "TLS",
    type: optional(port),
    notYet: CLIENT_TLS,
    doc: "Additional port that demands TLS.",
  }),
  tlsCert: setting({
    name: "tls_cert",
    group: "TLS",
    type: optional(file),
    notYet: CLIENT_TLS,
    doc: "Certificate for clients, PEM.",
  }),
  tlsKey: setting({
    name: "tls_key",
    group: "TLS",
    type: optional(file),
    notYet: CLIENT_TLS,
    doc: "Private key of tls_cert, PEM.",
  }),
  upstreamTls: setting({
    name: "upstream_tls",
    group: "TLS",
    type: boolean,
    default: "false",
    notYet: UPSTREAM_TLS,
    doc: "TLS to PostgreSQL.",
  }),
  upstreamTlsVerify: setting({
    name: "upstream_tls_verify",
    group: "TLS",
    type: boolean,
    default: "true",
    notYet: UPSTREAM_TLS,
    doc: "Verify PostgreSQL's certificate and host name.",
  }),
  upstreamTlsCa: setting({
    name: "upstream_tls_ca",
    group: "TLS",
    type: optional(file),
    notYet: UPSTREAM_TLS,
    doc: "CA certificate to verify PostgreSQL with, PEM.",
  }),

  poolMode: setting({
    name: "pool_mode",
    group: "Pool",
    type: oneOf("none", "session", "transaction"),
    default: "none",
    notYet: POOLING,
    doc: "none: an upstream connection for each client. session or transaction: shared ones.",
  }),
  poolSize: setting({
    name: "pool_size",
    group: "Pool",
    type: integer(1, 100_000),
    default: "20",
    notYet: POOLING,
    doc: "Most upstream connections for each database and role.",
  }),
  poolPassword: setting({
    name: "pool_password",
    group: "Pool",
    type: secret,
    isSecret: true,
    notYet: POOLING,
    doc: "Password that clients must give with a pool.",
  }),
  upstreamPassword: setting({
    name: "upstream_password",
    group: "Pool",
    type: secret,
    isSecret: true,
    notYet: "logging in upstream with a password of pgvpd's own",
    doc: "Password that pgvpd logs in upstream with.",
  }),
  poolIdleTimeoutMs: setting({
    name: "pool_idle_timeout",
    group: "Pool",
    type: timeout,
    default: "300",
    notYet: POOLING,
    doc: "Seconds after which an idle pooled connection is closed.",
  }),
  poolCheckoutTimeoutMs: setting({
    name: "pool_checkout_timeout",
    group: "Pool",
    type: timeout,
    default: "5",
    notYet: POOLING,
    doc: "Seconds that a client waits for a pooled connection.",
  }),

  resolvers: setting({
    name: "resolvers",
    group: "Resolvers",
    type: optional(file),
    notYet: "context resolvers",
    doc: "TOML file of context resolvers.",
  }),

  tenantAllow: setting({
    name: "tenant_allow",
    group: "Tenant policy",
    type: list("tenants, separated by commas"),
    notYet: TENANT_POLICY,
    doc: "Only these tenants may connect.",
  }),
  tenantDeny: setting({
    name: "tenant_deny",
    group: "Tenant policy",
    type: list("tenants, separated by commas"),
    notYet: TENANT_POLICY,
    doc: "These tenants may not connect.",
  }),
  tenantMaxConnections: setting({
    name: "tenant_max_connections",
    group: "Tenant policy",
    type: optional(integer(1, 1_000_000)),
    notYet: TENANT_POLICY,
    doc: "Most connections of a tenant at once.",
  }),
  tenantRateLimit: setting({
    name: "tenant_rate_limit",
    group: "Tenant policy",
    type: optional(integer(1, 1_000_000)),
    notYet: TENANT_POLICY,
    doc: "Most new connections of a tenant in a second.",
  }),
  tenantQueryTimeoutMs: setting({
    name: "tenant_query_timeout",
    group: "Tenant policy",
    type: optional(timeout),
    notYet: TENANT_POLICY,
    doc: "Seconds of silence after which a connection is ended.",
  }),

  adminPort: setting({
    name: "admin_port",
    group: "Admin API",
    type: optional(port),
    notYet: "the admin API",
    doc: "Port of the HTTP API; not set: none.",
  }),
} as const;

export type SettingKey = keyof typeof settings;

/** The effective configuration: a value for each setting, in the units of its property's name. */
export type Config = { readonly [K in SettingKey]: (typeof settings)[K] extends Setting<infer T> ? T : never };

/** The table as a list, where the values' types do not matter. */
export const settingList: readonly (readonly [SettingKey, Setting<unknown>])[] = Object.entries(settings) as never;
