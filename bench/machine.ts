/**
 * What machine a table was made on. Figures without it cannot be read. Called once by main.ts.
 */
import { execFile } from "node:child_process";
import { arch, availableParallelism, cpus, loadavg, release, totalmem, type as systemName } from "node:os";
import { promisify } from "node:util";
import { findPgbench } from "./measure/pgbench.ts";

export type MachineFacts = Readonly<
  Record<"cpu" | "load" | "memory" | "system" | "node" | "PostgreSQL" | "pgbench", string>
>;

export async function machineFacts(postgresVersion: string): Promise<MachineFacts> {
  const gibibytes = Math.round(totalmem() / 2 ** 30);
  return {
    cpu: `${availableParallelism()} cores, ${cpus()[0]?.model.trim() ?? arch()}`,
    load: loadOf(availableParallelism()),
    memory: `${gibibytes} GiB`,
    system: `${systemName()} ${release()} ${arch()}`,
    node: process.version,
    PostgreSQL: `${postgresVersion}, loopback, no TLS, shared_buffers 256MB, fsync off, pgbench scale 10`,
    pgbench: await pgbenchVersion(),
  };
}

/** Other work on the machine before the run; ratios bear some of it, absolute figures do not. */
function loadOf(cores: number): string {
  const lastMinute = loadavg()[0] ?? 0;
  return `${lastMinute.toFixed(1)} before the run${lastMinute > cores / 2 ? ": something else is running, figures will be noisy" : ""}`;
}

async function pgbenchVersion(): Promise<string> {
  const program = findPgbench();
  if (program === undefined)
    return "not installed (Debian: apt-get install postgresql-15): scenarios of queries are skipped";
  const { stdout } = await promisify(execFile)(program, ["--version"]);
  return stdout.trim().replace(/^pgbench \(PostgreSQL\) /, "");
}
