/**
 * A PostgreSQL client that costs next to nothing, so that bulk and memory scenarios measure the peer and not the client.
 * It reads into one shared buffer and throws the bytes away: a response ends where the last six bytes received are a
 * ReadyForQuery. It never decodes a row, and logs in only where the server trusts.
 */
import { connect, type Socket } from "node:net";
import type { Target } from "../peer.ts";

const readBufferBytes = 256 * 1024;
const silenceLimitMs = 60_000;
const protocolVersion = 196_608;
const readyForQuery = Buffer.from([0x5a, 0, 0, 0, 5]); // Byte1('Z') Int32(5), then the transaction status

const sharedReadBuffer = Buffer.allocUnsafe(readBufferBytes);

interface Awaited {
  readonly endsAt: "readyForQuery" | "copyInResponse";
  readonly resolve: (bytes: number) => void;
  readonly reject: (error: Error) => void;
}

export class RawClient {
  readonly #socket: Socket;
  #awaited: Awaited | undefined;
  #failure: Error | undefined;
  #bytes = 0;
  #tail = Buffer.alloc(0);

  private constructor(target: Target) {
    this.#socket = connect({
      host: target.host,
      port: target.port,
      noDelay: true,
      onread: {
        buffer: sharedReadBuffer,
        callback: (bytes, buffer) => {
          this.#received(Buffer.from(buffer.buffer, buffer.byteOffset, bytes));
          return true;
        },
      },
    });
    this.#socket.setTimeout(silenceLimitMs, () => this.#socket.destroy(new Error("the server fell silent")));
    this.#socket.on("error", (error) => this.#fail(error));
    this.#socket.on("close", () => this.#fail(new Error("the connection was closed")));
  }

  static async login(target: Target): Promise<RawClient> {
    const client = new RawClient(target);
    const parameters = `user\0${target.user}\0database\0${target.database}\0\0`;
    const packet = Buffer.alloc(8 + Buffer.byteLength(parameters));
    packet.writeInt32BE(packet.length, 0);
    packet.writeInt32BE(protocolVersion, 4);
    packet.write(parameters, 8);
    client.#socket.write(packet);
    await client.#until("readyForQuery");
    return client;
  }

  /** Runs one statement and resolves with the number of bytes that answered it, ReadyForQuery included. */
  async query(sql: string): Promise<number> {
    this.#socket.write(message("Q", Buffer.from(`${sql}\0`)));
    return this.#until("readyForQuery");
  }

  /** COPY FROM STDIN: sends `chunk`, which holds whole CopyData messages, `times` times. */
  async copyIn(sql: string, chunk: Buffer, times: number): Promise<void> {
    this.#socket.write(message("Q", Buffer.from(`${sql}\0`)));
    await this.#until("copyInResponse");
    for (let sent = 0; sent < times; sent += 1) {
      if (!this.#socket.write(chunk)) await this.#drained();
    }
    this.#socket.write(message("c", Buffer.alloc(0)));
    await this.#until("readyForQuery");
  }

  close(): void {
    this.#socket.destroy();
  }

  #until(endsAt: Awaited["endsAt"]): Promise<number> {
    this.#bytes = 0;
    this.#tail = Buffer.alloc(0);
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) reject(this.#failure);
      else this.#awaited = { endsAt, resolve, reject };
    });
  }

  #drained(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) return reject(this.#failure);
      this.#awaited = { endsAt: "readyForQuery", resolve: () => undefined, reject };
      this.#socket.once("drain", resolve);
    });
  }

  #received(chunk: Buffer): void {
    const isFirst = this.#bytes === 0;
    this.#bytes += chunk.length;
    const error = isFirst ? refusal(chunk) : undefined;
    if (error !== undefined) return this.#fail(error);
    if (isFirst && chunk[0] === 0x47 && this.#awaited?.endsAt === "copyInResponse") return this.#succeed(); // 'G'
    this.#tail = Buffer.from(chunk.length >= 6 ? chunk.subarray(-6) : Buffer.concat([this.#tail, chunk]).subarray(-6));
    if (this.#tail.length === 6 && this.#tail.subarray(0, 5).equals(readyForQuery)) this.#succeed();
  }

  #succeed(): void {
    const awaited = this.#awaited;
    this.#awaited = undefined;
    awaited?.resolve(this.#bytes);
    this.#bytes = 0;
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    const awaited = this.#awaited;
    this.#awaited = undefined;
    awaited?.reject(error);
  }
}

/** The error that a response opens with, or undefined: an ErrorResponse, or a demand for a password. */
function refusal(chunk: Buffer): Error | undefined {
  if (chunk[0] === 0x45) return new Error(`server: ${chunk.toString("utf8", 5, 300).replaceAll("\0", " ")}`); // 'E'
  if (chunk[0] === 0x52 && chunk.length >= 9 && chunk.readInt32BE(5) !== 0) return new Error("asked for a password"); // 'R'
  return undefined;
}

/** Byte1(type) Int32(length of itself and the body) body */
export function message(type: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5);
  head.write(type, 0, "latin1");
  head.writeInt32BE(4 + body.length, 1);
  return Buffer.concat([head, body]);
}
