/**
 * Builds the Config: defaults < file < environment < flags. All problems are found before one ConfigError is thrown, each
 * with where it stands. Reads the file and, as the only place of the program, the environment.
 */
import { readFileSync, statSync } from "node:fs";
import { resolve } from "node:path";
import type { Assignment, Origin } from "./assignment.ts";
import { ConfigError } from "./config-error.ts";
import { parseConfigFile } from "./config-file.ts";
import { readEnvironment, type Environment } from "./environment.ts";
import { suggest } from "./nearest-name.ts";
import { SettingError } from "./setting-types.ts";
import { settingList, type Config, type Setting, type SettingKey } from "./settings.ts";

export interface LoadedConfig {
  readonly config: Config;
  readonly origins: Readonly<Record<SettingKey, Origin>>;
  readonly warnings: readonly string[];
}

export interface ConfigSources {
  /** Settings from the command line, by the name they have in the file. */
  readonly flags?: readonly Assignment[];
  /** `--config`: a file that must exist. Without it, ./pgvpd.conf is read where there is one. */
  readonly file?: string | undefined;
  /** The process's own by default. */
  readonly env?: Environment;
}

const DEFAULT_FILE = "pgvpd.conf";

/** @throws ConfigError naming each problem: its origin, the setting, what is wrong and what is allowed. */
export function loadConfig({ flags = [], file, env = process.env }: ConfigSources): LoadedConfig {
  const problems: string[] = [];
  const warnings: string[] = [];
  const fromFile = readFile(file, problems, warnings);
  const fromEnvironment = readEnvironment(env, warnings);
  return { ...buildConfig([...fromFile, ...fromEnvironment, ...flags], problems), warnings };
}

/** Values as pgvpd.conf has them, for the library's door. */
export type SettingValues = Readonly<Record<string, string | number | boolean>>;

/** A Config of given values alone: no file, no environment. @throws ConfigError. */
export function configFromSettings(values: SettingValues): Config {
  const assignments = Object.entries(values).map(([name, value]) => ({
    name,
    value: String(value),
    origin: "settings",
  }));
  return buildConfig(assignments, []).config;
}

function readFile(file: string | undefined, problems: string[], warnings: string[]): Assignment[] {
  const path = resolve(file ?? DEFAULT_FILE);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === "ENOENT";
    if (isAbsent && file === undefined) return [];
    problems.push(isAbsent ? `${path}: there is no such file` : `${path}: ${(error as Error).message}`);
    return [];
  }
  const name = file ?? DEFAULT_FILE;
  const { lines, bad } = parseConfigFile(text);
  for (const { number, problem } of bad) problems.push(`${name}:${number}: ${problem}`);
  warnAboutReaders(
    path,
    lines.map(({ key }) => key),
    warnings,
  );
  return lines.map(({ number, key, value }) => ({ name: key, value, origin: `${name}:${number}` }));
}

/** A file with a password that others can read is worth a warning; refusing it would break what works today. */
function warnAboutReaders(path: string, keys: readonly string[], warnings: string[]): void {
  const hasSecret = settingList.some(([, { name, isSecret }]) => isSecret && keys.includes(name));
  if (hasSecret && (statSync(path).mode & 0o077) !== 0) {
    warnings.push(`${path} holds a password and can be read by others: chmod 600 ${path}`);
  }
}

/** The last assignment of a setting counts; within the file a setting may come only once. */
function buildConfig(
  assignments: readonly Assignment[],
  problems: string[],
): { config: Config; origins: Record<SettingKey, Origin> } {
  const byName = new Map<string, readonly [SettingKey, Setting<unknown>]>();
  for (const entry of settingList) for (const name of [entry[1].name, ...entry[1].aliases]) byName.set(name, entry);

  const chosen = new Map<SettingKey, Assignment>();
  for (const assignment of assignments) {
    const entry = byName.get(assignment.name);
    if (entry === undefined) {
      const hint = suggest(assignment.name, [...byName.keys()]);
      problems.push(`${assignment.origin}: there is no setting "${assignment.name}"${hint && `: ${hint}`}`);
      continue;
    }
    const before = chosen.get(entry[0]);
    if (before !== undefined && fileOf(before) !== undefined && fileOf(before) === fileOf(assignment)) {
      problems.push(`${assignment.origin}: ${assignment.name} is set already, in ${before.origin}`);
    }
    chosen.set(entry[0], assignment);
  }

  const values: Partial<Record<SettingKey, unknown>> = {};
  const origins = {} as Record<SettingKey, Origin>;
  for (const [key, setting] of settingList) {
    const assignment = chosen.get(key) ?? { name: setting.name, value: setting.default, origin: "default" };
    origins[key] = assignment.origin;
    try {
      values[key] = setting.type.parse(assignment.value);
      assertBuilt(setting, assignment);
    } catch (error) {
      if (!(error instanceof SettingError)) throw error;
      const shown = setting.isSecret ? "" : ` "${assignment.value}"`;
      problems.push(`${assignment.origin}: ${setting.name}${shown}: ${error.message}`);
    }
  }
  const config = Object.freeze(values) as Config;
  if (problems.length === 0) problems.push(...contradictions(config, origins));
  if (problems.length > 0) throw new ConfigError(problems);
  return { config, origins };
}

/** The file that an assignment stands in: `pgvpd.conf` of `pgvpd.conf:12`. */
function fileOf({ origin }: Assignment): string | undefined {
  return /^(.*):\d+$/.exec(origin)?.[1];
}

/** A setting whose feature is not there may be written out with its default, and with nothing else. */
function assertBuilt(setting: Setting<unknown>, { value }: Assignment): void {
  if (setting.notYet === undefined) return;
  const isDefault = JSON.stringify(setting.type.parse(value)) === JSON.stringify(setting.type.parse(setting.default));
  if (!isDefault) {
    const kept = setting.default === "" ? "leave it out" : `leave it at ${setting.default}`;
    throw new SettingError(`this version of pgvpd does not have ${setting.notYet} yet: ${kept}`);
  }
}

/** What is wrong with values that are each right on their own. */
function contradictions(config: Config, origins: Readonly<Record<SettingKey, Origin>>): string[] {
  const found: string[] = [];
  if (config.contextVariables.length > 1 && config.valueSeparator === config.tenantSeparator) {
    found.push(`${origins.valueSeparator}: value_separator: must differ from tenant_separator`);
  }
  if (config.listenHosts.length === 0 && config.unixSocketDir === undefined) {
    found.push(`${origins.listenHosts}: listen_host: expected an address, or unix_socket_dir to be set`);
  }
  return found;
}

/** Each setting with its effective value and origin; secrets are redacted. */
export function describeConfig({ config, origins }: Pick<LoadedConfig, "config" | "origins">): string[] {
  return settingList.map(([key, { name }]) => `${name} = ${String(config[key] ?? "")}  (${origins[key]})`);
}
