/**
 * What a client's statements leave in its session: state that is nowhere else, which pins the client to it; a context that
 * may be another one, which taints it; a RESET, behind which the context is set again; and settings that go with the
 * client from session to session. Statements are noted as they are sent, by what sql-effects.ts reads in them.
 */
import type { Config } from "../../config/settings.ts";
import type { Borrower } from "../pool/borrower.ts";
import type { PooledSession } from "../pool/pooled-session.ts";
import { effects, type Effects, type PinReason } from "../pool/sql-effects.ts";

/** SETs and RESETs that are noted until their answer. */
const MAX_NOTED = 100;

export class Traces {
  readonly isTransactionMode: boolean;
  /** The session goes through the barrier before anybody else has it. */
  isTainted = false;
  /** Context and role are set again before the client's next statement. */
  mustRestore = false;
  readonly #borrower: Borrower;
  readonly #sessionState: Config["sessionState"];
  readonly #countPin: (reason: PinReason) => void;
  #pinReason: PinReason | undefined;
  #resetsUnsynced = false;
  readonly #resetNames: string[] = [];
  #settings: { readonly name: string; readonly value: string | undefined }[] = [];

  constructor(
    borrower: Borrower,
    { poolMode, sessionState }: Pick<Config, "poolMode" | "sessionState">,
    countPin: (reason: PinReason) => void,
  ) {
    this.isTransactionMode = poolMode === "transaction";
    this.#borrower = borrower;
    this.#sessionState = sessionState;
    this.#countPin = countPin;
  }

  get pinReason(): PinReason | undefined {
    return this.#pinReason;
  }

  /** Whether the session stays the client's beyond the end of its transaction. */
  get keepsSession(): boolean {
    return !this.isTransactionMode || this.#pinReason !== undefined;
  }

  pin(reason: PinReason): void {
    if (this.keepsSession) return;
    this.#pinReason = reason;
    this.#countPin(reason);
  }

  mustRefuse({ bits }: Effects): boolean {
    if (!this.isTransactionMode || this.#sessionState !== "refuse") return false;
    return (bits & (effects.pins | effects.sets)) !== 0;
  }

  /** A statement is sent that does what is `found`. */
  note(found: Effects): void {
    const { bits } = found;
    if (bits === 0) return;
    if ((bits & effects.taints) !== 0) this.isTainted = true;
    if ((bits & effects.resets) !== 0) {
      this.#resetsUnsynced = true;
      this.#resetNames.push(...found.reset);
      if (this.#resetNames.length > MAX_NOTED) this.#resetNames.splice(0, Infinity, "*");
    }
    if (!this.isTransactionMode) return;
    if ((bits & effects.pins) !== 0) this.pin(found.pinReason ?? "set");
    if ((bits & effects.sets) !== 0) {
      if (this.#sessionState === "follow" && this.#settings.length < MAX_NOTED) this.#settings.push(...found.settings);
      else this.pin("set");
    }
  }

  /** A Sync is sent, or a Query, which is one too: the server answers now, and what was reset is restored then. */
  onSync(): void {
    if (!this.#resetsUnsynced) return;
    this.#resetsUnsynced = false;
    this.mustRestore = true;
  }

  /**
   * Nobody knows which SETs and RESETs have worked: before the one that has failed, or behind it. So the client keeps what
   * it had, and the barrier takes from the session whatever it has.
   *
   * @param isMoreSent the server goes on with what is behind it.
   */
  onError(isMoreSent: boolean): void {
    if (this.#settings.length === 0 && this.#resetNames.length === 0) return;
    this.isTainted = true;
    if (this.#settings.length > 0 && isMoreSent) this.pin("set");
    this.#settings = [];
    this.#resetNames.length = 0;
  }

  /** The RESET is rolled back with its transaction. */
  onResetUndone(): void {
    this.mustRestore = false;
    this.#resetNames.length = 0;
  }

  /** The settings that a RESET has named are what they were at the client's start. */
  applyResets({ applied }: PooledSession): void {
    for (const name of this.#resetNames.splice(0)) {
      this.#borrower.resetSetting(name);
      if (name === "*") applied.clear();
      else applied.delete(name);
    }
  }

  /** What SET statements of their own have set, now that they have worked. In a transaction they may not last. */
  applySettings({ applied }: PooledSession, isInTransaction: boolean): void {
    if (this.#settings.length === 0) return;
    const set = this.#settings;
    this.#settings = [];
    if (isInTransaction) {
      this.pin("set");
      return;
    }
    const { settings } = this.#borrower;
    for (const { name, value } of set) {
      if (value === undefined) {
        settings.delete(name);
        applied.delete(name);
        continue;
      }
      settings.set(name, value);
      applied.set(name, value);
    }
  }
}

/** A statement that fails on the server as the refused one has to, so that its transaction fails as well. */
export function refusalOf({ pinReason }: Effects): string {
  const what = pinReason ?? "set";
  return `DO $pgvpd$BEGIN RAISE EXCEPTION USING ERRCODE = '0A000', MESSAGE = 'session state is refused in transaction mode (${what})', HINT = 'SET LOCAL inside of the transaction works; session_state = follow or pin allows the rest.'; END$pgvpd$`;
}
