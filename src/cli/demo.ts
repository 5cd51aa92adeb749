/**
 * `pgvpd demo`, which is also `npm start`: the flags of the demo. The work is in src/demo/.
 */
import { parseArgs } from "node:util";
import { runDemo } from "../demo/run-demo.ts";

export const demoUsage = `Usage: pgvpd demo [options]

Starts a PostgreSQL of its own, creates two tenants with data, starts pgvpd in front of it and shows what it does.
The data is kept for the next time.

Options:
  -p, --port PORT         where pgvpd listens (default 6432), or the next free port
      --fresh             forget the data of earlier demos
      --database-url URL  use another PostgreSQL server: creates the database pgvpd_demo and a role there, and asks
                          first; sslmode in the URL is disable, require, verify-ca or verify-full, sslrootcert a CA
      --yes               do not ask
      --once              end after the showcase
      --data-dir DIR      keep data and passwords in DIR
  -h, --help              this text
`;

/** @returns the exit code. Throws an Error whose message is for the user. */
export async function demo(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: {
      port: { type: "string", short: "p", default: "6432" },
      fresh: { type: "boolean", default: false },
      "database-url": { type: "string" },
      yes: { type: "boolean", default: false },
      once: { type: "boolean", default: false },
      "data-dir": { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(demoUsage);
    return 0;
  }
  const port = Number(values.port);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new Error(`--port takes a number from 1 to 65535, not ${values.port}`);
  }
  return runDemo({
    port,
    databaseUrl: values["database-url"],
    isFresh: values.fresh,
    isConfirmed: values.yes,
    isOnce: values.once,
    dataDir: values["data-dir"],
  });
}
