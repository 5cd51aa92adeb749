import { describe, expect, it } from "vitest";
import { Semaphore } from "../../../src/lib/semaphore.ts";

const never = new AbortController().signal;

describe("a semaphore", () => {
  it("lets so many in, and the others in the order in which they came", async () => {
    const semaphore = new Semaphore(2);
    const places = [await semaphore.enter(never), await semaphore.enter(never)];
    const order: number[] = [];
    const later = [1, 2].map(async (number) => {
      const place = await semaphore.enter(never);
      order.push(number);
      return place;
    });
    await Promise.resolve();
    expect(order).toEqual([]);
    places[0]?.[Symbol.dispose]();
    await later[0];
    expect(order).toEqual([1]);
    places[1]?.[Symbol.dispose]();
    await Promise.all(later);
    expect(order).toEqual([1, 2]);
  });

  it("forgets who gives up, and passes on a place that came too late", async () => {
    const semaphore = new Semaphore(1);
    const place = await semaphore.enter(never);
    const gone = new AbortController();
    const waiting = semaphore.enter(gone.signal);
    const next = semaphore.enter(never);
    gone.abort(new Error("gone"));
    place[Symbol.dispose]();
    await expect(waiting).rejects.toThrow("gone");
    using _last = await next;
  });
});
