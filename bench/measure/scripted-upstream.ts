/**
 * A server that looks like PostgreSQL to a peer and costs no backend process: it trusts everybody and answers every
 * statement with one row. The memory scenario stands thousands of idle connections on it. It never reads what a
 * statement says, and is no place to measure speed.
 */
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { message } from "./raw-client.ts";
import { listenOnFreePort } from "./workbench.ts";

const encryptionRequests = new Set([80_877_103, 80_877_104]); // SSLRequest, GSSENCRequest
const reportedParameters = {
  server_version: "15.0",
  server_encoding: "UTF8",
  client_encoding: "UTF8",
  DateStyle: "ISO, MDY",
  TimeZone: "UTC",
  IntervalStyle: "postgres",
  integer_datetimes: "on",
  standard_conforming_strings: "on",
  is_superuser: "off",
  session_authorization: "app_user",
  application_name: "",
  default_transaction_read_only: "off",
  in_hot_standby: "off",
};

const ready = message("Z", Buffer.from("I"));
const complete = message("C", Buffer.from("SELECT 1\0"));

/** Read as pgvpd's question about the session's roles: app_user has none of the attributes that pass row-level security. */
const columns = ["rolname", "rolsuper", "rolbypassrls", "rolreplication", "rolcreaterole"];
const row = message(
  "D",
  Buffer.concat([int16(columns.length), textValue("app_user"), ...columns.slice(1).map(() => textValue("f"))]),
);
const rowDescription = message("T", Buffer.concat([int16(columns.length), ...columns.map(textColumn)]));
const answers: Readonly<Record<string, Buffer>> = {
  Q: Buffer.concat([rowDescription, row, complete, ready]),
  P: message("1", Buffer.alloc(0)),
  B: message("2", Buffer.alloc(0)),
  C: message("3", Buffer.alloc(0)),
  D: rowDescription,
  E: Buffer.concat([row, complete]),
  S: ready,
};

export interface ScriptedUpstream {
  readonly port: number;
  close(): Promise<void>;
}

export async function startScriptedUpstream(): Promise<ScriptedUpstream> {
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    socket.on("error", () => socket.destroy());
    converse(socket, sockets.size);
  });
  const port = await listenOnFreePort(server);
  return {
    port,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

function converse(socket: Socket, processId: number): void {
  let received: Buffer = Buffer.alloc(0);
  let isLoggedIn = false;
  socket.on("data", (chunk) => {
    received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
    for (;;) {
      const lengthAt = isLoggedIn ? 1 : 0;
      if (received.length < lengthAt + 4) break;
      const end = lengthAt + received.readInt32BE(lengthAt);
      if (received.length < end) break;
      if (isLoggedIn) answer(socket, String.fromCharCode(received[0] ?? 0));
      else if (encryptionRequests.has(received.readInt32BE(4))) socket.write("N");
      else {
        isLoggedIn = true;
        socket.write(welcome(processId));
      }
      received = received.subarray(end);
    }
  });
}

function answer(socket: Socket, type: string): void {
  const bytes = answers[type];
  if (bytes !== undefined) socket.write(bytes);
  else if (type === "X") socket.end();
}

/** AuthenticationOk, every ParameterStatus, BackendKeyData, ReadyForQuery */
function welcome(processId: number): Buffer {
  const key = Buffer.alloc(8);
  key.writeInt32BE(processId, 0);
  const parameters = Object.entries(reportedParameters).map(([name, value]) =>
    message("S", Buffer.from(`${name}\0${value}\0`)),
  );
  return Buffer.concat([message("R", Buffer.alloc(4)), ...parameters, message("K", key), ready]);
}

/** Int32 length of the value, the value */
function textValue(value: string): Buffer {
  const length = Buffer.alloc(4);
  length.writeInt32BE(value.length);
  return Buffer.concat([length, Buffer.from(value)]);
}

/** String name, Int32 table, Int16 column, Int32 type (text), Int16 type size, Int32 modifier, Int16 format */
function textColumn(name: string): Buffer {
  const field = Buffer.alloc(18);
  field.writeInt32BE(25, 6);
  field.writeInt16BE(-1, 10);
  field.writeInt32BE(-1, 12);
  return Buffer.concat([Buffer.from(`${name}\0`), field]);
}

function int16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
}
