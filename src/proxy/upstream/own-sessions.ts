/**
 * A few sessions of one role for each database, kept and lent to one task at a time: for what pgvpd asks the database
 * itself. A session that fails is destroyed; one that has died while idle is replaced without a word.
 */
import { raceAbort } from "../../lib/deadline.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { OpeningUpstream } from "./open-upstream.ts";
import { openOwnSession, type OwnLogin, type OwnSessionServices } from "./own-session.ts";

/** Databases that sessions are kept for; more are served and closed again. */
const MAX_DATABASES = 100;
/** Tasks that may wait for a session of one database. */
const MAX_WAITING = 5_000;

interface Bucket {
  readonly idle: OpeningUpstream[];
  /** Turns that are taken: each has a session at most. */
  taken: number;
  readonly waiting: (() => void)[];
}

export class OwnSessions {
  readonly #login: Omit<OwnLogin, "database">;
  readonly #maxPerDatabase: number;
  readonly #services: OwnSessionServices;
  readonly #buckets = new Map<string, Bucket>();
  #isClosed = false;

  constructor(login: Omit<OwnLogin, "database">, maxPerDatabase: number, services: OwnSessionServices) {
    this.#login = login;
    this.#maxPerDatabase = maxPerDatabase;
    this.#services = services;
  }

  /**
   * Runs `task` with a session of `database`. The session is kept where the task succeeds.
   *
   * @throws whatever `task` throws; ProxyError upstream_*; whatever aborts `signal`.
   */
  async use<T>(database: string, task: (session: OpeningUpstream) => Promise<T>, signal: AbortSignal): Promise<T> {
    const bucket = this.#bucketOf(database);
    await this.#takeTurn(database, bucket, signal);
    try {
      const kept = bucket.idle.pop();
      if (kept !== undefined) {
        try {
          return await this.#run(bucket, kept, task);
        } catch (error) {
          if (!(error instanceof ProxyError) || error.code !== "upstream_login_lost") throw error;
        }
      }
      return await this.#run(bucket, await openOwnSession({ ...this.#login, database }, this.#services, signal), task);
    } finally {
      this.#passOn(database, bucket);
    }
  }

  /** Closes what is idle; what is in use is closed when its task is done. */
  close(): void {
    this.#isClosed = true;
    for (const { idle } of this.#buckets.values()) for (const session of idle.splice(0)) session[Symbol.dispose]();
  }

  async #run<T>(bucket: Bucket, session: OpeningUpstream, task: (session: OpeningUpstream) => Promise<T>): Promise<T> {
    let isKept = false;
    try {
      const result = await task(session);
      isKept = !this.#isClosed && this.#buckets.size <= MAX_DATABASES;
      return result;
    } finally {
      if (isKept) bucket.idle.push(session);
      else session[Symbol.dispose]();
    }
  }

  async #takeTurn(database: string, bucket: Bucket, signal: AbortSignal): Promise<void> {
    if (bucket.taken < this.#maxPerDatabase) {
      bucket.taken += 1;
      return;
    }
    if (bucket.waiting.length >= MAX_WAITING) {
      throw new ProxyError("upstream_unreachable", { detail: "too many tasks wait" });
    }
    let wake = (): void => {};
    const turn = new Promise<void>((resolve) => {
      wake = resolve;
      bucket.waiting.push(resolve);
    });
    try {
      await raceAbort(turn, signal);
    } catch (error) {
      const at = bucket.waiting.indexOf(wake);
      // A turn that was given and cannot be taken goes to the next.
      if (at === -1) this.#passOn(database, bucket);
      else bucket.waiting.splice(at, 1);
      throw error;
    }
  }

  /** A turn goes to who waits longest as it is, so that nobody can take it in between. */
  #passOn(database: string, bucket: Bucket): void {
    const next = bucket.waiting.shift();
    if (next !== undefined) return next();
    bucket.taken -= 1;
    if (bucket.taken === 0 && bucket.idle.length === 0) this.#buckets.delete(database);
  }

  #bucketOf(database: string): Bucket {
    const known = this.#buckets.get(database);
    if (known !== undefined) return known;
    const bucket: Bucket = { idle: [], taken: 0, waiting: [] };
    this.#buckets.set(database, bucket);
    return bucket;
  }
}
