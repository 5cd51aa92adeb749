/**
 * What the server still owes an answer, in the order in which it was asked. So each answer is known to be the client's or
 * ours: ours is kept from the client, and what was not asked of the server is answered in its place, here.
 * [PG protocol-flow: PROTOCOL-FLOW-EXT-QUERY]
 */
import { backend } from "../../protocol/message-types.ts";
import type { Prepared } from "../pool/prepared.ts";

/** What was asked. */
export const asked = {
  parse: 1,
  /** Parse of our own: the client does not see its answer. */
  ourParse: 2,
  /** A Parse that the server need not see: the client sees an answer. */
  skippedParse: 3,
  bind: 4,
  close: 5,
  ourClose: 6,
  describe: 7,
  execute: 8,
  sync: 9,
  query: 10,
  call: 11,
} as const;

export type Asked = (typeof asked)[keyof typeof asked];

/** What an item is about: it was noted when it was sent, and does not hold where the server has not done it. */
export interface About {
  /** The statement that it makes or needs. */
  readonly prepared?: Prepared;
  /** What the client calls it, where the client's own Parse made it. */
  readonly name?: string;
  /** Takes back what else was noted; `wasRead`: the server has read the item, and said that it is wrong. */
  readonly undo?: (wasRead: boolean) => void;
}

/** The server has not done what was asked: it has read it, and said that it is wrong, or skips it. */
export type FailedAnswer = (kind: Asked, about: About, wasRead: boolean) => void;

/** What becomes of an answer. */
export type Verdict = "pass" | "drop" | "wrong";

export class ExpectedAnswers {
  #kinds: Asked[] = [];
  #about: (About | undefined)[] = [];
  #head = 0;
  #outstandingReady = 0;
  /** After an error the server reads no further than the next Sync, which has not been sent yet. */
  #isSkipping = false;
  readonly #onFailed: FailedAnswer;

  /** @param onFailed of several the last one comes first. */
  constructor(onFailed: FailedAnswer) {
    this.#onFailed = onFailed;
  }

  get size(): number {
    return this.#kinds.length - this.#head;
  }

  /** How many ReadyForQuery are to come. */
  get outstandingReady(): number {
    return this.#outstandingReady;
  }

  get isSkipping(): boolean {
    return this.#isSkipping;
  }

  /** What the server answers now. */
  get next(): Asked | undefined {
    return this.#kinds[this.#head];
  }

  /** What else is to be answered, in order. */
  get pending(): readonly Asked[] {
    return this.#kinds.slice(this.#head);
  }

  get nextAbout(): About | undefined {
    return this.#about[this.#head];
  }

  push(kind: Asked, about?: About): void {
    if (this.#isSkipping) {
      if (kind !== asked.sync) {
        if (about !== undefined) this.#onFailed(kind, about, false);
        return;
      }
      this.#isSkipping = false;
    }
    this.#kinds.push(kind);
    this.#about.push(about);
    if (kind >= asked.sync) this.#outstandingReady += 1;
  }

  /** Takes a skipped Parse that is next to be answered; true while there is one. */
  takeSkipped(): boolean {
    if (this.next !== asked.skippedParse) return false;
    this.#shift();
    return true;
  }

  /** The server has sent a message of `type`: what becomes of it? */
  answer(type: number): Verdict {
    const next = this.next;
    switch (type) {
      case backend.parseComplete:
        if (next !== asked.parse && next !== asked.ourParse) return "wrong";
        this.#shift();
        return next === asked.ourParse ? "drop" : "pass";
      case backend.bindComplete:
        return this.#take(asked.bind);
      case backend.closeComplete:
        if (next !== asked.close && next !== asked.ourClose) return "wrong";
        this.#shift();
        return next === asked.ourClose ? "drop" : "pass";
      case backend.noData:
        return this.#take(asked.describe);
      case backend.rowDescription:
        if (next === asked.describe) this.#shift();
        else if (next !== asked.query) return "wrong";
        return "pass";
      case backend.commandComplete:
      case backend.emptyQueryResponse:
      case backend.portalSuspended:
        if (next === asked.execute) this.#shift();
        else if (next !== asked.query) return "wrong";
        return "pass";
      case backend.functionCallResponse:
        return next === asked.call ? "pass" : "wrong";
      case backend.readyForQuery:
        if (next === undefined || next < asked.sync) return "wrong";
        this.#shift();
        return "pass";
      case backend.errorResponse:
        if (next !== undefined && next < asked.sync) this.#skipToSync();
        else this.#failQuery();
        return "pass";
      default:
        return "pass";
    }
  }

  #take(kind: Asked): Verdict {
    if (this.next !== kind) return "wrong";
    this.#shift();
    return "pass";
  }

  #skipToSync(): void {
    const first = this.nextAbout;
    const failed: [Asked, About][] = [];
    while (this.size > 0 && this.next !== asked.sync) {
      const about = this.nextAbout;
      if (about !== undefined) failed.push([this.next as Asked, about]);
      this.#shift();
    }
    this.#isSkipping = this.size === 0;
    for (const [kind, about] of failed.toReversed()) this.#onFailed(kind, about, about === first);
  }

  #failQuery(): void {
    const about = this.nextAbout;
    if (about === undefined) return;
    this.#about[this.#head] = undefined;
    this.#onFailed(asked.query, about, true);
  }

  #shift(): void {
    if ((this.#kinds[this.#head] as Asked) >= asked.sync) this.#outstandingReady -= 1;
    this.#head += 1;
    if (this.#head === this.#kinds.length) {
      this.#kinds = [];
      this.#about = [];
      this.#head = 0;
    } else if (this.#head > 1_000) {
      this.#kinds = this.#kinds.slice(this.#head);
      this.#about = this.#about.slice(this.#head);
      this.#head = 0;
    }
  }
}
