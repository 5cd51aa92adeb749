/**
 * Waits for the end of a TLS handshake, on either side of it. What Node leaves to a tls.Server is done here for sockets
 * that are encrypted later in their life: its errors are nobody's otherwise.
 */
import type { TLSSocket } from "node:tls";

/**
 * Resolves when the handshake is over: `secure` is the event of a server's socket, `secureConnect` of a client's. From
 * then on an error destroys the socket, and is not thrown where nobody listens.
 *
 * @throws the error of the handshake, an Error where the peer went without a word, or whatever aborts `signal`. The
 *   socket is destroyed then.
 */
export function awaitHandshake(
  socket: TLSSocket,
  done: "secure" | "secureConnect",
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      signal.removeEventListener("abort", onAbort);
      socket.off(done, onDone).off("error", onError).off("end", onGone).off("close", onGone);
    };
    const onDone = (): void => {
      settle();
      resolve();
    };
    const onError = (error: Error): void => {
      settle();
      socket.destroy();
      reject(error);
    };
    const onGone = (): void => onError(new Error("the connection was closed"));
    const onAbort = (): void => onError(signal.reason as Error);

    // Where no tls.Server has accepted the connection, errors after the handshake come by this event alone, and the
    // socket would stay open with nothing ever coming from it.
    socket.on("_tlsError", (error: Error) => socket.destroy(error));
    socket.on("error", () => {});
    socket.once(done, onDone).once("error", onError).once("end", onGone).once("close", onGone);
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort);
  });
}
