/**
 * What the database says about the resolvers' queries: each is prepared there, as the role that runs it, and nothing is
 * executed. A column that was renamed is found before a user finds it.
 */
import { serialize } from "pg-protocol";
import { loadPlan } from "../config/resolver-plan.ts";
import { ResolversError, type Resolver } from "../config/resolvers-file.ts";
import type { Config } from "../config/settings.ts";
import { ProxyError } from "../errors/proxy-error.ts";
import { systemClock } from "../lib/clock.ts";
import { Deadline } from "../lib/deadline.ts";
import { decodeRowDescription, describeErrorResponse, sqlstateOf } from "../protocol/backend-messages.ts";
import { backend } from "../protocol/message-types.ts";
import { searchPathOf } from "../proxy/context/ask-resolvers.ts";
import { readUpstream, unexpected, UpstreamRefusal } from "../proxy/upstream/await-ready.ts";
import { createDial } from "../proxy/upstream/dial.ts";
import { KeyCache } from "../proxy/upstream/key-cache.ts";
import type { OpeningUpstream } from "../proxy/upstream/open-upstream.ts";
import { ask, openOwnSession } from "../proxy/upstream/own-session.ts";
import { UpstreamTls } from "../proxy/upstream/upstream-tls.ts";
import type { Finding } from "./finding.ts";

const LIMIT_MS = 10_000;

/** SQLSTATEs of a table, a function or a type that the search_path does not lead to. */
const NOT_FOUND = ["42P01", "42883", "42704"];

/** Schemas of a list that PUBLIC may create objects in, as SQL writes them. */
const OPEN_SCHEMAS = `SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n
  WHERE n.nspname IN (SELECT pg_catalog.json_array_elements_text($1::pg_catalog.json)) AND EXISTS (
    SELECT FROM pg_catalog.aclexplode(COALESCE(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) AS a
    WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')
  ORDER BY 1`;

/** @param database to prepare the queries in; undefined: it is only said that they are not checked. */
export async function checkResolvers(config: Config, database: string | undefined): Promise<Finding[]> {
  if (config.resolvers === undefined) return [];
  let resolvers: readonly Resolver[];
  try {
    resolvers = loadPlan(config).flat();
  } catch (error) {
    if (!(error instanceof ResolversError)) throw error;
    return error.problems.map((problem) => ({ verdict: "error", text: `resolvers: ${problem}` }));
  }
  const role = config.resolverUser ?? config.loginRoles[0];
  const hasPassword = config.resolverUser !== undefined || config.upstreamPassword !== undefined;
  const valid: Finding = { verdict: "ok", text: `resolvers: ${config.resolvers} is valid` };
  if (database === undefined || role === undefined || !hasPassword) {
    const needed = database === undefined ? "--database NAME" : "resolver_user, or login_roles and upstream_password";
    return [valid, { verdict: "not checked", text: `resolvers' queries: give ${needed}` }];
  }
  try {
    return [valid, ...(await checkQueries(resolvers, role, database, config))];
  } catch (error) {
    return [valid, { verdict: "error", text: `resolvers: ${database} as ${role}: ${explain(error)}` }];
  }
}

async function checkQueries(
  resolvers: readonly Resolver[],
  role: string,
  database: string,
  config: Config,
): Promise<Finding[]> {
  using deadline = new Deadline(systemClock, LIMIT_MS, () => new ProxyError("upstream_timeout"));
  const { signal } = deadline;
  const dial = createDial(config, config.upstreamTls ? new UpstreamTls(config) : undefined);
  const own = config.resolverPassword === undefined ? {} : { upstreamPassword: config.resolverPassword };
  const services = { config: { ...config, ...own }, dial, keyCache: new KeyCache() };
  const login = { role, database, secrets: {}, applicationName: "pgvpd check" };
  using session = await openOwnSession(login, services, signal);
  const findings = await checkSearchPath(session, config.resolverSearchPath, signal);
  for (const resolver of resolvers) findings.push(...(await checkQuery(session, resolver, config, signal)));
  return findings;
}

/** A function or operator that anybody can create there is found by queries, whatever they qualify. */
async function checkSearchPath(
  session: OpeningUpstream,
  schemas: readonly string[],
  signal: AbortSignal,
): Promise<Finding[]> {
  const found = await ask(session, { sql: OPEN_SCHEMAS, values: [JSON.stringify(schemas)] }, signal);
  return found.map(([schema]) => ({
    verdict: "warning",
    text: `resolver_search_path: everybody may create objects in ${schema}, and queries would find them: REVOKE CREATE ON SCHEMA ${schema} FROM PUBLIC`,
  }));
}

async function checkQuery(
  session: OpeningUpstream,
  resolver: Resolver,
  config: Config,
  signal: AbortSignal,
): Promise<Finding[]> {
  if (!("query" in resolver.source)) return [];
  const { query } = resolver.source;
  const text = (problem: string): string => `resolver ${resolver.name}: ${problem}`;
  await setPath(session, searchPathOf(config.resolverSearchPath), signal);
  const described = await describeQuery(session, query, signal);
  if ("error" in described) return [{ verdict: "error", text: text(described.error) }];
  const wanted = [
    ...resolver.inject.map(({ column }) => column),
    ...(resolver.roleColumn === undefined ? [] : [resolver.roleColumn]),
  ];
  const missing = wanted.filter((column) => !described.columns.includes(column));
  const findings: Finding[] = missing.map((column) => ({
    verdict: "error",
    text: text(`its query has no column ${column}: it has ${described.columns.join(", ")}`),
  }));
  if (missing.length === 0) {
    const types = described.types.map((type, index) => `$${index + 1} ${type}`).join(", ");
    findings.push({ verdict: "ok", text: text(`can be prepared (${types === "" ? "no parameters" : types})`) });
  }
  await setPath(session, searchPathOf([]), signal);
  const qualified = await describeQuery(session, query, signal);
  if ("error" in qualified && NOT_FOUND.includes(qualified.sqlstate)) {
    findings.push({
      verdict: "warning",
      text: text(`a name without its schema is looked up in resolver_search_path: ${qualified.error}`),
    });
  }
  return findings;
}

async function setPath(session: OpeningUpstream, path: string, signal: AbortSignal): Promise<void> {
  await ask(session, { sql: "SELECT pg_catalog.set_config('search_path', $1, false)", values: [path] }, signal);
}

type Described =
  | { readonly columns: readonly string[]; readonly types: readonly string[] }
  | { readonly error: string; readonly sqlstate: string };

/** Parse and Describe, without Bind and Execute. [PG protocol-flow/EXT-QUERY] */
async function describeQuery(session: OpeningUpstream, sql: string, signal: AbortSignal): Promise<Described> {
  const { stream } = session;
  stream.write(Buffer.concat([serialize.parse({ text: sql }), serialize.describe({ type: "S" }), serialize.sync()]));
  let columns: readonly string[] = [];
  let oids: number[] = [];
  let failure: Described | undefined;
  for (;;) {
    const message = await readUpstream(stream, signal);
    if (message.type === backend.parameterDescription) {
      oids = Array.from({ length: message.body.readUInt16BE(0) }, (_, at) => message.body.readUInt32BE(2 + 4 * at));
    } else if (message.type === backend.rowDescription) columns = decodeRowDescription(message.body);
    else if (message.type === backend.errorResponse) {
      failure = { error: describeErrorResponse(message.body), sqlstate: sqlstateOf(message.body) };
    } else if (message.type === backend.readyForQuery) break;
    else if (![backend.parseComplete, backend.noData, backend.noticeResponse].includes(message.type as never)) {
      throw unexpected(message);
    }
  }
  if (failure !== undefined) return failure;
  const rows = await ask(
    session,
    {
      sql: "SELECT pg_catalog.format_type(t.oid, NULL) FROM pg_catalog.unnest($1::pg_catalog.oid[]) WITH ORDINALITY AS t(oid, n) ORDER BY n",
      values: [`{${oids.join(",")}}`],
    },
    signal,
  );
  return { columns, types: rows.map(([type]) => type ?? "") };
}

function explain(error: unknown): string {
  if (error instanceof UpstreamRefusal) return describeErrorResponse(error.response.body);
  return error instanceof ProxyError ? (error.detail ?? error.message) : (error as Error).message;
}
