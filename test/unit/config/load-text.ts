/**
 * Loads a configuration as the program does, from a file with a given text, given variables and flags, in a folder of its
 * own. For the tests of the configuration; the process's environment plays no part.
 */
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { onTestFinished } from "vitest";
import { parseArguments } from "../../../src/cli/args.ts";
import { ConfigError } from "../../../src/config/config-error.ts";
import { loadConfig, type LoadedConfig } from "../../../src/config/load.ts";

export interface Sources {
  /** Text of the file, or its bytes. */
  readonly file?: string | Uint8Array;
  readonly env?: Readonly<Record<string, string>>;
  readonly flags?: readonly string[];
  /** Of the file. */
  readonly mode?: number;
  /** Who the file belongs to, which only root may choose. */
  readonly uid?: number;
}

export function load({ file = "", env = {}, flags = [], mode = 0o600, uid }: Sources): LoadedConfig {
  const folder = temporaryFolder();
  const name = path.join(folder, "pgvpd.conf");
  writeFileSync(name, file);
  chmodSync(name, mode); // as it says, whatever the umask
  if (uid !== undefined) chownSync(name, uid, -1);
  try {
    return loadConfig({ flags: parseArguments(flags).settings, file: name, env });
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const short = (line: string): string => line.replaceAll(`${folder}/`, "");
    throw new ConfigError(error.problems.map(short), error.warnings.map(short));
  }
}

/** What is wrong with a configuration, a line each, with `pgvpd.conf` for the file. */
export function problemsOf(work: Sources | (() => unknown)): readonly string[] {
  return errorOf(work).problems;
}

/** The ConfigError of a configuration that has one. */
export function errorOf(work: Sources | (() => unknown)): ConfigError {
  try {
    if (typeof work === "function") work();
    else load(work);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error("expected a ConfigError, but the configuration is valid");
}

/** An empty folder that goes when the test ends. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-config-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
