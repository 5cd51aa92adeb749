/**
 * Who waits for something of which there is not enough: first come, first served within a group, and the groups in turn,
 * so that a flood of one does not starve the others.
 */

export class FairQueue<T> {
  /** Groups in the order in which they are served next; none is empty. */
  readonly #groups = new Map<string, Set<T>>();
  #size = 0;

  /** How many wait. */
  get size(): number {
    return this.#size;
  }

  /** How many of a group wait. */
  sizeOf(group: string): number {
    return this.#groups.get(group)?.size ?? 0;
  }

  /** Everybody who waits, group by group. */
  *[Symbol.iterator](): Generator<T> {
    for (const waiting of this.#groups.values()) yield* waiting;
  }

  /** @returns takes the item out again, however often it is called. */
  add(group: string, item: T): () => void {
    const waiting = this.#groups.get(group) ?? new Set<T>();
    waiting.add(item);
    this.#groups.set(group, waiting);
    this.#size += 1;
    return () => this.remove(group, item);
  }

  /** Takes everybody out. */
  drain(each: (item: T) => void): void {
    const all = [...this];
    this.#groups.clear();
    this.#size = 0;
    all.forEach(each);
  }

  /** The next item of the first group in turn that may be served; that group goes to the end. */
  take(mayServe: (group: string) => boolean): T | undefined {
    for (const [group, waiting] of this.#groups) {
      if (!mayServe(group)) continue;
      const [item] = waiting;
      this.remove(group, item as T);
      if (waiting.size > 0) {
        this.#groups.delete(group);
        this.#groups.set(group, waiting);
      }
      return item;
    }
    return undefined;
  }

  /** Takes an item out; nothing happens where it does not wait. */
  remove(group: string, item: T): void {
    const waiting = this.#groups.get(group);
    if (waiting?.delete(item) !== true) return;
    this.#size -= 1;
    if (waiting.size === 0) this.#groups.delete(group);
  }
}
