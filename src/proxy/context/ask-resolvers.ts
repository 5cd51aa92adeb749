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
import { encodePipeline, runPipeline, type Statement } from "../upstream/pipeline.ts";
import type { ResolverAnswer, ResolverCall } from "./resolve-context.ts";

const BEGIN: Statement = { sql: "BEGIN READ ONLY", values: [] };
const ROLLBACK: Statement = { sql: "ROLLBACK", values: [] };

/** One row more than may come is asked for, so that a second one is noticed and no third one is sent. */
const MAX_ROWS = 2;

/**
 * @param searchPath of the settings: `pg_catalog` comes before it, `pg_temp` after it.
 * @throws ProxyError resolver_failed, upstream_*; whatever aborts `signal`.
 */
export async function askResolvers(
  stream: MessageStream,
  greeting: Greeting,
  calls: readonly ResolverCall[],
  searchPath: readonly string[],
  metrics: Metrics,
  signal: AbortSignal,
): Promise<readonly ResolverAnswer[]> {
  const path = searchPathOf(searchPath);
  const statements = [
    BEGIN,
    setLocal("search_path", path),
    ...calls.flatMap(({ resolver, values }): Statement[] => [
      setLocal("statement_timeout", String(resolver.timeoutMs)),
      {
        sql: "query" in resolver.source ? resolver.source.query : "",
        values,
        isDescribed: true,
        ...(resolver.rows === "one" ? { maxRows: MAX_ROWS } : {}),
      },
    ]),
    ROLLBACK,
  ];
  for (const { resolver } of calls) metrics.resolverExecutions.inc({ resolver: resolver.name });
  stream.write(encodePipeline(statements));
  const { results, columns, error } = await runPipeline(stream, greeting, signal);
  if (error !== undefined) {
    // What failed comes behind what has answered: two statements before the calls, two for each call.
    const name = calls[Math.floor((results.length - 2) / 2)]?.resolver.name ?? "";
    metrics.resolverErrors.inc({ resolver: name });
    throw new ProxyError("resolver_failed", { detail: `resolver ${name}: ${withoutValues(error)}` });
  }
  return calls.map((_, index) => ({ columns: columns[3 + 2 * index] ?? [], rows: results[3 + 2 * index] ?? [] }));
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
