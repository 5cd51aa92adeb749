/**
 * Hears of changes in one database: a session that listens, and reads what has changed from a table that no tenant can
 * write (sql/resolvers.sql). The notification itself is a hint that anybody can send: it is empty, rate-limited and never
 * believed. While the session is lost, nothing of this database is trusted; when it is back, anything may have changed.
 */
import type { Clock } from "../../lib/clock.ts";
import { Deadline, pause } from "../../lib/deadline.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Logger } from "../../observe/logger.ts";
import { sqlstateOf } from "../../protocol/backend-messages.ts";
import { backend } from "../../protocol/message-types.ts";
import { describeFailure, Greeting, readUpstream } from "../upstream/await-ready.ts";
import type { OpeningUpstream } from "../upstream/open-upstream.ts";
import { openOwnSession, type OwnLogin, type OwnSessionServices } from "../upstream/own-session.ts";
import { encodePipeline, runPipeline, type Row, type Statement } from "../upstream/pipeline.ts";
import type { Invalidation } from "./call-names.ts";

/** So often the table is read at most, whoever notifies how often. */
const READ_EVERY_MS = 50;
/**
 * So often it is read without a notification. A session that has died without a word is noticed then: after heartbeat and
 * answer limit, within a second, nothing is trusted any more.
 */
const HEARTBEAT_MS = 300;
const ANSWER_LIMIT_MS = 700;
const CONNECT_LIMIT_MS = 5_000;
/** Doubled with each failure in a row. */
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 10_000;
/** How long until it is seen that somebody has installed sql/resolvers.sql. */
const NOT_INSTALLED_MS = 60_000;
/** With more than these in one reading everything is taken to have changed. */
const MAX_ROWS = 500;

const LISTEN: Statement = { sql: "LISTEN pgvpd_invalidate", values: [] };
/** Fails where the table cannot be read. */
const SNAPSHOT: Statement = {
  sql: `SELECT pg_catalog.pg_current_snapshot()
    FROM (VALUES (1)) AS always LEFT JOIN (SELECT FROM pgvpd.invalidations LIMIT 0) AS installed ON true`,
  values: [],
};
/** Rows of transactions that the last reading did not see, however long they were open; and the snapshot of this one. */
const CHANGES = `SELECT pg_catalog.pg_current_snapshot(), i.resolver, pg_catalog.to_json(i.params)
  FROM (VALUES (1)) AS always LEFT JOIN pgvpd.invalidations i
    ON i.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin($1::pg_catalog.pg_snapshot)
    AND NOT pg_catalog.pg_visible_in_snapshot(i.xid, $1::pg_catalog.pg_snapshot)
  LIMIT ${MAX_ROWS + 1}`;

/** SQLSTATEs of a database without sql/resolvers.sql. */
const NOT_INSTALLED = ["42P01", "3F000"];

export interface ListenerEvents {
  /** Changes are heard of from now on. */
  onTrusted(): void;
  /** They are not. */
  onLost(): void;
  onChange(change: Invalidation): void;
  /** Anything may have changed. */
  onUnknownChange(): void;
}

export interface ListenerServices extends OwnSessionServices {
  readonly clock: Clock;
  readonly log: Logger;
}

interface Answer {
  readonly rows: readonly Row[];
  /** A notification came meanwhile. */
  readonly isNotified: boolean;
}

export class InvalidationListener {
  readonly #login: OwnLogin;
  readonly #services: ListenerServices;
  readonly #events: ListenerEvents;
  readonly #closed = new AbortController();
  /** Failures since changes were last heard of. */
  #failures = 0;
  #isMissing = false;

  /** Begins at once, and goes on until it is closed. */
  constructor(login: OwnLogin, services: ListenerServices, events: ListenerEvents) {
    this.#login = login;
    this.#services = services;
    this.#events = events;
    void this.#run();
  }

  close(): void {
    this.#closed.abort(new ProxyError("shutdown"));
  }

  async #run(): Promise<void> {
    const { signal } = this.#closed;
    while (!signal.aborted) {
      let waitMs = NOT_INSTALLED_MS;
      try {
        await this.#listen();
        this.#noteMissing();
      } catch (error) {
        if (signal.aborted) return;
        waitMs = Math.min(FIRST_RETRY_MS * 2 ** this.#failures, LONGEST_RETRY_MS);
        this.#noteLost(error);
      }
      await pause(this.#services.clock, waitMs, signal).catch(() => {});
    }
  }

  /** Goes on until the session is lost. Returns where the database has nothing to listen to. */
  async #listen(): Promise<void> {
    using session = await this.#within(CONNECT_LIMIT_MS, (limit) => openOwnSession(this.#login, this.#services, limit));
    const begun = await this.#ask(session, [LISTEN, SNAPSHOT]);
    if (begun === undefined) return;
    let snapshot = begun.rows[0]?.[0] ?? "";
    this.#noteTrusted();
    // Between the snapshot and the LISTEN behind it something may have been committed.
    for (let isNotified = true; ;) {
      if (!isNotified) isNotified = await this.#awaitNotification(session);
      if (isNotified) await pause(this.#services.clock, READ_EVERY_MS, this.#closed.signal);
      const answer = await this.#ask(session, [{ sql: CHANGES, values: [snapshot] }]);
      if (answer === undefined) throw new ProxyError("resolver_failed", { detail: "pgvpd.invalidations is gone" });
      snapshot = answer.rows[0]?.[0] ?? snapshot;
      isNotified = answer.isNotified;
      this.#tell(answer.rows);
    }
  }

  #tell(rows: readonly Row[]): void {
    if (rows.length > MAX_ROWS) return this.#events.onUnknownChange();
    for (const [, resolver, params] of rows) {
      if (resolver === null || resolver === undefined) continue;
      const values = JSON.parse(params ?? "[]") as string[];
      this.#events.onChange({ database: this.#login.database, resolver, values });
    }
  }

  #noteTrusted(): void {
    const { database } = this.#login;
    if (this.#failures > 0) this.#services.log.info({ database }, "changes are heard of again");
    this.#failures = 0;
    this.#isMissing = false;
    this.#events.onUnknownChange();
    this.#events.onTrusted();
  }

  #noteMissing(): void {
    const { database } = this.#login;
    if (!this.#isMissing) {
      this.#services.log.warn(
        { database },
        "no sql/resolvers.sql here: answers of resolvers are kept for their cache_ttl, and on_change does nothing",
      );
    }
    this.#failures = 0;
    this.#isMissing = true;
    this.#events.onTrusted();
  }

  #noteLost(error: unknown): void {
    const level = this.#failures === 0 ? "warn" : "debug";
    this.#failures += 1;
    this.#events.onLost();
    this.#services.log[level](
      { database: this.#login.database, cause: describeFailure(error) },
      "changes cannot be heard of: answers of resolvers are not kept until they are",
    );
  }

  /** @returns false when the time for a heartbeat has come first. */
  async #awaitNotification({ stream }: OpeningUpstream): Promise<boolean> {
    const over = new Error("heartbeat");
    const wait = async (limit: AbortSignal): Promise<true> => {
      while ((await readUpstream(stream, limit)).type !== backend.notificationResponse);
      return true;
    };
    return this.#within(HEARTBEAT_MS, wait, over).catch((error: unknown) => {
      if (error === over) return false;
      throw error;
    });
  }

  /** The rows of the last statement; undefined where the database has nothing to listen to. @throws ProxyError. */
  async #ask(session: OpeningUpstream, statements: readonly Statement[]): Promise<Answer | undefined> {
    session.stream.write(encodePipeline(statements));
    const { results, isNotified, error } = await this.#within(ANSWER_LIMIT_MS, (limit) =>
      runPipeline(session.stream, new Greeting(), limit),
    );
    if (error === undefined) return { rows: results.at(-1) ?? [], isNotified };
    if (NOT_INSTALLED.includes(sqlstateOf(error.response.body))) return undefined;
    throw new ProxyError("resolver_failed", { detail: error.text });
  }

  /** AbortSignal.any is not for signals that live long: each call leaves something behind in them. */
  async #within<T>(
    limitMs: number,
    work: (signal: AbortSignal) => Promise<T>,
    expired: Error = new ProxyError("upstream_timeout"),
  ): Promise<T> {
    const closed = this.#closed.signal;
    using deadline = new Deadline(this.#services.clock, limitMs, () => expired);
    const abort = (): void => deadline.abort(closed.reason as Error);
    closed.addEventListener("abort", abort);
    try {
      closed.throwIfAborted();
      return await work(deadline.signal);
    } finally {
      closed.removeEventListener("abort", abort);
    }
  }
}
