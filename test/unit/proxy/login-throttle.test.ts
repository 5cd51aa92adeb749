/** Who has to wait before a login, and for how long. */
import { describe, expect, it } from "vitest";
import { LoginThrottle } from "../../../src/proxy/auth/login-throttle.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const HOST = "192.0.2.1";
const USER = "app_user.acme";

function open(maxDelayMs = 1_000): { clock: FakeClock; throttle: LoginThrottle; fail: (times: number) => void } {
  const clock = new FakeClock();
  const throttle = new LoginThrottle(clock, maxDelayMs);
  const fail = (times: number): void => {
    for (let left = times; left > 0; left--) throttle.failed(HOST, USER);
  };
  return { clock, throttle, fail };
}

describe("failed logins", () => {
  it("cost nothing five times; then each further login waits twice as long, a second at most", () => {
    const { throttle, fail } = open();
    const delays: number[] = [];
    for (let attempt = 0; attempt < 12; attempt++) {
      delays.push(throttle.delayFor(HOST, USER));
      fail(1);
    }
    expect(delays).toEqual([0, 0, 0, 0, 0, 100, 200, 400, 800, 1_000, 1_000, 1_000]);
  });

  it("wait no longer than login_throttle says, after any number of failures", () => {
    const { throttle, fail } = open(250);
    fail(7);
    expect(throttle.delayFor(HOST, USER)).toBe(250);
    fail(5_000);
    expect(throttle.delayFor(HOST, USER)).toBe(250);
  });

  it("never wait where login_throttle is 0", () => {
    const { throttle, fail } = open(0);
    fail(100);
    expect(throttle.delayFor(HOST, USER)).toBe(0);
  });

  it("are forgotten after a minute without one", () => {
    const { clock, throttle, fail } = open();
    fail(6);
    clock.advance(59_999);
    expect(throttle.delayFor(HOST, USER)).toBe(200);
    clock.advance(1);
    expect(throttle.delayFor(HOST, USER)).toBe(0);
    fail(4);
    expect(throttle.delayFor(HOST, USER)).toBe(0);
    fail(1);
    expect(throttle.delayFor(HOST, USER)).toBe(100);
  });

  it("are forgotten after a minute where they were too few to count, too", () => {
    const { clock, throttle, fail } = open();
    fail(4);
    clock.advance(60_000);
    fail(4);
    expect(throttle.delayFor(HOST, USER)).toBe(0);
  });

  it("are of one address and one user", () => {
    const { throttle, fail } = open();
    fail(6);
    expect(throttle.delayFor(HOST, "app_user.globex")).toBe(0);
    expect(throttle.delayFor("192.0.2.2", USER)).toBe(0);
    expect(throttle.delayFor(undefined, USER)).toBe(0);
  });

  it("of one user over Unix-domain sockets are one client's", () => {
    const { throttle } = open();
    for (let left = 6; left > 0; left--) throttle.failed(undefined, USER);
    expect(throttle.delayFor(undefined, USER)).toBe(200);
    expect(throttle.delayFor("", USER)).toBe(0);
  });

  it("cannot be put on another's account by what stands in a name", () => {
    const { throttle } = open();
    for (let left = 6; left > 0; left--) throttle.failed("a", `","b`);
    expect([throttle.delayFor("a", `","b`), throttle.delayFor(`a","`, "b")]).toEqual([200, 0]);
  });
});

describe("a flood of made-up names", () => {
  it("does not push out who has to wait", () => {
    const { throttle, fail } = open();
    fail(6);
    for (let i = 0; i < 25_000; i++) throttle.failed(HOST, `app_user.${i}`);
    expect(throttle.delayFor(HOST, USER)).toBe(200);
  });

  it("takes five failures of each of 10,000 others to do so", () => {
    const { throttle, fail } = open();
    fail(5);
    const others = (count: number, from = 0): void => {
      for (let i = from; i < from + count; i++) for (let left = 5; left > 0; left--) throttle.failed(HOST, `other${i}`);
    };
    others(9_999);
    fail(1);
    others(9_999, 9_999);
    expect(throttle.delayFor(HOST, USER)).toBe(200);
    expect(throttle.delayFor(HOST, "other9998")).toBe(0);
    others(1, 20_000);
    expect(throttle.delayFor(HOST, USER)).toBe(0);
    expect(throttle.delayFor(HOST, "other9999")).toBe(100);
  });

  it("leaves those that failed last, of those that do not wait yet", () => {
    const { throttle, fail } = open();
    fail(4);
    for (let i = 0; i < 9_999; i++) throttle.failed(HOST, `app_user.${i}`);
    fail(1);
    expect(throttle.delayFor(HOST, USER)).toBe(100);
  });

  it("takes the place of one that failed seldom and long ago", () => {
    const { throttle, fail } = open();
    fail(4);
    for (let i = 0; i < 10_000; i++) throttle.failed(HOST, `app_user.${i}`);
    fail(4);
    expect(throttle.delayFor(HOST, USER)).toBe(0);
  });
});
