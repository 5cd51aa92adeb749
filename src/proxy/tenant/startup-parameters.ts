/**
 * What becomes of each parameter of a tenant's StartupMessage: refused, dropped, held back until the context is
 * confirmed, or forwarded. Parameters inside `options` are treated as if they had been sent on their own.
 */
import { PROTECTED_PARAMETERS } from "../../config/names.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Config } from "../../config/settings.ts";
import { parseStartupOptions } from "../../protocol/startup-options.ts";
import { foldName, type StartupMessage, type StartupParameter } from "../../protocol/startup.ts";
import type { ResolverTraits } from "./identity.ts";

/**
 * Fields of the StartupMessage, not settings. Taken out of `options` and sent as a pair of its own, one of these would
 * replace the role, the database or the kind of connection that pgvpd chose: the last pair of a name wins.
 */
const FIELDS = ["user", "database", "options", "replication"];

/** The prefix of protocol options, which are no settings either. */
const PROTOCOL_OPTION = "_pq_.";

/** They would change how the context is looked up or converted, so they are applied after it, in this order. */
const HELD_BACK = ["client_encoding", "search_path"];

/** The values that PostgreSQL reads as "no" for `replication`. */
const NO_REPLICATION = ["false", "off", "no", "0"];

export interface SortedParameters {
  readonly forwarded: readonly StartupParameter[];
  readonly heldBack: readonly StartupParameter[];
}

/** The names of `_pq_.` parameters. */
export function protocolOptions({ parameters }: StartupMessage): string[] {
  return parameters.map(({ name }) => name).filter((name) => name.startsWith(PROTOCOL_OPTION));
}

/** @throws ProxyError 42501 for a parameter that may not be set, 22023 for `options` that are not settings. */
export function sortParameters(
  startup: StartupMessage,
  config: Pick<Config, "contextVariables" | "clientParameters" | "ignoreStartupParameters">,
  resolvers: ResolverTraits,
): SortedParameters {
  const context = [...config.contextVariables, ...resolvers.variables].map(foldName);
  const isProtected = new Set([...PROTECTED_PARAMETERS, ...FIELDS, ...context]);
  const isIgnored = new Set(config.ignoreStartupParameters.map(foldName));
  const isListed = new Set(config.clientParameters.map(foldName));

  // PostgreSQL applies `options` first, so that a parameter of its own wins over one inside them.
  const fromOptions: StartupParameter[] = [];
  const explicit: StartupParameter[] = [];
  for (const parameter of startup.parameters) {
    const { name, value } = parameter;
    if (name === "user" || name === "database") continue;
    if (name === "replication") assertNoReplication(value);
    else if (name === "options") {
      if (!isIgnored.has("options")) fromOptions.push(...parseStartupOptions(value));
    } else if (!name.startsWith(PROTOCOL_OPTION)) explicit.push(parameter);
  }

  const effective = new Map<string, StartupParameter>();
  for (const parameter of [...fromOptions, ...explicit]) {
    const name = foldName(parameter.name);
    if (isProtected.has(name) || name.startsWith(PROTOCOL_OPTION)) {
      throw new ProxyError("parameter_protected", { params: { name: parameter.name } });
    }
    if (isIgnored.has(name)) continue;
    if (!isListed.has("*") && !isListed.has(name)) {
      throw new ProxyError("parameter_not_listed", { params: { name: parameter.name } });
    }
    effective.set(name, parameter);
  }

  const heldBack = HELD_BACK.flatMap((name) => effective.get(name) ?? []);
  for (const name of HELD_BACK) effective.delete(name);
  const others = [...effective.values()];
  return resolvers.areInSession
    ? { forwarded: [], heldBack: [...heldBack, ...others] }
    : { forwarded: others, heldBack };
}

const APPLICATION_NAME = "application_name";

/**
 * The tenant stands before what the client calls itself: PostgreSQL cuts the end off. It is for people who look at
 * pg_stat_activity: a client can set another name later.
 */
export function stampApplicationName({ forwarded, heldBack }: SortedParameters, tenant: string): SortedParameters {
  const stamp = (parameter: StartupParameter): StartupParameter => {
    if (!isApplicationName(parameter)) return parameter;
    const before = Buffer.from(parameter.value.length === 0 ? tenant : `${tenant}: `);
    return { ...parameter, value: Buffer.concat([before, parameter.value]) };
  };
  if ([...forwarded, ...heldBack].some(isApplicationName)) {
    return { forwarded: forwarded.map(stamp), heldBack: heldBack.map(stamp) };
  }
  return { forwarded: [...forwarded, { name: APPLICATION_NAME, value: Buffer.from(tenant) }], heldBack };
}

function isApplicationName({ name }: StartupParameter): boolean {
  return foldName(name) === APPLICATION_NAME;
}

/** A walsender reads the write-ahead log: row-level security does not exist there. */
function assertNoReplication(value: Buffer): void {
  if (!NO_REPLICATION.includes(value.toString("latin1").toLowerCase())) throw new ProxyError("replication");
}
