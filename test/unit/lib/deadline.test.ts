/** One limit over a chain of awaits: the first reason counts, and no path leaves a timer. */
import { describe, expect, it } from "vitest";
import { Deadline, raceAbort } from "../../../src/lib/deadline.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const expired = (): Error => new Error("time is up");

describe("a Deadline", () => {
  it("aborts with its error when the time has passed, and not before", () => {
    const clock = new FakeClock();
    const deadline = new Deadline(clock, 100, expired);
    clock.advance(99);
    expect(deadline.signal.aborted).toBe(false);
    clock.advance(1);
    expect(deadline.signal.reason).toEqual(new Error("time is up"));
    expect(clock.openTimers).toEqual([]);
  });

  it("asks for its error when it is needed, not when it is made", () => {
    const clock = new FakeClock();
    let phase = "first";
    const deadline = new Deadline(clock, 100, () => new Error(phase));
    phase = "second";
    clock.advance(100);
    expect(deadline.signal.reason).toEqual(new Error("second"));
  });

  it("keeps the first reason, and gives the timer back with it", () => {
    const clock = new FakeClock();
    const deadline = new Deadline(clock, 100, expired);
    deadline.abort(new Error("first"));
    expect(clock.openTimers).toEqual([]);
    deadline.abort(new Error("second"));
    clock.advance(1_000);
    expect(deadline.signal.reason).toEqual(new Error("first"));
  });

  it("gives its timer back at the end of its block, and does not abort then", () => {
    const clock = new FakeClock();
    let signal: AbortSignal;
    {
      using deadline = new Deadline(clock, 100, expired);
      ({ signal } = deadline);
      expect(clock.openTimers).toEqual([100]);
    }
    expect(clock.openTimers).toEqual([]);
    clock.advance(1_000);
    expect(signal.aborted).toBe(false);
  });
});

describe("raceAbort", () => {
  const never = new Promise<never>(() => {});

  it("settles as the work does", async () => {
    const { signal } = new AbortController();
    await expect(raceAbort(Promise.resolve(1), signal)).resolves.toBe(1);
    await expect(raceAbort(Promise.reject(new Error("no")), signal)).rejects.toThrow("no");
  });

  it("rejects with the reason when the signal aborts first, before or after the call", async () => {
    const controller = new AbortController();
    const race = raceAbort(never, controller.signal);
    controller.abort(new Error("gone"));
    await expect(race).rejects.toThrow("gone");
    await expect(raceAbort(never, controller.signal)).rejects.toThrow("gone");
  });

  it("leaves no rejection of the work behind that nobody handles", async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown): void => void unhandled.push(reason);
    process.on("unhandledRejection", note);
    const controller = new AbortController();
    let fail: (error: Error) => void = () => {};
    const race = raceAbort(new Promise((_resolve, reject) => (fail = reject)), controller.signal);
    controller.abort(new Error("gone"));
    await expect(race).rejects.toThrow("gone");
    await expect(raceAbort(Promise.reject(new Error("late")), controller.signal)).rejects.toThrow("gone");
    fail(new Error("later"));
    await new Promise((resolve) => setImmediate(resolve));
    process.off("unhandledRejection", note);
    expect(unhandled).toEqual([]);
  });
});
