/** What becomes of answers: chains, what is missing, what is refused, and lists of values. */
import { describe, expect, it } from "vitest";
import type { Resolver, ResolverPlan } from "../../../../src/config/resolvers-file.ts";
import { ProxyError } from "../../../../src/errors/proxy-error.ts";
import { Metrics } from "../../../../src/observe/metrics.ts";
import {
  resolveContext,
  type ResolverAnswer,
  type ResolverCall,
} from "../../../../src/proxy/context/resolve-context.ts";
import { ResolverCache } from "../../../../src/proxy/context/resolver-cache.ts";
import type { ContextValue, TenantIdentity } from "../../../../src/proxy/tenant/identity.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { resolverOf } from "./resolver-calls.ts";

type Rows = readonly (readonly (string | null)[])[];
type Database = Readonly<Record<string, (values: readonly string[]) => Rows | ResolverAnswer>>;

interface Resolved {
  readonly context: Readonly<Record<string, string>>;
  /** Each round trip: `resolver value ...`. */
  readonly asked: readonly (readonly string[])[];
}

async function resolve(
  plan: ResolverPlan,
  database: Database,
  context: readonly ContextValue[] = TENANT,
): Promise<Resolved> {
  const identity = { database: "shop", loginRole: "app_user", context } as TenantIdentity;
  const asked: string[][] = [];
  const ask = (calls: readonly ResolverCall[]): Promise<ResolverAnswer[]> => {
    asked.push(calls.map(({ resolver, values }) => [resolver.name, ...values].join(" ")));
    return Promise.resolve(
      calls.map(({ resolver, values }) => {
        const answer = database[resolver.name]?.(values) ?? [];
        return "columns" in answer ? answer : { columns: resolver.inject.map(({ column }) => column), rows: answer };
      }),
    );
  };
  const cache = new ResolverCache(new FakeClock(), new Metrics());
  const resolved = await resolveContext(identity, plan, ask, cache, new AbortController().signal);
  return { context: Object.fromEntries(resolved.context.map(({ name, value }) => [name, value])), asked };
}

/** Why a login is refused, as the log has it. */
async function refusal(plan: ResolverPlan, database: Database): Promise<string> {
  try {
    await resolve(plan, database);
  } catch (error) {
    if (error instanceof ProxyError && error.code === "resolver_failed") return error.detail ?? "";
    throw error;
  }
  throw new Error("expected a refusal");
}

const TENANT = [{ name: "app.tenant", value: "acme" }];
const one = (more: Partial<Resolver> = {}): ResolverPlan => [[resolverOf("org", more)]];

describe("a chain", () => {
  const plan = [
    [resolverOf("org"), resolverOf("plan")],
    [resolverOf("team", { params: ["app.ORG", "app.tenant"] })],
    [resolverOf("cases", { params: ["app.team"] })],
  ];

  it("hands the outputs of each level to the next, one round trip a level", async () => {
    const { context, asked } = await resolve(plan, {
      org: ([tenant]) => [[`org of ${tenant}`]],
      plan: () => [["gold"]],
      team: ([org]) => [[`team of ${org}`]],
      cases: ([team]) => [[`cases of ${team}`]],
    });
    expect(context).toEqual({
      "app.org": "org of acme",
      "app.plan": "gold",
      "app.team": "team of org of acme",
      "app.cases": "cases of team of org of acme",
    });
    expect(asked).toEqual([["org acme", "plan acme"], ["team org of acme acme"], ["cases team of org of acme"]]);
  });

  it.each<[string, Rows]>([
    ["NULL", [[null]]],
    ["no row", []],
    ["an empty text, which reads as NULL in policies", [[""]]],
  ])("ends where a resolver gives %s: what needs it is skipped, and unset", async (_what, rows) => {
    const { context, asked } = await resolve(plan, { org: () => rows, plan: () => [["gold"]] });
    expect(context).toEqual({ "app.plan": "gold" });
    expect(asked).toEqual([["org acme", "plan acme"]]);
  });

  it("ends the login where a required resolver would have to be skipped", async () => {
    const [first = [], second = [], [cases] = []] = plan;
    const required = [first, second, [{ ...(cases as Resolver), required: true }]];
    expect(await refusal(required, { org: () => [] })).toBe("resolver cases: an input is missing, and it is required");
  });

  it("skips a resolver whose value in the user name is empty", async () => {
    const { asked } = await resolve(one({ params: ["app.user"] }), {}, [...TENANT, { name: "app.user", value: "" }]);
    expect(asked).toEqual([]);
  });
});

describe("an answer", () => {
  it("may have columns that nobody injects, in any order", async () => {
    const inject = [
      { variable: "app.a", column: "a" },
      { variable: "app.b", column: "b" },
    ];
    const answer = { columns: ["x", "b", "a"], rows: [["X", "B", "A"]] };
    expect((await resolve(one({ inject }), { org: () => answer })).context).toEqual({ "app.a": "A", "app.b": "B" });
  });

  it.each<[string, Partial<Resolver>, ResolverAnswer, string]>([
    ["has two rows", {}, { columns: ["x"], rows: [["1"], ["2"]] }, "its query gave more than one row"],
    ["has two rows of NULL", {}, { columns: ["x"], rows: [[null], [null]] }, "its query gave more than one row"],
    ["lacks a column", {}, { columns: ["X"], rows: [["1"]] }, "its query has no column x: it has X"],
    ["lacks a column, and has no row", {}, { columns: ["y"], rows: [] }, "its query has no column x: it has y"],
    ["has the column twice", {}, { columns: ["x", "x"], rows: [["1", "2"]] }, "its query has two columns x"],
    ["is no text", {}, { columns: ["x"], rows: [["acm\uFFFD"]] }, "an output is not UTF-8"],
    [
      "is a list with something that is no text",
      { rows: "array" },
      { columns: ["x"], rows: [["a"], ["\uFFFD"]] },
      "an output is not UTF-8",
    ],
    [
      "has no row, and is required",
      { required: true },
      { columns: ["x"], rows: [] },
      "its query gave no row, and it is required",
    ],
    [
      "is NULL, and required",
      { required: true },
      { columns: ["x"], rows: [[null]] },
      "an output is NULL, and it is required",
    ],
    [
      "is empty, and required",
      { required: true },
      { columns: ["x"], rows: [[""]] },
      "an output is NULL, and it is required",
    ],
    [
      "is a list of NULLs, and required",
      { required: true, rows: "array" },
      { columns: ["x"], rows: [[null]] },
      "an output is NULL, and it is required",
    ],
  ])("that %s ends the login", async (_what, more, answer, detail) => {
    expect(await refusal(one(more), { org: () => answer })).toBe(`resolver org: ${detail}`);
  });

  it("of a required resolver without outputs needs no more than a row", async () => {
    const plan = one({ required: true, inject: [] });
    const answer = (rows: Rows): ResolverAnswer => ({ columns: ["?column?"], rows });
    expect((await resolve(plan, { org: () => answer([["1"]]) })).context).toEqual({});
    expect(await refusal(plan, { org: () => answer([]) })).toContain("no row");
  });
});

describe("rows = array", () => {
  it.each<[Rows, string | undefined]>([
    [[["a"]], '{"a"}'],
    [[["a"], [null], ["b"]], '{"a","b"}'],
    [
      [['say "hi"'], ["back\\slash"], ["com,ma"], ["{brace}"], ["NULL"], [" "]],
      '{"say \\"hi\\"","back\\\\slash","com,ma","{brace}","NULL"," "}',
    ],
    [[], undefined],
    [[[null], [null]], undefined],
  ])("makes of %j the array %s", async (rows, expected) => {
    const { context } = await resolve(one({ rows: "array" }), { org: () => rows });
    expect(context["app.org"]).toBe(expected);
  });
});
