/**
 * `pgvpd sql TENANT STATEMENT`, which is also `npm run sql`: one statement as a tenant of the demo that runs, for who has
 * no psql. Goes through pgvpd like any other client; knows port and password from the demo's folder.
 */
import { parseArgs } from "node:util";
import { Client } from "pg";
import { findRunningDemo, locateDemoFolder } from "../demo/demo-folder.ts";
import { formatError, formatResult, queryText, textValues } from "../demo/result-table.ts";

export const sqlUsage = `Usage: pgvpd sql [--data-dir DIR] TENANT 'STATEMENT'

Runs the statement as a tenant of the demo that is running, and prints what comes back.

  npm run sql -- acme 'select * from orders'
`;

/** @returns the exit code: 0, or 1 when the login or the statement failed. Throws an Error whose message is for the user. */
export async function sql(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { "data-dir": { type: "string" }, help: { type: "boolean", short: "h", default: false } },
  });
  if (values.help) {
    process.stdout.write(sqlUsage);
    return 0;
  }
  const [tenant, ...words] = positionals;
  const statement = words.join(" ");
  if (tenant === undefined || statement.trim() === "") {
    process.stderr.write(sqlUsage);
    return 1;
  }
  const running = await findRunningDemo(await locateDemoFolder(values["data-dir"]));
  if (running === undefined) {
    process.stderr.write("No demo of this user is running. Start one in another terminal: npm start\n");
    return 1;
  }
  const client = new Client({
    host: "127.0.0.1",
    port: running.port,
    database: running.database,
    user: `${running.role}.${tenant}`,
    password: running.password,
    ssl: false,
    application_name: "pgvpd sql",
    ...textValues,
  });
  client.on("notice", (notice) => process.stderr.write(`${notice.severity}: ${notice.message}\n`));
  client.on("error", () => {}); // the query under way rejects with it
  try {
    await client.connect();
    for (const result of await queryText(client, statement)) process.stdout.write(`${formatResult(result)}\n`);
    return 0;
  } catch (error) {
    process.stderr.write(`${formatError(error)}\n`);
    return 1;
  } finally {
    await client.end().catch(() => {});
  }
}
