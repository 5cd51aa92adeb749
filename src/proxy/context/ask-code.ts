/**
 * Runs the resolvers of a level that are functions of the embedding program, beside those that are queries. They are held
 * to the same rules: a time limit, text values, and a failure that ends the login with nothing but the log knowing why.
 */
import type { ResolvedValues, Resolver, ResolveFunction } from "../../config/resolvers-file.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline, raceAbort } from "../../lib/deadline.ts";
import type { Metrics } from "../../observe/metrics.ts";
import type { WhoAsks } from "./call-names.ts";
import { arrayLiteral, type AskResolvers, type ResolverAnswer, type ResolverCall } from "./resolve-context.ts";

/** `askQueries` gets what is a query; the answers come back in the order of the calls. */
export function withCode(askQueries: AskResolvers, who: WhoAsks, clock: Clock, metrics: Metrics): AskResolvers {
  return async (calls) => {
    const queries = calls.filter(({ resolver }) => "query" in resolver.source);
    if (queries.length === calls.length) return askQueries(calls);
    const answers = new Map<ResolverCall, ResolverAnswer>();
    const asked = queries.length === 0 ? Promise.resolve([]) : askQueries(queries);
    const ran = calls.flatMap((call) => {
      const { source } = call.resolver;
      return "resolve" in source
        ? [run(call, source.resolve, who, clock, metrics).then((one) => answers.set(call, one))]
        : [];
    });
    const [fromQueries] = await Promise.all([asked, ...ran]);
    for (const [index, answer] of fromQueries.entries()) answers.set(queries[index] as ResolverCall, answer);
    return calls.map((call) => answers.get(call) as ResolverAnswer);
  };
}

async function run(
  { resolver, values }: ResolverCall,
  resolve: ResolveFunction,
  { loginRole, database }: WhoAsks,
  clock: Clock,
  metrics: Metrics,
): Promise<ResolverAnswer> {
  using deadline = new Deadline(clock, resolver.timeoutMs, () => failed(resolver, "it took too long"));
  const { signal } = deadline;
  const named = Object.fromEntries(resolver.params.map((name, index) => [name, values[index] ?? ""]));
  metrics.resolverExecutions.inc({ resolver: resolver.name });
  const end = metrics.resolverSeconds.startTimer({ resolver: resolver.name });
  try {
    const result = await raceAbort((async () => resolve({ loginRole, database, values: named, signal }))(), signal);
    return {
      columns: resolver.inject.map(({ column }) => column),
      rows: result === undefined ? [] : [rowOf(resolver, result)],
    };
  } catch (cause) {
    metrics.resolverErrors.inc({ resolver: resolver.name });
    throw cause instanceof ProxyError ? cause : failed(resolver, (cause as Error).message, cause);
  } finally {
    end();
  }
}

function rowOf(resolver: Resolver, result: ResolvedValues): (string | null)[] {
  return resolver.inject.map(({ variable }) => {
    const value: unknown = result[variable] ?? null;
    if (value === null || (typeof value === "string" && !value.includes("\0"))) return value;
    const isList = Array.isArray(value) && value.every((one) => typeof one === "string" && !one.includes("\0"));
    if (!isList) throw failed(resolver, `${variable}: expected text, a list of texts or null`);
    return arrayLiteral(value);
  });
}

function failed(resolver: Resolver, detail: string, cause?: unknown): ProxyError {
  return new ProxyError("resolver_failed", { detail: `resolver ${resolver.name}: ${detail}`, cause });
}
