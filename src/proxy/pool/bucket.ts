/** The sessions of one database and login role, and who waits for one. */
import type { Deadline } from "../../lib/deadline.ts";
import { FairQueue } from "../../lib/fair-queue.ts";
import type { Borrower } from "./borrower.ts";
import type { PooledSession } from "./pooled-session.ts";

/** Who asks for a session. */
export interface Applicant {
  /** The session has the borrower's context and settings in force. */
  onGranted(session: PooledSession): void;
  onRefused(error: unknown): void;
  /** It has waited for `query_wait_notify`. */
  onLate?(): void;
}

/** Who waits for a session, until it is granted or refused one. */
export interface Waiter {
  readonly since: number;
  readonly borrower: Borrower;
  /** The client. */
  readonly holder: object;
  readonly applicant: Applicant;
  /** It has been told that it has to wait. */
  isNotified: boolean;
  /** Nobody waits any more. */
  isGone: boolean;
  /** A session that was opened for it is lost: the next one that is lost is the last. */
  hasLostNew: boolean;
  /** Of what is done to make a session ready for it. */
  limit: Deadline | undefined;
}

export class Bucket {
  readonly database: string;
  readonly role: string;
  /** The one that was used last is at the end. */
  readonly idle: PooledSession[] = [];
  /** Being opened, lent, being cleaned, idle, or destroyed and not known to be gone. */
  total = 0;
  readonly waiting = new FairQueue<Waiter>();
  /** Somebody waits for so long that connections of the reserve are opened. */
  usesReserve = false;
  /** Sessions are being given out: whoever gives one back meanwhile leaves that to the one who does it. */
  isServing = false;
  /** Sessions that are lent or granted, by tenant. */
  readonly #held = new Map<string, number>();

  constructor(database: string, role: string) {
    this.database = database;
    this.role = role;
  }

  heldBy(tenant: string): number {
    return this.#held.get(tenant) ?? 0;
  }

  /** Counts what a tenant holds. */
  count(tenant: string, change: 1 | -1): void {
    const count = this.heldBy(tenant) + change;
    if (count > 0) this.#held.set(tenant, count);
    else this.#held.delete(tenant);
  }

  /** Warm for the same client, for its identity, clean, the one of somebody else that was used longest ago. */
  choose({ key }: Borrower, holder: object): PooledSession | undefined {
    let own: PooledSession | undefined;
    let clean: PooledSession | undefined;
    for (let at = this.idle.length - 1; at >= 0; at -= 1) {
      const session = this.idle[at] as PooledSession;
      if (session.warmFor === key) {
        if (session.lastHolder === holder) return session;
        own ??= session;
      } else if (session.isClean) clean ??= session;
    }
    return own ?? clean ?? this.idle[0];
  }

  /** @returns false where it is not idle any more. */
  remove(session: PooledSession): boolean {
    const at = this.idle.lastIndexOf(session);
    if (at === -1) return false;
    this.idle.splice(at, 1);
    return true;
  }
}
