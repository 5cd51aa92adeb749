/**
 * Runs resolvers on one upstream session, whichever that is: all of a level in one round trip, in a transaction that
 * reads only, each with its own timeout, with a search_path that nobody but the operator has chosen.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import { sqlstateOf } from "../../protocol/backend-messages.ts";
import type { Message } from "../../protocol/message.ts";
import type { Metrics } from "../../observe/metrics.ts";
import type { MessageStream } from "../message-stream.ts";
import type { Greeting } from "../upstream/await-ready.ts";
import { encodePipeline, runPipeline, type PipelineOutcome, type Statement, type Told } from "../upstream/pipeline.ts";
import type { ResolverAnswer, ResolverCall } from "./resolve-context.ts";

/** Values are bound in UTF-8, whatever the session has been given: another encoding would make other values of them. */
const BEFORE: readonly Statement[] = [{ sql: "BEGIN READ ONLY", values: [] }, setLocal("client_encoding", "UTF8")];
const ROLLBACK: Statement = { sql: "ROLLBACK", values: [] };

/** One row more than may come is asked for, so that a second one is noticed and no third one is sent. */
const MAX_ROWS = 2;

/** SQLSTATE classes of failures that say nothing about the answer: the server is busy, or going away. */
const TROUBLE = ["08", "40", "53", "55", "57", "58", "XX"];

/** A query that PostgreSQL has refused. The session is idle again, and fit for the next one. */
export class QueryFailed extends ProxyError {
  /** The same query could succeed in a moment. */
  readonly isPassing: boolean;

  constructor(detail: string, sqlstate: string) {
    super("resolver_failed", { detail });
    this.isPassing = TROUBLE.includes(sqlstate.slice(0, 2));
  }
}

/**
 * @param searchPath of the settings: `pg_catalog` comes before it, `pg_temp` after it.
 * @throws QueryFailed; ProxyError resolver_failed, upstream_*; whatever aborts `signal`.
 */
export async function askResolvers(
  stream: MessageStream,
  greeting: Greeting,
  calls: readonly ResolverCall[],
  searchPath: readonly string[],
  metrics: Metrics,
  signal: AbortSignal,
): Promise<readonly ResolverAnswer[]> {
  // What a query says besides its rows is not for the client.
  const silent: Told = { keepParameter: (message) => greeting.keepParameter(message), keep: () => {} };
  const before = [...BEFORE, setLocal("search_path", searchPathOf(searchPath))];
  const asked = calls.flatMap(({ resolver, values }): Statement[] => [
    setLocal("statement_timeout", String(resolver.timeoutMs)),
    {
      sql: "query" in resolver.source ? resolver.source.query : "",
      values,
      isDescribed: true,
      ...(resolver.rows === "one" ? { maxRows: MAX_ROWS } : {}),
    },
  ]);
  const names = calls.map(({ resolver }) => resolver.name);
  for (const resolver of names) metrics.resolverExecutions.inc({ resolver });
  const timers = names.map((resolver) => metrics.resolverSeconds.startTimer({ resolver }));
  stream.write(encodePipeline([...before, ...asked, ROLLBACK]));
  const { results, columns, error } = await readAnswers(stream, silent, names, metrics, signal);
  for (const end of timers) end();
  if (error !== undefined) {
    stream.write(encodePipeline([ROLLBACK]));
    await runPipeline(stream, silent, signal);
    // What failed comes behind what has answered; each call has two statements.
    const name = names[Math.floor((results.length - before.length) / 2)] ?? "";
    metrics.resolverErrors.inc({ resolver: name });
    throw new QueryFailed(`resolver ${name}: ${withoutValues(error)}`, sqlstateOf(error.response.body));
  }
  return calls.map((_, index) => {
    const at = before.length + 2 * index + 1;
    return { columns: columns[at] ?? [], rows: results[at] ?? [] };
  });
}

/** An answer that has no end, or is no answer to a query, is a resolver's fault; the session is not used again. */
async function readAnswers(
  stream: MessageStream,
  greeting: Told,
  names: readonly string[],
  metrics: Metrics,
  signal: AbortSignal,
): Promise<PipelineOutcome> {
  try {
    return await runPipeline(stream, greeting, signal, { isDescribed: true });
  } catch (error) {
    if (!(error instanceof ProxyError) || error.code !== "upstream_protocol") throw error;
    for (const resolver of names) metrics.resolverErrors.inc({ resolver });
    throw new ProxyError("resolver_failed", { detail: `resolver ${names.join(", ")}: ${error.detail}` });
  }
}

/** PostgreSQL repeats the value in an error about data (class 22): the log gets the SQLSTATE alone. */
function withoutValues({ response, text }: { readonly response: Message; readonly text: string }): string {
  const sqlstate = sqlstateOf(response.body);
  return sqlstate.startsWith("22") ? `ERROR ${sqlstate}: a value does not fit its parameter` : text;
}

function setLocal(name: string, value: string): Statement {
  return { sql: "SELECT pg_catalog.set_config($1, $2, true)", values: [name, value] };
}

/** `resolver_search_path` as a value: `pg_catalog` comes before it, `pg_temp` after it. */
export function searchPathOf(schemas: readonly string[]): string {
  return ["pg_catalog", ...schemas, "pg_temp"].map(quoteIdentifier).join(", ");
}

/** For a list inside a value, not for SQL text. */
function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}
