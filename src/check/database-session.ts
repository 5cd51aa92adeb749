/**
 * A session in a database that somebody named by a URL, for looking at its catalogs: with limits on every wait, nobody
 * else's functions in the search_path, and read-only unless a transaction says otherwise.
 */
import { Client } from "pg";
import type { DatabaseUrl } from "../config/database-url.ts";

const CONNECT_LIMIT_MS = 10_000;
const QUERY_LIMIT_MS = 30_000;
/** A migration may hold a table; nobody is to queue behind somebody who looks. */
const LOCK_LIMIT_MS = 2_000;

/**
 * Runs `work` with a session that is closed afterwards, whatever happens. Throws what connecting throws, and what `work` does.
 */
export async function withDatabase<T>(
  server: DatabaseUrl,
  applicationName: string,
  work: (client: Client) => Promise<T>,
): Promise<T> {
  const client = new Client({
    connectionString: server.connectionString,
    ...(server.ssl !== undefined && { ssl: server.ssl }),
    application_name: applicationName,
    connectionTimeoutMillis: CONNECT_LIMIT_MS,
    query_timeout: QUERY_LIMIT_MS,
  });
  client.on("error", () => {}); // the query under way rejects with it
  try {
    await client.connect();
    // Somebody's own operators and functions must not be found in front of PostgreSQL's.
    await client.query("SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)");
    await client.query(`SET default_transaction_read_only = on; SET lock_timeout = ${LOCK_LIMIT_MS}`);
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

/** What a person is told of a failure; some errors have a code and no message. */
export function describeFailure(error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException;
  return message || code || "it cannot be reached";
}
