/**
 * Open sessions whose context came from resolvers with `on_change = terminate`. When the database says that something has
 * changed, the resolver is run again, and a session ends only where it now gives something else.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Logger } from "../../observe/logger.ts";
import { CallNames, type Invalidation, type WhoAsks } from "./call-names.ts";
import type { DedicatedResolvers } from "./dedicated-resolvers.ts";
import { outputsOfAll, type ResolverCall, type UsedCall } from "./resolve-context.ts";

interface Watch {
  readonly outputs: string;
  readonly end: (error: ProxyError) => void;
}

/** Sessions that share one call. */
interface WatchedCall {
  readonly who: WhoAsks;
  readonly call: ResolverCall;
  readonly watches: Set<Watch>;
}

export class SessionWatches {
  readonly #dedicated: DedicatedResolvers | undefined;
  readonly #log: Logger;
  readonly #names = new CallNames();
  readonly #calls = new Map<string, WatchedCall>();
  /** Names that are to be asked again, in turn: one query at a time, however much changes. */
  readonly #queue = new Set<string>();
  #isWorking = false;
  #changes = 0;

  /** @param dedicated where resolvers are run again; undefined: nobody listens for changes, and nothing is watched. */
  constructor(dedicated: DedicatedResolvers | undefined, log: Logger) {
    this.#dedicated = dedicated;
    this.#log = log;
  }

  /** Counts what has changed, for `watch`. */
  get changes(): number {
    return this.#changes;
  }

  /**
   * @param changes that were counted before the calls were made: with more now, they are looked at again at once.
   * @param end ends the session. Disposing of the result forgets it.
   */
  watch(who: WhoAsks, used: readonly UsedCall[], changes: number, end: (error: ProxyError) => void): Disposable {
    const names: [string, Watch][] = [];
    for (const { call, outputs } of used) {
      if (this.#dedicated === undefined || call.resolver.onChange !== "terminate") continue;
      const name = this.#names.nameOf(who, call);
      const watched = this.#calls.get(name) ?? { who, call, watches: new Set() };
      const watch = { outputs: JSON.stringify(outputs), end };
      watched.watches.add(watch);
      this.#calls.set(name, watched);
      names.push([name, watch]);
    }
    if (changes !== this.#changes) this.#enqueue(names.map(([name]) => name));
    return {
      [Symbol.dispose]: () => {
        for (const [name, watch] of names) {
          const watched = this.#calls.get(name);
          watched?.watches.delete(watch);
          if (watched?.watches.size === 0) this.#calls.delete(name);
        }
      },
    };
  }

  /** Looks again at what a change is about. */
  check(change: Invalidation): void {
    this.#changes += 1;
    this.#enqueue(this.#names.keysOf(change, () => this.#calls.keys()));
  }

  /** Looks again at everything of a database. */
  checkAll(database: string): void {
    this.#changes += 1;
    this.#enqueue([...this.#calls].filter(([, { who }]) => who.database === database).map(([name]) => name));
  }

  #enqueue(names: readonly string[]): void {
    for (const name of names) if (this.#calls.has(name)) this.#queue.add(name);
    if (!this.#isWorking) void this.#work();
  }

  async #work(): Promise<void> {
    this.#isWorking = true;
    for (const name of this.#queue) {
      this.#queue.delete(name);
      const watched = this.#calls.get(name);
      if (watched !== undefined) await this.#compare(watched);
    }
    this.#isWorking = false;
  }

  /** A resolver that now fails has said no: its sessions end. Where the database cannot be asked, nothing is known. */
  async #compare({ who, call, watches }: WatchedCall): Promise<void> {
    let now: string;
    try {
      const answers = await this.#dedicated?.askIn(who.database)([call]);
      const [outputs] = outputsOfAll([call], answers ?? []);
      now = JSON.stringify(outputs);
    } catch (error) {
      const isRefusal = error instanceof ProxyError && error.code === "resolver_failed";
      this.#log.warn({ resolver: call.resolver.name, err: error }, "a resolver that was to be run again has failed");
      if (!isRefusal) return;
      now = "";
    }
    for (const { outputs, end } of watches) {
      if (outputs !== now) end(new ProxyError("context_changed", { detail: `resolver ${call.resolver.name}` }));
    }
  }
}
