/**
 * How a configuration has clients proved, and pgvpd itself upstream: derived from several settings, and asked in several places.
 */
import type { Config } from "./settings.ts";

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
