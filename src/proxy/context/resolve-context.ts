/**
 * Derives the rest of a context from the database: each level of the plan is one round trip, what is cached none. A
 * resolver whose input is missing does not run, and its outputs stay unset; one that is required then ends the login.
 */
import { choosesRole } from "../../config/resolver-plan.ts";
import type { Resolver, ResolverPlan } from "../../config/resolvers-file.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import { raceAbort } from "../../lib/deadline.ts";
import type { ContextValue, TenantIdentity } from "../tenant/identity.ts";
import type { ResolverCache } from "./resolver-cache.ts";

/** What a query gave, as text. */
export interface ResolverAnswer {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
}

/** One resolver with the values of its params. */
export interface ResolverCall {
  readonly resolver: Resolver;
  readonly values: readonly string[];
}

/** Runs the calls in one round trip; an answer each, in their order. @throws ProxyError resolver_failed. */
export type AskResolvers = (calls: readonly ResolverCall[]) => Promise<readonly ResolverAnswer[]>;

/** A call that a session's context was made with, and what it gave. */
export interface UsedCall {
  readonly call: ResolverCall;
  readonly outputs: Outputs;
}

export interface Resolved {
  /** The variables that have a value, in the order of the plan. */
  readonly context: readonly ContextValue[];
  /** The role to log in as, where a resolver gives one. */
  readonly loginRole: string | undefined;
  readonly used: readonly UsedCall[];
}

/** Values of a resolver's `inject`, in its order, and the role behind them; null where there is none. */
export type Outputs = readonly (string | null)[];

/** What bytes that are no UTF-8 decode to. */
const REPLACEMENT = "\uFFFD";

/**
 * @throws ProxyError resolver_failed (28000); whatever aborts `signal`.
 */
export async function resolveContext(
  identity: TenantIdentity,
  plan: ResolverPlan,
  ask: AskResolvers,
  cache: Pick<ResolverCache, "run">,
  signal: AbortSignal,
): Promise<Resolved> {
  const known = new Map(identity.context.map(({ name, value }) => [name.toLowerCase(), value]));
  const context: ContextValue[] = [];
  const used: UsedCall[] = [];
  let loginRole: string | undefined;
  for (const level of plan) {
    const calls = level.flatMap((resolver) => callOf(resolver, known) ?? []);
    const askMissing = async (missing: readonly ResolverCall[]): Promise<Outputs[]> => {
      return outputsOfAll(missing, await ask(missing));
    };
    const outputs = await raceAbort(cache.run(identity, calls, askMissing), signal);
    for (const [index, call] of calls.entries()) {
      const values = outputs[index] as Outputs;
      used.push({ call, outputs: values });
      if (call.resolver.roleColumn !== undefined) loginRole = values[call.resolver.inject.length] ?? undefined;
      for (const [at, { variable }] of call.resolver.inject.entries()) {
        const value = values[at] ?? null;
        if (value === null) continue;
        known.set(variable.toLowerCase(), value);
        context.push({ name: variable, value });
      }
    }
  }
  return { context, loginRole, used };
}

/** @throws ProxyError resolver_failed where a resolver should have chosen a role, and has not, or one that tenants may not have. */
export function checkRole(plan: ResolverPlan, role: string | undefined, loginRoles: readonly string[]): void {
  if (!choosesRole(plan) || (role !== undefined && loginRoles.includes(role))) return;
  throw new ProxyError("resolver_failed", { detail: `role ${role ?? "NULL"} is not one of login_roles` });
}

/** @throws ProxyError resolver_failed where an answer is not one of its resolver. */
export function outputsOfAll(calls: readonly ResolverCall[], answers: readonly ResolverAnswer[]): Outputs[] {
  return calls.map(({ resolver }, index) => outputsOf(resolver, answers[index]));
}

/** Undefined where an input is missing, or empty, which is how an unset variable reads. */
function callOf(resolver: Resolver, known: ReadonlyMap<string, string>): ResolverCall | undefined {
  const values = resolver.params.map((name) => known.get(name.toLowerCase()) ?? "");
  if (!values.includes("")) return { resolver, values };
  if (resolver.required) throw failed(resolver, "an input is missing, and it is required");
  return undefined;
}

/** @throws ProxyError resolver_failed where the answer is not one of this resolver. */
function outputsOf(resolver: Resolver, answer: ResolverAnswer | undefined): Outputs {
  const { columns, rows } = answer ?? { columns: [], rows: [] };
  const wanted = [
    ...resolver.inject.map(({ column }) => column),
    ...(resolver.roleColumn === undefined ? [] : [resolver.roleColumn]),
  ];
  const at = wanted.map((column) => {
    const index = columns.indexOf(column);
    if (index === -1) throw failed(resolver, `its query has no column ${column}: it has ${columns.join(", ")}`);
    if (columns.lastIndexOf(column) !== index) throw failed(resolver, `its query has two columns ${column}`);
    return index;
  });
  if (resolver.rows === "one" && rows.length > 1) throw failed(resolver, "its query gave more than one row");
  if (resolver.required && rows.length === 0) throw failed(resolver, "its query gave no row, and it is required");
  const outputs = at.map((index) => {
    const values = rows.map((row) => row[index] ?? null);
    // What a SQL_ASCII database gives may be no text: two such values must not become one.
    if (values.some((value) => value?.includes(REPLACEMENT))) throw failed(resolver, "an output is not UTF-8");
    // Empty text is what an unset variable reads as: one rule for both.
    return resolver.rows === "array" ? arrayLiteral(values) : values[0] || null;
  });
  if (resolver.required && outputs.includes(null)) throw failed(resolver, "an output is NULL, and it is required");
  return outputs;
}

/** As pgvpd_context_array reads it: an array of PostgreSQL's, without the NULLs; null when nothing is left. */
export function arrayLiteral(values: readonly (string | null)[]): string | null {
  const elements = values.flatMap((value) => (value === null ? [] : `"${value.replace(/["\\]/g, "\\$&")}"`));
  return elements.length === 0 ? null : `{${elements.join(",")}}`;
}

function failed(resolver: Resolver, detail: string): ProxyError {
  return new ProxyError("resolver_failed", { detail: `resolver ${resolver.name}: ${detail}` });
}
