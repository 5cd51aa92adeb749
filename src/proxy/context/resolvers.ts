/**
 * The resolvers of a configuration, and where they run: on connections of their own, or on the client's upstream
 * connection before any byte of the client's.
 */
import { choosesRole, loadPlan, type PlanConfig } from "../../config/resolver-plan.ts";
import type { CodeResolver, ResolverPlan } from "../../config/resolvers-file.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { MessageStream } from "../message-stream.ts";
import type { ContextValue, ResolverTraits, TenantIdentity } from "../tenant/identity.ts";
import type { Greeting } from "../upstream/await-ready.ts";
import { withCode } from "./ask-code.ts";
import { askResolvers } from "./ask-resolvers.ts";
import type { Invalidation } from "./call-names.ts";
import { DedicatedResolvers, type DedicatedConfig, type ResolverServices } from "./dedicated-resolvers.ts";
import { checkRole, resolveContext, type AskResolvers } from "./resolve-context.ts";
import { ResolverCache } from "./resolver-cache.ts";
import { SessionWatches } from "./session-watches.ts";

/** For databases whose changes nobody listens to. */
const NO_CACHE: Pick<ResolverCache, "run"> = { run: (_, calls, ask) => ask(calls) };

type ResolverConfig = DedicatedConfig & PlanConfig;

/** The client's own upstream connection, and what came over it. */
export interface OwnConnection {
  readonly stream: MessageStream;
  readonly greeting: Greeting;
}

export interface ResolvedContext {
  readonly context: readonly ContextValue[];
  /** The role to log in as; undefined where no resolver chooses one. */
  readonly loginRole: string | undefined;
  /** Calls `end` when what the context came from has changed. Disposing of the result forgets it. */
  watch(end: (error: ProxyError) => void): Disposable;
}

/** A resolver as an operator sees it. */
export interface ResolverInfo {
  readonly name: string;
  readonly kind: "query" | "code";
  readonly params: readonly string[];
  /** What it sets. */
  readonly variables: readonly string[];
  readonly required: boolean;
  readonly cacheTtlMs: number;
  readonly timeoutMs: number;
  readonly onChange: string;
}

export class Resolvers {
  readonly #config: ResolverConfig;
  readonly #code: readonly CodeResolver[];
  readonly #services: ResolverServices;
  readonly #cache: ResolverCache;
  /** Undefined where resolvers run on the client's own connection. */
  readonly #dedicated: DedicatedResolvers | undefined;
  readonly #watches: SessionWatches;
  /** Databases whose changes are listened to. */
  readonly #followed = new Set<string>();
  #plan: ResolverPlan;

  /** @param code resolvers of the embedding program. @throws ResolversError. */
  constructor(
    config: ResolverConfig,
    code: readonly CodeResolver[],
    services: ResolverServices,
    plan = loadPlan(config, code),
  ) {
    const { resolverUser } = config;
    this.#config = config;
    this.#code = code;
    this.#services = services;
    this.#plan = plan;
    this.#dedicated = resolverUser === undefined ? undefined : new DedicatedResolvers(resolverUser, config, services);
    this.#cache = new ResolverCache(services.clock, services.metrics, { isPerContext: this.#dedicated === undefined });
    this.#watches = new SessionWatches(this.#dedicated?.askIn, services);
  }

  /** The same on another server, as the file was when it was read last. */
  forServer(config: ResolverConfig, services: ResolverServices): Resolvers {
    return new Resolvers(config, this.#code, services, this.#plan);
  }

  /** Takes what `common` has read, with an empty cache. */
  takeFrom(common: Resolvers): void {
    this.#plan = common.#plan;
    this.#cache.clear();
  }

  /** Reads the file again. @returns what puts it to use, with an empty cache. @throws ResolversError. */
  prepareReload(): () => void {
    const plan = loadPlan(this.#config, this.#code);
    return () => {
      this.#plan = plan;
      this.#cache.clear();
    };
  }

  close(): void {
    this.#dedicated?.close();
    this.#watches.close();
  }

  /** In the order they run. */
  get list(): readonly ResolverInfo[] {
    return this.#plan.flat().map(({ source, inject, ...resolver }) => ({
      ...resolver,
      kind: "query" in source ? "query" : "code",
      variables: inject.map(({ variable }) => variable),
    }));
  }

  clearCache(): void {
    this.#cache.clear();
  }

  /** What they mean for a client's StartupMessage. */
  get traits(): ResolverTraits {
    const resolvers = this.#plan.flat();
    return {
      variables: resolvers.flatMap(({ inject }) => inject.map(({ variable }) => variable)),
      areInSession: this.#dedicated === undefined && resolvers.some(({ source }) => "query" in source),
    };
  }

  /** True where a resolver chooses the login role: then they run before the login, on connections of their own. */
  get chooseRole(): boolean {
    return choosesRole(this.#plan);
  }

  /**
   * What the database adds to the context of `identity`.
   *
   * @param own for resolvers that run there; not needed where there is a resolver_user.
   * @throws ProxyError resolver_failed (28000), upstream_*; whatever aborts `signal`.
   */
  async resolve(
    identity: TenantIdentity,
    own: OwnConnection | undefined,
    signal: AbortSignal,
  ): Promise<ResolvedContext> {
    const { clock, metrics } = this.#services;
    const { resolverSearchPath, loginRoles } = this.#config;
    const onOwnConnection: AskResolvers = async (calls) => {
      if (own === undefined) throw new ProxyError("resolver_failed", { detail: "there is no connection to ask on" });
      return askResolvers(own.stream, own.greeting, calls, resolverSearchPath, metrics, signal);
    };
    if (own !== undefined && this.chooseRole) {
      throw new ProxyError("resolver_failed", {
        detail: "since a reload a resolver chooses the role; this login had one",
      });
    }
    const { variables, areInSession } = this.traits;
    const mayHoldMore = areInSession && identity.forwarded.length > 0;
    if (mayHoldMore || !variables.every((name) => identity.derived.includes(name))) {
      throw new ProxyError("resolver_failed", { detail: "the resolvers were changed by a reload during this login" });
    }
    const { database } = identity;
    const ask = withCode(this.#dedicated?.askIn(database) ?? onOwnConnection, identity, clock, metrics);
    const { changes } = this.#watches;
    const plan = this.#plan;
    const cache = this.#dedicated === undefined || this.#followed.has(database) ? this.#cache : NO_CACHE;
    const { context, loginRole, used } = await resolveContext(identity, plan, ask, cache, signal);
    checkRole(plan, loginRole, loginRoles);
    this.#follow(database);
    return { context, loginRole, watch: (end) => this.#watches.watch(identity, used, changes, end) };
  }

  /**
   * Listens for changes in a database, where anything of it may be kept. Until it does, nothing is. The database exists: a
   * client's mere word for one takes no listener away from others.
   */
  #follow(database: string): void {
    const isKept = this.#plan.flat().some(({ cacheTtlMs, onChange }) => cacheTtlMs > 0 || onChange === "terminate");
    if (this.#dedicated === undefined || !isKept || this.#followed.has(database)) return;
    this.#cache.distrust(database);
    const isListening = this.#dedicated.listenTo(database, {
      onTrusted: () => this.#cache.trust(database),
      onLost: () => this.#cache.distrust(database),
      onChange: (told) => {
        const change = this.#widen(told);
        this.#cache.invalidate(change);
        this.#watches.check(change);
      },
      onUnknownChange: () => {
        this.#cache.invalidateAll(database);
        this.#watches.checkAll(database);
      },
    });
    if (isListening) this.#followed.add(database);
  }

  /** Fewer values than the resolver has, or more, are those of no call: then everything of it has changed. */
  #widen(change: Invalidation): Invalidation {
    const resolver = this.#plan.flat().find(({ name }) => name === change.resolver);
    return resolver?.params.length === change.values.length ? change : { ...change, values: [] };
  }
}
