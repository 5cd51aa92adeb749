/**
 * Runs pgbench against a target and reads its figures. Called by the scenarios of queries and of connects. It never
 * keeps the user's own PG* variables: TLS and GSS are switched off, so that every peer sees the same bytes.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import type { Target } from "../peer.ts";
import type { Workbench } from "./workbench.ts";

export type QueryMode = "simple" | "extended" | "prepared";

export interface PgbenchRun {
  readonly clients: number;
  readonly mode: QueryMode;
  /** How long to run, or how many transactions each client makes. */
  readonly length: { readonly seconds: number } | { readonly transactions: number };
  /** A file with the transaction, in place of pgbench's own SELECT. */
  readonly script?: string;
  /** A new connection for each transaction. */
  readonly reconnects?: boolean;
  /** Transactions a second of all clients together, at random moments; as many as they can when absent. */
  readonly rate?: number;
  /** Run pgbench itself on this core only. */
  readonly core?: number | undefined;
  /** Note how long each transaction took. */
  readonly isTimed?: boolean;
}

export interface PgbenchFigures {
  readonly transactions: number;
  readonly tps: number;
  /** How long each transaction took, where the run was timed. */
  readonly latenciesMs: readonly number[];
  /** The same with the moments. */
  readonly timed: readonly TimedTransaction[];
}

export interface TimedTransaction {
  /** When it began, or was to begin where the run has a rate; in milliseconds since 1970. */
  readonly beganAtMs: number;
  /** From then on. */
  readonly tookMs: number;
}

const startUpSeconds = 60;

export async function pgbench(workbench: Workbench, target: Target, run: PgbenchRun): Promise<PgbenchFigures> {
  const program = requirePgbench();
  const threads = Math.min(run.clients, cpus().length, 4);
  const limit = "seconds" in run.length ? run.length.seconds : 0;
  const address = ["-h", target.host, "-p", String(target.port), "-U", target.user];
  const transaction = run.script === undefined ? ["-S"] : ["-f", run.script];
  const load = [...transaction, "-n", "-M", run.mode, "-c", String(run.clients), "-j", String(threads)];
  const length = "seconds" in run.length ? ["-T", String(run.length.seconds)] : ["-t", String(run.length.transactions)];
  const log = run.isTimed === true ? workbench.newPath("pgbench.log") : undefined;
  const more = [
    ...(run.reconnects === true ? ["-C"] : []),
    ...(run.rate === undefined ? [] : ["-R", String(run.rate)]),
    ...(log === undefined ? [] : ["-l", `--log-prefix=${log}`]),
  ];
  const args = [...address, ...load, ...length, ...more, target.database];
  const [command, ...rest] =
    run.core === undefined ? [program, ...args] : ["taskset", "-c", String(run.core), program, ...args];
  const env = clientEnvironment(target.password);
  const output = await workbench.run(command ?? program, rest, limit + startUpSeconds, { env });
  const timed = log === undefined ? [] : readLog(log);
  return { ...readFigures(output), latenciesMs: timed.map(({ tookMs }) => tookMs), timed };
}

function readFigures(output: string): Pick<PgbenchFigures, "transactions" | "tps"> {
  const transactions = Number(output.match(/transactions actually processed: (\d+)/)?.[1]);
  const tps = Number(output.match(/^tps = ([\d.]+)/m)?.[1]);
  if (!(transactions > 0) || !(tps > 0)) throw new Error(`pgbench printed no figures: ${output.slice(-300)}`);
  return { transactions, tps };
}

/** Each thread of pgbench has a log of its own: `client transaction microseconds script seconds microseconds`. */
function readLog(prefix: string): TimedTransaction[] {
  const logs = readdirSync(dirname(prefix)).filter((name) => name.startsWith(`${basename(prefix)}.`));
  const lines = logs.flatMap((name) =>
    readFileSync(join(dirname(prefix), name), "utf8")
      .trim()
      .split("\n"),
  );
  return lines.map((line) => {
    const [, , took, , endSeconds, endMicroseconds] = line.split(" ").map(Number) as [
      number,
      number,
      number,
      ...number[],
    ];
    const tookMs = took / 1000;
    return { tookMs, beganAtMs: Number(endSeconds) * 1000 + Number(endMicroseconds) / 1000 - tookMs };
  });
}

export function clientEnvironment(password: string): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !name.startsWith("PG"));
  return { ...Object.fromEntries(own), PGPASSWORD: password, PGSSLMODE: "disable", PGGSSENCMODE: "disable" };
}

/** pgbench from PATH, else from a PostgreSQL that Debian installed. */
export function findPgbench(): string | undefined {
  const debian = "/usr/lib/postgresql";
  const installed = existsSync(debian) ? readdirSync(debian).map((version) => join(debian, version, "bin")) : [];
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), ...installed];
  return folders.map((folder) => join(folder, "pgbench")).find((path) => existsSync(path));
}

function requirePgbench(): string {
  const program = findPgbench();
  if (program === undefined) throw new Error("pgbench is not installed");
  return program;
}
