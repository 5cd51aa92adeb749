/**
 * `auth_query`: looks verifiers up in the database, as `auth_user`, over one connection that is kept. An answer is used
 * again for `auth_cache_ttl`, logins that ask for the same at the same time share one query, and a lost connection is
 * made anew.
 */
import { LRUCache } from "lru-cache";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline, raceAbort } from "../../lib/deadline.ts";
import type { Logger } from "../../observe/logger.ts";
import { parseVerifier } from "../../protocol/scram/verifier.ts";
import { describeFailure } from "../upstream/await-ready.ts";
import type { UpstreamSecrets } from "../upstream/log-in.ts";
import type { OpeningUpstream } from "../upstream/open-upstream.ts";
import { ask, openOwnSession, type OwnSessionServices } from "../upstream/own-session.ts";
import type { Row } from "../upstream/pipeline.ts";
import type { Credential } from "./credential.ts";
import type { OwnPassword } from "./credentials-file.ts";

/** Connecting, logging in and one query may take this long together. */
const LIMIT_MS = 5_000;

const MAX_ANSWERS = 10_000;
/** Logins that may wait for different names: more than this is a flood. */
const MAX_WAITING = 5_000;

type AuthConfig = Pick<Config, "authUser" | "authQuery" | "authDbname" | "authCacheTtlMs">;

export interface AuthQueryServices extends OwnSessionServices {
  readonly clock: Clock;
  readonly log: Logger;
}

/** What a look-up has found. */
interface Answer {
  readonly credential: Credential | undefined;
}

export class AuthQuery {
  readonly #config: AuthConfig;
  readonly #services: AuthQueryServices;
  #secrets: UpstreamSecrets = {};
  #login: OwnSessionServices;
  readonly #answers: LRUCache<string, Answer>;
  readonly #asking = new Map<string, Promise<Answer>>();
  #session: OpeningUpstream | undefined;
  /** Ends when nothing is asked: queries go one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  constructor(config: AuthConfig, services: AuthQueryServices) {
    this.#config = config;
    this.#services = services;
    this.#login = services;
    this.#answers = new LRUCache({
      max: MAX_ANSWERS,
      ttl: Math.max(config.authCacheTtlMs, 1),
      ttlResolution: 0,
      perf: services.clock,
    });
  }

  /**
   * From the next connection on, and with no answer from before.
   *
   * @param own password of `auth_user`; undefined: it logs in with `upstream_password`, where there is one.
   */
  logInWith(own: OwnPassword | undefined): void {
    const { config } = this.#services;
    const password = own === undefined ? {} : { upstreamPassword: "password" in own ? own.password : undefined };
    this.#secrets = own !== undefined && "md5" in own ? own : {};
    this.#login = { ...this.#services, config: { ...config, ...password } };
    this.#answers.clear();
  }

  /** @throws ProxyError credentials_unavailable (08001); whatever aborts `signal`. */
  async find(role: string, tenant: string | undefined, signal: AbortSignal): Promise<Credential | undefined> {
    const name = JSON.stringify([role, tenant]);
    const answer = this.#answers.get(name) ?? (await raceAbort(this.#share(name, role, tenant), signal));
    return answer.credential;
  }

  /** Closes the connection; who still waits is refused. */
  close(): void {
    this.#isClosed = true;
    this.#disconnect();
  }

  #share(name: string, role: string, tenant: string | undefined): Promise<Answer> {
    const shared = this.#asking.get(name);
    if (shared !== undefined) return shared;
    if (this.#asking.size >= MAX_WAITING) {
      return Promise.reject(new ProxyError("credentials_unavailable", { detail: "too many look-ups at once" }));
    }
    const asked = this.#last.then(() => this.#ask(role, tenant));
    this.#last = asked.catch(() => {});
    const answered = asked
      .then((answer) => {
        if (this.#config.authCacheTtlMs > 0) this.#answers.set(name, answer);
        return answer;
      })
      .finally(() => this.#asking.delete(name));
    this.#asking.set(name, answered);
    return answered;
  }

  async #ask(role: string, tenant: string | undefined): Promise<Answer> {
    using deadline = new Deadline(
      this.#services.clock,
      LIMIT_MS,
      () => new ProxyError("credentials_unavailable", { detail: "the look-up took too long" }),
    );
    try {
      const rows = await this.#query(role, tenant, deadline.signal);
      return { credential: this.#judge(role, rows) };
    } catch (cause) {
      this.#disconnect();
      if (cause instanceof ProxyError && cause.code === "credentials_unavailable") throw cause;
      throw new ProxyError("credentials_unavailable", { detail: describeFailure(cause), cause });
    }
  }

  /** A connection that was idle may have died without a word: then a new one is tried, once. */
  async #query(role: string, tenant: string | undefined, signal: AbortSignal): Promise<readonly Row[]> {
    const kept = this.#session;
    if (kept !== undefined) {
      try {
        return await this.#queryOn(kept, role, tenant, signal);
      } catch (cause) {
        if (!(cause instanceof ProxyError) || cause.code !== "upstream_login_lost") throw cause;
        this.#disconnect();
      }
    }
    return this.#queryOn(await this.#connect(signal), role, tenant, signal);
  }

  #queryOn(
    session: OpeningUpstream,
    role: string,
    tenant: string | undefined,
    signal: AbortSignal,
  ): Promise<readonly Row[]> {
    const { authQuery: sql } = this.#config;
    return ask(session, { sql, values: /\$2(?![0-9])/.test(sql) ? [role, tenant ?? null] : [role] }, signal);
  }

  async #connect(signal: AbortSignal): Promise<OpeningUpstream> {
    const { authUser: role = "", authDbname: database } = this.#config;
    const login = { role, database, secrets: this.#secrets, applicationName: "pgvpd auth_query" };
    const session = await openOwnSession(login, this.#login, signal);
    if (this.#isClosed) {
      session[Symbol.dispose]();
      throw new ProxyError("shutdown");
    }
    this.#session = session;
    return session;
  }

  #disconnect(): void {
    this.#session?.[Symbol.dispose]();
    this.#session = undefined;
  }

  /** One row: name, verifier, and whether it is bound to the tenant; PgBouncer's queries give the first two. */
  #judge(role: string, rows: readonly Row[]): Credential | undefined {
    const [row] = rows;
    if (row === undefined) return undefined;
    if (rows.length > 1) throw new ProxyError("credentials_unavailable", { detail: "auth_query gave several rows" });
    const [name, text, isBound] = row;
    // A function that returns one composite value gives a row of NULLs where it has found nothing.
    if (name === null) return undefined;
    if (name !== role) {
      throw new ProxyError("credentials_unavailable", {
        detail: "auth_query gave the row of another role: its first column is the login role's name",
      });
    }
    if (text === null || text === undefined) return undefined;
    const verifier = parseVerifier(text) ?? (/^md5[0-9a-f]{32}$/.test(text) ? { md5: text } : undefined);
    if (verifier !== undefined) return { verifier, isForeign: isBound === "t" };
    this.#services.log.warn({ role }, "auth_query gave something that is not a verifier: SCRAM-SHA-256$... or md5...");
    return undefined;
  }
}
