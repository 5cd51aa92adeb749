/**
 * No proxy at all: what the server itself can do on this machine, which every ratio has to be read against. It starts
 * nothing and has no CPU time of its own.
 */
import type { Peer } from "../peer.ts";

export const direct: Peer = {
  name: "direct",
  async probe() {
    return { version: "PostgreSQL itself" };
  },
  async start(upstream) {
    return { target: upstream, processGroup: undefined, stop: async () => undefined };
  },
};
