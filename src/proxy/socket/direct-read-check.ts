/**
 * Tries out at start what direct-read.ts does with Node's internals: both ends of a real connection are moved, bytes, a
 * pause and an end go through. A future Node that breaks it costs speed, not a session.
 */
import { connect, createServer, type Socket } from "node:net";
import { once } from "node:events";
import { raceAbort } from "../../lib/deadline.ts";
import { moveToDirectRead } from "./direct-read.ts";

const PROBE = Buffer.from("probe");

/** True when sockets can be moved. Never rejects; at most as long as `signal` lets it. */
export async function isDirectReadSafe(signal: AbortSignal): Promise<boolean> {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  try {
    server.listen(0, "127.0.0.1");
    await raceAbort(once(server, "listening"), signal);
    const address = server.address();
    if (address === null || typeof address === "string") return false;
    const accepted = once(server, "connection");
    const near = connect({ port: address.port, host: "127.0.0.1", allowHalfOpen: true });
    sockets.push(near);
    const [far] = (await raceAbort(Promise.all([accepted, once(near, "connect")]), signal))[0] as [Socket];
    sockets.push(far);
    return await raceAbort(passesThrough(near, far, sockets), signal);
  } catch {
    return false;
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

/** near -> far: the probe, a pause after it, the probe again, then the end; far -> near: the end. */
function passesThrough(near: Socket, far: Socket, sockets: Socket[]): Promise<boolean> {
  return new Promise((resolve) => {
    let received = 0;
    const movedFar = moveToDirectRead(far, (bytes, length) => {
      if (!PROBE.equals(bytes.subarray(0, length))) resolve(false);
      if (++received === 1) {
        setImmediate(() => {
          movedNear?.write(PROBE);
          movedFar?.resume();
        });
      } else {
        movedNear?.end();
      }
      return received !== 1;
    });
    const movedNear = moveToDirectRead(near, () => true);
    if (movedFar === undefined || movedNear === undefined) return resolve(false);
    sockets.push(movedFar, movedNear);
    movedFar.on("end", () => movedFar.end());
    movedNear.on("end", () => resolve(received === 2));
    movedFar.on("error", () => resolve(false));
    movedNear.on("error", () => resolve(false));
    movedFar.resume();
    movedNear.resume();
    movedNear.write(PROBE);
  });
}
