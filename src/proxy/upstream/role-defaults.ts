/**
 * What `ALTER ROLE ... SET` and `ALTER DATABASE ... SET` had given a role when pgvpd saw it first. `ALTER ROLE self SET
 * statement_timeout = 1` is open to every tenant, and would hit all others of that role: so every upstream connection
 * that pgvpd logs in itself is pinned to the values from before. A restart or a reload learns them anew.
 */
import { LRUCache } from "lru-cache";
import { PINNED_DEFAULTS } from "../../config/names.ts";
import { raceAbort } from "../../lib/deadline.ts";
import { encodeStartupMessage } from "../../protocol/startup.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { awaitReady, Greeting } from "./await-ready.ts";
import type { Dial } from "./dial.ts";
import { logIn, type LoginServices, type UpstreamSecrets } from "./log-in.ts";
import { openUpstream } from "./open-upstream.ts";
import { encodePipeline, runPipeline } from "./pipeline.ts";

/** Far more pairs of role and database than there are; what is dropped is learned again. */
const MAX_PAIRS = 10_000;

/** Operators are qualified, and so is the cast: the role's search_path is one of the things that are asked for. */
const QUESTION = `SELECT s.name, s.setting FROM pg_catalog.pg_settings s
  WHERE s.name OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])`;

export interface Pair {
  readonly name: string;
  readonly value: string;
}

export interface RoleDefaultsServices extends LoginServices {
  readonly dial: Dial;
}

export class RoleDefaults {
  readonly #services: RoleDefaultsServices;
  readonly #pairs = new LRUCache<string, readonly Pair[]>({ max: MAX_PAIRS });
  /** Settled, never rejected: who waits looks again, and asks itself where another one's login has failed. */
  readonly #learning = new Map<string, Promise<void>>();

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

  async #learn(
    role: string,
    database: string,
    secrets: UpstreamSecrets,
    signal: AbortSignal,
  ): Promise<readonly Pair[]> {
    using connection = await openUpstream(this.#services.dial, signal);
    connection.stream.write(
      encodeStartupMessage(0, [
        { name: "user", value: role },
        { name: "database", value: database },
        { name: "client_encoding", value: "UTF8" },
      ]),
    );
    const greeting = new Greeting();
    const login = { role, minor: 0, secrets };
    const minor = await logIn(connection, login, this.#services, greeting, signal);
    await awaitReady(connection.stream, greeting, minor, signal);
    connection.stream.write(encodePipeline([{ sql: QUESTION, values: [`{${PINNED_DEFAULTS.join(",")}}`] }]));
    const { results, error } = await runPipeline(connection.stream, greeting, signal);
    if (error !== undefined) throw new ProxyError("upstream_login", { detail: `role defaults: ${error.text}` });
    return (results[0] ?? []).map(([name, value]) => ({ name: name ?? "", value: value ?? "" }));
  }
}
