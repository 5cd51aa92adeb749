/** What the cache keeps, for whom and how long; who shares a question; what a change takes away. */
import { describe, expect, it } from "vitest";
import type { Resolver } from "../../../../src/config/resolvers-file.ts";
import { ProxyError } from "../../../../src/errors/proxy-error.ts";
import { Metrics } from "../../../../src/observe/metrics.ts";
import type { WhoAsks } from "../../../../src/proxy/context/call-names.ts";
import type { Outputs } from "../../../../src/proxy/context/resolve-context.ts";
import { ResolverCache, type CacheOptions } from "../../../../src/proxy/context/resolver-cache.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { callOf, resolverOf, settled, SlowAnswers, who } from "./resolver-calls.ts";

class Bench {
  readonly clock = new FakeClock();
  readonly metrics = new Metrics();
  readonly answers = new SlowAnswers();
  readonly cache: ResolverCache;

  constructor(options: CacheOptions = {}) {
    this.cache = new ResolverCache(this.clock, this.metrics, { random: () => 0, ...options });
  }

  /** Begins to ask; the answer as text, or the error's message. */
  begin(resolver: Resolver, value = "acme", as: WhoAsks = who): Promise<string> {
    return this.cache.run(as, [callOf(resolver, value)], this.answers.ask).then(
      (outputs) => JSON.stringify(outputs),
      (error: unknown) => (error as Error).message,
    );
  }

  /** Asks, and answers with `output` where it is asked at all. */
  async get(resolver: Resolver, output: string | null, value?: string, as?: WhoAsks): Promise<string> {
    const result = this.begin(resolver, value, as);
    await settled();
    await this.answers.answer(output);
    return result;
  }

  async metric(name: string): Promise<number | undefined> {
    return (await this.metrics.registry.getSingleMetric(name)?.get())?.values[0]?.value;
  }
}

const org = resolverOf("org");

describe("an answer", () => {
  it("is kept for cache_ttl, and not a millisecond longer", async () => {
    const bench = new Bench();
    expect(await bench.get(org, "1")).toBe('[["1"]]');
    bench.clock.advance(9_999);
    expect(await bench.get(org, "2")).toBe('[["1"]]');
    bench.clock.advance(2);
    expect(await bench.get(org, "2")).toBe('[["2"]]');
  });

  it("is kept up to a tenth shorter, so that those that came together do not end together", async () => {
    const bench = new Bench({ random: () => 0.999_999 });
    await bench.get(org, "1");
    bench.clock.advance(8_999);
    expect(await bench.get(org, "2")).toBe('[["1"]]');
    bench.clock.advance(3);
    expect(await bench.get(org, "2")).toBe('[["2"]]');
  });

  it("makes way for newer ones when the values that are kept are long", async () => {
    const bench = new Bench();
    const long = "x".repeat(30 * 1024 * 1024);
    for (const value of ["a", "b", "c"]) await bench.get(org, long, value);
    expect(await bench.metric("pgvpd_resolver_cache_size")).toBe(2);
    expect(await bench.get(org, "2", "a")).toBe('[["2"]]');
  });

  it("without a value is kept for 5 s at most", async () => {
    const bench = new Bench();
    await bench.get(org, null);
    bench.clock.advance(4_999);
    expect(await bench.get(org, "1")).toBe("[[null]]");
    bench.clock.advance(2);
    expect(await bench.get(org, "1")).toBe('[["1"]]');
  });

  it("without a value is kept for cache_ttl where that is less", async () => {
    const bench = new Bench();
    const short = resolverOf("org", { cacheTtlMs: 1_000 });
    await bench.get(short, null);
    bench.clock.advance(1_001);
    expect(await bench.get(short, "1")).toBe('[["1"]]');
  });

  it("is not kept with cache_ttl = 0, and such questions are not shared", async () => {
    const bench = new Bench();
    const uncached = resolverOf("org", { cacheTtlMs: 0 });
    void bench.begin(uncached);
    void bench.begin(uncached);
    expect(bench.answers.asked).toHaveLength(2);
    expect(await bench.metric("pgvpd_resolver_cache_misses_total")).toBe(0);
  });

  it.each<[string, Partial<WhoAsks>, Resolver, string]>([
    ["another database", { database: "other" }, org, "acme"],
    ["another login role", { loginRole: "reader" }, org, "acme"],
    ["another value", {}, org, "globex"],
    ["another spelling of the value", {}, org, "ACME"],
    ["another resolver", {}, resolverOf("team"), "acme"],
    ["a resolver of the same name, after a reload", {}, resolverOf("org"), "acme"],
  ])("is not for %s", async (_what, as, resolver, value) => {
    const bench = new Bench();
    await bench.get(org, "1");
    expect(await bench.get(resolver, "2", value, { ...who, ...as })).toBe('[["2"]]');
  });

  it("is for another context where the query cannot see it, and not where it can", async () => {
    const globex = { ...who, context: [{ name: "app.tenant", value: "globex" }] };
    const dedicated = new Bench();
    await dedicated.get(org, "1", "user");
    expect(await dedicated.get(org, "2", "user", globex)).toBe('[["1"]]');
    const inSession = new Bench({ isPerContext: true });
    await inSession.get(org, "1", "user");
    expect(await inSession.get(org, "2", "user", globex)).toBe('[["2"]]');
  });

  it("pushes out the one that was not used for longest when 10,000 are kept", async () => {
    const bench = new Bench();
    const run = (first: number, count: number): Promise<readonly Outputs[]> =>
      bench.cache.run(
        who,
        Array.from({ length: count }, (_, n) => callOf(org, `${first + n}`)),
        (calls) => Promise.resolve(calls.map(({ values }) => [`of ${values[0]}`])),
      );
    await run(0, 10_000);
    expect(await bench.get(org, "new", "0")).toBe('[["of 0"]]');
    await run(10_000, 9_999);
    expect(await bench.get(org, "new", "0")).toBe('[["of 0"]]');
    expect(await bench.get(org, "new", "1")).toBe('[["new"]]');
    expect(await bench.metric("pgvpd_resolver_cache_size")).toBe(10_000);
  });
});

describe("logins at the same time", () => {
  it("share one question", async () => {
    const bench = new Bench();
    const results = Array.from({ length: 100 }, () => bench.begin(org));
    await bench.answers.answer("1");
    expect(new Set(await Promise.all(results))).toEqual(new Set(['[["1"]]']));
    expect(bench.answers.asked).toEqual([["org acme"]]);
    expect(await bench.metric("pgvpd_resolver_cache_misses_total")).toBe(1);
    expect(await bench.metric("pgvpd_resolver_cache_hits_total")).toBe(99);
  });

  it("do not share a question with another spelling of the value", async () => {
    const bench = new Bench();
    const results = [bench.begin(org, "ACME"), bench.begin(org, "acme")];
    await bench.answers.answer("of ACME");
    await bench.answers.answer("of acme");
    expect(await Promise.all(results)).toEqual(['[["of ACME"]]', '[["of acme"]]']);
  });

  it("fail together where the resolver has failed", async () => {
    const bench = new Bench();
    const results = Array.from({ length: 100 }, () => bench.begin(org));
    await bench.answers.fail(new ProxyError("resolver_failed"));
    expect(new Set(await Promise.all(results))).toEqual(new Set(["the session context could not be resolved"]));
    expect(bench.answers.asked).toHaveLength(1);
  });

  it("ask themselves where the one that asked was lost", async () => {
    const bench = new Bench();
    const [lost, waiting] = [bench.begin(org), bench.begin(org)];
    await bench.answers.fail(new Error("the client has left"));
    await bench.answers.answer("1");
    expect(await Promise.all([lost, waiting])).toEqual(["the client has left", '[["1"]]']);
  });

  it("do not fail with another one's other question, which was asked together with theirs", async () => {
    const bench = new Bench();
    const together = [callOf(org, "acme"), callOf(resolverOf("team"), "no number")];
    const attacker = bench.cache.run(who, together, bench.answers.ask).catch((error: Error) => error.message);
    const victim = bench.begin(org);
    await bench.answers.fail(new ProxyError("resolver_failed"));
    await bench.answers.answer("1");
    expect(await Promise.all([attacker, victim])).toEqual(["the session context could not be resolved", '[["1"]]']);
  });

  it("ask in one go for what is neither kept nor asked for", async () => {
    const bench = new Bench();
    await bench.get(org, "1");
    void bench.begin(resolverOf("other"));
    const [team, unit] = [resolverOf("team"), resolverOf("unit")];
    const calls = [callOf(team, "a"), callOf(org, "acme"), callOf(unit, "a")];
    const result = bench.cache.run(who, calls, bench.answers.ask);
    await bench.answers.answer("other");
    await bench.answers.answer("2");
    expect(await result).toEqual([["2"], ["1"], ["2"]]);
    expect(bench.answers.asked.at(-1)).toEqual(["team a", "unit a"]);
  });

  it("do not find what has failed", async () => {
    const bench = new Bench();
    const failed = bench.begin(org);
    await bench.answers.fail(new ProxyError("resolver_failed"));
    await failed;
    expect(await bench.get(org, "1")).toBe('[["1"]]');
  });
});

describe("a change", () => {
  const change = (...values: string[]): { database: string; resolver: string; values: string[] } => ({
    database: "shop",
    resolver: "org",
    values,
  });

  it("takes away what was given for its values, whatever the login role, and nothing else", async () => {
    const bench = new Bench();
    const reader = { ...who, loginRole: "reader" };
    await bench.get(org, "1");
    await bench.get(org, "1", "acme", reader);
    await bench.get(org, "1", "globex");
    await bench.get(org, "1", "acme", { ...who, database: "other" });
    bench.cache.invalidate(change("acme"));
    expect(await bench.get(org, "2")).toBe('[["2"]]');
    expect(await bench.get(org, "2", "acme", reader)).toBe('[["2"]]');
    expect(await bench.get(org, "2", "globex")).toBe('[["1"]]');
    expect(await bench.get(org, "2", "acme", { ...who, database: "other" })).toBe('[["1"]]');
  });

  it("without values takes away everything of the resolver", async () => {
    const bench = new Bench();
    const team = resolverOf("team");
    await bench.get(org, "1");
    await bench.get(org, "1", "globex");
    await bench.get(team, "1");
    bench.cache.invalidate(change());
    expect(await bench.get(org, "2")).toBe('[["2"]]');
    expect(await bench.get(org, "2", "globex")).toBe('[["2"]]');
    expect(await bench.get(team, "2")).toBe('[["1"]]');
  });

  it("while it is asked leaves the answer to those who wait, and keeps nothing", async () => {
    const bench = new Bench();
    const before = bench.begin(org);
    bench.cache.invalidate(change("acme"));
    const after = bench.begin(org);
    await bench.answers.answer("old");
    await bench.answers.answer("new");
    expect(await Promise.all([before, after])).toEqual(['[["old"]]', '[["new"]]']);
    expect(await bench.get(org, "?")).toBe('[["new"]]');
  });

  it.each([
    ["6f9619ff-8b86-d011-b42d-00c04fc964ff", "6F9619FF-8B86-D011-B42D-00C04FC964FF"],
    ["6f9619ff-8b86-d011-b42d-00c04fc964ff", "{6f9619ff8b86d011b42d00c04fc964ff}"],
    ["6f9619ff-8b86-d011-b42d-00c04fc964ff", "6f96-19ff-8b86-d011-b42d-00c0-4fc9-64ff"],
    ["7", "007"],
    ["7", `${"0".repeat(120)}7`],
    ["7", `0x${"0_".repeat(60)}7`],
    ["0", "0".repeat(120)],
    ["5", "0b101"],
    ["7", "+7"],
    ["7", " 7"],
    ["7", "0x7"],
    ["1000", "1_000"],
    ["-31", "-0x1F"],
    ["bob@example.com", "Bob@Example.COM"],
    ["rené", "RENÉ"],
    ["x", "x  "],
    ["bob", "b\u200Bo\u00ADb"],
    ["strasse", "Straße"],
  ])("of %s reaches who wrote %j", async (column, written) => {
    const bench = new Bench();
    await bench.get(org, "1", written);
    bench.cache.invalidate(change(column));
    expect(await bench.get(org, "2", written)).toBe('[["2"]]');
  });

  it("of a number with a thousand digits, or of what only begins like one, is no number", async () => {
    const bench = new Bench();
    for (const value of ["9".repeat(1_000), "0x", "_", "1__", "-", "0x_", "beef"]) {
      await bench.get(org, "1", value);
      bench.cache.invalidate(change(value));
      expect(await bench.get(org, "2", value), value.slice(0, 9)).toBe('[["2"]]');
    }
  });

  it("is found with more login roles than are remembered", async () => {
    const bench = new Bench();
    for (let n = 0; n <= 1_001; n++) await bench.get(org, "1", "acme", { ...who, loginRole: `role_${n}` });
    bench.cache.invalidate(change("acme"));
    for (const n of [0, 1_001]) {
      expect(await bench.get(org, "2", "acme", { ...who, loginRole: `role_${n}` })).toBe('[["2"]]');
    }
  });
});

describe("a database that is not trusted", () => {
  it("has nothing kept, nothing used and nothing shared, until it is trusted again", async () => {
    const bench = new Bench();
    await bench.get(org, "1");
    bench.cache.distrust("shop");
    expect(await bench.get(org, "2")).toBe('[["2"]]');
    expect(await bench.get(org, "3")).toBe('[["3"]]');
    const shared = [bench.begin(org), bench.begin(org)];
    expect(bench.answers.asked).toHaveLength(5);
    await bench.answers.answer("4");
    await bench.answers.answer("5");
    expect(await Promise.all(shared)).toEqual(['[["4"]]', '[["5"]]']);
    bench.cache.trust("shop");
    expect(await bench.get(org, "6")).toBe('[["6"]]');
    expect(await bench.get(org, "7")).toBe('[["6"]]');
  });

  it("leaves others alone", async () => {
    const bench = new Bench();
    const other = { ...who, database: "shop2" };
    await bench.get(org, "1", "acme", other);
    bench.cache.distrust("shop");
    expect(await bench.get(org, "2", "acme", other)).toBe('[["1"]]');
  });

  it("does not keep what was asked before it was lost, though it is trusted again by then", async () => {
    const bench = new Bench();
    const before = bench.begin(org);
    bench.cache.distrust("shop");
    bench.cache.trust("shop");
    await bench.answers.answer("old");
    expect(await before).toBe('[["old"]]');
    expect(await bench.get(org, "new")).toBe('[["new"]]');
  });
});

describe("the metrics", () => {
  it("count look-ups, what is kept and what was dropped, for each resolver and in all", async () => {
    const bench = new Bench();
    const team = resolverOf("team");
    const counts = async (): Promise<Record<string, number>> => {
      const found: Record<string, number> = {};
      for (const { name, values } of await bench.metrics.registry.getMetricsAsJSON()) {
        if (!name.startsWith("pgvpd_resolver_cache") && !name.startsWith("pgvpd_resolver_inv")) continue;
        for (const { labels, value } of values) {
          found[[name.replace("pgvpd_resolver_", ""), ...Object.values(labels)].join(" ")] = value;
        }
      }
      return found;
    };
    for (const value of ["acme", "acme", "globex"]) await bench.get(org, "1", value);
    await bench.get(team, "1");
    bench.cache.invalidate({ database: who.database, resolver: "org", values: ["acme"] });
    bench.cache.invalidate({ database: who.database, resolver: "org", values: ["nobody"] });
    expect(await counts()).toEqual({
      cache_hits_total: 1,
      cache_misses_total: 3,
      "cache_lookups_total org hit": 1,
      "cache_lookups_total org miss": 2,
      "cache_lookups_total team miss": 1,
      cache_size: 2,
      "cache_answers org": 1,
      "cache_answers team": 1,
      "invalidations_total org": 1,
    });
    bench.cache.clear();
    expect(await counts()).toMatchObject({ cache_size: 0, "cache_answers org": 0, "invalidations_total org": 1 });
  });

  it("count an answer that has grown too old, or was asked for again, once", async () => {
    const bench = new Bench();
    for (let n = 0; n < 3; n++) {
      await bench.get(org, `${n}`);
      bench.clock.advance(org.cacheTtlMs + 1);
    }
    expect(await bench.metric("pgvpd_resolver_cache_size")).toBe(1);
  });
});
