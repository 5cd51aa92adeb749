/**
 * Answers of resolvers for the values that they were asked with. The key is the whole tuple: database, login role,
 * resolver, values. Logins that need the same at the same time share one query; an answer without a value is kept for
 * less time than one with values, since somebody who has just been let in should not have to wait. A database whose
 * changes cannot be heard of at the moment is not trusted: nothing is kept for it, and nothing used.
 */
import { LRUCache } from "lru-cache";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import type { Metrics } from "../../observe/metrics.ts";
import { CallNames, isSameCall, type Invalidation, type WhoAsks } from "./call-names.ts";
import type { Outputs, ResolverCall } from "./resolve-context.ts";

const MAX_ANSWERS = 10_000;
/** Of all values and answers together. */
const MAX_CHARACTERS = 64 * 1024 * 1024;
/** An answer without any value is kept at most so long. */
const MAX_NEGATIVE_MS = 5_000;
/** Up to a tenth less than cache_ttl: answers that came together do not end together. */
const JITTER = 0.1;

type AskMissing = (calls: readonly ResolverCall[]) => Promise<readonly Outputs[]>;

/** What stands under a name, and the one call of that name that it is for. */
interface Entry<T> {
  readonly call: ResolverCall;
  readonly outputs: T;
}

export interface CacheOptions {
  /** The queries run in a session that has the identity's context: an answer is for that context alone. */
  readonly isPerContext?: boolean;
  readonly random?: () => number;
}

export class ResolverCache {
  readonly #metrics: Metrics;
  readonly #random: () => number;
  readonly #answers: LRUCache<string, Entry<Outputs>>;
  readonly #asking = new Map<string, Entry<Promise<Outputs>>>();
  readonly #untrusted = new Set<string>();
  readonly #names: CallNames;

  constructor(clock: Clock, metrics: Metrics, { isPerContext = false, random = Math.random }: CacheOptions = {}) {
    this.#metrics = metrics;
    this.#random = random;
    this.#names = new CallNames(isPerContext);
    this.#answers = new LRUCache({
      max: MAX_ANSWERS,
      maxSize: MAX_CHARACTERS,
      sizeCalculation: ({ call, outputs }, key) => charactersOf([key, ...call.values, ...outputs]),
      ttl: 1,
      ttlResolution: 0,
      perf: clock,
      dispose: ({ call }) => metrics.countKept(call.resolver.name, -1),
    });
  }

  /**
   * The outputs of each call. `ask` gets those that nobody knows and nobody asks for; and once more those that another
   * login has asked for in vain: it may have left, or have failed with another call. Where it is this call that has
   * failed, it has failed for all who waited for it.
   *
   * @throws whatever `ask` throws; ProxyError resolver_failed of another login's.
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
        const answer = asked.then((all) => all[at] ?? []);
        this.#share(who, call, wanted.length === 1 ? answer : answer.catch(unknownCulprit));
      }
      for (const [at, output] of (await asked).entries()) outputs.set(wanted[at] as ResolverCall, output);
    };
    await askAll(missing);
    const lost: ResolverCall[] = [];
    for (const [call, promise] of shared) {
      try {
        outputs.set(call, await promise);
      } catch (error) {
        if (error instanceof ProxyError && error.code === "resolver_failed") throw error;
        lost.push(call);
      }
    }
    await askAll(lost);
    return calls.map((call) => outputs.get(call) ?? []);
  }

  /** Forgets what has changed, and does not keep what is being asked for it now. */
  invalidate(change: Invalidation): void {
    for (const key of this.#names.keysOf(change, () => this.#keys())) this.#forget(key);
  }

  /** Forgets everything of `database`. */
  invalidateAll(database: string): void {
    for (const key of this.#keys()) if (key.startsWith(`${database}\0`)) this.#forget(key);
  }

  /** From now on nothing is kept or used for `database`, until it is trusted again. */
  distrust(database: string): void {
    this.#untrusted.add(database);
    this.invalidateAll(database);
  }

  trust(database: string): void {
    this.#untrusted.delete(database);
  }

  clear(): void {
    this.#answers.clear();
    this.#asking.clear();
  }

  #keys(): string[] {
    return [...this.#answers.keys(), ...this.#asking.keys()];
  }

  #find(who: WhoAsks, call: ResolverCall): Outputs | Promise<Outputs> | undefined {
    if (!this.#isCached(who, call)) return undefined;
    const key = this.#names.nameOf(who, call);
    const entry = this.#answers.get(key) ?? this.#asking.get(key);
    if (entry === undefined || !isSameCall(entry.call, call)) {
      this.#metrics.countLookup(call.resolver.name, "miss");
      return undefined;
    }
    this.#metrics.countLookup(call.resolver.name, "hit");
    return entry.outputs;
  }

  #isCached({ database }: WhoAsks, { resolver }: ResolverCall): boolean {
    return resolver.cacheTtlMs > 0 && !this.#untrusted.has(database);
  }

  #share(who: WhoAsks, call: ResolverCall, promise: Promise<Outputs>): void {
    promise.catch(() => {}); // those who wait for it hear of it
    if (!this.#isCached(who, call)) return;
    void this.#keep(this.#names.nameOf(who, call), { call, outputs: promise });
  }

  /** Lets others wait for the answer, then keeps it, unless it was forgotten meanwhile. */
  async #keep(key: string, asking: Entry<Promise<Outputs>>): Promise<void> {
    const { call, outputs: promise } = asking;
    this.#asking.set(key, asking);
    try {
      const outputs = await promise;
      if (this.#asking.get(key) !== asking) return;
      const { cacheTtlMs } = call.resolver;
      const isNegative = outputs.every((value) => value === null);
      const longest = isNegative ? Math.min(cacheTtlMs, MAX_NEGATIVE_MS) : cacheTtlMs;
      this.#answers.set(key, { call, outputs }, { ttl: longest * (1 - JITTER * this.#random()) });
      this.#metrics.countKept(call.resolver.name, 1);
    } catch {
      // Who asked hears of it.
    } finally {
      if (this.#asking.get(key) === asking) this.#asking.delete(key);
    }
  }

  #forget(key: string): void {
    for (const entries of [this.#answers, this.#asking]) {
      const resolver = entries.get(key)?.call.resolver.name;
      if (resolver !== undefined && entries.delete(key)) this.#metrics.resolverInvalidations.inc({ resolver });
    }
  }
}

function charactersOf(texts: readonly (string | null)[]): number {
  return texts.reduce((sum, text) => sum + (text?.length ?? 0), 0);
}

/** Of calls that were asked together one has failed, with values that may be of no other login's. */
function unknownCulprit(cause: unknown): never {
  throw new Error("asked together with a call that has failed", { cause });
}
