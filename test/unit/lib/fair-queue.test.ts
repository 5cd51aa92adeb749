import { describe, expect, it } from "vitest";
import { FairQueue } from "../../../src/lib/fair-queue.ts";

const anybody = (): boolean => true;

/** Items are numbers that are waited for by the group of their first letter. */
function queueOf(...items: string[]): FairQueue<string> {
  const queue = new FairQueue<string>();
  for (const item of items) queue.add(item[0] ?? "", item);
  return queue;
}

function takeAll(queue: FairQueue<string>): string[] {
  const taken: string[] = [];
  for (let item = queue.take(anybody); item !== undefined; item = queue.take(anybody)) taken.push(item);
  return taken;
}

describe("who waits", () => {
  it("is served in turn between groups, first come first served within one", () => {
    expect(takeAll(queueOf("a1", "a2", "a3", "a4", "b1", "c1", "c2"))).toEqual([
      "a1",
      "b1",
      "c1",
      "a2",
      "c2",
      "a3",
      "a4",
    ]);
  });

  it("is passed over while the group may not be served", () => {
    const queue = queueOf("a1", "b1", "a2");
    expect(queue.take((group) => group !== "a")).toBe("b1");
    expect(queue.take((group) => group !== "a")).toBeUndefined();
    expect([queue.size, queue.sizeOf("a"), queue.sizeOf("b")]).toEqual([2, 2, 0]);
    expect(takeAll(queue)).toEqual(["a1", "a2"]);
  });

  it("may leave, more than once", () => {
    const queue = queueOf("a1");
    const leave = queue.add("a", "a2");
    leave();
    leave();
    expect([...queue]).toEqual(["a1"]);
    queue.remove("b", "a1");
    expect(queue.size).toBe(1);
  });

  it("is taken out by drain", () => {
    const queue = queueOf("a1", "b1");
    const drained: string[] = [];
    queue.drain((item) => drained.push(item));
    expect(drained).toEqual(["a1", "b1"]);
    expect(queue.size).toBe(0);
  });
});
