/** Resolvers, calls and identities for the tests of this folder. */
import type { Resolver } from "../../../../src/config/resolvers-file.ts";
import type { WhoAsks } from "../../../../src/proxy/context/call-names.ts";
import type { Outputs, ResolverCall } from "../../../../src/proxy/context/resolve-context.ts";

export const who: WhoAsks = {
  database: "shop",
  loginRole: "app_user",
  context: [{ name: "app.tenant", value: "acme" }],
};

/** One that injects a column `x` into app.<name>, kept for 10 s. */
export function resolverOf(name: string, more: Partial<Resolver> = {}): Resolver {
  return {
    name,
    source: { query: "SELECT $1 AS x" },
    params: ["app.tenant"],
    inject: [{ variable: `app.${name}`, column: "x" }],
    roleColumn: undefined,
    required: false,
    cacheTtlMs: 10_000,
    timeoutMs: 2_000,
    rows: "one",
    onChange: "keep",
    ...more,
  };
}

export const callOf = (resolver: Resolver, ...values: string[]): ResolverCall => ({ resolver, values });

/** Answers that come when the test says so, and what was asked. */
export class SlowAnswers {
  readonly asked: string[][] = [];
  readonly #waiting: { resolve(outputs: Outputs[]): void; reject(error: unknown): void; count: number }[] = [];

  readonly ask = (calls: readonly ResolverCall[]): Promise<Outputs[]> => {
    this.asked.push(calls.map(({ resolver, values }) => [resolver.name, ...values].join(" ")));
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject, count: calls.length }));
  };

  /** Answers the question that was asked first: each call with this output. */
  async answer(output: string | null): Promise<void> {
    const first = this.#waiting.shift();
    first?.resolve(Array.from({ length: first.count }, () => [output]));
    await settled();
  }

  async fail(error: unknown): Promise<void> {
    this.#waiting.shift()?.reject(error);
    await settled();
  }
}

/** What can go on without anybody from outside has gone on. */
export const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
