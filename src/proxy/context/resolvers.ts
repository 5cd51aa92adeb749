/**
 * The resolvers of a configuration, and where they run: on connections of their own, or on the client's upstream
 * connection before any byte of the client's.
 */
import { loadResolvers, type ResolverPlan } from "../../config/resolvers-file.ts";
import type { Config } from "../../config/settings.ts";
import type { ProxyError } from "../../errors/proxy-error.ts";
import type { MessageStream } from "../message-stream.ts";
import type { ContextValue, TenantIdentity } from "../tenant/identity.ts";
import type { Greeting } from "../upstream/await-ready.ts";
import { askResolvers } from "./ask-resolvers.ts";
import { DedicatedResolvers, type DedicatedConfig, type ResolverServices } from "./dedicated-resolvers.ts";
import { resolveContext, type AskResolvers } from "./resolve-context.ts";
import { ResolverCache } from "./resolver-cache.ts";
import { SessionWatches } from "./session-watches.ts";

type ResolverConfig = DedicatedConfig & Pick<Config, "resolvers" | "contextVariables" | "resolverUser">;

export interface ResolvedContext {
  readonly context: readonly ContextValue[];
  /** Calls `end` when what the context came from has changed. Disposing of the result forgets it. */
  watch(end: (error: ProxyError) => void): Disposable;
}

export class Resolvers {
  readonly #config: ResolverConfig;
  readonly #services: ResolverServices;
  readonly #cache: ResolverCache;
  /** Undefined where resolvers run on the client's own connection. */
  readonly #dedicated: DedicatedResolvers | undefined;
  readonly #watches: SessionWatches;
  /** Databases whose changes are listened to, or cannot be. */
  readonly #followed = new Set<string>();
  #plan: ResolverPlan;

  /** @throws ResolversError. */
  constructor(config: ResolverConfig, services: ResolverServices) {
    const { resolverUser } = config;
    this.#config = config;
    this.#services = services;
    this.#plan = load(config);
    this.#cache = new ResolverCache(services.clock, services.metrics);
    this.#dedicated = resolverUser === undefined ? undefined : new DedicatedResolvers(resolverUser, config, services);
    this.#watches = new SessionWatches(this.#dedicated, services.log);
  }

  /** Reads the file again. @returns what puts it to use, with an empty cache. @throws ResolversError. */
  prepareReload(): () => void {
    const plan = load(this.#config);
    return () => {
      this.#plan = plan;
      this.#cache.clear();
    };
  }

  close(): void {
    this.#dedicated?.close();
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
  ): Promise<ResolvedContext> {
    const { resolverSearchPath } = this.#config;
    const onOwnConnection: AskResolvers = (calls) =>
      askResolvers(stream, greeting, calls, resolverSearchPath, this.#services.metrics, signal);
    this.#follow(identity.database);
    const ask = this.#dedicated?.askIn(identity.database) ?? onOwnConnection;
    const { changes } = this.#watches;
    const { context, used } = await resolveContext(identity, this.#plan, ask, this.#cache, signal);
    return { context, watch: (end) => this.#watches.watch(identity, used, changes, end) };
  }

  /** Listens for changes in a database, where anything of it may be kept. Until it does, nothing is. */
  #follow(database: string): void {
    const isKept = this.#plan.flat().some(({ cacheTtlMs, onChange }) => cacheTtlMs > 0 || onChange === "terminate");
    if (this.#dedicated === undefined || !isKept || this.#followed.has(database)) return;
    this.#cache.distrust(database);
    const isListening = this.#dedicated.listenTo(database, {
      onTrusted: () => this.#cache.trust(database),
      onLost: () => this.#cache.distrust(database),
      onChange: (change) => {
        this.#cache.invalidate(change);
        this.#watches.check(change);
      },
      onUnknownChange: () => {
        this.#cache.clear();
        this.#watches.checkAll(database);
      },
    });
    if (isListening) this.#followed.add(database);
  }
}

function load({ resolvers, contextVariables }: ResolverConfig): ResolverPlan {
  return resolvers === undefined ? [] : loadResolvers(resolvers, contextVariables);
}
