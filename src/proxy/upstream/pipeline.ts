/**
 * Runs statements of our own on an upstream connection in one round trip: Parse, Bind and Execute for each, then one
 * Sync. Values are always bound. Rows come back as text; nothing of a client is ever in flight at the same time.
 */
import { serialize } from "pg-protocol";
import { ProxyError } from "../../errors/proxy-error.ts";
import {
  assertIdle,
  decodeDataRow,
  decodeRowDescription,
  describeErrorResponse,
} from "../../protocol/backend-messages.ts";
import { backend } from "../../protocol/message-types.ts";
import type { Message } from "../../protocol/message.ts";
import type { MessageStream } from "../message-stream.ts";
import { readUpstream, takeUpstream, unexpected, type Greeting } from "./await-ready.ts";

export interface Statement {
  readonly sql: string;
  /** A Buffer goes out as the bytes it holds, in the encoding that is in force then. */
  readonly values: readonly (string | Buffer | null)[];
  /** The names of the columns are wanted too. */
  readonly isDescribed?: boolean;
  /** No more rows than these are sent. */
  readonly maxRows?: number;
}

export type Row = readonly (string | null)[];

/** Where a pipeline puts what is no answer. */
export type Told = Pick<Greeting, "keep" | "keepParameter">;

export interface PipelineOutcome {
  /** The rows of each statement, in order; incomplete after an error. */
  readonly results: readonly (readonly Row[])[];
  /** The columns of each statement that was to be described; empty for the others. */
  readonly columns: readonly (readonly string[])[];
  /** A NotificationResponse came in between. */
  readonly isNotified: boolean;
  /** The first error, if any; PostgreSQL skips what comes after it. `text` is for the log. */
  readonly error: { readonly response: Message; readonly text: string } | undefined;
}

/** More than this in answer to one pipeline is no answer. Notifications are not part of it: anybody can send any number. */
const MAX_ANSWER_BYTES = 1024 * 1024;

const UNNAMED_STATEMENT = { type: "S", name: "" } as const;

/** `SELECT set_config(name, value, false), ...`: names and values bound, for the rest of the session. */
export function setConfig(settings: readonly { readonly name: string; readonly value: string | Buffer }[]): Statement {
  const calls = settings.map((_, index) => `pg_catalog.set_config($${2 * index + 1}, $${2 * index + 2}, false)`);
  return { sql: `SELECT ${calls.join(", ")}`, values: settings.flatMap(({ name, value }) => [name, value]) };
}

/** The bytes of one pipeline. It leaves no statement behind that a client could bind to. */
export function encodePipeline(statements: readonly Statement[]): Buffer {
  const parts = statements.flatMap(({ sql, values, isDescribed = false, maxRows = 0 }) => [
    serialize.parse({ text: sql }),
    serialize.bind({ values: [...values] }),
    ...(isDescribed ? [serialize.describe({ type: "P" })] : []),
    serialize.execute({ rows: maxRows }),
  ]);
  return Buffer.concat([...parts, serialize.close(UNNAMED_STATEMENT), serialize.sync()]);
}

export interface PipelineOptions {
  /** Some of the statements are to be described. */
  readonly isDescribed?: boolean;
  /** What the answers may have, all together. */
  readonly maxBytes?: number;
  /** A transaction of somebody else's is open, and stays so. */
  readonly mayBeInTransaction?: boolean;
}

/**
 * Reads the answers to one pipeline, up to its ReadyForQuery. [PG protocol-flow/EXT-QUERY]
 * ParameterStatus and NoticeResponse are kept in `greeting`, for the client.
 *
 * @throws ProxyError upstream_protocol for an answer that has no place here; upstream_login_lost.
 */
export async function runPipeline(
  upstream: MessageStream,
  greeting: Told,
  signal: AbortSignal,
  { isDescribed = false, maxBytes = MAX_ANSWER_BYTES, mayBeInTransaction = false }: PipelineOptions = {},
): Promise<PipelineOutcome> {
  const results: Row[][] = [];
  const columns: (readonly string[])[] = [];
  let names: readonly string[] = [];
  let rows: Row[] = [];
  let error: PipelineOutcome["error"];
  let isNotified = false;
  let bytesLeft = maxBytes;
  for (;;) {
    const message =
      takeUpstream(upstream, signal, MAX_ANSWER_BYTES) ?? (await readUpstream(upstream, signal, MAX_ANSWER_BYTES));
    if (message.type !== backend.notificationResponse) bytesLeft -= message.bytes.length;
    if (bytesLeft < 0) throw new ProxyError("upstream_protocol", { detail: "an answer of more than 1 MiB" });
    switch (message.type) {
      case backend.parseComplete:
      case backend.bindComplete:
      case backend.closeComplete:
      case backend.noData:
        break;
      case backend.rowDescription:
        if (!isDescribed) throw unexpected(message);
        names = decodeRowDescription(message.body);
        break;
      case backend.dataRow:
        rows.push(decodeDataRow(message.body));
        break;
      case backend.commandComplete:
      case backend.portalSuspended:
      case backend.emptyQueryResponse:
        results.push(rows);
        columns.push(names);
        rows = [];
        names = [];
        break;
      case backend.notificationResponse:
        isNotified = true;
        break;
      case backend.parameterStatus:
        greeting.keepParameter(message);
        break;
      case backend.noticeResponse:
        greeting.keep(message);
        break;
      case backend.errorResponse:
        error ??= { response: message, text: describeErrorResponse(message.body) };
        break;
      case backend.readyForQuery:
        // After an error of ours a transaction of ours may be open: such a session is not used again.
        if (error === undefined && !mayBeInTransaction) assertIdle(message.body);
        return { results, columns, isNotified, error };
      default:
        throw unexpected(message);
    }
  }
}
