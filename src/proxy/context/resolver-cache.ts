/**
 * Answers of resolvers for the values that they were asked with. The key is the whole tuple: database, login role,
 * resolver, values. Logins that need the same at the same time share one query; an answer without a value is kept for
 * less time than one with values, since somebody who has just been let in should not have to wait. A database whose
 * changes cannot be heard of at the moment is not trusted: nothing is kept for it, and nothing used.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../../lib/clock.ts";
import type { Metrics } from "../../observe/metrics.ts";
import { CallNames, type Invalidation, type WhoAsks } from "./call-names.ts";
import type { Outputs, ResolverCall } from "./resolve-context.ts";

const MAX_ANSWERS = 10_000;
/** An answer without any value is kept at most so long. */
const MAX_NEGATIVE_MS = 5_000;
/** Up to a tenth less than cache_ttl: answers that came together do not end together. */
const JITTER = 0.1;

type AskMissing = (calls: readonly ResolverCall[]) => Promise<readonly Outputs[]>;

export class ResolverCache {
  readonly #metrics: Metrics;
  readonly #random: () => number;
  readonly #answers: LRUCache<string, Outputs>;
  readonly #asking = new Map<string, Promise<Outputs>>();
  readonly #untrusted = new Set<string>();
  readonly #names = new CallNames();

  constructor(clock: Clock, metrics: Metrics, random: () => number = Math.random) {
    this.#metrics = metrics;
    this.#random = random;
    this.#answers = new LRUCache({ max: MAX_ANSWERS, ttl: 1, ttlResolution: 0, perf: clock });
  }

  /**
   * The outputs of each call. `ask` gets those that nobody knows and nobody asks for; and once more those that another
   * login has asked for and failed with, which may be that login's own misfortune.
   *
   * @throws whatever `ask` throws.
   */
  async run(who: WhoAsks, calls: readonly ResolverCall[], ask: AskMissing): Promise<readonly Outputs[]> {
    const outputs = new Map<ResolverCall, Outputs>();
    const shared = new Map<ResolverCall, Promise<Outputs>>();
    const missing: ResolverCall[] = [];
    for (const call of calls) {
      const found = this.#find(who, call);
      if (found === undefined) missing.push(call);
      else if (found instanceof Promise) shared.set(call, found);
      else outputs.set(call, found);
    }
    const askAll = async (wanted: readonly ResolverCall[]): Promise<void> => {
      if (wanted.length === 0) return;
      const asked = ask(wanted);
      for (const [at, call] of wanted.entries()) {
        this.#share(
          who,
          call,
          asked.then((all) => all[at] ?? []),
        );
      }
      for (const [at, output] of (await asked).entries()) outputs.set(wanted[at] as ResolverCall, output);
    };
    await askAll(missing);
    const failed: ResolverCall[] = [];
    for (const [call, promise] of shared) {
      await promise.then(
        (output) => outputs.set(call, output),
        () => failed.push(call),
      );
    }
    await askAll(failed);
    return calls.map((call) => outputs.get(call) ?? []);
  }

  /** Forgets what has changed, and does not keep what is being asked for it now. */
  invalidate(change: Invalidation): void {
    for (const key of this.#names.keysOf(change, () => [...this.#answers.keys(), ...this.#asking.keys()])) {
      this.#forget(key);
    }
  }

  /** From now on nothing is kept or used for `database`, until it is trusted again. */
  distrust(database: string): void {
    this.#untrusted.add(database);
    for (const key of [...this.#answers.keys(), ...this.#asking.keys()]) {
      if (key.startsWith(`${database}\0`)) this.#forget(key);
    }
  }

  trust(database: string): void {
    this.#untrusted.delete(database);
  }

  clear(): void {
    this.#answers.clear();
    this.#asking.clear();
    this.#metrics.resolverCacheSize.set(0);
  }

  #find(who: WhoAsks, call: ResolverCall): Outputs | Promise<Outputs> | undefined {
    if (!this.#isCached(who, call)) return undefined;
    const key = this.#names.nameOf(who, call);
    const answer = this.#answers.get(key) ?? this.#asking.get(key);
    if (answer === undefined) this.#metrics.resolverCacheMisses.inc();
    else this.#metrics.resolverCacheHits.inc();
    return answer;
  }

  #isCached({ database }: WhoAsks, { resolver }: ResolverCall): boolean {
    return resolver.cacheTtlMs > 0 && !this.#untrusted.has(database);
  }

  #share(who: WhoAsks, call: ResolverCall, output: Promise<Outputs>): void {
    output.catch(() => {}); // who asked hears of it
    if (!this.#isCached(who, call)) return;
    const key = this.#names.nameOf(who, call);
    const { cacheTtlMs } = call.resolver;
    this.#asking.set(key, output);
    output
      .then((outputs) => {
        if (this.#asking.get(key) !== output) return; // invalidated meanwhile
        const isNegative = outputs.every((value) => value === null);
        const longest = isNegative ? Math.min(cacheTtlMs, MAX_NEGATIVE_MS) : cacheTtlMs;
        this.#answers.set(key, outputs, { ttl: longest * (1 - JITTER * this.#random()) });
        this.#metrics.resolverCacheSize.set(this.#answers.size);
      })
      .catch(() => {})
      .finally(() => {
        if (this.#asking.get(key) === output) this.#asking.delete(key);
      });
  }

  #forget(key: string): void {
    this.#answers.delete(key);
    this.#asking.delete(key);
    this.#metrics.resolverCacheSize.set(this.#answers.size);
  }
}
