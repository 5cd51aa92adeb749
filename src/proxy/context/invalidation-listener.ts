/**
 * Hears of changes in one database: a session that listens, and reads what has changed from a table that no tenant can
 * write (sql/resolvers.sql). The notification itself is a hint that anybody can send: it is empty, rate-limited and never
 * believed. While the session is lost, nothing of this database is trusted.
 */
import type { Clock } from "../../lib/clock.ts";
import { Deadline, pause } from "../../lib/deadline.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Logger } from "../../observe/logger.ts";
import { sqlstateOf } from "../../protocol/backend-messages.ts";
import { backend } from "../../protocol/message-types.ts";
import { Greeting, readUpstream } from "../upstream/await-ready.ts";
import type { OpeningUpstream } from "../upstream/open-upstream.ts";
import { openOwnSession, type OwnLogin, type OwnSessionServices } from "../upstream/own-session.ts";
import { encodePipeline, runPipeline, type Row, type Statement } from "../upstream/pipeline.ts";
import type { Invalidation } from "./call-names.ts";

/** So often the table is read at most, whoever notifies how often. */
const READ_EVERY_MS = 50;
/** So often it is read without a notification: a session that has died without a word is noticed then. */
const HEARTBEAT_MS = 1_000;
const ANSWER_LIMIT_MS = 1_000;
const CONNECT_LIMIT_MS = 5_000;
const RETRY_MS = 1_000;
/** With more than these in one reading everything is taken to have changed. */
const MAX_ROWS = 1_000;

const LISTEN: Statement = { sql: "LISTEN pgvpd_invalidate", values: [] };
/** The oldest transaction that is open: what it writes is seen later, so the next reading begins there. */
const CURSOR: Statement = {
  sql: `SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())
    FROM (VALUES (1)) AS always LEFT JOIN (SELECT FROM pgvpd.invalidations LIMIT 0) AS installed ON true`,
  values: [],
};
const CHANGES = `SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot()), i.xid, i.resolver, pg_catalog.to_json(i.params)
  FROM (VALUES (1)) AS always LEFT JOIN pgvpd.invalidations i ON i.xid OPERATOR(pg_catalog.>=) $1::pg_catalog.xid8
  LIMIT ${MAX_ROWS + 1}`;

/** SQLSTATEs of a database without sql/resolvers.sql, or whose table the role may not read. */
const NOT_INSTALLED = ["42P01", "3F000", "42501"];

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

export class InvalidationListener {
  readonly #login: OwnLogin;
  readonly #services: ListenerServices;
  readonly #events: ListenerEvents;
  readonly #closed = new AbortController();
  #cursor: string | undefined;
  /** What was read last, and may be read again while an older transaction is open. */
  #seen = new Set<string>();

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
    const { clock, log } = this.#services;
    const { signal } = this.#closed;
    const { database } = this.#login;
    while (!signal.aborted) {
      try {
        if (!(await this.#listen())) {
          log.info({ database }, "no sql/resolvers.sql here: cached answers of resolvers are used for their cache_ttl");
          this.#events.onTrusted();
          return;
        }
      } catch (error) {
        if (signal.aborted) return;
        this.#events.onLost();
        log.warn(
          { database, err: error },
          "changes cannot be heard of: answers of resolvers are not cached until they are",
        );
        await pause(clock, RETRY_MS, signal).catch(() => {});
      }
    }
  }

  /** Until the session is lost. @returns false where the database has nothing to listen to. */
  async #listen(): Promise<boolean> {
    using session = await this.#within(CONNECT_LIMIT_MS, (limit) => openOwnSession(this.#login, this.#services, limit));
    const begun = await this.#ask(session, [LISTEN, CURSOR]);
    if (begun === undefined) return false;
    if (this.#cursor === undefined) this.#cursor = begun.rows[0]?.[0] ?? "0";
    await this.#readChanges(session);
    this.#events.onTrusted();
    for (;;) {
      const isNotified = await this.#awaitNotification(session);
      if (isNotified) await pause(this.#services.clock, READ_EVERY_MS, this.#closed.signal);
      while (await this.#readChanges(session));
    }
  }

  /** @returns whether a notification came meanwhile. */
  async #readChanges(session: OpeningUpstream): Promise<boolean> {
    const answer = await this.#ask(session, [{ sql: CHANGES, values: [this.#cursor ?? "0"] }]);
    if (answer === undefined) throw new ProxyError("resolver_failed", { detail: "pgvpd.invalidations is gone" });
    const { rows, isNotified } = answer;
    this.#cursor = rows[0]?.[0] ?? this.#cursor;
    const seen = new Set<string>();
    if (rows.length > MAX_ROWS) this.#events.onUnknownChange();
    else {
      for (const [, xid, resolver, params] of rows) {
        if (xid === null || xid === undefined) continue;
        const change = JSON.stringify([xid, resolver, params]);
        if (!seen.has(change) && !this.#seen.has(change)) {
          const values = JSON.parse(params ?? "[]") as string[];
          this.#events.onChange({ database: this.#login.database, resolver: resolver ?? "", values });
        }
        seen.add(change);
      }
    }
    this.#seen = seen;
    return isNotified;
  }

  /** @returns false when the time for a heartbeat has come first. */
  async #awaitNotification({ stream }: OpeningUpstream): Promise<boolean> {
    const over = new Error("heartbeat");
    using heartbeat = new Deadline(this.#services.clock, HEARTBEAT_MS, () => over);
    const signal = AbortSignal.any([heartbeat.signal, this.#closed.signal]);
    try {
      while ((await readUpstream(stream, signal)).type !== backend.notificationResponse);
      return true;
    } catch (error) {
      if (error === over) return false;
      throw error;
    }
  }

  /** Undefined where the database has nothing to listen to. @throws ProxyError. */
  async #ask(
    session: OpeningUpstream,
    statements: readonly Statement[],
  ): Promise<{ readonly rows: readonly Row[]; readonly isNotified: boolean } | undefined> {
    session.stream.write(encodePipeline(statements));
    const { results, isNotified, error } = await this.#within(ANSWER_LIMIT_MS, (limit) =>
      runPipeline(session.stream, new Greeting(), limit),
    );
    if (error === undefined) return { rows: results.at(-1) ?? [], isNotified };
    if (NOT_INSTALLED.includes(sqlstateOf(error.response.body))) return undefined;
    throw new ProxyError("resolver_failed", { detail: error.text });
  }

  async #within<T>(limitMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    using deadline = new Deadline(this.#services.clock, limitMs, () => new ProxyError("upstream_timeout"));
    return await work(AbortSignal.any([deadline.signal, this.#closed.signal]));
  }
}
