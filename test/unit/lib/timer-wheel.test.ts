/** One timer for many looks: each in its interval, none when nobody is left. */
import { describe, expect, it } from "vitest";
import { TimerWheel } from "../../../src/lib/timer-wheel.ts";
import { FakeClock } from "../../support/fake-clock.ts";

describe("TimerWheel", () => {
  it("looks in each interval, with one timer, until it is disposed of", () => {
    const clock = new FakeClock();
    const wheel = new TimerWheel(clock);
    const looks = [0, 0];
    const slow = wheel.every(500, () => void (looks[0] = (looks[0] ?? 0) + 1));
    const fast = wheel.every(1, () => void (looks[1] = (looks[1] ?? 0) + 1));
    expect(clock.openTimers.length).toBe(1);
    clock.advance(10_000);
    expect(looks).toEqual([20, 200]);
    fast[Symbol.dispose]();
    fast[Symbol.dispose]();
    clock.advance(1_000);
    expect(looks).toEqual([22, 200]);
    slow[Symbol.dispose]();
    expect(clock.openTimers).toEqual([]);
  });

  it("spreads those of one interval over its ticks", () => {
    const clock = new FakeClock();
    const wheel = new TimerWheel(clock);
    let looks = 0;
    for (let n = 0; n < 1_000; n += 1) wheel.every(500, () => void (looks += 1));
    clock.advance(50);
    expect(looks).toBeGreaterThan(50);
    expect(looks).toBeLessThan(200);
    clock.advance(450);
    expect(looks).toBe(1_000);
  });

  it("survives a look that takes itself and others away", () => {
    const clock = new FakeClock();
    const wheel = new TimerWheel(clock);
    const watches: Disposable[] = [];
    let looks = 0;
    const look = (): void => {
      looks += 1;
      for (const watch of watches) watch[Symbol.dispose]();
    };
    watches.push(wheel.every(50, look), wheel.every(50, look));
    clock.advance(1_000);
    expect(looks).toBe(1);
    expect(clock.openTimers).toEqual([]);
  });
});
