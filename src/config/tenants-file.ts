/**
 * tenants.toml: settings that hold for some tenants alone, under the names that they have in pgvpd.conf. The first entry that
 * matches a tenant is its own; what does not stand there is as in pgvpd.conf. Every problem is told at once, with its line.
 */
import { isUtf8 } from "node:buffer";
import { readFileSync } from "node:fs";
import { parse, TomlError } from "smol-toml";
import { ConfigError } from "./config-error.ts";
import { nearest } from "./nearest-name.ts";
import { oneLine, quoted } from "./one-line.ts";
import { explainFileError } from "./secret-file.ts";
import { integer, seconds, SettingError, text, type SettingType } from "./setting-types.ts";
import { settings, type Config } from "./settings.ts";
import { TenantMatch } from "./tenant-name.ts";

const MAX_FILE_BYTES = 16 * 1024 * 1024;
const MAX_ENTRIES = 10_000;
const MAX_REASON_LENGTH = 200;

/** What an entry says. A key that is not there is as in pgvpd.conf; one that is undefined is a limit taken away. */
export interface TenantOverrides {
  /** Why the tenants may not connect. */
  readonly denied?: string;
  readonly maxConnections?: number | undefined;
  readonly rateLimit?: number | undefined;
  readonly poolSize?: number | undefined;
  readonly silenceMs?: number;
  readonly queryMs?: number;
  readonly transactionMs?: number;
  readonly heldMs?: number;
  readonly idleMs?: number;
  readonly upstreamHost?: string;
  readonly upstreamPort?: number;
  readonly database?: string;
}

export interface TenantEntry {
  readonly matches: readonly TenantMatch[];
  readonly overrides: TenantOverrides;
}

const limit = integer(1, 1_000_000);
const time = seconds(0, 86_400);

/** A limit, or none. */
const orNone = (type: SettingType<number>): SettingType<number | undefined> => ({
  allowed: `${type.allowed}, or "none"`,
  parse(input) {
    if (input === "none") return undefined;
    try {
      return type.parse(input);
    } catch (error) {
      throw error instanceof SettingError ? new SettingError(`${error.message}, or "none"`) : error;
    }
  },
});

/** The settings that an entry may have, and what they become. */
const FIELDS: Readonly<Record<string, readonly [keyof TenantOverrides, SettingType<unknown>]>> = {
  tenant_max_connections: ["maxConnections", orNone(limit)],
  tenant_rate_limit: ["rateLimit", orNone(limit)],
  tenant_pool_size: ["poolSize", orNone(integer(1, 100_000))],
  tenant_query_timeout: ["silenceMs", time],
  tenant_idle_timeout: ["silenceMs", time],
  query_timeout: ["queryMs", time],
  transaction_timeout: ["transactionMs", time],
  idle_transaction_timeout: ["heldMs", time],
  client_idle_timeout: ["idleMs", time],
  upstream_host: ["upstreamHost", settings.upstreamHost.type],
  upstream_port: ["upstreamPort", settings.upstreamPort.type],
  database: ["database", text("the name of a database", checkDatabase)],
};
const NAMES = ["match", "deny", ...Object.keys(FIELDS)];

/** No entries where `tenants` is not set. @throws ConfigError. */
export function loadTenants({ tenants: path, poolMode }: Pick<Config, "tenants" | "poolMode">): TenantEntry[] {
  if (path === undefined) return [];
  const entries = parseTenants(readText(path), oneLine(path));
  const needsPool = poolMode === "none" && entries.some(({ overrides }) => overrides.poolSize !== undefined);
  if (needsPool) throw new ConfigError([`${path}: tenant_pool_size needs pool_mode = session or transaction`]);
  return entries;
}

function readText(path: string): string {
  try {
    const bytes = readFileSync(path);
    if (bytes.length > MAX_FILE_BYTES) throw new Error("it is larger than 16 MiB");
    if (!isUtf8(bytes)) throw new Error("it is not UTF-8");
    return bytes.toString();
  } catch (error) {
    throw new ConfigError([`${path}: ${explainFileError(error as NodeJS.ErrnoException)}`]);
  }
}

type Table = Readonly<Record<string, unknown>>;

/** @throws ConfigError. */
export function parseTenants(source: string, path: string): TenantEntry[] {
  const problems: string[] = [];
  const tables = readTables(source, path, problems);
  const lines = source.split("\n").flatMap((line, index) => (/^\s*\[\[\s*tenant\s*\]\]/.test(line) ? [index + 1] : []));
  const isEachSeen = lines.length === tables.length;
  const entries = tables.map((table, index) =>
    readEntry(table, isEachSeen ? `${path}:${lines[index]}` : path, problems),
  );
  if (problems.length > 0) throw new ConfigError(problems);
  return entries;
}

function readTables(source: string, path: string, problems: string[]): Table[] {
  let document: Table;
  try {
    document = parse(source);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new ConfigError([`${path}:${error.line}: ${error.message.split("\n")[0]}`]);
  }
  for (const key of Object.keys(document)) {
    if (key !== "tenant") problems.push(`${path}: there is no ${quoted(key)}: an entry begins with [[tenant]]`);
  }
  const list = document["tenant"] ?? [];
  if (!Array.isArray(list) || !list.every(isTable)) {
    throw new ConfigError([...problems, `${path}: an entry begins with [[tenant]], in double brackets`]);
  }
  if (list.length > MAX_ENTRIES) problems.push(`${path}: at most ${MAX_ENTRIES} entries`);
  return list;
}

function isTable(value: unknown): value is Table {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function readEntry(table: Table, where: string, problems: string[]): TenantEntry {
  const complain = (problem: string): void => void problems.push(`${where}: ${problem}`);
  const overrides: Partial<Record<keyof TenantOverrides, unknown>> = {};
  for (const [name, value] of Object.entries(table)) {
    if (name === "match") continue;
    if (name === "deny") {
      const denied = readDenial(value, complain);
      if (denied !== undefined) overrides.denied = denied;
      continue;
    }
    const field = Object.hasOwn(FIELDS, name) ? FIELDS[name] : undefined;
    if (field === undefined) {
      const hint = nearest(name, new Map(NAMES.map((known) => [known, known])));
      complain(`there is no ${quoted(name)}${hint && `: ${hint}`}`);
      continue;
    }
    const [key, type] = field;
    if (Object.hasOwn(overrides, key)) complain(`${name} is set twice, under two names`);
    if (typeof value !== "string" && typeof value !== "number" && typeof value !== "bigint") {
      complain(`${name}: expected ${type.allowed}`);
      continue;
    }
    try {
      overrides[key] = type.parse(String(value));
    } catch (error) {
      if (!(error instanceof SettingError)) throw error;
      complain(`${name} ${quoted(String(value))}: ${error.message}`);
    }
  }
  return { matches: readMatches(table["match"], complain), overrides: overrides as TenantOverrides };
}

type Complain = (text: string) => void;

function readMatches(value: unknown, complain: Complain): TenantMatch[] {
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  const texts = list.filter((one): one is string => typeof one === "string" && one !== "");
  if (texts.length !== list.length || texts.length === 0) {
    complain('match: expected a tenant or a list of them, as "acme*" or ["acme", "globex"]');
  }
  return texts.map((one) => new TenantMatch(one));
}

/** `true`, or why. */
function readDenial(value: unknown, complain: Complain): string | undefined {
  if (value === false) return undefined;
  if (value === true) return "tenants denies it";
  if (typeof value === "string" && value !== "" && value.length <= MAX_REASON_LENGTH && oneLine(value) === value) {
    return value;
  }
  complain(`deny: expected true, false or the reason, one line of at most ${MAX_REASON_LENGTH} characters`);
  return undefined;
}

function checkDatabase(name: string): void {
  if (Buffer.byteLength(name) > 63) throw new SettingError("expected the name of a database, at most 63 bytes");
}
