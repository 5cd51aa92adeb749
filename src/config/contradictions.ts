/**
 * What is wrong with values that are each right on their own. Called by load.ts when every value has been parsed.
 * A setting that would do nothing is refused too: who sets it believes in something that does not happen.
 */
import { isIPv4 } from "node:net";
import type { Origin } from "./assignment.ts";
import { clientAuthOf, hasUpstreamCredential, NO_UPSTREAM_CREDENTIAL } from "./login-method.ts";
import { usersOfNetworks } from "./networks.ts";
import { settings, type Config, type SettingKey } from "./settings.ts";

/** The setting that has to change, and why. */
type Contradiction = readonly [SettingKey, string];

/** A line for each contradiction, with where the setting that has to change stands. */
export function findContradictions(config: Config, originOf: (key: SettingKey) => Origin): string[] {
  const found = [
    ...listenerContradictions(config),
    ...unusedSettings(config),
    ...sealContradictions(config),
    ...resolverContradictions(config),
    ...doctorContradictions(config),
    ...clientTlsContradictions(config),
    ...upstreamTlsContradictions(config),
    ...loginContradictions(config),
    ...tenantContradictions(config),
    ...adminContradictions(config),
  ];
  return found.map(([key, text]) => `${originOf(key)}: ${settings[key].name}: ${text}`);
}

function* listenerContradictions(config: Config): Generator<Contradiction> {
  const { listenHosts, port, tlsPort, unixSocketDir, upstreamHost, upstreamPort } = config;
  if (listenHosts.length === 0 && unixSocketDir === undefined) {
    yield ["listenHosts", "expected an address, or unix_socket_dir to be set"];
  }
  if (listenHosts.length === 0 && tlsPort !== undefined) yield ["tlsPort", "needs an address in listen_host"];
  if (tlsPort === port && port !== 0) yield ["tlsPort", "is the same as port"];
  if (isOwnAddress(config)) {
    yield [
      "upstreamPort",
      `${upstreamHost} with port ${upstreamPort} is where pgvpd itself listens: it would connect to itself`,
    ];
  }
}

/** Only what is certain: a name that resolves to this machine is not asked for. */
function isOwnAddress({ port, tlsPort, upstreamPort, upstreamHost, listenHosts, unixSocketDir }: Config): boolean {
  if (upstreamHost.startsWith("/")) return upstreamHost === unixSocketDir && upstreamPort === port;
  if (upstreamPort !== port && upstreamPort !== tlsPort) return false;
  const isLoopback = upstreamHost === "localhost" || upstreamHost === "::1" || isLoopbackIPv4(upstreamHost);
  return listenHosts.some((host) => host === upstreamHost || (isLoopback && ["*", "::", "0.0.0.0"].includes(host)));
}

function isLoopbackIPv4(host: string): boolean {
  return isIPv4(host) && host.startsWith("127.");
}

/** Settings that do something only together with another. */
const ONLY_WITH: readonly {
  readonly keys: readonly SettingKey[];
  /** What they need, as one would write it. */
  readonly needed: string;
  readonly isThere: (config: Config) => boolean;
}[] = [
  {
    keys: ["clientTlsCaFile"],
    needed: "client_tls_sslmode = verify-ca or verify-full",
    isThere: ({ clientTlsSslmode }) => clientTlsSslmode.startsWith("verify-"),
  },
  {
    keys: ["clientCertMap"],
    needed: "client_tls_sslmode = verify-full",
    isThere: ({ clientTlsSslmode }) => clientTlsSslmode === "verify-full",
  },
  {
    keys: ["upstreamTlsNegotiation", "upstreamTlsCert", "upstreamTlsKey"],
    needed: "upstream_tls = true",
    isThere: ({ upstreamTls }) => upstreamTls,
  },
  {
    keys: ["contextKeyFile", "contextSealTtlMs"],
    needed: "context_seal = on or require",
    isThere: ({ contextSeal }) => contextSeal !== "off",
  },
  {
    keys: ["resolverConnection", "resolverUser"],
    needed: "resolvers",
    isThere: ({ resolvers }) => resolvers !== undefined,
  },
  {
    keys: ["resolverPassword", "resolverPoolSize"],
    needed: "resolver_user",
    isThere: ({ resolverUser }) => resolverUser !== undefined,
  },
  {
    keys: ["tenantPoolSize", "maintenanceUser"],
    needed: "pool_mode = session or transaction",
    isThere: ({ poolMode }) => poolMode !== "none",
  },
  {
    keys: ["maintenancePassword"],
    needed: "maintenance_user",
    isThere: ({ maintenanceUser }) => maintenanceUser !== undefined,
  },
  {
    keys: ["credentialsFile", "authUser"],
    needed: "client_auth = scram or cleartext",
    isThere: (config) => clientAuthOf(config) !== "relay",
  },
  {
    keys: ["authQuery", "authDbname"],
    needed: "auth_user",
    isThere: ({ authUser }) => authUser !== undefined,
  },
  {
    keys: ["adminHost", "adminTlsCert", "adminTlsKey", "adminServerNames"],
    needed: "admin_port",
    isThere: ({ adminPort }) => adminPort !== undefined,
  },
  {
    keys: ["adminTokensFile"],
    needed: "admin_port or admin_socket",
    isThere: ({ adminPort, adminSocket }) => adminPort !== undefined || adminSocket !== undefined,
  },
];

function* unusedSettings(config: Config): Generator<Contradiction> {
  for (const { keys, needed, isThere } of ONLY_WITH) {
    if (isThere(config)) continue;
    for (const key of keys) {
      const { type, default: text } = settings[key];
      if (JSON.stringify(config[key]) !== JSON.stringify(type.parse(text)))
        yield [key, `is used together with ${needed} alone`];
    }
  }
}

function* sealContradictions({ contextSeal, contextKeyFile }: Config): Generator<Contradiction> {
  if (contextSeal !== "off" && contextKeyFile === undefined) {
    yield ["contextSeal", `${contextSeal} needs context_key_file`];
  }
}

function* resolverContradictions(config: Config): Generator<Contradiction> {
  const { resolverConnection, resolverUser, poolMode } = config;
  if (resolverConnection === "dedicated" && resolverUser === undefined) {
    yield ["resolverConnection", "dedicated needs resolver_user"];
  }
  if (resolverConnection === "session" && resolverUser !== undefined) {
    yield ["resolverConnection", "session contradicts resolver_user"];
  }
  if (resolverConnection === "session" && poolMode !== "none") {
    yield ["resolverConnection", `session contradicts pool_mode = ${poolMode}`];
  }
}

function* doctorContradictions(config: Config): Generator<Contradiction> {
  const { doctor, doctorDatabases } = config;
  if (doctor === "off") {
    if (doctorDatabases.length > 0) yield ["doctorDatabases", "is used together with doctor = warn or enforce alone"];
    return;
  }
  if (doctorDatabases.length === 0) yield ["doctor", `${doctor} needs doctor_database`];
  if (doctor === "enforce" && !hasUpstreamCredential(config)) yield ["doctor", `enforce: ${NO_UPSTREAM_CREDENTIAL}`];
}

function* clientTlsContradictions(config: Config): Generator<Contradiction> {
  const { tlsCert, tlsKey, tlsPort, clientTlsSslmode: mode, clientTlsCaFile } = config;
  if (tlsCert !== undefined && tlsKey === undefined) yield ["tlsCert", "needs tls_key"];
  if (tlsCert === undefined && tlsKey !== undefined) yield ["tlsKey", "needs tls_cert"];
  if (tlsCert === undefined && tlsPort !== undefined) yield ["tlsPort", "needs tls_cert and tls_key"];
  if (tlsCert === undefined && mode !== "disable" && mode !== "allow") {
    yield ["clientTlsSslmode", `${mode} needs tls_cert and tls_key`];
  }
  if (mode === "disable" && tlsPort !== undefined) yield ["clientTlsSslmode", "disable contradicts tls_port"];
  if (mode.startsWith("verify-") && clientTlsCaFile === undefined) {
    yield ["clientTlsSslmode", `${mode} needs client_tls_ca_file`];
  }
}

function* upstreamTlsContradictions(config: Config): Generator<Contradiction> {
  const { upstreamTls, upstreamTlsCert, upstreamTlsKey, upstreamHost } = config;
  if (upstreamTlsCert !== undefined && upstreamTlsKey === undefined)
    yield ["upstreamTlsCert", "needs upstream_tls_key"];
  if (upstreamTlsCert === undefined && upstreamTlsKey !== undefined)
    yield ["upstreamTlsKey", "needs upstream_tls_cert"];
  if (upstreamTls && upstreamHost.startsWith("/")) {
    yield ["upstreamTls", "PostgreSQL does not encrypt its Unix-domain socket: leave it off"];
  }
}

function* loginContradictions(config: Config): Generator<Contradiction> {
  const { clientTlsSslmode, credentialsFile, authUser, poolMode, poolPassword, superuserBypass, tlsCert } = config;
  const method = clientAuthOf(config);
  if (method === "relay" && poolMode !== "none") {
    yield [
      "clientAuth",
      `relay ties a login to an upstream connection of its own: pool_mode = ${poolMode} needs scram`,
    ];
  }
  if (method !== "relay") {
    if (credentialsFile === undefined && authUser === undefined && poolPassword === undefined) {
      yield ["clientAuth", `${method} needs verifiers: credentials_file, auth_user (for auth_query) or pool_password`];
    }
    if (poolPassword !== undefined && !hasUpstreamCredential(config)) {
      yield [
        "poolPassword",
        "is no role's own: upstream_password is needed too, or upstream_tls_cert, or upstream_require_auth = none",
      ];
    }
  }
  if (method === "cleartext" && (tlsCert === undefined || clientTlsSslmode === "disable")) {
    yield ["clientAuth", "cleartext needs TLS: tls_cert and tls_key, and client_tls_sslmode other than disable"];
  }
  for (const user of usersOfNetworks(config.allowFrom)) {
    if (!superuserBypass.includes(user)) yield ["allowFrom", `"${user}" is not in superuser_bypass`];
  }
}

function* tenantContradictions(config: Config): Generator<Contradiction> {
  const { tenantAllow, tenantDeny, tenantVariable, contextVariables } = config;
  if (tenantAllow.length > 0 && tenantDeny.length > 0) {
    yield ["tenantDeny", "contradicts tenant_allow: list who may connect, or who may not"];
  }
  if (tenantVariable !== undefined && !contextVariables.includes(tenantVariable)) {
    yield ["tenantVariable", `expected one of context_variables: ${contextVariables.join(", ")}`];
  }
}

function* adminContradictions(config: Config): Generator<Contradiction> {
  const { adminPort, adminTlsCert, adminTlsKey, port, tlsPort } = config;
  if (adminPort !== undefined && adminPort !== 0) {
    if (adminPort === port) yield ["adminPort", "is the same as port"];
    if (adminPort === tlsPort) yield ["adminPort", "is the same as tls_port"];
  }
  if (adminTlsCert !== undefined && adminTlsKey === undefined) yield ["adminTlsCert", "needs admin_tls_key"];
  if (adminTlsCert === undefined && adminTlsKey !== undefined) yield ["adminTlsKey", "needs admin_tls_cert"];
}
