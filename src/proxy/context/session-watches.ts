/**
 * Open sessions whose context came from resolvers with `on_change = terminate`. When the database says that something has
 * changed, the resolver is run again, and a session ends only where it now gives something else, or refuses. Where the
 * database cannot be asked at the moment, nothing is known, and it is asked again until it answers.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../observe/logger.ts";
import { QueryFailed } from "./ask-resolvers.ts";
import { CallNames, isSameCall, type Invalidation, type WhoAsks } from "./call-names.ts";
import { outputsOfAll, type AskResolvers, type ResolverCall, type UsedCall } from "./resolve-context.ts";

/** How long until a database that could not be asked is asked again. */
const RETRY_MS = 1_000;

/** A session, and a call that its context came from. */
interface Watch {
  readonly database: string;
  readonly call: ResolverCall;
  readonly outputs: string;
  readonly end: (error: ProxyError) => void;
}

export interface WatchServices {
  readonly clock: Clock;
  readonly log: Logger;
}

export class SessionWatches {
  readonly #askIn: ((database: string) => AskResolvers) | undefined;
  readonly #services: WatchServices;
  readonly #names = new CallNames(false);
  readonly #watches = new Map<string, Set<Watch>>();
  /** For each database, names that are to be asked again, in turn: one query at a time, however much changes. */
  readonly #queues = new Map<string, Set<string>>();
  /** Names that could not be asked. */
  readonly #unknown = new Set<string>();
  #retry: Disposable | undefined;
  #changes = 0;

  /** @param askIn where resolvers are run again; undefined: nobody listens for changes, and nothing is watched. */
  constructor(askIn: ((database: string) => AskResolvers) | undefined, services: WatchServices) {
    this.#askIn = askIn;
    this.#services = services;
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
    const named: [string, Watch][] = [];
    for (const { call, outputs } of used) {
      if (this.#askIn === undefined || call.resolver.onChange !== "terminate") continue;
      const name = this.#names.nameOf(who, call);
      const watch = { database: who.database, call, outputs: JSON.stringify(outputs), end };
      const watches = this.#watches.get(name) ?? new Set();
      this.#watches.set(name, watches.add(watch));
      named.push([name, watch]);
    }
    if (changes !== this.#changes) this.#enqueue(named.map(([name]) => name));
    return {
      [Symbol.dispose]: () => {
        for (const [name, watch] of named) {
          const watches = this.#watches.get(name);
          watches?.delete(watch);
          if (watches?.size === 0) this.#watches.delete(name);
        }
      },
    };
  }

  /** Looks again at what a change is about. */
  check(change: Invalidation): void {
    this.#changes += 1;
    this.#enqueue(this.#names.keysOf(change, () => this.#watches.keys()));
  }

  /** Looks again at everything of a database. */
  checkAll(database: string): void {
    this.#changes += 1;
    this.#enqueue([...this.#watches.keys()].filter((name) => name.startsWith(`${database}\0`)));
  }

  close(): void {
    this.#retry?.[Symbol.dispose]();
    this.#watches.clear();
  }

  #enqueue(names: readonly string[]): void {
    for (const name of names) {
      if (!this.#watches.has(name)) continue;
      const database = name.slice(0, name.indexOf("\0"));
      const queue = this.#queues.get(database);
      if (queue === undefined) void this.#work(database, name);
      else queue.add(name);
    }
  }

  /** Each database by itself: one that does not answer keeps no other waiting. */
  async #work(database: string, first: string): Promise<void> {
    const queue = new Set([first]);
    this.#queues.set(database, queue);
    for (const name of queue) {
      queue.delete(name);
      // Who comes while the database is asked may know more than its answer does; a change meanwhile is in the queue.
      if (await this.#compare([...(this.#watches.get(name) ?? [])], name)) this.#unknown.delete(name);
      else this.#askLater(name);
    }
    this.#queues.delete(database);
  }

  #askLater(name: string): void {
    this.#unknown.add(name);
    this.#retry ??= this.#services.clock.after(RETRY_MS, () => {
      this.#retry = undefined;
      const names = [...this.#unknown].filter((one) => this.#watches.has(one));
      for (const one of this.#unknown) if (!this.#watches.has(one)) this.#unknown.delete(one);
      this.#enqueue(names);
    });
  }

  /** Ends what has another answer now. @returns false where the database could not be asked. */
  async #compare(watches: readonly Watch[], name: string): Promise<boolean> {
    const asked: { readonly call: ResolverCall; readonly now: string | undefined }[] = [];
    for (const { database, call, outputs, end } of watches) {
      let answer = asked.find((one) => isSameCall(one.call, call));
      if (answer === undefined) {
        try {
          answer = { call, now: await this.#ask(database, call) };
        } catch (error) {
          const level = this.#unknown.has(name) ? "debug" : "warn";
          this.#services.log[level](
            { resolver: call.resolver.name, err: error },
            "a resolver could not be run again: its sessions go on until it can",
          );
          return false;
        }
        asked.push(answer);
      }
      if (answer.now === outputs) continue;
      end(new ProxyError("context_changed", { detail: `resolver ${call.resolver.name}` }));
    }
    return true;
  }

  /** Undefined where the resolver refuses now. @throws where the database could not be asked. */
  async #ask(database: string, call: ResolverCall): Promise<string | undefined> {
    try {
      const answers = await this.#askIn?.(database)([call]);
      return JSON.stringify(outputsOfAll([call], answers ?? [])[0]);
    } catch (error) {
      const isPassing = error instanceof QueryFailed && error.isPassing;
      if (isPassing || !(error instanceof ProxyError) || error.code !== "resolver_failed") throw error;
      this.#services.log.warn({ resolver: call.resolver.name, detail: error.detail }, "a resolver refuses now");
      return undefined;
    }
  }
}
