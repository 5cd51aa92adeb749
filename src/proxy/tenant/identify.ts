/**
 * The second stage: the StartupMessage's user name becomes an Identity - login role, tenant, context values - or the
 * login ends here, before anything is sent upstream. It reads configuration and bytes, nothing else.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Config } from "../../config/settings.ts";
import { MAX_NAME_BYTES } from "../../protocol/limits.ts";
import type { StartupMessage } from "../../protocol/startup.ts";
import type { ContextValue, Identity, ResolverTraits, TenantIdentity } from "./identity.ts";
import { protocolOptions, sortParameters, stampApplicationName } from "./startup-parameters.ts";

type IdentityConfig = Pick<
  Config,
  | "tenantSeparator"
  | "valueSeparator"
  | "contextVariables"
  | "tenantVariable"
  | "superuserBypass"
  | "loginRoles"
  | "setRole"
  | "clientParameters"
  | "ignoreStartupParameters"
  | "stampApplicationName"
>;

const NO_RESOLVERS: ResolverTraits = { variables: [], areInSession: false };

/** @throws ProxyError 28000, 42501 or 22023: see the catalogue's "as an identity". */
export function identify(
  startup: StartupMessage,
  config: IdentityConfig,
  resolvers: ResolverTraits = NO_RESOLVERS,
): Identity {
  const user = textOf(startup, "user", "user_characters");
  if (user === undefined || user === "") throw new ProxyError("user_missing");
  const database = textOf(startup, "database", "database_characters");

  if (config.superuserBypass.includes(user)) {
    const unknownOptions = protocolOptions(startup);
    return {
      kind: "bypass",
      user,
      loginRole: user,
      database: database ?? user,
      minor: startup.minor,
      unknownOptions,
      startup,
    };
  }

  const { role, context } = splitUserName(user, config);
  assertNameLength("role name", role);
  if (config.loginRoles.length > 0 && !config.loginRoles.includes(role)) {
    throw new ProxyError("login_role", { params: { role } });
  }
  // psql without -d asks for a database named like the user; PostgreSQL would take the role's name.
  const effectiveDatabase = database === undefined || database === "" || database === user ? role : database;
  assertNameLength("database name", effectiveDatabase);

  const tenant = (context[tenantIndex(config)] as ContextValue).value;
  const sorted = sortParameters(startup, config, resolvers);
  return {
    kind: "tenant",
    user,
    loginRole: role,
    targetRole: config.setRole ?? role,
    tenant,
    context,
    derived: resolvers.variables,
    database: effectiveDatabase,
    minor: startup.minor,
    unknownOptions: protocolOptions(startup),
    ...(config.stampApplicationName ? stampApplicationName(sorted, tenant) : sorted),
  };
}

/** The same tenant with a login role that something else than the user name has chosen; undefined keeps it. */
export function withLoginRole(
  identity: TenantIdentity,
  loginRole: string | undefined,
  { setRole }: Pick<Config, "setRole">,
): TenantIdentity {
  return loginRole === undefined ? identity : { ...identity, loginRole, targetRole: setRole ?? loginRole };
}

/** `role.value` with one context variable, `role.value1:value2` with more. The first separator ends the role. */
function splitUserName(user: string, config: IdentityConfig): { role: string; context: ContextValue[] } {
  const { tenantSeparator: separator, valueSeparator, contextVariables } = config;
  const params = { separator, example: exampleUser(config) };
  const at = user.indexOf(separator);
  if (at === -1) throw new ProxyError("user_without_context", { params });
  if (at === 0) throw new ProxyError("user_without_role", { params });

  const rest = user.slice(at + separator.length);
  const values = contextVariables.length === 1 ? [rest] : rest.split(valueSeparator);
  if (rest !== "" && values.length !== contextVariables.length) {
    throw new ProxyError("context_count", {
      params: { ...params, expected: contextVariables.length, actual: values.length },
    });
  }
  const tenantAt = tenantIndex(config);
  if (rest === "" || values[tenantAt] === "") {
    throw new ProxyError("tenant_empty", { params: { ...params, variable: contextVariables[tenantAt] ?? "" } });
  }
  return {
    role: user.slice(0, at),
    context: contextVariables.map((name, index) => ({ name, value: values[index] as string })),
  };
}

/** @throws ProxyError database_not_allowed (28000); whoever is in superuser_bypass may connect to any. */
export function assertDatabaseAllowed(
  { kind, database }: Identity,
  { allowDatabases }: Pick<Config, "allowDatabases">,
): void {
  if (kind === "bypass" || allowDatabases.length === 0 || allowDatabases.includes(database)) return;
  throw new ProxyError("database_not_allowed", { params: { database } });
}

/** Which of the context variables is the tenant. */
function tenantIndex({ contextVariables, tenantVariable }: IdentityConfig): number {
  return tenantVariable === undefined ? 0 : contextVariables.indexOf(tenantVariable);
}

/** How a user name of this configuration looks: `app_user.<current_tenant_id>`. */
function exampleUser({ tenantSeparator, valueSeparator, contextVariables }: IdentityConfig): string {
  const values = contextVariables.map((name) => `<${name.slice(name.lastIndexOf(".") + 1)}>`);
  return `role${tenantSeparator}${values.join(valueSeparator)}`;
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
// oxlint-disable-next-line no-control-regex -- control characters are what it looks for, and what turns a log's line around
const CONTROL_CHARACTERS = /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/;

function textOf(
  startup: StartupMessage,
  name: string,
  error: "user_characters" | "database_characters",
): string | undefined {
  const bytes = startup.parameters.find((parameter) => parameter.name === name)?.value;
  if (bytes === undefined) return undefined;
  let text: string;
  try {
    text = utf8.decode(bytes);
  } catch (cause) {
    throw new ProxyError(error, { cause });
  }
  if (CONTROL_CHARACTERS.test(text)) throw new ProxyError(error);
  return text;
}

function assertNameLength(what: string, name: string): void {
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) throw new ProxyError("name_too_long", { params: { what } });
}
