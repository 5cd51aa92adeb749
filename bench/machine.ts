/*
 * What machine a table was made on. Figures without it cannot be read. Called once by main.ts.
 */
import { execFile } from "node:child_process";
import { arch, availableParallelism, cpus, release, totalmem, type as systemName } from "node:os";
import { promisify } from "node:util";
import { findPgbench } from "./measure/pgbench.ts";

export type MachineFacts = Readonly<Record<"cpu" | "memory" | "system" | "node" | "PostgreSQL" | "pgbench", string>>;

export async function machineFacts(postgresVersion: string): Promise<MachineFacts> {
  const gibibytes = Math.round(totalmem() / 2 ** 30);
  return {
    cpu: `${availableParallelism()} cores, ${cpus()[0]?.model.trim() ?? arch()}`,
    memory: `${gibibytes} GiB`,
    system: `${systemName()} ${release()} ${arch()}`,
    node: process.version,
    PostgreSQL: `${postgresVersion}, loopback, no TLS, shared_buffers 256MB, fsync off, pgbench scale 10`,
    pgbench: await pgbenchVersion(),
  };
}

async function pgbenchVersion(): Promise<string> {
  const program = findPgbench();
  if (program === undefined)
    return "not installed (Debian: apt-get install postgresql-15): scenarios of queries are skipped";
  const { stdout } = await promisify(execFile)(program, ["--version"]);
  return stdout.trim().replace(/^pgbench \(PostgreSQL\) /, "");
}
