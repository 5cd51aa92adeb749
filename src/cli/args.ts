/**
 * The command line as assignments of settings: every setting that is no secret has a flag, `--name value` or
 * `--name=value`; a bare boolean flag means true. Flags of a subcommand's own are declared by it.
 */
import { parseArgs, type ParseArgsConfig } from "node:util";
import type { Assignment } from "../config/assignment.ts";
import { ConfigError } from "../config/config-error.ts";
import { loadConfig, type LoadedConfig } from "../config/load.ts";
import { suggest } from "../config/nearest-name.ts";
import { settingList } from "../config/settings.ts";

type OwnFlags = NonNullable<ParseArgsConfig["options"]>;

export interface ParsedArguments {
  /** Values of the subcommand's own flags, by name. */
  readonly own: Readonly<Record<string, string | boolean | undefined>>;
  readonly positionals: readonly string[];
  readonly settings: readonly Assignment[];
  /** `--config`. */
  readonly file: string | undefined;
}

/** @throws ConfigError naming every flag that is unknown, misses its value, or would show a secret. */
export function parseArguments(args: readonly string[], ownFlags: OwnFlags = {}): ParsedArguments {
  const byFlag = new Map(
    settingList.flatMap(([, setting]) => (setting.flag === undefined ? [] : [[setting.flag, setting]])),
  );
  const options: OwnFlags = { ...ownFlags, config: { type: "string" } };
  for (const [flag, { type, shortFlag }] of byFlag) {
    // A boolean may stand bare, so its value is only what follows a "=".
    options[flag] = { type: type.isBoolean ? "boolean" : "string", ...(shortFlag && { short: shortFlag }) };
  }
  const { tokens } = parseArgs({ args: [...args], options, strict: false, tokens: true, allowPositionals: true });

  const problems: string[] = [];
  const settings: Assignment[] = [];
  const own: Record<string, string | boolean> = {};
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    const { name, rawName, value } = token;
    const setting = byFlag.get(name);
    if (options[name] === undefined) problems.push(unknownFlag(rawName, [...Object.keys(options)]));
    else if (value === undefined && options[name].type === "string") problems.push(`${rawName}: expected a value`);
    else if (setting === undefined) own[name] = value ?? true;
    else settings.push({ name: setting.name, value: value ?? "true", origin: rawName });
  }
  if (problems.length > 0) throw new ConfigError(problems);
  const { config: file, ...rest } = own;
  return { own: rest, positionals, settings, file: typeof file === "string" ? file : undefined };
}

/** For commands that take settings and nothing else. @throws ConfigError. */
export function configFromArguments(args: readonly string[]): LoadedConfig {
  const { settings, file, positionals } = parseArguments(args);
  const [surplus] = positionals;
  if (surplus !== undefined)
    throw new ConfigError([`unexpected argument "${surplus}": pgvpd --help lists the commands`]);
  return loadConfig({ flags: settings, file });
}

function unknownFlag(rawName: string, known: readonly string[]): string {
  const name = rawName.replace(/^-+/, "");
  const secret = settingList.find(([, setting]) => setting.isSecret && setting.name === name.replaceAll("-", "_"))?.[1];
  if (secret !== undefined) {
    return `${rawName}: a password on the command line is visible to everybody: set ${secret.name} in the file, or ${secret.env}`;
  }
  const hint = suggest(name, known);
  return `${rawName}: there is no such flag${hint && `: ${hint.replace(/mean (\w)/, "mean --$1")}`}`;
}
