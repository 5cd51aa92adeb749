/**
 * Passes a CancelRequest on to the server that runs the query, and waits until that server has taken it: libpq does not
 * go on before the socket is closed. Nothing is ever answered, so a wrong key learns nothing. Not limited by, nor
 * counted in, the limits for sessions; a rate of its own bounds it.
 */
import type { Config } from "../../config/settings.ts";
import type { TokenBucket } from "../../lib/token-bucket.ts";
import type { CancelOutcome } from "../../observe/metrics.ts";
import { encodeCancelRequest, type CancelRequest } from "../../protocol/startup.ts";
import type { CancelKeys, CancelTarget } from "./cancel-keys.ts";
import { openSocket } from "./dial.ts";
import type { UpstreamTls } from "./upstream-tls.ts";

export interface CancelServices {
  readonly config: Pick<Config, "tcpKeepalive" | "tcpKeepidleMs">;
  readonly cancelKeys: CancelKeys;
  readonly cancelRate: TokenBucket;
  readonly upstreamTls: UpstreamTls | undefined;
}

/** Resolves when the upstream has closed the connection; only an abort of `signal` rejects. */
export async function forwardCancel(
  request: CancelRequest,
  { config, cancelKeys, cancelRate, upstreamTls }: CancelServices,
  signal: AbortSignal,
): Promise<CancelOutcome> {
  const subject = cancelKeys.find(request);
  if (subject === undefined) return "unknown";
  // Only requests that cost something count: a flood of wrong keys must not stop anybody's Ctrl-C.
  if (!cancelRate.take()) return "limited";
  using held = subject.hold();
  if (held === undefined) return "forwarded"; // it waits for the pool, or has nothing to cancel
  return await sendCancel(held.target, { config, upstreamTls }, signal); // it is held until then
}

/** Resolves when the upstream has closed the connection; only an abort of `signal` rejects. */
export async function sendCancel(
  target: CancelTarget,
  { config, upstreamTls }: Pick<CancelServices, "config" | "upstreamTls">,
  signal: AbortSignal,
): Promise<CancelOutcome> {
  try {
    const socket = await openSocket(target.address, config, target.ownTls ?? upstreamTls, signal);
    await new Promise<void>((resolve) => {
      const abort = (): void => void socket.destroy();
      signal.addEventListener("abort", abort, { once: true });
      socket.on("error", abort);
      socket.on("end", () => socket.end());
      socket.on("close", () => {
        signal.removeEventListener("abort", abort);
        resolve();
      });
      socket.resume();
      socket.end(encodeCancelRequest(target.key));
    });
  } catch {
    signal.throwIfAborted();
    return "failed";
  }
  signal.throwIfAborted();
  return "forwarded";
}
