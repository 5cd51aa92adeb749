/**
 * Builds the Config: defaults < file < environment < flags. All problems are found before one ConfigError is thrown, each
 * with where it stands. Reads the file and, as the only place of the program, the environment.
 */
import type { Assignment, Origin } from "./assignment.ts";
import { ConfigError } from "./config-error.ts";
import { findContradictions } from "./contradictions.ts";
import { readEnvironment, type Environment } from "./environment.ts";
import { suggest } from "./nearest-name.ts";
import { quoted } from "./one-line.ts";
import { readConfigFile } from "./read-file.ts";
import { SettingError } from "./setting-types.ts";
import type { Secret } from "./secret.ts";
import { readPasswordFile } from "./secret-file.ts";
import { settingList, settings, type Config, type Setting, type SettingKey } from "./settings.ts";

/** A setting that somebody gave, whether or not it is left at its default. */
export interface GivenSetting {
  readonly name: string;
  /** In quotes, fit for a line; a secret is redacted. */
  readonly value: string;
  readonly origin: Origin;
}

/** A setting as it is in force, given or not. */
export interface EffectiveSetting {
  readonly name: string;
  /** As one would write it in the file; a secret, and what may hold one, is not shown. Undefined where it is not set. */
  readonly value: string | undefined;
  readonly origin: Origin;
}

export interface LoadedConfig {
  readonly config: Config;
  readonly effective: readonly EffectiveSetting[];
  readonly given: readonly GivenSetting[];
  /** The file that was read; undefined where there was none. */
  readonly file: string | undefined;
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

/** @throws ConfigError naming each problem: its origin, the setting, what is wrong and what is allowed. */
export function loadConfig({ flags = [], file, env = process.env }: ConfigSources): LoadedConfig {
  const problems: string[] = [];
  const warnings: string[] = [];
  const fromFile = readConfigFile(file, problems, warnings);
  const fromEnvironment = readEnvironment(env, warnings);
  const built = buildConfig([...fromFile.assignments, ...fromEnvironment, ...flags], problems, warnings);
  return { ...built, file: fromFile.file, warnings };
}

/** Values as pgvpd.conf has them, for the library's door. */
export type SettingValues = Readonly<Record<string, string | number | boolean>>;

/** Where the library's values come from, as problems name it. */
const LIBRARY = "settings";

/** A Config of given values alone: no file, no environment. An undefined value is one that is not given. @throws ConfigError. */
export function configFromSettings(values: SettingValues): Config {
  return loadSettings(values).config;
}

/** The same, with what is in force. */
export function loadSettings(values: SettingValues): Pick<LoadedConfig, "config" | "effective"> {
  const problems: string[] = [];
  const assignments: Assignment[] = [];
  // Callers in JavaScript are not held to the type.
  for (const [name, value] of Object.entries(values as Readonly<Record<string, unknown>>)) {
    if (value === undefined) continue;
    if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") {
      assignments.push({ name, value: String(value), origin: LIBRARY, onceIn: LIBRARY });
    } else problems.push(`${LIBRARY}: ${name}: expected a string, a number or a boolean`);
  }
  return buildConfig(assignments, problems);
}

/** The last assignment of a setting counts, but every one must be right: what is overridden today counts tomorrow. */
function buildConfig(
  assignments: readonly Assignment[],
  problems: string[],
  warnings: readonly string[] = [],
): Pick<LoadedConfig, "config" | "given" | "effective"> {
  const chosen = new Map<SettingKey, Choice>();
  for (const assignment of assignments) {
    const entry = byName.get(assignment.name);
    if (entry === undefined) {
      const hint = suggest(assignment.name, new Map([...byName.keys()].map((name) => [name, name])));
      problems.push(`${assignment.origin}: there is no setting ${quoted(assignment.name)}${hint && `: ${hint}`}`);
      continue;
    }
    const [key, setting] = entry;
    const before = chosen.get(key)?.assignment;
    if (before?.onceIn !== undefined && before.onceIn === assignment.onceIn) {
      const as = before.name === assignment.name ? "" : ` as ${before.name}`;
      problems.push(`${assignment.origin}: ${assignment.name} is set already${as}, in ${before.origin}`);
    }
    attempt(setting, assignment, problems, () => {
      chosen.set(key, { setting, assignment, value: setting.type.parse(assignment.value) });
    });
  }

  const values = settingList.map(([key, { type, default: text }]) => [
    key,
    (chosen.get(key) ?? { value: type.parse(text) }).value,
  ]);
  const config = Object.freeze(withPasswordFiles(Object.fromEntries(values) as Config, chosen, problems));
  if (problems.length === 0) {
    problems.push(...findContradictions(config, (key) => chosen.get(key)?.assignment.origin ?? "default"));
  }
  if (problems.length > 0) throw new ConfigError(problems, warnings);
  const given = [...chosen.values()].map(({ setting, assignment }) => ({
    name: setting.name,
    value: showValue(setting, assignment),
    origin: assignment.origin,
  }));
  return { config, given, effective: settingList.map(([key, setting]) => effectiveSetting(setting, chosen.get(key))) };
}

function effectiveSetting(setting: Setting<unknown>, choice: Choice | undefined): EffectiveSetting {
  const { name, isSecret } = setting;
  const text = choice?.assignment.value ?? setting.default;
  const value = text === "" ? undefined : isSecret ? "[redacted]" : text.includes("://") ? "[a URL]" : text;
  return { name, value, origin: choice?.assignment.origin ?? "default" };
}

/** Passwords that stand in files of their own: each is either in the file or in the setting. */
const PASSWORD_FILES = [
  ["poolPassword", "poolPasswordFile"],
  ["upstreamPassword", "upstreamPasswordFile"],
  ["resolverPassword", "resolverPasswordFile"],
  ["maintenancePassword", "maintenancePasswordFile"],
] as const satisfies readonly (readonly [SettingKey, SettingKey])[];

function withPasswordFiles(config: Config, chosen: ReadonlyMap<SettingKey, Choice>, problems: string[]): Config {
  const read: { [K in (typeof PASSWORD_FILES)[number][0]]?: Secret } = {};
  for (const [key, fileKey] of PASSWORD_FILES) {
    const path = config[fileKey];
    if (path === undefined) continue;
    const { name } = settings[fileKey];
    const origin = chosen.get(fileKey)?.assignment.origin ?? "default";
    if (config[key] !== undefined)
      problems.push(`${origin}: ${name}: ${settings[key].name} is set too: keep one of them`);
    try {
      read[key] = readPasswordFile(path);
    } catch (error) {
      problems.push(`${origin}: ${name}: ${(error as Error).message}`);
    }
  }
  return { ...config, ...read };
}

interface Choice {
  readonly setting: Setting<unknown>;
  readonly assignment: Assignment;
  readonly value: unknown;
}

/** Every setting by its name and its aliases. */
const byName: ReadonlyMap<string, (typeof settingList)[number]> = new Map(
  settingList.flatMap((entry) => [entry[1].name, ...entry[1].aliases].map((name) => [name, entry])),
);

/** Does what may throw a SettingError, which becomes a problem with its origin and the value. */
function attempt(setting: Setting<unknown>, assignment: Assignment, problems: string[], action: () => void): void {
  try {
    action();
  } catch (error) {
    if (!(error instanceof SettingError)) throw error;
    problems.push(`${assignment.origin}: ${setting.name} ${showValue(setting, assignment)}: ${error.message}`);
  }
}

/** A value for a message. A secret is not shown, and neither is a URL, which may hold one. */
function showValue({ isSecret }: Setting<unknown>, { value }: Assignment): string {
  if (isSecret) return value === "" ? '""' : "[redacted]";
  return value.includes("://") ? "[a URL]" : quoted(value);
}
