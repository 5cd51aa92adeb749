/**
 * `pgvpd --version`: name and version.
 */
import { ConfigError } from "../config/config-error.ts";
import { quoted } from "../config/one-line.ts";
import { readVersion } from "../lib/version.ts";

/** @returns the exit code. Throws a ConfigError for arguments, as it takes none. */
export async function version(args: readonly string[]): Promise<number> {
  const [surplus] = args;
  if (surplus !== undefined) throw new ConfigError([`unexpected argument ${quoted(surplus)} after version`]);
  process.stdout.write(`pgvpd ${readVersion()}\n`);
  return 0;
}
