/** The table of session states: every edge it lists can be gone, and no other. */
import { describe, expect, it } from "vitest";
import { sessionStates, transition, type SessionState } from "../../../src/proxy/session-state.ts";

const states = Object.keys(sessionStates) as SessionState[];

describe("transition", () => {
  it("goes every edge of the table and asserts on every other", () => {
    for (const from of states) {
      for (const to of states) {
        const holder = { state: from };
        if (sessionStates[from].next.includes(to)) {
          transition(holder, to);
          expect(holder.state).toBe(to);
        } else {
          expect(() => transition(holder, to)).toThrow(`${from} -> ${to}`);
          expect(holder.state).toBe(from);
        }
      }
    }
  });
});

describe("the table", () => {
  it("leads from the first state to every other", () => {
    const reached = new Set<SessionState>(["negotiating"]);
    for (const state of reached) for (const next of sessionStates[state].next) reached.add(next);
    expect([...reached].toSorted()).toEqual(states.toSorted());
  });

  it("leads from every state to closed, by way of closing", () => {
    for (const state of states) {
      if (state === "closed") expect(sessionStates[state].next).toEqual([]);
      else if (state === "closing") expect(sessionStates[state].next).toEqual(["closed"]);
      else expect(sessionStates[state].next).toContain("closing");
    }
  });

  it("bounds the stay in every state but forwarding and closed", () => {
    const unbounded = states.filter((state) => sessionStates[state].boundedBy === undefined);
    expect(unbounded).toEqual(["forwarding", "closed"]);
  });
});
