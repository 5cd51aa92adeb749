/**
 * What pgvpd would do with a login, step by step: the identity of its user name, each resolver with its values and what it
 * gave, the context and the role; or why it would refuse. It logs in upstream as pgvpd itself does, and proves no client.
 */
import { loadPlan } from "../config/resolver-plan.ts";
import type { Resolver, ResolverPlan } from "../config/resolvers-file.ts";
import type { Config } from "../config/settings.ts";
import { canonicalTenant } from "../config/tenant-name.ts";
import { TenantPolicy, type TenantTerms } from "../config/tenant-policy.ts";
import { loadTenants } from "../config/tenants-file.ts";
import { ProxyError } from "../errors/proxy-error.ts";
import { systemClock } from "../lib/clock.ts";
import { Deadline } from "../lib/deadline.ts";
import type { Logger } from "../observe/logger.ts";
import { Metrics } from "../observe/metrics.ts";
import { describeErrorResponse } from "../protocol/backend-messages.ts";
import { decodeStartupPacket, encodeStartupMessage, type StartupMessage } from "../protocol/startup.ts";
import { askResolvers } from "../proxy/context/ask-resolvers.ts";
import { DedicatedResolvers } from "../proxy/context/dedicated-resolvers.ts";
import {
  checkRole,
  resolveContext,
  type AskResolvers,
  type Resolved,
  type ResolverAnswer,
} from "../proxy/context/resolve-context.ts";
import { ResolverCache } from "../proxy/context/resolver-cache.ts";
import { assertDatabaseAllowed, identify, withLoginRole } from "../proxy/tenant/identify.ts";
import type { ContextValue, Identity, TenantIdentity } from "../proxy/tenant/identity.ts";
import { awaitReady, Greeting, UpstreamRefusal } from "../proxy/upstream/await-ready.ts";
import { createDial } from "../proxy/upstream/dial.ts";
import { KeyCache } from "../proxy/upstream/key-cache.ts";
import { logIn } from "../proxy/upstream/log-in.ts";
import { openUpstream } from "../proxy/upstream/open-upstream.ts";
import { encodeTenantStartup } from "../proxy/upstream/tenant-startup.ts";
import { UpstreamTls } from "../proxy/upstream/upstream-tls.ts";

/** A resolver of the plan, and what became of it. */
export interface ExplainedResolver {
  readonly name: string;
  /** Seconds that pgvpd keeps its answers for; 0: it is asked at every login. Here nothing is kept. */
  readonly cacheTtl: number;
  /** Undefined where it did not run: an input was missing, or one before it ended the login. */
  readonly run?: { readonly values: readonly string[]; readonly answer: ResolverAnswer; readonly ms: number };
}

export interface Explanation {
  /** Undefined where the user name is refused. */
  readonly identity: Identity | undefined;
  readonly resolvers: readonly ExplainedResolver[];
  /** Static and resolved; undefined where the login is refused. */
  readonly context: readonly ContextValue[] | undefined;
  /** unknown: the database could not be asked. */
  readonly verdict: "accepted" | "refused" | "unknown";
  /** Of another verdict than accepted: what the client sees, and what the log has. */
  readonly reason: string | undefined;
}

/**
 * @param termsOf what holds for a tenant, where it is another than the files say.
 * @throws ResolversError; ConfigError of tenants; the system's error where a file of TLS cannot be read.
 */
export async function explainLogin(
  user: string,
  database: string | undefined,
  config: Config,
  log: Logger,
  termsOf: (tenant: string) => TenantTerms = termsInFiles(config),
): Promise<Explanation> {
  const plan = loadPlan(config);
  const runs = new Map<Resolver, NonNullable<ExplainedResolver["run"]>>();
  let identity: Identity | undefined;
  let context: readonly ContextValue[] | undefined;
  let verdict: Explanation["verdict"] = "accepted";
  let reason: string | undefined;
  try {
    identity = identify(startupOf(user, database), config);
    if (identity.kind === "tenant") {
      const terms = assertAllowed(identity, termsOf(identity.tenant));
      const claimed = terms.database === undefined ? identity : { ...identity, database: terms.database };
      if (terms.database === undefined) assertDatabaseAllowed(claimed, config);
      const { host: upstreamHost = config.upstreamHost, port: upstreamPort = config.upstreamPort } =
        terms.upstream ?? {};
      const resolved = await resolve(claimed, plan, runs, { ...config, upstreamHost, upstreamPort }, log);
      checkRole(plan, resolved.loginRole, config.loginRoles);
      identity = withLoginRole(claimed, resolved.loginRole, config);
      context = [...claimed.context, ...resolved.context];
    }
  } catch (error) {
    const isAnswer = error instanceof ProxyError && !error.code.startsWith("upstream_");
    verdict = isAnswer ? "refused" : "unknown";
    reason = explain(error);
  }
  const resolvers = plan.flat().map((resolver) => {
    const run = runs.get(resolver);
    return { name: resolver.name, cacheTtl: resolver.cacheTtlMs / 1000, ...(run === undefined ? {} : { run }) };
  });
  return { identity, resolvers, context, verdict, reason };
}

function termsInFiles(config: Config): (tenant: string) => TenantTerms {
  return (tenant) => new TenantPolicy(config, loadTenants(config)).termsOf(canonicalTenant(tenant));
}

/** @throws ProxyError tenant_denied. */
function assertAllowed({ tenant }: TenantIdentity, terms: TenantTerms): TenantTerms {
  if (terms.denied !== undefined) throw new ProxyError("tenant_denied", { params: { tenant, reason: terms.denied } });
  return terms;
}

function startupOf(user: string, database: string | undefined): StartupMessage {
  const parameters = [
    { name: "user", value: user },
    ...(database === undefined ? [] : [{ name: "database", value: database }]),
  ];
  return decodeStartupPacket(encodeStartupMessage(0, parameters)) as StartupMessage;
}

async function resolve(
  identity: TenantIdentity,
  plan: ResolverPlan,
  runs: Map<Resolver, NonNullable<ExplainedResolver["run"]>>,
  config: Config,
  log: Logger,
): Promise<Resolved> {
  if (plan.length === 0) return { context: [], loginRole: undefined, used: [] };
  using deadline = new Deadline(systemClock, config.handshakeTimeoutMs, () => new ProxyError("upstream_timeout"));
  const { signal } = deadline;
  const metrics = new Metrics();
  const dial = createDial(config, config.upstreamTls ? new UpstreamTls(config) : undefined);
  const services = { config, clock: systemClock, dial, keyCache: new KeyCache(), metrics, log };
  const told =
    (ask: AskResolvers): AskResolvers =>
    async (calls) => {
      const begun = systemClock.now();
      const answers = await ask(calls);
      const ms = systemClock.now() - begun;
      for (const [index, { resolver, values }] of calls.entries()) {
        runs.set(resolver, { values, answer: answers[index] ?? { columns: [], rows: [] }, ms });
      }
      return answers;
    };
  const run = (ask: AskResolvers): Promise<Resolved> =>
    resolveContext(identity, plan, told(ask), new ResolverCache(systemClock, metrics), signal);

  const { resolverUser, resolverSearchPath } = config;
  if (resolverUser !== undefined) {
    const dedicated = new DedicatedResolvers(resolverUser, config, services);
    try {
      return await run(dedicated.askIn(identity.database));
    } finally {
      dedicated.close();
    }
  }
  using upstream = await openUpstream(dial, signal);
  const greeting = new Greeting();
  upstream.stream.write(encodeTenantStartup(identity, config, []));
  const login = { role: identity.loginRole, minor: identity.minor, secrets: {} };
  await awaitReady(upstream.stream, greeting, await logIn(upstream, login, services, greeting, signal), signal);
  return await run((calls) => askResolvers(upstream.stream, greeting, calls, resolverSearchPath, metrics, signal));
}

function explain(error: unknown): string {
  if (error instanceof UpstreamRefusal) return describeErrorResponse(error.response.body);
  if (!(error instanceof ProxyError)) throw error;
  const { sqlstate } = error.definition;
  return `${sqlstate} ${error.message}${error.detail === undefined ? "" : ` (${error.detail})`}`;
}
