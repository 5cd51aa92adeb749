/**
 * The command line of `npm run bench`. Called by main.ts; throws UsageError with a sentence that says what is allowed.
 */
import { parseArgs } from "node:util";
import { allPeers } from "./peers/all-peers.ts";
import { allScenarios } from "./scenarios/all-scenarios.ts";
import type { Peer } from "./peer.ts";
import type { Scenario } from "./scenario.ts";

export interface Options {
  readonly scenarios: readonly Scenario[];
  readonly peers: readonly Peer[];
  readonly rounds: number;
  readonly seconds: number;
  readonly idleConnections: number;
  readonly mayPin: boolean;
  /** Major version of PostgreSQL. */
  readonly postgresVersion: string | undefined;
  readonly jsonFile: string | undefined;
  readonly isGate: boolean;
}

export class UsageError extends Error {}

export const usage = `npm run bench -- [options]

Compares pgvpd with a direct connection, with a plain Node proxy and with what is installed of PgBouncer and HAProxy.

  --only a,b        scenarios to run; a name's beginning is enough (default: all but those on request)
  --peers a,b       peers to compare (default: all that are installed)
  --rounds N        rounds through all peers (default 5, with --quick 2)
  --seconds S       length of one timed measurement (default 3, with --quick 1)
  --quick           a first impression in less than 3 minutes
  --idle N          idle clients of idle-memory (default 3000, with --quick 1000; at most 5000)
  --postgres N      major version of PostgreSQL (default 15 where it is installed)
  --no-pin          do not pin the latency scenarios to one core
  --json FILE       write every round's figures to FILE
  --gate            exit with 1 when pgvpd misses a target
  --list            name the scenarios and peers, and end
  --help

Environment: PGVPD_BENCH_PGBOUNCER names another PgBouncer, PGVPD_BENCH_OTHER another build of pgvpd (its dist/main.js).
`;

/** Options, or the text that the command line asked for instead. */
export function readOptions(argv: readonly string[]): Options | string {
  const { values } = parse(argv);
  if (values.help === true) return usage;
  if (values.list === true) return list();
  const isQuick = values.quick === true;
  return {
    scenarios: chosen("--only", values.only, allScenarios).filter(
      ({ isOnRequest }) => isOnRequest !== true || values.only !== undefined,
    ),
    peers: chosen("--peers", values.peers, allPeers),
    rounds: positive("--rounds", values.rounds, isQuick ? 2 : 5),
    seconds: positive("--seconds", values.seconds, isQuick ? 1 : 3),
    idleConnections: positive("--idle", values.idle, isQuick ? 1000 : 3000, 5000),
    mayPin: values["no-pin"] !== true,
    postgresVersion: values.postgres,
    jsonFile: values.json,
    isGate: values.gate === true,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        only: { type: "string" },
        peers: { type: "string" },
        rounds: { type: "string" },
        seconds: { type: "string" },
        idle: { type: "string" },
        postgres: { type: "string" },
        json: { type: "string" },
        quick: { type: "boolean" },
        "no-pin": { type: "boolean" },
        gate: { type: "boolean" },
        list: { type: "boolean" },
        help: { type: "boolean" },
      },
    });
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function chosen<T extends { readonly name: string }>(
  flag: string,
  text: string | undefined,
  all: readonly T[],
): readonly T[] {
  if (text === undefined) return all;
  const wanted = text.split(",").map((name) => name.trim());
  const isWanted = (name: string, want: string): boolean =>
    all.some((item) => item.name === want) ? name === want : name.startsWith(want);
  for (const want of wanted) {
    if (want !== "" && all.some((item) => isWanted(item.name, want))) continue;
    throw new UsageError(`${flag}: there is no '${want}'; there are ${all.map((item) => item.name).join(", ")}`);
  }
  return all.filter((item) => wanted.some((want) => isWanted(item.name, want)));
}

function positive(flag: string, text: string | undefined, fallback: number, most = 1000): number {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1 && value <= most) return value;
  throw new UsageError(`${flag}: a whole number from 1 to ${most}, not '${text}'`);
}

function list(): string {
  const scenarios = allScenarios.map(
    ({ name, title, isOnRequest }) => `  ${name.padEnd(24)} ${title}${isOnRequest === true ? "; on request" : ""}`,
  );
  return ["scenarios", ...scenarios, "peers", ...allPeers.map(({ name }) => `  ${name}`), ""].join("\n");
}
