/**
 * Where the checks ask: a Client of pg, or a session that pgvpd has opened with what it logs tenants in with.
 */
import { DatabaseError, type QueryResultRow } from "pg";
import { sqlstateOf } from "../protocol/backend-messages.ts";
import { Greeting } from "../proxy/upstream/await-ready.ts";
import type { OpeningUpstream } from "../proxy/upstream/open-upstream.ts";
import { encodePipeline, runPipeline, setConfig, type Statement } from "../proxy/upstream/pipeline.ts";

export type CatalogValue = string | boolean | readonly string[];

export interface Catalog {
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- it says what the rows of this query are, as with pg
  query<Row extends QueryResultRow>(sql: string, values?: CatalogValue[]): Promise<{ rows: Row[] }>;
}

/** The policies of thousands of tables. */
const MAX_ANSWER_BYTES = 64 * 1024 * 1024;

/** SQLSTATE class of a server that ends the session. */
const SHUTDOWN = "57P";

/** The server's no to one query, after which the session can go on. */
class RefusedQuery extends Error {
  readonly code: string;

  constructor(text: string, code: string) {
    super(text);
    this.name = "RefusedQuery";
    this.code = code;
  }
}

/** The SQLSTATE of a query that failed in a session that goes on; undefined for everything worse. */
export function refusalOf(error: unknown): string | undefined {
  const code = error instanceof DatabaseError || error instanceof RefusedQuery ? error.code : undefined;
  return code?.startsWith(SHUTDOWN) === true ? undefined : code;
}

/** Catalogs over a session of pgvpd's own: rows come as JSON, so that numbers, lists and truth values keep their types. */
export class OwnCatalog implements Catalog {
  readonly #session: OpeningUpstream;
  readonly #signal: AbortSignal;

  constructor(session: OpeningUpstream, signal: AbortSignal) {
    this.#session = session;
    this.#signal = signal;
  }

  /** Sets parameters of the session. @throws as `query` does. */
  async set(parameters: Readonly<Record<string, string>>): Promise<void> {
    await this.#run(setConfig(Object.entries(parameters).map(([name, value]) => ({ name, value }))));
  }

  /**
   * @param sql one SELECT.
   * @throws RefusedQuery; ProxyError where the session is lost; whatever aborts the signal.
   */
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- as above
  async query<Row extends QueryResultRow>(sql: string, values: CatalogValue[] = []): Promise<{ rows: Row[] }> {
    const rows = await this.#run({
      sql: `SELECT row_to_json(asked)::text FROM (${sql}\n) AS asked`,
      values: values.map(encodeValue),
    });
    return { rows: rows.map(([json]) => JSON.parse(json ?? "null") as Row) };
  }

  async #run(statement: Statement) {
    this.#session.stream.write(encodePipeline([statement]));
    const { results, error } = await runPipeline(this.#session.stream, new Greeting(), this.#signal, {
      maxBytes: MAX_ANSWER_BYTES,
    });
    if (error !== undefined) throw new RefusedQuery(error.text, sqlstateOf(error.response.body));
    return results[0] ?? [];
  }
}

/** As PostgreSQL reads it: a list as `{"a","b"}`. */
function encodeValue(value: CatalogValue): string {
  if (typeof value === "string") return value;
  if (typeof value === "boolean") return String(value);
  return `{${value.map((item) => `"${item.replaceAll(/["\\]/g, "\\$&")}"`).join(",")}}`;
}
