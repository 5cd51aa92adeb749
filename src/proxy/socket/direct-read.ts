/**
 * Reads a TCP or Unix socket straight into one buffer of ours, without a stream event and a new Buffer for each chunk:
 * Node's `onread`. Node offers it only for sockets that it connects itself, so the socket's handle moves into a new
 * Socket, which takes two of Node's undocumented fields. direct-read-check.ts tries that out once, at start; where it
 * does not work, or a socket has no handle of its own (TLS, tests in memory), 'data' events are read instead.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { ReadBuffer } from "./read-buffer.ts";

interface SocketInternals {
  _handle: { reading: boolean; readStop(): number } | null;
  _server: unknown;
}

/**
 * Takes `length` bytes at the start of `bytes`. They may be overwritten as soon as the socket reads again: at the next
 * turn of the event loop. When this returns false they may not: what happens then says `WhenKept`.
 */
export type OnBytes = (bytes: Uint8Array, length: number) => boolean;

/**
 * What becomes of bytes that somebody still refers to. pause: the socket is not read until `resume()`, and the bytes are
 * overwritten then. replace: it is read on, into another buffer, and the bytes stay what they are.
 */
export type WhenKept = "pause" | "replace";

/**
 * Moves `socket`'s handle into a new Socket, not reading yet: `resume()` starts it. The old one is an empty shell then.
 * Undefined where that cannot be done; then `socket` is as it was.
 */
export function moveToDirectRead(socket: Duplex, onBytes: OnBytes, whenKept: WhenKept = "pause"): Socket | undefined {
  const old = socket as unknown as SocketInternals;
  const isPlainSocket = (socket.constructor as unknown) === Socket;
  const isAtRest = socket.readableLength === 0 && socket.writableLength === 0;
  const isOpen = !socket.destroyed && !socket.readableEnded && !socket.writableEnded;
  const handle = isPlainSocket && isAtRest && isOpen ? old._handle : null;
  if (handle === null || handle === undefined) return undefined;

  handle.readStop();
  handle.reading = false;
  old._handle = null;
  const memory = new ReadBuffer();
  let lastLength = 0;
  let isFree = true;
  let isStarted = false;
  const moved = new Socket({
    handle,
    allowHalfOpen: true,
    manualStart: true,
    onread: {
      // Asked for once at the start and then after each read; undefined keeps the buffer.
      buffer: () => {
        if (isStarted && !isFree && whenKept === "replace") return memory.replace();
        if (isStarted) return memory.afterRead(lastLength, isFree);
        isStarted = true;
        return memory.current;
      },
      callback: (length: number, bytes: Uint8Array) => {
        lastLength = length;
        isFree = onBytes(bytes, length);
        return isFree || whenKept === "replace";
      },
    },
  } as ConstructorParameters<typeof Socket>[0]);
  moved.once("close", () => memory.release(isFree));
  // The listener counts its open connections by this field.
  (moved as unknown as SocketInternals)._server = old._server;
  old._server = null;
  return moved;
}
