/**
 * The command line as assignments of settings: every setting that is no secret has a flag, `--name value` or
 * `--name=value`; a bare boolean flag means true. Flags of a subcommand's own are declared by it.
 */
import { parseArgs, type ParseArgsConfig } from "node:util";
import type { Assignment } from "../config/assignment.ts";
import { ConfigError } from "../config/config-error.ts";
import { loadConfig, type LoadedConfig } from "../config/load.ts";
import { suggest } from "../config/nearest-name.ts";
import { quoted } from "../config/one-line.ts";
import { settingList, type Setting } from "../config/settings.ts";

type OwnFlags = NonNullable<ParseArgsConfig["options"]>;
type Token = ReturnType<typeof tokenize>[number];
type OptionToken = Extract<Token, { kind: "option" }>;

export interface ParsedArguments {
  /** Values of the subcommand's own flags, by name. */
  readonly own: Readonly<Record<string, string | boolean | undefined>>;
  readonly settings: readonly Assignment[];
  /** `--config`. */
  readonly file: string | undefined;
}

const byFlag: ReadonlyMap<string, Setting<unknown>> = new Map(
  settingList.flatMap(([, setting]) => (setting.flag === undefined ? [] : [[setting.flag, setting]])),
);

/**
 * @throws ConfigError naming every flag that is unknown, misses its value or would show a secret, or else the first
 *   argument that belongs to no flag.
 */
export function parseArguments(args: readonly string[], ownFlags: OwnFlags = {}): ParsedArguments {
  const options: OwnFlags = { ...ownFlags, config: { type: "string" } };
  for (const [flag, { type, shortFlag }] of byFlag) {
    // A boolean may stand bare, so its value is only what follows a "=".
    options[flag] = { type: type.isBoolean ? "boolean" : "string", ...(shortFlag && { short: shortFlag }) };
  }
  const tokens = tokenize(args, options);

  const problems: string[] = [];
  const settings: Assignment[] = [];
  const own = new Map<string, string | boolean>();
  for (const token of tokens) {
    if (token.kind !== "option") continue;
    const { name, rawName, value } = token;
    const setting = byFlag.get(name);
    if (!Object.hasOwn(options, name)) problems.push(explainUnknown(token, Object.keys(ownFlags)));
    else if (options[name]?.type === "string" && !hasValue(token)) problems.push(explainMissing(rawName));
    else if (setting !== undefined) settings.push({ name: setting.name, value: value ?? "true", origin: rawName });
    else if (name === "config" && own.has(name)) problems.push(`${rawName}: given twice: one file is read`);
    else own.set(name, value ?? true);
  }
  if (problems.length === 0) problems.push(...findSurplus(tokens));
  if (problems.length > 0) throw new ConfigError(problems);
  const { config: file, ...rest } = Object.fromEntries(own);
  return { own: rest, settings, file: typeof file === "string" ? file : undefined };
}

/** For commands that take settings and nothing else. @throws ConfigError. */
export function configFromArguments(args: readonly string[]): LoadedConfig {
  const { settings, file } = parseArguments(args);
  return loadConfig({ flags: settings, file });
}

/** Not strict: parseArgs' own errors stop at the first, and know nothing of names that are nearly right. */
function tokenize(args: readonly string[], options: OwnFlags) {
  return parseArgs({ args: [...args], options, strict: false, tokens: true, allowPositionals: true }).tokens;
}

/** Where a flag's value is missing parseArgs takes the next flag for it. `--set-role=` is a value: it unsets. A command's own flags have nothing to unset. */
function hasValue({ name, value, inlineValue }: OptionToken): boolean {
  if (value === undefined || (value === "" && !byFlag.has(name))) return false;
  return inlineValue || !/^-./.test(value);
}

/** Never repeats what follows the flag: it may be a password. */
function explainMissing(rawName: string): string {
  const written = rawName.startsWith("--") ? `${rawName}=-VALUE` : `${rawName}-VALUE`;
  return `${rawName}: expected a value (one that begins with a hyphen is written ${written})`;
}

function explainUnknown({ name, rawName }: OptionToken, ownFlags: readonly string[]): string {
  const secret = settingList.find(([, setting]) => setting.isSecret && setting.name === name.replaceAll("-", "_"))?.[1];
  if (secret !== undefined) {
    return `${rawName}: a password on the command line is visible to everybody: set ${secret.name} in the file, or ${secret.env}`;
  }
  const negated = name.startsWith("no-") ? byFlag.get(name.slice(3)) : undefined;
  if (negated?.type.isBoolean) return `${rawName}: there is no such flag: write --${negated.flag}=false`;
  const hint = suggest(name, flagsByName(ownFlags));
  return `${rawName}: there is no such flag${hint && `: ${hint}`}`;
}

/** Every name that a setting goes by, with its flag; so `--tenant-separator` is told of `--separator`. */
function flagsByName(ownFlags: readonly string[]): Map<string, string> {
  const known = new Map(
    ["config", "help", ...ownFlags].map((flag): [string, string] => [flag.replaceAll("-", "_"), `--${flag}`]),
  );
  for (const [flag, { name, aliases }] of byFlag) {
    for (const written of [flag.replaceAll("-", "_"), name, ...aliases]) known.set(written, `--${flag}`);
  }
  return known;
}

/** What stands for itself: no command takes it beside settings. */
function findSurplus(tokens: readonly Token[]): string[] {
  const at = tokens.findIndex(({ kind }) => kind === "positional");
  const surplus = tokens[at];
  if (surplus?.kind !== "positional") return [];
  const before = tokens[at - 1];
  if (before?.kind === "option" && byFlag.get(before.name)?.type.isBoolean && before.value === undefined) {
    return [`unexpected argument ${quoted(surplus.value)}: write ${before.rawName}=${surplus.value}`];
  }
  return [`unexpected argument ${quoted(surplus.value)}: pgvpd --help lists the commands`];
}
