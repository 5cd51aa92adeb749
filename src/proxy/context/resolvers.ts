/**
 * The resolvers of a configuration, and where they run: on connections of `resolver_user` that no client touches, or on
 * the client's own upstream connection, before any byte of the client's.
 */
import { loadResolvers, type ResolverPlan } from "../../config/resolvers-file.ts";
import type { Config } from "../../config/settings.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline } from "../../lib/deadline.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Metrics } from "../../observe/metrics.ts";
import type { MessageStream } from "../message-stream.ts";
import type { ContextValue, TenantIdentity } from "../tenant/identity.ts";
import { Greeting } from "../upstream/await-ready.ts";
import type { OwnSessionServices } from "../upstream/own-session.ts";
import { OwnSessions } from "../upstream/own-sessions.ts";
import { askResolvers } from "./ask-resolvers.ts";
import { resolveContext, type AskResolvers } from "./resolve-context.ts";
import { ResolverCache } from "./resolver-cache.ts";

/** Connecting, and waiting for a connection, beside the resolvers' own timeouts. */
const CONNECT_LIMIT_MS = 10_000;

type ResolverConfig = Pick<
  Config,
  "resolvers" | "contextVariables" | "resolverUser" | "resolverPassword" | "resolverPoolSize" | "resolverSearchPath"
>;

export interface ResolverServices extends OwnSessionServices {
  readonly clock: Clock;
  readonly metrics: Metrics;
}

export class Resolvers {
  readonly #config: ResolverConfig;
  readonly #services: ResolverServices;
  readonly #cache: ResolverCache;
  /** Undefined where resolvers run on the client's own connection. */
  readonly #sessions: OwnSessions | undefined;
  #plan: ResolverPlan;

  /** @throws ResolversError. */
  constructor(config: ResolverConfig, services: ResolverServices) {
    this.#config = config;
    this.#services = services;
    this.#plan = this.#load();
    this.#cache = new ResolverCache(services.clock, services.metrics);
    this.#sessions = openSessions(config, services);
  }

  /** Reads the file again. @returns what puts it to use, with an empty cache. @throws ResolversError. */
  prepareReload(): () => void {
    const plan = this.#load();
    return () => {
      this.#plan = plan;
      this.#cache.clear();
    };
  }

  close(): void {
    this.#sessions?.close();
  }

  /**
   * What the database adds to the context of `identity`.
   *
   * @param stream the client's own upstream connection, and `greeting` what came over it.
   * @throws ProxyError resolver_failed (28000), upstream_*; whatever aborts `signal`.
   */
  async resolve(
    identity: TenantIdentity,
    stream: MessageStream,
    greeting: Greeting,
    signal: AbortSignal,
  ): Promise<readonly ContextValue[]> {
    const { metrics } = this.#services;
    const path = this.#config.resolverSearchPath;
    const sessions = this.#sessions;
    const ask: AskResolvers =
      sessions === undefined
        ? (calls) => askResolvers(stream, greeting, calls, path, metrics, signal)
        : (calls) =>
            this.#within(
              calls.reduce((sum, { resolver }) => sum + resolver.timeoutMs, CONNECT_LIMIT_MS),
              (limit) =>
                sessions.use(
                  identity.database,
                  (session) => askResolvers(session.stream, new Greeting(), calls, path, metrics, limit),
                  limit,
                ),
            );
    return resolveContext(identity, this.#plan, ask, this.#cache, signal);
  }

  /** Not under the limit of one login: others may wait for the same answer. */
  async #within<T>(limitMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    using deadline = new Deadline(
      this.#services.clock,
      limitMs,
      () => new ProxyError("resolver_failed", { detail: "the database did not answer in time" }),
    );
    return await work(deadline.signal);
  }

  #load(): ResolverPlan {
    const { resolvers, contextVariables } = this.#config;
    return resolvers === undefined ? [] : loadResolvers(resolvers, contextVariables);
  }
}

function openSessions(config: ResolverConfig, services: ResolverServices): OwnSessions | undefined {
  const { resolverUser: role, resolverPassword, resolverPoolSize } = config;
  if (role === undefined) return undefined;
  const own = resolverPassword === undefined ? {} : { upstreamPassword: resolverPassword };
  return new OwnSessions({ role, secrets: {}, applicationName: "pgvpd resolvers" }, resolverPoolSize, {
    ...services,
    config: { ...services.config, ...own },
  });
}
