/**
 * What is wrong with values that are each right on their own. Called by load.ts when every value has been parsed.
 */
import { isIPv4 } from "node:net";
import type { Origin } from "./assignment.ts";
import type { Config, SettingKey } from "./settings.ts";

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
  return found;
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
