/**
 * What every peer that is a process has in common: spawn it, wait until it listens, and hand it out as a RunningPeer.
 * Called by the files beside it. It knows no peer's configuration.
 */
import { untilListening, type SpawnOptions, type Workbench } from "../measure/workbench.ts";
import type { RunningPeer, Target } from "../peer.ts";

export interface PeerProcess extends SpawnOptions {
  readonly command: string;
  readonly args: readonly string[];
  /** Where its clients connect; the port is also what tells that it is up. */
  readonly target: Target;
}

export async function startChild(workbench: Workbench, peer: PeerProcess): Promise<RunningPeer> {
  const child = await workbench.spawn(peer.command, peer.args, peer);
  await untilListening(child, peer.target.port);
  return {
    target: peer.target,
    processGroup: child.pid,
    async stop() {
      child.killGroup(); // a peer has nothing to save, and some wait for their clients when asked politely
      await child.exited;
    },
  };
}
