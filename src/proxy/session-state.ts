/**
 * The states of a session and the legal edges between them. `transition` is the only place that assigns a state; an
 * illegal edge is a bug of ours and ends that session. ARCHITECTURE.md shows this table as a diagram, kept equal by a test.
 */
import assert from "node:assert/strict";

export type SessionState =
  | "negotiating"
  | "cancelling"
  | "authenticating"
  | "resolving"
  | "injecting"
  | "forwarding"
  | "half_closed"
  | "closing"
  | "closed";

/** For each state: what may follow, and the setting that bounds the stay in it. */
export const sessionStates: Readonly<
  Record<SessionState, { readonly next: readonly SessionState[]; readonly boundedBy: string | undefined }>
> = {
  negotiating: { next: ["cancelling", "authenticating", "closing"], boundedBy: "handshake_timeout" },
  cancelling: { next: ["closing"], boundedBy: "handshake_timeout" },
  authenticating: { next: ["resolving", "forwarding", "closing"], boundedBy: "handshake_timeout" },
  resolving: { next: ["injecting", "closing"], boundedBy: "handshake_timeout" },
  injecting: { next: ["forwarding", "closing"], boundedBy: "handshake_timeout" },
  forwarding: { next: ["half_closed", "closing"], boundedBy: undefined },
  half_closed: { next: ["closing"], boundedBy: "half_close_timeout" },
  closing: { next: ["closed"], boundedBy: "half_close_timeout" },
  closed: { next: [], boundedBy: undefined },
};

/** Moves `holder` to `next`; asserts that the table has that edge. */
export function transition(holder: { state: SessionState }, next: SessionState): void {
  assert(sessionStates[holder.state].next.includes(next), `illegal session transition ${holder.state} -> ${next}`);
  holder.state = next;
}
