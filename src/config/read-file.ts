/**
 * Reads pgvpd.conf into assignments, each with its line. A file that was named must be there; ./pgvpd.conf need not be.
 */
import { readFileSync, statSync, type Stats } from "node:fs";
import { resolve } from "node:path";
import type { Assignment } from "./assignment.ts";
import { parseConfigFile, type FileLine } from "./config-file.ts";
import { oneLine } from "./one-line.ts";
import { explainFileError, isOpen } from "./secret-file.ts";
import { settingList } from "./settings.ts";

const DEFAULT_FILE = "pgvpd.conf";
const MAX_FILE_BYTES = 1024 * 1024;

export interface FileSettings {
  readonly assignments: readonly Assignment[];
  /** The file that was read, as it was named; undefined where there was none. */
  readonly file: string | undefined;
}

/** @param file as `--config` names it; undefined for ./pgvpd.conf where there is one. */
export function readConfigFile(file: string | undefined, problems: string[], warnings: string[]): FileSettings {
  const name = file ?? DEFAULT_FILE;
  const path = resolve(name);
  let text: string;
  let status: Stats;
  try {
    status = statSync(path);
    text = new TextDecoder("utf-8", { fatal: true }).decode(readLimited(path, status));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" && file === undefined) return { assignments: [], file: undefined };
    problems.push(`${path}: ${explain(error as NodeJS.ErrnoException)}`);
    return { assignments: [], file: undefined };
  }
  const { lines, bad } = parseConfigFile(text);
  for (const { number, problem } of bad) problems.push(`${name}:${number}: ${problem}`);
  if (holdsSecret(lines) && isOpen(status)) {
    warnings.push(`${oneLine(path)} holds a password and can be read by others: chmod 600 ${oneLine(path)}`);
  }
  const assignments = lines.map(({ number, key, value }) => ({
    name: key,
    value,
    origin: `${name}:${number}`,
    onceIn: name,
  }));
  return { assignments, file: name };
}

class TooLargeError extends Error {}

function readLimited(path: string, status: Stats): Buffer {
  const bytes = status.size > MAX_FILE_BYTES ? undefined : readFileSync(path);
  if (bytes === undefined || bytes.length > MAX_FILE_BYTES) throw new TooLargeError();
  return bytes;
}

function explain(error: NodeJS.ErrnoException): string {
  if (error instanceof TooLargeError) return "it is larger than 1 MiB: that is no configuration file";
  return explainFileError(error);
}

function holdsSecret(lines: readonly FileLine[]): boolean {
  const names = new Set(settingList.filter(([, { isSecret }]) => isSecret).map(([, { name }]) => name));
  return lines.some(({ key, value }) => value !== "" && names.has(key));
}
