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

/** What has to be set where `hasUpstreamCredential` is false. */
export const NO_UPSTREAM_CREDENTIAL =
  "pgvpd has nothing of its own to log in with: set upstream_password, upstream_tls_cert or upstream_require_auth = none";

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
