/**
 * resolvers.toml: queries that derive further context from the database. Read whole, checked whole: every problem is told
 * at once, with the line of its resolver. What only the database can say about a query, `pgvpd check` asks it.
 */
import { isUtf8 } from "node:buffer";
import { readFileSync } from "node:fs";
import { parse, TomlError } from "smol-toml";
import { checkInjectedVariable } from "./names.ts";
import { nearest } from "./nearest-name.ts";
import { oneLine, quoted } from "./one-line.ts";
import { explainFileError } from "./secret-file.ts";
import { SettingError } from "./setting-types.ts";
import { outlineQuery } from "./sql-statements.ts";

const MAX_FILE_BYTES = 1024 * 1024;
const MAX_RESOLVERS = 100;
const MAX_NAME_LENGTH = 100;
const MAX_TTL_SECONDS = 86_400;
const MAX_TIMEOUT_SECONDS = 60;
const DEFAULT_TIMEOUT_SECONDS = 2;

/** A variable, and the column that it gets its value from. */
export interface Injection {
  readonly variable: string;
  readonly column: string;
}

export interface Resolver {
  readonly name: string;
  /** What is asked: SQL, or a function of the program that embeds pgvpd. */
  readonly source: { readonly query: string } | { readonly resolve: ResolveFunction };
  /** Variables of the context, in the order of $1, $2, ... */
  readonly params: readonly string[];
  readonly inject: readonly Injection[];
  /** The column with the role to log in as; one of login_roles. */
  readonly roleColumn: string | undefined;
  /** Without a row, or with NULL in an output, there is no session. */
  readonly required: boolean;
  /** 0: asked at every login. */
  readonly cacheTtlMs: number;
  readonly timeoutMs: number;
  /** one: at most one row. array: each output is the array of a column over all rows. */
  readonly rows: "one" | "array";
  /** What becomes of sessions that are open when the database says that an answer has changed. */
  readonly onChange: "keep" | "terminate";
}

/** What a resolver in code is called with. */
export interface ResolveRequest {
  readonly loginRole: string;
  readonly database: string;
  /** The values of `params`, by their names. */
  readonly values: Readonly<Record<string, string>>;
  /** Aborted when the resolver's time is up. */
  readonly signal: AbortSignal;
}

/** Gives a value for each variable of `inject`; null, or nothing, leaves one unset. */
export type ResolveFunction = (
  request: ResolveRequest,
) => ResolvedValues | undefined | Promise<ResolvedValues | undefined>;

export type ResolvedValues = Readonly<Record<string, string | readonly string[] | null | undefined>>;

/** A resolver in code: the fields of resolvers.toml, with a function in place of the query. */
export interface CodeResolver {
  readonly name: string;
  readonly params?: readonly string[];
  readonly inject: readonly string[];
  readonly required?: boolean;
  readonly dependsOn?: readonly string[];
  /** Seconds. */
  readonly cacheTtl?: number;
  /** Seconds. */
  readonly timeout?: number;
  readonly resolve: ResolveFunction;
}

/** Resolvers in the order they run: those of one level do not depend on each other. */
export type ResolverPlan = readonly (readonly Resolver[])[];

/** What is wrong with a file, a problem a line. */
export class ResolversError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join("\n"));
    this.name = "ResolversError";
    this.problems = problems;
  }
}

/**
 * @param path of resolvers.toml; undefined where there is none.
 * @param contextVariables what the user name gives.
 * @throws ResolversError.
 */
export function loadResolvers(
  path: string | undefined,
  code: readonly CodeResolver[],
  contextVariables: readonly string[],
): ResolverPlan {
  const plan = parseResolvers(path === undefined ? "" : readText(path), path ?? "", contextVariables, code);
  if (path !== undefined && plan.length === 0) throw new ResolversError([`${path}: there is no [[resolver]] in it`]);
  return plan;
}

function readText(path: string): string {
  try {
    const bytes = readFileSync(path);
    if (bytes.length > MAX_FILE_BYTES) throw new Error("it is larger than 1 MiB");
    if (!isUtf8(bytes)) throw new Error("it is not UTF-8");
    return bytes.toString();
  } catch (error) {
    throw new ResolversError([`${path}: ${explainFileError(error as NodeJS.ErrnoException)}`]);
  }
}

/** A resolver as it stands in the file. */
interface Entry {
  readonly resolver: Resolver;
  readonly dependsOn: readonly string[];
  /** `resolvers.toml:12: resolver "x"` */
  readonly where: string;
}

/** @throws ResolversError. */
export function parseResolvers(
  text: string,
  path: string,
  contextVariables: readonly string[],
  code: readonly CodeResolver[] = [],
): ResolverPlan {
  const problems: string[] = [];
  const tables = readTables(text, path, problems);
  const lines = headerLines(text);
  const isEachSeen = lines.length === tables.length;
  const entries = [
    ...tables.map((table, index) => readEntry(table, isEachSeen ? `${path}:${lines[index]}` : path, problems)),
    ...code.map((resolver) => readCode(resolver, problems)),
  ];
  checkNames(entries, problems);
  checkInjections(entries, contextVariables, problems);
  const plan = orderByDependency(entries, contextVariables, problems);
  if (problems.length > 0) throw new ResolversError(problems);
  return plan;
}

function readTables(text: string, path: string, problems: string[]): Record<string, unknown>[] {
  let document: Record<string, unknown>;
  try {
    document = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    throw new ResolversError([`${path}:${error.line}: ${error.message.split("\n")[0]}`]);
  }
  for (const key of Object.keys(document)) {
    if (key === "resolver") continue;
    problems.push(`${path}${lineOf(key, text)}: there is no ${quoted(key)}: a resolver begins with [[resolver]]`);
  }
  const list = document["resolver"] ?? [];
  if (!Array.isArray(list) || !list.every(isTable)) {
    const where = `${path}${lineOf("resolver", text)}`;
    throw new ResolversError([...problems, `${where}: a resolver begins with [[resolver]], in double brackets`]);
  }
  if (list.length > MAX_RESOLVERS) problems.push(`${path}: at most ${MAX_RESOLVERS} resolvers`);
  return list;
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/** The line of each `[[resolver]]`; also of what only looks so, inside a string. */
function headerLines(text: string): number[] {
  return text.split("\n").flatMap((line, index) => (/^\s*\[\[\s*resolver\s*\]\]/.test(line) ? [index + 1] : []));
}

/** Of the first line that has `word`. */
function lineOf(word: string, text: string): string {
  const index = text.split("\n").findIndex((line) => line.includes(word));
  return index === -1 ? "" : `:${index + 1}`;
}

/** `: did you mean X?` behind a name that is none, or nothing. */
function meaning(name: string, known: readonly string[]): string {
  const hint = nearest(name, new Map(known.map((one) => [one.toLowerCase(), one])));
  return hint && `: ${hint}`;
}

type Table = Readonly<Record<string, unknown>>;

const FIELDS = [
  "name",
  "query",
  "params",
  "inject",
  "inject_role",
  "required",
  "depends_on",
  "cache_ttl",
  "timeout",
  "rows",
  "on_change",
];

function readEntry(table: Table, line: string, problems: string[]): Entry {
  const name = typeof table["name"] === "string" ? table["name"] : "";
  const where = `${line}: resolver ${quoted(name)}`;
  const complain = (text: string): void => void problems.push(`${where}: ${text}`);
  if (name === "" || name.length > MAX_NAME_LENGTH || oneLine(name) !== name) {
    complain(`name: expected text of one line, at most ${MAX_NAME_LENGTH} characters`);
  }
  for (const key of Object.keys(table)) {
    if (FIELDS.includes(key) || table[key] === undefined) continue;
    complain(`there is no ${quoted(key)}${meaning(key, FIELDS)}`);
  }

  const query = typeof table["query"] === "string" ? table["query"] : "";
  const params = textList(table, "params", complain);
  const required = choice(table, "required", [false, true], complain);
  const rows = choice(table, "rows", ["one", "array"], complain);
  const roleColumn = readRoleColumn(table["inject_role"], rows, complain);
  checkQuery(query, params, complain);
  return {
    where,
    dependsOn: textList(table, "depends_on", complain),
    resolver: {
      name,
      source: { query },
      params,
      inject: readInjections(table["inject"], required || roleColumn !== undefined, complain),
      roleColumn,
      required,
      cacheTtlMs: secondsOf(table, "cache_ttl", 0, MAX_TTL_SECONDS, 0, complain),
      timeoutMs: secondsOf(table, "timeout", 0.001, MAX_TIMEOUT_SECONDS, DEFAULT_TIMEOUT_SECONDS, complain),
      rows,
      onChange: choice(table, "on_change", ["keep", "terminate"], complain),
    },
  };
}

/** The same rules for a resolver in code. */
function readCode({ resolve, inject, dependsOn, cacheTtl, ...fields }: CodeResolver, problems: string[]): Entry {
  const entry = readEntry(
    {
      ...fields,
      query: placeholderQuery(fields.params?.length ?? 0),
      inject: Object.fromEntries(inject.map((variable) => [variable, variable])),
      depends_on: dependsOn,
      cache_ttl: cacheTtl,
    },
    "resolvers option",
    problems,
  );
  if (typeof resolve !== "function") problems.push(`${entry.where}: resolve: expected a function`);
  return { ...entry, resolver: { ...entry.resolver, source: { resolve } } };
}

/** One that names as many parameters as there are, for the check that the file's queries go through. */
function placeholderQuery(params: number): string {
  return `SELECT ${Array.from({ length: params }, (_, index) => `$${index + 1}`).join(", ")}`;
}

type Complain = (text: string) => void;

function checkQuery(query: string, params: readonly string[], complain: Complain): void {
  const { statements, highestParameter } = outlineQuery(query);
  if (statements === 0) complain("query: expected one statement");
  if (statements > 1) complain("query: several statements; a resolver is one");
  if (statements === 1 && highestParameter !== params.length) {
    complain(`query: its highest parameter is $${highestParameter}, and params has ${params.length}`);
  }
}

/** One that is required, or gives the role, may inject nothing. */
function readInjections(value: unknown, mayBeNone: boolean, complain: Complain): Injection[] {
  const pairs = isTable(value) ? Object.entries(value) : [];
  const mayBeEmpty = mayBeNone && (value === undefined || isTable(value));
  if (pairs.length === 0 && !mayBeEmpty) complain('inject: expected { "app.variable" = "column" }');
  const found: Injection[] = [];
  for (const [variable, column] of pairs) {
    if (typeof column !== "string" || column === "") complain(`inject: ${quoted(variable)}: expected a column's name`);
    else found.push({ variable, column });
    try {
      checkInjectedVariable(variable);
    } catch (error) {
      if (!(error instanceof SettingError)) throw error;
      complain(`inject: ${error.message}`);
    }
  }
  return found;
}

function readRoleColumn(value: unknown, rows: "one" | "array", complain: Complain): string | undefined {
  if (value === undefined) return undefined;
  if (rows === "array") complain('inject_role: a session has one role: it needs rows = "one"');
  if (typeof value === "string" && value !== "") return value;
  complain("inject_role: expected a column's name");
  return undefined;
}

function textList(table: Table, field: string, complain: Complain): string[] {
  const value = table[field] ?? [];
  if (Array.isArray(value) && value.every((one): one is string => typeof one === "string" && one !== "")) return value;
  complain(`${field}: expected a list of names, as ["app.user_id"]`);
  return [];
}

/** The first choice is the default. */
function choice<const T extends string | boolean>(
  table: Table,
  field: string,
  choices: readonly [T, ...T[]],
  complain: Complain,
): T {
  const value = table[field] ?? choices[0];
  const found = choices.find((one) => one === value);
  if (found === undefined) complain(`${field}: expected ${choices.join(" or ")}`);
  return found ?? choices[0];
}

function secondsOf(
  table: Table,
  field: string,
  min: number,
  max: number,
  fallback: number,
  complain: Complain,
): number {
  const value = table[field] ?? fallback;
  const isRight = typeof value === "number" && value >= min && value <= max;
  if (!isRight) complain(`${field}: expected seconds, from ${min} to ${max}`);
  return Math.round((isRight ? value : fallback) * 1000);
}

function checkNames(entries: readonly Entry[], problems: string[]): void {
  const seen = new Map<string, string>();
  for (const { resolver, where } of entries) {
    const before = seen.get(resolver.name);
    if (before !== undefined) problems.push(`${where}: the name is taken: ${before}`);
    seen.set(resolver.name, where);
  }
  for (const { dependsOn, where } of entries) {
    for (const name of dependsOn) {
      if (seen.has(name)) continue;
      problems.push(`${where}: depends_on: there is no resolver ${quoted(name)}${meaning(name, [...seen.keys()])}`);
    }
  }
}

function checkInjections(entries: readonly Entry[], contextVariables: readonly string[], problems: string[]): void {
  const givers = new Map(contextVariables.map((name) => [name.toLowerCase(), "the user name"]));
  let roleGiver: string | undefined;
  for (const { resolver, where } of entries) {
    if (resolver.roleColumn !== undefined) {
      if (roleGiver !== undefined) problems.push(`${where}: inject_role: the role comes from ${roleGiver} already`);
      roleGiver ??= `resolver ${quoted(resolver.name)}`;
    }
    for (const { variable } of resolver.inject) {
      const giver = givers.get(variable.toLowerCase());
      if (giver !== undefined) problems.push(`${where}: inject: ${quoted(variable)} comes from ${giver} already`);
      givers.set(variable.toLowerCase(), `resolver ${quoted(resolver.name)}`);
    }
  }
}

/** A resolver follows those that it names, and those that give its params. */
function orderByDependency(
  entries: readonly Entry[],
  contextVariables: readonly string[],
  problems: string[],
): ResolverPlan {
  const isStatic = new Set(contextVariables.map((name) => name.toLowerCase()));
  const giverOf = new Map(
    entries.flatMap(({ resolver }) =>
      resolver.inject.map(({ variable }): [string, string] => [variable.toLowerCase(), resolver.name]),
    ),
  );
  const names = new Set(entries.map(({ resolver }) => resolver.name));
  const waiting = new Map<Entry, Set<string>>();
  for (const entry of entries) {
    const needs = new Set(entry.dependsOn.filter((name) => names.has(name)));
    for (const param of entry.resolver.params) {
      const giver = giverOf.get(param.toLowerCase());
      if (giver !== undefined) needs.add(giver);
      else if (!isStatic.has(param.toLowerCase())) {
        problems.push(`${entry.where}: params: nothing gives ${quoted(param)}: no context variable, no resolver`);
      }
    }
    waiting.set(entry, needs);
  }

  const plan: Resolver[][] = [];
  const done = new Set<string>();
  while (waiting.size > 0) {
    const ready = [...waiting].filter(([, needs]) => [...needs].every((name) => done.has(name))).map(([one]) => one);
    const circle = ready.length === 0 ? circleIn(waiting) : [];
    const [first] = circle;
    if (first !== undefined) {
      const members = [...circle, first].map(({ resolver }) => resolver.name);
      problems.push(`${first.where}: resolvers need each other: ${members.join(" needs ")}`);
    }
    for (const entry of [...ready, ...circle]) {
      waiting.delete(entry);
      done.add(entry.resolver.name);
    }
    plan.push(ready.map(({ resolver }) => resolver));
  }
  return plan;
}

/** Resolvers of which each needs the next, and the last one the first. Each of `waiting` needs another one of them. */
function circleIn(waiting: ReadonlyMap<Entry, ReadonlySet<string>>): Entry[] {
  const byName = new Map([...waiting.keys()].map((entry) => [entry.resolver.name, entry]));
  const path: Entry[] = [];
  let [entry] = waiting.keys();
  while (entry !== undefined && !path.includes(entry)) {
    path.push(entry);
    const next = [...(waiting.get(entry) ?? [])].find((name) => byName.has(name));
    entry = next === undefined ? undefined : byName.get(next);
  }
  return entry === undefined ? path : path.slice(path.indexOf(entry));
}
