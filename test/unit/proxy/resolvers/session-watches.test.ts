/** Which open sessions a change ends: those whose resolver, run again, gives something else. */
import { pino } from "pino";
import { describe, expect, it } from "vitest";
import { ProxyError } from "../../../../src/errors/proxy-error.ts";
import { QueryFailed } from "../../../../src/proxy/context/ask-resolvers.ts";
import type { WhoAsks } from "../../../../src/proxy/context/call-names.ts";
import type { ResolverAnswer, ResolverCall } from "../../../../src/proxy/context/resolve-context.ts";
import { SessionWatches } from "../../../../src/proxy/context/session-watches.ts";
import { FakeClock } from "../../../support/fake-clock.ts";
import { callOf, resolverOf, settled, who } from "./resolver-calls.ts";

const org = resolverOf("org", { onChange: "terminate" });

class Bench {
  readonly clock = new FakeClock();
  readonly log: string[] = [];
  readonly asked: string[] = [];
  readonly ended: string[] = [];
  /** What the database says now, by value; an Error is thrown. */
  readonly now = new Map<string, string | null | Error>();
  readonly watches: SessionWatches;

  constructor() {
    const log = pino({ level: "debug" }, { write: (line: string) => void this.log.push(line) });
    this.watches = new SessionWatches((database) => (calls) => this.#ask(database, calls), { clock: this.clock, log });
  }

  /** A session whose context came from `call`, which gave `output` then. */
  open(name: string, call: ResolverCall, output: string | null, as: WhoAsks = who, changes?: number): Disposable {
    const end = (error: ProxyError): void => void this.ended.push(`${name} ${error.code}`);
    return this.watches.watch(as, [{ call, outputs: [output] }], changes ?? this.watches.changes, end);
  }

  async change(...values: string[]): Promise<void> {
    this.watches.check({ database: "shop", resolver: "org", values });
    await settled();
  }

  async #ask(database: string, calls: readonly ResolverCall[]): Promise<ResolverAnswer[]> {
    const value = calls[0]?.values[0] ?? "";
    this.asked.push(`${database} ${value}`);
    if (value === "silence") await new Promise(() => {});
    await settled();
    const now = this.now.get(value) ?? null;
    if (now instanceof Error) throw now;
    return [{ columns: ["x"], rows: now === null ? [] : [[now]] }];
  }
}

/** As often as it takes for `count` questions to be answered. */
async function turns(count: number): Promise<void> {
  for (let n = 0; n < 3 * count; n++) await settled();
}

describe("a change", () => {
  it("ends exactly the sessions whose answer is another one now", async () => {
    const bench = new Bench();
    bench.open("changed", callOf(org, "acme"), "1");
    bench.open("changed too", callOf(org, "acme"), "1");
    bench.open("same", callOf(org, "globex"), "1");
    bench.open("elsewhere", callOf(org, "acme"), "1", { ...who, database: "other" });
    bench.now.set("acme", "2").set("globex", "1");
    await bench.change();
    await turns(3);
    expect(bench.ended).toEqual(["changed context_changed", "changed too context_changed"]);
    expect(bench.asked).toEqual(["shop acme", "shop globex"]);
  });

  it("to the answer of before ends nothing", async () => {
    const bench = new Bench();
    bench.open("one", callOf(org, "acme"), "1");
    bench.now.set("acme", "1");
    await bench.change("acme");
    await turns(1);
    expect([bench.asked, bench.ended]).toEqual([["shop acme"], []]);
  });

  it("reaches a session that wrote the value in another way", async () => {
    const bench = new Bench();
    bench.open("capitals", callOf(org, "ACME"), "1");
    bench.open("usual", callOf(org, "acme"), "1");
    bench.now.set("acme", "1");
    await bench.change("acme");
    await turns(2);
    expect(bench.asked).toEqual(["shop ACME", "shop acme"]);
    expect(bench.ended).toEqual(["capitals context_changed"]);
  });

  it("that takes the last row, or makes the resolver refuse, is another answer", async () => {
    const bench = new Bench();
    bench.open("row", callOf(org, "acme"), "1");
    bench.open("refusal", callOf(resolverOf("org", { onChange: "terminate", required: true }), "globex"), "1");
    bench.open("failure", callOf(org, "initech"), "1");
    bench.now.set("initech", new QueryFailed("resolver org: ERROR P0001: no", "P0001"));
    await bench.change();
    await turns(3);
    expect(bench.ended.length).toBe(3);
  });

  it("asks for nobody who has on_change = keep, or is gone", async () => {
    const bench = new Bench();
    bench.open("keep", callOf(resolverOf("org"), "acme"), "1");
    bench.open("gone", callOf(org, "acme"), "1")[Symbol.dispose]();
    await bench.change();
    await bench.change("acme");
    expect(bench.asked).toEqual([]);
  });

  it("while the context was being resolved is looked at when the session is there", async () => {
    const bench = new Bench();
    const { changes } = bench.watches;
    await bench.change("acme");
    bench.now.set("acme", "2");
    bench.open("late", callOf(org, "acme"), "1", who, changes);
    await turns(1);
    expect(bench.ended).toEqual(["late context_changed"]);
  });

  it("that comes while the database is asked does not end who knows of it already", async () => {
    const bench = new Bench();
    bench.open("before", callOf(org, "acme"), "1");
    bench.now.set("acme", "1");
    bench.watches.check({ database: "shop", resolver: "org", values: ["acme"] });
    bench.open("after", callOf(org, "acme"), "2");
    await turns(1);
    expect(bench.ended).toEqual([]);
  });

  it("is looked at once, however often it is told while others are asked", async () => {
    const bench = new Bench();
    for (const value of ["a", "b"]) bench.open(value, callOf(org, value), "1");
    bench.now.set("a", "1").set("b", "1");
    for (let n = 0; n < 1_000; n++) bench.watches.check({ database: "shop", resolver: "org", values: ["b"] });
    await turns(3);
    expect(bench.asked.length).toBeLessThanOrEqual(2);
  });
});

describe("a database that cannot be asked", () => {
  it.each([
    ["has no answer in time", new QueryFailed("resolver org: ERROR 57014: timeout", "57014")],
    ["is not there", new ProxyError("upstream_unreachable")],
  ])("because it %s ends nothing, and is asked again until it answers", async (_why, failure) => {
    const bench = new Bench();
    bench.open("one", callOf(org, "acme"), "1");
    bench.now.set("acme", failure);
    await bench.change("acme");
    await turns(1);
    for (let n = 0; n < 5; n++) {
      bench.clock.advance(1_000);
      await turns(1);
    }
    expect([bench.asked.length, bench.ended]).toEqual([6, []]);
    expect(
      bench.log.filter((line) => line.includes('"level":40')),
      "warnings",
    ).toHaveLength(1);
    bench.now.set("acme", "2");
    bench.clock.advance(1_000);
    await turns(1);
    expect(bench.ended).toEqual(["one context_changed"]);
    expect(bench.clock.openTimers).toEqual([]);
  });

  it("keeps no other database waiting", async () => {
    const bench = new Bench();
    bench.open("here", callOf(org, "silence"), "1");
    bench.open("there", callOf(org, "acme"), "1", { ...who, database: "other" });
    bench.now.set("acme", "2");
    bench.watches.checkAll("shop");
    bench.watches.checkAll("other");
    await turns(2);
    expect(bench.ended).toEqual(["there context_changed"]);
  });

  it("is not asked for sessions that have ended meanwhile", async () => {
    const bench = new Bench();
    const session = bench.open("one", callOf(org, "acme"), "1");
    bench.now.set("acme", new ProxyError("upstream_unreachable"));
    await bench.change("acme");
    await turns(1);
    session[Symbol.dispose]();
    bench.clock.advance(1_000);
    await turns(1);
    expect([bench.asked.length, bench.clock.openTimers]).toEqual([1, []]);
  });

  it("leaves no timer behind when it is closed", async () => {
    const bench = new Bench();
    bench.open("one", callOf(org, "acme"), "1");
    bench.now.set("acme", new ProxyError("upstream_unreachable"));
    await bench.change("acme");
    await turns(1);
    bench.watches.close();
    expect(bench.clock.openTimers).toEqual([]);
  });
});

describe("everything of a database", () => {
  it("is asked again one call after the other, and nothing of another database", async () => {
    const bench = new Bench();
    for (const value of ["a", "b", "c"]) bench.open(value, callOf(org, value), "1");
    bench.open("d", callOf(org, "d"), "1", { ...who, database: "shop2" });
    for (const value of ["a", "b", "c"]) bench.now.set(value, "1");
    bench.watches.checkAll("shop");
    expect(bench.asked).toEqual(["shop a"]);
    await turns(4);
    expect(bench.asked).toEqual(["shop a", "shop b", "shop c"]);
  });
});
