/**
 * Checks of names that settings hold: context variables, roles, hosts, startup parameters. Each throws a SettingError that says what is
 * allowed.
 */
import { isIP } from "node:net";
import { SettingError } from "./setting-types.ts";

const MAX_NAME_BYTES = 63;
const MAX_CONTEXT_VARIABLES = 32;

/** What would change whose rows a session sees, or how pgvpd's own statements are read: no tenant's client may set it. */
export const PROTECTED_PARAMETERS: readonly string[] = [
  "role",
  "session_authorization",
  "row_security",
  "session_preload_libraries",
  "local_preload_libraries",
  "standard_conforming_strings",
];

/** Neither can these carry a tenant's context, nor those that pgvpd applies after it, nor those that cannot be set. */
const NOT_FOR_CONTEXT: readonly string[] = [
  ...PROTECTED_PARAMETERS,
  "search_path",
  "client_encoding",
  "is_superuser",
  "server_encoding",
  "server_version",
  "server_version_num",
];

/**
 * The parameters that pgvpd pins, where it logs in upstream with a credential of its own, to what role and database had
 * when pgvpd started: a tenant's `ALTER ROLE ... SET` of them changes nothing.
 */
export const PINNED_DEFAULTS: readonly string[] = [
  "search_path",
  "statement_timeout",
  "lock_timeout",
  "idle_in_transaction_session_timeout",
  "idle_session_timeout",
  "transaction_timeout",
  "default_transaction_isolation",
  "default_transaction_read_only",
  "default_transaction_deferrable",
];

/** The parameters that pgvpd pins in a tenant's StartupMessage. */
const PINNED_PARAMETERS = [
  "role",
  "row_security",
  "standard_conforming_strings",
  "local_preload_libraries",
  "client_encoding",
  "client_connection_check_interval",
  ...PINNED_DEFAULTS,
];

export function checkContextVariables(names: readonly string[]): void {
  if (names.length === 0) throw new SettingError("expected at least one variable");
  if (names.length > MAX_CONTEXT_VARIABLES) throw new SettingError(`at most ${MAX_CONTEXT_VARIABLES} variables`);
  const seen = new Set<string>();
  for (const name of names) {
    const folded = name.toLowerCase();
    if (!/^[a-z_][a-z0-9_$]*(\.[a-z_][a-z0-9_$]*)*$/.test(folded) || name.length > MAX_NAME_BYTES) {
      throw new SettingError(
        `"${name}" is not a name that PostgreSQL takes: letters, digits, _ and $, with dots between`,
      );
    }
    if (NOT_FOR_CONTEXT.includes(folded)) {
      throw new SettingError(`"${name}" cannot carry context: choose a name with a dot, as app.current_tenant_id`);
    }
    if (seen.has(folded)) throw new SettingError(`"${name}" comes twice (case does not count)`);
    seen.add(folded);
  }
}

/** A variable that a resolver sets. @throws SettingError. */
export function checkInjectedVariable(name: string): void {
  checkContextVariables([name]);
  if (!name.includes(".")) throw new SettingError(`"${name}" is no variable of the context: those have a dot`);
  if (name.toLowerCase().startsWith("pgvpd.")) throw new SettingError(`"${name}" is pgvpd's own`);
}

export function checkRole(role: string): void {
  if (role.toLowerCase() === "none") throw new SettingError('"none" is no role: leave it out to keep the login role');
  if (Buffer.byteLength(role) > MAX_NAME_BYTES) throw new SettingError(`expected at most ${MAX_NAME_BYTES} bytes`);
}

export function checkRoles(roles: readonly string[]): void {
  for (const role of roles) checkRole(role);
}

export function checkUpstreamParameters(entries: readonly string[]): void {
  if (entries.length === 0) throw new SettingError("expected *, none, or names with a - before them");
  if (entries.includes("none") && entries.length > 1) throw new SettingError("none stands alone");
  for (const entry of entries) {
    const isKnown = entry === "*" || entry === "none" || PINNED_PARAMETERS.some((name) => entry === `-${name}`);
    if (!isKnown) {
      const names = PINNED_PARAMETERS.map((name) => `-${name}`).join(", ");
      throw new SettingError(`"${entry}" is not one of *, none, ${names}`);
    }
  }
}

const AUTH_METHODS = ["scram-sha-256", "md5", "password", "none"];

/** `upstream_require_auth`, in libpq's words. */
export function checkAuthMethods(methods: readonly string[]): void {
  for (const method of methods) {
    if (!AUTH_METHODS.includes(method)) {
      throw new SettingError(`"${method}" is not one of ${AUTH_METHODS.join(", ")}`);
    }
  }
}

/** An address or a host name, nothing around it: no port, no URL, no user. */
function checkHost(host: string): void {
  if (isIP(host) !== 0 || /^[^\s,:;@/[\]]+$/.test(host)) return;
  throw new SettingError("expected a host name or an address, without a port");
}

export function checkListenHosts(hosts: readonly string[]): void {
  for (const host of hosts) checkHost(host);
}

/** One address: of a name nobody knows whether it stays on this machine. */
export function checkAdminHost(value: string): void {
  if (value !== "*" && isIP(value) === 0)
    throw new SettingError("expected one address, as 127.0.0.1 or ::1; * is every");
}

/** Sockets' paths have 107 bytes at most, on some systems 103. */
export function checkSocketPath(value: string): void {
  if (Buffer.byteLength(value) > 100) throw new SettingError("expected a path of at most 100 bytes");
}

export function checkServerNames(names: readonly string[]): void {
  for (const name of names) {
    if (!/^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$/i.test(name)) {
      throw new SettingError(`"${name}" is not a host name: write it without a port`);
    }
  }
}

/** A host, or the folder of a socket. */
export function checkUpstreamHost(value: string): void {
  if (value.startsWith("/")) return;
  if (value.includes("://")) throw new SettingError("expected a host name, not a URL: upstream_host and upstream_port");
  if (value.includes(",")) throw new SettingError("expected one host: each address of a name is tried");
  checkHost(value);
}
