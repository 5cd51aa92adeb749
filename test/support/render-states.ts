/** The table of session states as a mermaid diagram, as ARCHITECTURE.md shows it. */
import { sessionStates, type SessionState } from "../../src/proxy/session-state.ts";

export function renderStates(): string {
  const states = Object.keys(sessionStates) as SessionState[];
  const edges = states.flatMap((state) => sessionStates[state].next.map((next) => `    ${state} --> ${next}`));
  const limits = states.flatMap((state) => {
    const { boundedBy } = sessionStates[state];
    return boundedBy === undefined ? [] : [`    ${state}: ${state} (${boundedBy})`];
  });
  return [
    "```mermaid",
    "stateDiagram-v2",
    `    [*] --> ${states[0]}`,
    ...edges,
    "    closed --> [*]",
    ...limits,
    "```",
  ].join("\n");
}
