/**
 * What is wrong with values that are each right on their own. Called by load.ts when every value has been parsed.
 */
import { isIPv4 } from "node:net";
import type { Origin } from "./assignment.ts";
import { settings, type Config, type SettingKey } from "./settings.ts";

/** A line for each contradiction, with where the setting that has to change stands. */
export function findContradictions(config: Config, originOf: (key: SettingKey) => Origin): string[] {
  const found: string[] = [];
  if (config.listenHosts.length === 0 && config.unixSocketDir === undefined) {
    found.push(`${originOf("listenHosts")}: listen_host: expected an address, or unix_socket_dir to be set`);
  }
  if (isOwnAddress(config)) {
    found.push(
      `${originOf("upstreamPort")}: upstream_port: ${config.upstreamHost} with port ${config.upstreamPort} is where pgvpd ` +
        "itself listens: it would connect to itself",
    );
  }
  const contradict = (key: SettingKey, text: string): void =>
    void found.push(`${originOf(key)}: ${settings[key].name}: ${text}`);
  for (const [key, text] of [...tlsContradictions(config), ...loginContradictions(config)]) contradict(key, text);
  return found;
}

type Contradiction = readonly [SettingKey, string];

function tlsContradictions(config: Config): Contradiction[] {
  const { tlsCert, tlsKey, tlsPort, clientTlsSslmode: mode, clientTlsCaFile: ca } = config;
  const found: Contradiction[] = [];
  if (tlsCert !== undefined && tlsKey === undefined) found.push(["tlsCert", "set tls_key too"]);
  if (tlsKey !== undefined && tlsCert === undefined) found.push(["tlsKey", "set tls_cert too"]);
  if (tlsCert === undefined) {
    if (tlsPort !== undefined) found.push(["tlsPort", "set tls_cert and tls_key too"]);
    if (isTlsDemanded(config)) found.push(["clientTlsSslmode", `${mode} needs tls_cert and tls_key`]);
  }
  if (mode === "disable" && tlsPort !== undefined) found.push(["clientTlsSslmode", "disable contradicts tls_port"]);
  if (mode.startsWith("verify-") && ca === undefined)
    found.push(["clientTlsSslmode", `${mode} needs client_tls_ca_file`]);
  if (ca !== undefined && !mode.startsWith("verify-")) {
    found.push(["clientTlsCaFile", "is used with client_tls_sslmode = verify-ca or verify-full alone"]);
  }
  if (tlsPort !== undefined && tlsPort === config.port && tlsPort !== 0) found.push(["tlsPort", "is port as well"]);

  const upstream = ["upstreamTlsCa", "upstreamTlsCert", "upstreamTlsKey"] as const;
  for (const key of upstream) {
    if (!config.upstreamTls && config[key] !== undefined) found.push([key, "is used with upstream_tls = true alone"]);
  }
  if (!config.upstreamTls && config.upstreamTlsNegotiation === "direct") {
    found.push(["upstreamTlsNegotiation", "is used with upstream_tls = true alone"]);
  }
  if ((config.upstreamTlsCert === undefined) !== (config.upstreamTlsKey === undefined)) {
    const key = config.upstreamTlsCert === undefined ? "upstreamTlsKey" : "upstreamTlsCert";
    found.push([key, "upstream_tls_cert and upstream_tls_key belong together"]);
  }
  if (config.upstreamTls && config.upstreamHost.startsWith("/")) {
    found.push(["upstreamTls", "PostgreSQL does not encrypt its Unix-domain socket: leave it off"]);
  }
  return found;
}

/** True where a client cannot come in without TLS. */
function isTlsDemanded({ clientTlsSslmode: mode }: Config): boolean {
  return mode !== "disable" && mode !== "allow";
}

function loginContradictions(config: Config): Contradiction[] {
  const found: Contradiction[] = [];
  const mode = clientAuthOf(config);
  const isPooled = config.poolMode !== "none";
  if (mode === "relay") {
    if (isPooled) {
      found.push([
        "clientAuth",
        `relay ties each login to its own upstream connection: set scram with pool_mode = ${config.poolMode}`,
      ]);
    }
    if (config.credentialsFile !== undefined)
      found.push(["credentialsFile", "is used with client_auth = scram or cleartext alone"]);
    if (config.authUser !== undefined) found.push(["authUser", "is used with client_auth = scram or cleartext alone"]);
    return found;
  }
  const hasVerifiers =
    config.credentialsFile !== undefined || config.authUser !== undefined || config.poolPassword !== undefined;
  if (!hasVerifiers) {
    found.push([
      "clientAuth",
      `${mode} needs verifiers: set credentials_file, auth_user (for auth_query) or pool_password`,
    ]);
  }
  if (mode === "cleartext" && config.tlsCert === undefined)
    found.push(["clientAuth", "cleartext needs tls_cert and tls_key"]);
  if (config.poolPassword !== undefined && !hasUpstreamCredential(config)) {
    found.push([
      "poolPassword",
      "is not the roles' own password: set upstream_password too (or upstream_tls_cert, or upstream_require_auth = none)",
    ]);
  }
  return found;
}

/** `client_auth`, or what it is where it is not set. */
export function clientAuthOf({
  clientAuth,
  poolMode,
}: Pick<Config, "clientAuth" | "poolMode">): "relay" | "scram" | "cleartext" {
  return clientAuth ?? (poolMode === "none" ? "relay" : "scram");
}

/** True where pgvpd can log in upstream without anything of the client's. */
export function hasUpstreamCredential(
  config: Pick<Config, "upstreamPassword" | "upstreamTlsCert" | "upstreamRequireAuth">,
): boolean {
  return (
    config.upstreamPassword !== undefined ||
    config.upstreamTlsCert !== undefined ||
    config.upstreamRequireAuth.includes("none")
  );
}

/** Only what is certain: a name that resolves to this machine is not asked for. */
function isOwnAddress({ port, upstreamPort, upstreamHost, listenHosts, unixSocketDir }: Config): boolean {
  if (port !== upstreamPort) return false;
  if (upstreamHost.startsWith("/")) return upstreamHost === unixSocketDir;
  const isLoopback = upstreamHost === "localhost" || upstreamHost === "::1" || isLoopbackIPv4(upstreamHost);
  return listenHosts.some((host) => host === upstreamHost || (isLoopback && ["*", "::", "0.0.0.0"].includes(host)));
}

function isLoopbackIPv4(host: string): boolean {
  return isIPv4(host) && host.startsWith("127.");
}
