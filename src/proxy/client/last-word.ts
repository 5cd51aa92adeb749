/**
 * Ends a client's connection whose login has failed: sends the last message, if there is one, and closes. What the
 * client still sends is read and thrown away, for a short while: a close with unread bytes would be a reset, and the
 * client might never see the error.
 */
import type { Duplex } from "node:stream";
import type { Clock } from "../../lib/clock.ts";

/** How long, in milliseconds, a client may take to read the last message and close. */
const LIMIT_MS = 2_000;

/** Resolves when the socket is closed: at once when the client is gone, after LIMIT_MS at the latest. */
export function sendLastWord(socket: Duplex, lastWord: Buffer | undefined, clock: Clock): Promise<void> {
  return new Promise((resolve) => {
    if (socket.destroyed || !socket.writable || lastWord === undefined) {
      socket.destroy();
      return resolve();
    }
    const limit = clock.after(LIMIT_MS, () => socket.destroy());
    const close = (): void => void socket.destroy();
    socket.once("close", () => {
      limit[Symbol.dispose]();
      resolve();
    });
    socket.on("error", close);
    socket.on("data", () => {});
    socket.once("end", close);
    if (socket.readableEnded) socket.once("finish", close);
    socket.end(lastWord);
    socket.resume();
  });
}
