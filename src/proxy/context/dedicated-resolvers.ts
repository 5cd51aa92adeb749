/**
 * Resolvers on connections of `resolver_user`, which no client touches: a few for each database, and one that listens for
 * changes where there is something to cache.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline } from "../../lib/deadline.ts";
import type { Logger } from "../../observe/logger.ts";
import type { Metrics } from "../../observe/metrics.ts";
import { describeFailure, Greeting, UpstreamRefusal } from "../upstream/await-ready.ts";
import type { OwnSessionServices } from "../upstream/own-session.ts";
import { OwnSessions } from "../upstream/own-sessions.ts";
import { askResolvers, QueryFailed } from "./ask-resolvers.ts";
import { InvalidationListener, type ListenerEvents } from "./invalidation-listener.ts";
import type { AskResolvers } from "./resolve-context.ts";

/** Connecting, and waiting for a connection, beside the resolvers' own timeouts. */
const CONNECT_LIMIT_MS = 10_000;

/** Databases whose changes are listened to; nothing is cached for more. */
const MAX_LISTENERS = 100;

const SECRETS = {};

export type DedicatedConfig = Pick<Config, "resolverPassword" | "resolverPoolSize" | "resolverSearchPath">;

export interface ResolverServices extends OwnSessionServices {
  readonly clock: Clock;
  readonly metrics: Metrics;
  readonly log: Logger;
}

export class DedicatedResolvers {
  readonly #role: string;
  readonly #config: DedicatedConfig;
  readonly #services: ResolverServices;
  readonly #sessions: OwnSessions;
  readonly #listeners = new Map<string, InvalidationListener>();

  constructor(role: string, config: DedicatedConfig, services: ResolverServices) {
    const own = config.resolverPassword === undefined ? {} : { upstreamPassword: config.resolverPassword };
    this.#role = role;
    this.#config = config;
    this.#services = { ...services, config: { ...services.config, ...own } };
    const login = { role, secrets: SECRETS, applicationName: "pgvpd resolvers" };
    this.#sessions = new OwnSessions(login, config.resolverPoolSize, this.#services);
  }

  /** Not under the limit of one login: others may wait for the same answer. */
  readonly askIn = (database: string): AskResolvers => {
    return async (calls) => {
      const { clock, metrics } = this.#services;
      const limitMs = calls.reduce((sum, { resolver }) => sum + resolver.timeoutMs, CONNECT_LIMIT_MS);
      using deadline = new Deadline(clock, limitMs, () => new ProxyError("upstream_timeout"));
      const { signal } = deadline;
      const outcome = await this.#sessions
        .use(
          database,
          ({ stream }) =>
            askResolvers(stream, new Greeting(), calls, this.#config.resolverSearchPath, metrics, signal).catch(
              keepSession,
            ),
          signal,
        )
        .catch(inTheLog);
      if (outcome instanceof QueryFailed) throw outcome;
      return outcome;
    };
  };

  /** @returns false where there are too many databases to listen to another one. */
  listenTo(database: string, events: ListenerEvents): boolean {
    if (this.#listeners.has(database)) return true;
    if (this.#listeners.size >= MAX_LISTENERS) return false;
    const login = { role: this.#role, database, secrets: SECRETS, applicationName: "pgvpd resolvers, listening" };
    this.#listeners.set(database, new InvalidationListener(login, this.#services, events));
    return true;
  }

  close(): void {
    this.#sessions.close();
    for (const listener of this.#listeners.values()) listener.close();
  }
}

/** A failed query is no failed session: as a result it leaves that where it is. */
function keepSession(error: unknown): QueryFailed {
  if (error instanceof QueryFailed) return error;
  throw error;
}

/** What the server says to resolver_user is not for clients. */
function inTheLog(error: unknown): never {
  if (!(error instanceof UpstreamRefusal)) throw error;
  throw new ProxyError("upstream_login", { detail: `resolver_user: ${describeFailure(error)}` });
}
