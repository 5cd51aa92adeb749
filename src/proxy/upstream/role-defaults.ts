/**
 * What `ALTER ROLE ... SET` and `ALTER DATABASE ... SET` had given a role when pgvpd saw it first. `ALTER ROLE self SET
 * statement_timeout = 1` is open to every tenant, and would hit all others of that role: so every upstream connection
 * that pgvpd logs in itself is pinned to the values from before. A restart or a reload learns them anew.
 */
import { LRUCache } from "lru-cache";
import { PINNED_DEFAULTS } from "../../config/names.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline, raceAbort } from "../../lib/deadline.ts";
import type { Logger } from "../../observe/logger.ts";
import type { UpstreamSecrets } from "./log-in.ts";
import { ask, openOwnSession, type OwnSessionServices } from "./own-session.ts";
import type { Row, Statement } from "./pipeline.ts";

/** For each connection of learnAll. */
const LIMIT_MS = 5_000;

/** Far more pairs of role and database than there are; what is dropped is learned again. */
const MAX_PAIRS = 10_000;

/** Operators are qualified, and so is the cast: the role's search_path is one of the things that are asked for. */
const QUESTION = `SELECT s.name, s.setting FROM pg_catalog.pg_settings s
  WHERE s.name OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])`;

export interface Pair {
  readonly name: string;
  readonly value: string;
}

/** The databases that a role may be used in, but templates. */
const DATABASES = `SELECT d.datname FROM pg_catalog.pg_database d
  WHERE d.datallowconn AND NOT d.datistemplate AND pg_catalog.has_database_privilege(d.oid, 'CONNECT') LIMIT 1000`;

export interface RoleDefaultsServices extends OwnSessionServices {
  readonly clock: Clock;
  readonly log: Logger;
}

export class RoleDefaults {
  readonly #services: RoleDefaultsServices;
  readonly #pairs = new LRUCache<string, readonly Pair[]>({ max: MAX_PAIRS });
  /** Settled, never rejected: who waits looks again, and asks itself where another one's login has failed. */
  readonly #learning = new Map<string, Promise<void>>();

  readonly #closed = new AbortController();

  constructor(services: RoleDefaultsServices) {
    this.#services = services;
  }

  /**
   * Asked over a connection of its own, which is logged in as the session's will be. Logins that come
   * at the same time share the answer, not a failure.
   *
   * @throws as logIn and awaitReady do; whatever aborts `signal`.
   */
  async of(role: string, database: string, secrets: UpstreamSecrets, signal: AbortSignal): Promise<readonly Pair[]> {
    const name = JSON.stringify([role, database]);
    for (;;) {
      const known = this.#pairs.get(name);
      if (known !== undefined) return known;
      const shared = this.#learning.get(name);
      if (shared === undefined) break;
      await raceAbort(shared, signal);
    }
    const learned = this.#learn(role, database, secrets, signal);
    const settled = learned.then(
      (pairs) => void this.#pairs.set(name, pairs),
      () => {},
    );
    this.#learning.set(name, settled);
    return learned.finally(() => this.#learning.delete(name));
  }

  /** From now on everything is asked anew. */
  forget(): void {
    this.#pairs.clear();
  }

  /**
   * Learns the defaults of `roles` in every database, before a tenant can have changed them: for start and reload, where
   * pgvpd has a credential of its own. What fails is logged, and learned with the first login.
   *
   * @param database to look the others up in.
   */
  async learnAll(roles: readonly string[], database: string): Promise<void> {
    const { signal } = this.#closed;
    for (const role of roles) {
      try {
        const databases = await this.#within((limit) =>
          this.#query(role, database, {}, { sql: DATABASES, values: [] }, limit),
        );
        for (const [name] of databases) await this.#within((limit) => this.of(role, name ?? "", {}, limit));
      } catch (error) {
        if (signal.aborted) return;
        this.#services.log.warn({ role, err: error }, "the defaults of a role are learned at its first login");
      }
    }
  }

  /** Ends learnAll. */
  close(): void {
    this.#closed.abort(new ProxyError("shutdown"));
  }

  async #within<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    using deadline = new Deadline(this.#services.clock, LIMIT_MS, () => new ProxyError("upstream_timeout"));
    return await work(AbortSignal.any([deadline.signal, this.#closed.signal]));
  }

  async #learn(
    role: string,
    database: string,
    secrets: UpstreamSecrets,
    signal: AbortSignal,
  ): Promise<readonly Pair[]> {
    const question = { sql: QUESTION, values: [`{${PINNED_DEFAULTS.join(",")}}`] };
    const rows = await this.#query(role, database, secrets, question, signal);
    return rows.map(([name, value]) => ({ name: name ?? "", value: value ?? "" }));
  }

  /** One statement on a connection of its own. */
  async #query(
    role: string,
    database: string,
    secrets: UpstreamSecrets,
    statement: Statement,
    signal: AbortSignal,
  ): Promise<readonly Row[]> {
    const login = { role, database, secrets, applicationName: "pgvpd role defaults" };
    using session = await openOwnSession(login, this.#services, signal);
    return await ask(session, statement, signal);
  }
}
