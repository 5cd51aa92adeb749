/** The rate limit: a burst at once, then the rate, never more. */
import { describe, expect, it } from "vitest";
import { TokenBucket } from "../../../src/lib/token-bucket.ts";
import { FakeClock } from "../../support/fake-clock.ts";

/** How many tokens can be taken now. */
function drain(bucket: TokenBucket): number {
  let taken = 0;
  while (bucket.take()) taken++;
  return taken;
}

describe("a TokenBucket of 10 a second and 3 at once", () => {
  const open = (): { clock: FakeClock; bucket: TokenBucket } => {
    const clock = new FakeClock();
    return { clock, bucket: new TokenBucket(clock, 10, 3) };
  };

  it("gives 3 at once and no more", () => {
    expect(drain(open().bucket)).toBe(3);
  });

  it("gives one more each 100 ms", () => {
    const { clock, bucket } = open();
    drain(bucket);
    clock.advance(99);
    expect(bucket.take()).toBe(false);
    clock.advance(1);
    expect(bucket.take()).toBe(true);
    expect(bucket.take()).toBe(false);
  });

  it("never holds more than 3, however long nobody asks", () => {
    const { clock, bucket } = open();
    clock.advance(3_600_000);
    expect(drain(bucket)).toBe(3);
  });

  it("loses nothing to refusals between two tokens", () => {
    const { clock, bucket } = open();
    drain(bucket);
    let taken = 0;
    for (let ms = 0; ms < 1_000; ms++) {
      clock.advance(1);
      if (bucket.take()) taken++;
    }
    expect(taken).toBeGreaterThanOrEqual(9);
    expect(taken).toBeLessThanOrEqual(10);
  });
});
