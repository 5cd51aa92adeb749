/**
 * The StartupMessage that logs a tenant in upstream: the login role, what pgvpd pins, the context where it travels here,
 * and the client's own parameters. Values stay parameter pairs: none becomes SQL text, none is quoted.
 */
import { PINNED_DEFAULTS } from "../../config/names.ts";
import type { Config } from "../../config/settings.ts";
import { encodeStartupMessage, foldName, LATEST_MINOR } from "../../protocol/startup.ts";
import type { TenantIdentity } from "../tenant/identity.ts";
import type { Pair } from "./role-defaults.ts";

/**
 * What every tenant's upstream connection starts with, whatever `ALTER ROLE ... SET` says: a value in the
 * StartupMessage beats it. `role` comes on top, as it differs by identity.
 */
const PINNED: readonly Pair[] = [
  { name: "row_security", value: "on" },
  { name: "standard_conforming_strings", value: "on" },
  { name: "local_preload_libraries", value: "" },
  { name: "client_encoding", value: "UTF8" },
  { name: "client_connection_check_interval", value: "5s" },
];

/** @param defaults what else is pinned: see role-defaults.ts; empty where the login is relayed. */
export function encodeTenantStartup(
  identity: TenantIdentity,
  config: Pick<Config, "contextInjection" | "upstreamStartupParameters">,
  defaults: readonly Pair[],
): Buffer {
  const inStartup = config.contextInjection === "startup";
  const chosen = new Set(identity.forwarded.map(({ name }) => foldName(name)));
  const pinned = [...PINNED, ...defaults].filter(({ name }) => !chosen.has(name));
  const role = inStartup ? [{ name: "role", value: identity.targetRole }] : [];
  return encodeStartupMessage(Math.min(identity.minor, LATEST_MINOR), [
    { name: "user", value: identity.loginRole },
    { name: "database", value: identity.database },
    ...[...pinned, ...role].filter(({ name }) => mayPin(name, config.upstreamStartupParameters)),
    ...(inStartup ? identity.context : []),
    ...identity.forwarded,
  ]);
}

/** The same for a session that clients share: nothing of any of them, and no role, which comes with the context. */
export function encodePooledStartup(
  role: string,
  database: string,
  defaults: readonly Pair[],
  config: Pick<Config, "upstreamStartupParameters">,
): Buffer {
  return encodeStartupMessage(LATEST_MINOR, [
    { name: "user", value: role },
    { name: "database", value: database },
    ...[...PINNED, ...defaults].filter(({ name }) => mayPin(name, config.upstreamStartupParameters)),
  ]);
}

/** What a tenant's session could find changed by `ALTER ROLE ... SET`, since the configuration leaves it out. */
export function leftOut(list: readonly string[]): string[] {
  return ["role", ...PINNED.map(({ name }) => name), ...PINNED_DEFAULTS].filter((name) => !mayPin(name, list));
}

/** `upstream_startup_parameters`: `*` is all, `none` is none, `-name` leaves one out. */
export function mayPin(name: string, list: readonly string[]): boolean {
  return !list.includes("none") && !list.includes(`-${name}`);
}
