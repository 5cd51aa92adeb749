/**
 * `pgvpd --version`: name and version, as package.json has them. The file lies two folders up, from src/ as from dist/.
 */
import { readFileSync } from "node:fs";
import { ConfigError } from "../config/config-error.ts";
import { quoted } from "../config/one-line.ts";

/** @returns the exit code. Throws a ConfigError for arguments, as it takes none. */
export async function version(args: readonly string[]): Promise<number> {
  const [surplus] = args;
  if (surplus !== undefined) throw new ConfigError([`unexpected argument ${quoted(surplus)} after version`]);
  process.stdout.write(`pgvpd ${readVersion()}\n`);
  return 0;
}

/** `2.0.0-alpha.1`. */
export function readVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
