/**
 * The barrier between two users of one upstream session: it brings the session back to what it was after login, and
 * proves it. What the last user has left unanswered is read and dropped; counting answers would not do, since a client can
 * make the count ambiguous, so the proof is a marker that nobody can know, right behind the answer to DISCARD ALL.
 */
import { randomBytes, randomInt } from "node:crypto";
import { serialize } from "pg-protocol";
import { ProxyError } from "../../errors/proxy-error.ts";
import { decodeDataRow, decodeParameterStatus } from "../../protocol/backend-messages.ts";
import { backend, IDLE } from "../../protocol/message-types.ts";
import type { Message } from "../../protocol/message.ts";
import type { MessageStream } from "../message-stream.ts";
import { readUpstream, takeUpstream } from "../upstream/await-ready.ts";

const MARKER_BYTES = 16;
const DISCARDED = "DISCARD ALL";

/** How the last user has left the session. */
export interface LeftBehind {
  /** All answered, and the last ReadyForQuery said idle. */
  readonly isAtRest: boolean;
}

/** What is asked on the way: columns, and where they come from. Nothing of a client's. */
export interface BarrierQuestion {
  readonly columns: string;
  readonly from: string;
}

export interface Cleaned {
  /** What the question gave. */
  readonly row: readonly (string | null)[];
  /** Parameters that the server has reported meanwhile. */
  readonly parameters: ReadonlyMap<string, string>;
}

/**
 * [PG protocol-flow/SIMPLE-QUERY]: each statement is a message of its own, since ROLLBACK and DISCARD ALL in one fail.
 *
 * @throws ProxyError barrier_failed, upstream_*; whatever aborts `signal`. The session is to be destroyed then.
 */
export async function runBarrier(
  stream: MessageStream,
  left: LeftBehind,
  question: BarrierQuestion | undefined,
  signal: AbortSignal,
): Promise<Cleaned> {
  const marker = randomBytes(MARKER_BYTES).toString("hex");
  stream.write(encodeBarrier(left, question, marker));
  const parameters = new Map<string, string>();
  /** The messages that answer statements, the last two of them. */
  let previous: Message | undefined;
  let last: Message | undefined;
  let isProved = false;
  for (;;) {
    const message = takeUpstream(stream, signal) ?? (await readUpstream(stream, signal));
    switch (message.type) {
      case backend.parameterStatus: {
        const { name, value } = decodeParameterStatus(message.body);
        parameters.set(name, value);
        continue;
      }
      case backend.noticeResponse:
      case backend.notificationResponse:
        continue;
      case backend.rowDescription:
        isProved = isDiscarded(previous) && isIdle(last);
        break;
      case backend.dataRow: {
        const row = isProved ? decodeDataRow(message.body) : [];
        if (row.at(-1) !== marker) break;
        await awaitIdle(stream, signal);
        return { row: row.slice(0, -2), parameters };
      }
      case backend.errorResponse:
        // The question itself has failed, as by a cancel that came late: no marker will come.
        if (isDiscarded(previous) && isIdle(last))
          throw new ProxyError("barrier_failed", { detail: "the marker failed" });
        isProved = false;
        break;
      default:
        isProved = false;
    }
    previous = last;
    last = message;
  }
}

function encodeBarrier({ isAtRest }: LeftBehind, question: BarrierQuestion | undefined, marker: string): Buffer {
  // A COPY is ended, a transaction is rolled back before the Sync that would commit it, and then once more, should the
  // Sync have answered for statements that were skipped.
  const clearing = isAtRest
    ? []
    : [serialize.copyFail("reset"), serialize.query("ROLLBACK"), serialize.sync(), serialize.query("ROLLBACK")];
  const seed = randomInt(2 ** 32) / 2 ** 32;
  const columns = [...(question === undefined ? [] : [question.columns]), `pg_catalog.setseed(${seed})`, `'${marker}'`];
  const select = `SELECT ${columns.join(", ")}${question === undefined ? "" : ` FROM ${question.from}`}`;
  return Buffer.concat([...clearing, serialize.query(DISCARDED), serialize.query(select)]);
}

/** CommandComplete and ReadyForQuery behind the marker, and nothing else. */
async function awaitIdle(stream: MessageStream, signal: AbortSignal): Promise<void> {
  for (;;) {
    const message = takeUpstream(stream, signal) ?? (await readUpstream(stream, signal));
    if (message.type === backend.noticeResponse || message.type === backend.notificationResponse) continue;
    if (message.type === backend.commandComplete) continue;
    if (isIdle(message)) return;
    throw new ProxyError("barrier_failed", { detail: "the session is not idle behind the marker" });
  }
}

function isDiscarded(message: Message | undefined): boolean {
  return message?.type === backend.commandComplete && message.body.toString("latin1") === `${DISCARDED}\0`;
}

function isIdle(message: Message | undefined): boolean {
  return message?.type === backend.readyForQuery && message.body.length === 1 && message.body[0] === IDLE;
}
