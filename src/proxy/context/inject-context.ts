/**
 * Puts the context and the role into the upstream session where the StartupMessage has not, checks that the role is one
 * that row-level security holds, and applies the client's parameters that were held back. One write and one round trip
 * at most, two where the context is sealed; with nothing to do, none. The client has sent nothing yet, and sees nothing before this is done.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { sqlstateOf, withFatalSeverity } from "../../protocol/backend-messages.ts";
import type { Clock } from "../../lib/clock.ts";
import { RecentKeys } from "../../lib/recent-keys.ts";
import type { Logger } from "../../observe/logger.ts";
import type { StartupParameter } from "../../protocol/startup.ts";
import type { MessageStream } from "../message-stream.ts";
import type { ContextValue, TenantIdentity } from "../tenant/identity.ts";
import { UpstreamRefusal, type Greeting } from "../upstream/await-ready.ts";
import { mayPin } from "../upstream/tenant-startup.ts";
import {
  encodePipeline,
  runPipeline,
  setConfig,
  type PipelineOutcome,
  type Row,
  type Statement,
} from "../upstream/pipeline.ts";
import { HELLO, isNotInstalled, type Seal } from "./seal.ts";
import { assertRolesAreSafe, ROLE_QUESTION, type SafeRoles } from "./role-safety.ts";

type InjectConfig = Pick<Config, "contextInjection" | "contextSeal" | "upstreamStartupParameters" | "allowUnsafeRoles">;

/** A line a minute for each database without the seal: there may be hundreds of logins a second. */
export const createUnsealed = (clock: Clock): RecentKeys => new RecentKeys(clock, 60_000, 1_000);

export interface InjectServices {
  readonly config: InjectConfig;
  readonly safeRoles: SafeRoles;
  /** Undefined with `context_seal = off`. */
  readonly seal: Seal | undefined;
  /** Databases without the seal that were warned of. */
  readonly unsealed: RecentKeys;
  readonly log: Logger;
}

/**
 * @param resolved what resolvers have added to the identity's own context.
 * @throws ProxyError context_failed or unsafe_role (28000) when our part fails; UpstreamRefusal with the server's own
 *   words when a parameter of the client's does (22023).
 */
export async function injectContext(
  upstream: MessageStream,
  identity: TenantIdentity,
  resolved: readonly ContextValue[],
  greeting: Greeting,
  { config, safeRoles, seal, unsealed, log }: InjectServices,
  signal: AbortSignal,
): Promise<void> {
  const hello = seal && (await askHello(upstream, identity, greeting, { config, unsealed, log }, signal));
  const context = [...contextToSet(identity, greeting, config), ...resolved];
  const spoken = hello === undefined ? context : [...context, ...identity.context];
  const needsUtf8 = !isAscii(spoken) && !isSameEncoding("UTF8", greeting.parameters.get("client_encoding"));
  const mustAskRoles = !config.allowUnsafeRoles && !safeRoles.has(identity);

  const ours: Statement[] = [];
  if (needsUtf8) ours.push(setConfig([{ name: "client_encoding", value: "UTF8" }]));
  if (context.length > 0) ours.push(setConfig(context));
  ours.push(...emptied(identity, resolved));
  if (hello !== undefined) ours.push((seal as Seal).setContext(hello, [...identity.context, ...resolved]));
  if (mustAskRoles) ours.push({ sql: ROLE_QUESTION, values: [] });
  const clients = clientParameters(identity, greeting, config, needsUtf8).map((parameter) => setConfig([parameter]));

  if (ours.length > 0) upstream.write(encodePipeline(ours));
  if (clients.length > 0) upstream.write(encodePipeline(clients));

  if (ours.length > 0) {
    const { results, error } = await runPipeline(upstream, greeting, signal);
    if (error !== undefined) throw new ProxyError("context_failed", { detail: error.text });
    if (context.length > 0) assertContextIs(context, results[needsUtf8 ? 1 : 0]);
    if (mustAskRoles) {
      assertRolesAreSafe(identity, results.at(-1) ?? []);
      safeRoles.add(identity);
    }
  }
  if (clients.length > 0) {
    const { error } = await runPipeline(upstream, greeting, signal);
    if (error !== undefined) throw new UpstreamRefusal(withFatalSeverity(error.response));
  }
  if (!config.allowUnsafeRoles && greeting.parameters.get("is_superuser") === "on") {
    throw new ProxyError("unsafe_role", { params: { role: identity.targetRole, reason: "it is a superuser" } });
  }
}

/**
 * The first of the two round trips that sealing takes; undefined where the database has no seal and need not have one.
 *
 * @throws ProxyError context_failed (28000) where it must have one.
 */
async function askHello(
  upstream: MessageStream,
  { database }: TenantIdentity,
  greeting: Greeting,
  { config: { contextSeal }, unsealed, log }: Pick<InjectServices, "config" | "unsealed" | "log">,
  signal: AbortSignal,
): Promise<readonly Row[] | undefined> {
  upstream.write(encodePipeline([HELLO]));
  const { results, error } = await runPipeline(upstream, greeting, signal);
  if (error === undefined) return results[0];
  assertMayBeUnsealed(error, database, { config: { contextSeal }, unsealed, log });
  return undefined;
}

/**
 * pgvpd.hello() has failed: with `context_seal = on` the context stays unsealed where the functions are not installed.
 *
 * @throws ProxyError context_failed (28000) everywhere else.
 */
export function assertMayBeUnsealed(
  error: NonNullable<PipelineOutcome["error"]>,
  database: string,
  {
    config: { contextSeal },
    unsealed,
    log,
  }: { config: Pick<InjectConfig, "contextSeal"> } & Pick<InjectServices, "unsealed" | "log">,
): void {
  if (contextSeal !== "on" || !isNotInstalled(sqlstateOf(error.response.body))) {
    throw new ProxyError("context_failed", { detail: `context_seal = ${contextSeal}: ${error.text}` });
  }
  if (unsealed.has(database)) return;
  log.warn({ database, cause: error.text }, "the context is not sealed: install sql/seal.sql in this database");
  unsealed.add(database);
}

/**
 * What must be set by query: everything with `context_injection = query`; else only what the StartupMessage could not
 * carry. A value there is not converted, so where the database has another encoding, one that is not ASCII comes again.
 */
function contextToSet(identity: TenantIdentity, greeting: Greeting, config: InjectConfig): ContextValue[] {
  const role = { name: "role", value: identity.targetRole };
  if (config.contextInjection === "query") return [...identity.context, role];
  const serverEncoding = greeting.parameters.get("server_encoding") ?? "UTF8";
  const isConverted = !["UTF8", "SQL_ASCII"].includes(serverEncoding);
  const context = isConverted && !isAscii(identity.context) ? [...identity.context] : [];
  return mayPin("role", config.upstreamStartupParameters) ? context : [...context, role];
}

/**
 * Variables that resolvers have given no value, where the role or the database has a default for them. Those that have none
 * stay unset.
 */
export function emptied({ derived }: TenantIdentity, resolved: readonly ContextValue[]): Statement[] {
  const isSet = new Set(resolved.map(({ name }) => name));
  const names = derived.filter((name) => !isSet.has(name));
  const calls = names.map((_, index) => {
    const name = `$${index + 1}`;
    return `CASE WHEN pg_catalog.current_setting(${name}, true) OPERATOR(pg_catalog.<>) '' THEN pg_catalog.set_config(${name}, '', false) END`;
  });
  return names.length === 0 ? [] : [{ sql: `SELECT ${calls.join(", ")}`, values: names }];
}

/**
 * The client's held back parameters. Its client_encoding is left out where it is in force already; where it has no wish,
 * it gets PostgreSQL's default, the database's own encoding, and not the one that pgvpd logged in with.
 */
function clientParameters(
  identity: TenantIdentity,
  greeting: Greeting,
  config: InjectConfig,
  wasSetToUtf8: boolean,
): StartupParameter[] {
  const reported = greeting.parameters.get("client_encoding");
  const fallback = mayPin("client_encoding", config.upstreamStartupParameters)
    ? greeting.parameters.get("server_encoding")
    : reported;
  const isEncoding = ({ name }: StartupParameter): boolean => name.toLowerCase() === "client_encoding";
  const wish = identity.heldBack.find(isEncoding)?.value.toString("latin1") ?? fallback;

  const others = identity.heldBack.filter((parameter) => !isEncoding(parameter));
  if (wish === undefined || isSameEncoding(wish, wasSetToUtf8 ? "UTF8" : reported)) return others;
  return [{ name: "client_encoding", value: Buffer.from(wish, "latin1") }, ...others];
}

/** set_config returns the value as the server understood it: a custom variable must have come through unchanged. */
export function assertContextIs(context: readonly ContextValue[], rows: readonly Row[] | undefined): void {
  const row = rows?.[0] ?? [];
  for (const [index, { name, value }] of context.entries()) {
    if (name.includes(".") && row[index] !== value) {
      throw new ProxyError("context_failed", { detail: `${name} came back with another value` });
    }
  }
}

function isAscii(values: readonly ContextValue[]): boolean {
  // oxlint-disable-next-line no-control-regex -- the ASCII range begins with the control characters
  return values.every(({ value }) => /^[\u0000-\u007f]*$/.test(value));
}

/** PostgreSQL compares encoding names by their letters and digits, without case; UNICODE is UTF8. */
function isSameEncoding(one: string, other: string | undefined): boolean {
  const clean = (name: string): string =>
    name
      .toLowerCase()
      .replace(/[^a-z0-9]/g, "")
      .replace(/^unicode$/, "utf8");
  return other !== undefined && clean(one) === clean(other);
}
