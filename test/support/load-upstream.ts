/**
 * An upstream server on real sockets that costs next to nothing: it lets everybody in, answers pgvpd's question about
 * roles, and answers a Query at once, or with as many bytes of DataRows as the query asks for, as fast as they are taken.
 * Thousands of sessions fit where a machine could not start as many PostgreSQL backends.
 */
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { decodeStartupPacket } from "../../src/protocol/startup.ts";
import { readMessages, server, type ReadMessage } from "./bytes.ts";

/** A Query of this form is answered with so many bytes of DataRows. */
export const streamQuery = (bytes: number): string => `stream ${bytes}`;

/** 16 KiB. */
const ROW = server.dataRow("x".repeat(16 * 1024 - 11));
const END_OF_STREAM = Buffer.concat([server.commandComplete("SELECT 1"), server.readyForQuery()]);

/** The whole length of the answer to `streamQuery(bytes)`. */
export const streamLength = (bytes: number): number =>
  Math.ceil(bytes / ROW.length) * ROW.length + END_OF_STREAM.length;

const ONE_ROW = Buffer.concat([server.dataRow("1"), server.commandComplete("SELECT 1"), server.readyForQuery()]);

export interface LoadUpstream extends AsyncDisposable {
  readonly host: "127.0.0.1";
  readonly port: number;
  /** Logins that were completed. */
  readonly logins: number;
  /** Connections that are open now. */
  readonly connections: number;
  /** Bytes of DataRows that the sockets have taken. */
  readonly streamedBytes: number;
  /** Bytes that clients sent after their login. */
  readonly receivedBytes: number;
}

export async function startLoadUpstream(): Promise<LoadUpstream> {
  const sockets = new Set<Socket>();
  const count = { logins: 0, streamedBytes: 0, receivedBytes: 0 };
  const listener: Server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
    serve(socket, count);
  });
  listener.listen({ port: 0, host: "127.0.0.1", backlog: 4096 });
  await once(listener, "listening");
  const address = listener.address();
  return {
    host: "127.0.0.1",
    port: address !== null && typeof address === "object" ? address.port : 0,
    get logins() {
      return count.logins;
    },
    get connections() {
      return sockets.size;
    },
    get streamedBytes() {
      return count.streamedBytes;
    },
    get receivedBytes() {
      return count.receivedBytes;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      listener.close();
      await once(listener, "close");
    },
  };
}

type Count = { logins: number; streamedBytes: number; receivedBytes: number };

function serve(socket: Socket, count: Count): void {
  let isLoggedIn = false;
  let unread: Buffer = Buffer.alloc(0);
  /** Bytes of a message too large to be kept, that are still to come. */
  let skipped = 0;
  let role = "";
  socket.on("data", (chunk: Buffer) => {
    if (isLoggedIn) count.receivedBytes += chunk.length;
    const passed = Math.min(skipped, chunk.length);
    skipped -= passed;
    unread = Buffer.concat([unread, chunk.subarray(passed)]);
    if (!isLoggedIn) {
      if (unread.length < 4 || unread.length < unread.readInt32BE(0)) return;
      const length = unread.readInt32BE(0);
      role = logIn(socket, unread.subarray(0, length));
      unread = unread.subarray(length);
      isLoggedIn = true;
      count.logins++;
    }
    const { messages, rest } = readMessages(unread);
    unread = rest;
    for (const message of messages) answer(socket, message, role, count);
    if (unread.length >= 5 && unread.readInt32BE(1) > 1_000_000) {
      skipped = unread.readInt32BE(1) + 1 - unread.length;
      unread = Buffer.alloc(0);
    }
  });
}

/** Lets the client in; returns the role that it logs in as. */
function logIn(socket: Socket, packet: Buffer): string {
  const startup = decodeStartupPacket(packet);
  if (startup.kind !== "startup") {
    socket.destroy();
    return "";
  }
  socket.write(
    Buffer.concat([
      server.authenticationOk,
      server.parameterStatus("server_version", "18.0"),
      server.parameterStatus("server_encoding", "UTF8"),
      server.parameterStatus("client_encoding", "UTF8"),
      server.parameterStatus("is_superuser", "off"),
      server.backendKeyData(process.pid, Buffer.from(String(Math.random()).slice(2, 6).padEnd(4, "0"))),
      server.readyForQuery(),
    ]),
  );
  return startup.parameters.find(({ name }) => name === "user")?.value.toString() ?? "";
}

function answer(socket: Socket, { type, body }: ReadMessage, role: string, count: Count): void {
  if (type === "P") socket.write(server.parseComplete);
  else if (type === "B") socket.write(server.bindComplete);
  else if (type === "E") {
    socket.write(Buffer.concat([server.dataRow(role, "f", "f", "f", "f"), server.commandComplete("SELECT 1")]));
  } else if (type === "C") socket.write(server.closeComplete);
  else if (type === "S") socket.write(server.readyForQuery());
  else if (type === "X") socket.end();
  else if (type === "Q") {
    const wanted = /^stream (\d+)/.exec(body.toString("latin1"))?.[1];
    if (wanted === undefined) socket.write(ONE_ROW);
    else stream(socket, Number(wanted), count);
  }
}

/** Never more than the socket takes: this process's memory is bounded, too. */
function stream(socket: Socket, bytes: number, count: Count): void {
  let left = bytes;
  const go = (): void => {
    while (left > 0 && !socket.destroyed) {
      left -= ROW.length;
      const isTaken = socket.write(ROW, () => (count.streamedBytes += ROW.length));
      if (isTaken) continue;
      socket.once("drain", go);
      return;
    }
    if (!socket.destroyed) socket.write(END_OF_STREAM);
  };
  go();
}
