/**
 * A client of wire-session.ts that goes on over TLS: after an SSLRequest as PostgreSQL's clients do, or directly. What
 * it sends and receives from then on is a ScriptedClient's again, inside of the encryption.
 */
import { once } from "node:events";
import { connect, type ConnectionOptions, type TLSSocket } from "node:tls";
import { SSL_REQUEST, startupMessage } from "./bytes.ts";
import { quiescence } from "./duplex-pair.ts";
import { ScriptedClient } from "./scripted-client.ts";
import type { ConnectOptions, Wire, WireConnection } from "./wire-session.ts";

/** Somewhere on a network: what has no address came by a Unix-domain socket. */
const ADDRESS = "192.0.2.7";

export interface TlsConnectOptions extends ConnectOptions {
  readonly tls?: ConnectionOptions;
  readonly isDirect?: boolean;
}

export interface TlsConnection {
  readonly session: WireConnection["session"];
  readonly client: ScriptedClient<TLSSocket>;
  /** The same client, outside of the encryption. */
  readonly plain: ScriptedClient;
}

/** A connection from a network that has asked for TLS and was told to go on. */
export async function askForTls(wire: Wire, options: ConnectOptions = {}): Promise<WireConnection> {
  const connection = wire.connect({ address: ADDRESS, isLocal: false, answers: false, ...options });
  connection.client.send(SSL_REQUEST);
  await quiescence();
  if (connection.client.received.toString("latin1") !== "S") throw new Error("TLS was refused");
  return connection;
}

/** A client that has finished its handshake and sent nothing in it. Rejects with the error of the handshake. */
export async function connectTls(wire: Wire, options: TlsConnectOptions = {}): Promise<TlsConnection> {
  const { isDirect = false, tls = {}, ...script } = options;
  const { client: plain, session } = isDirect
    ? wire.connect({ address: ADDRESS, isLocal: false, answers: false, ...script })
    : await askForTls(wire, script);
  const socket = beginTls(plain, { ...(isDirect && { ALPNProtocols: ["postgresql"] }), ...tls });
  await once(socket, "secureConnect");
  const client = new ScriptedClient(socket, { address: ADDRESS, ...script });
  return { client, session, plain };
}

/** Begins a handshake on the client's socket, and does not wait for its end. */
export function beginTls(client: ScriptedClient, options: ConnectionOptions = {}): TLSSocket {
  client.socket.removeAllListeners("data");
  return connect({ socket: client.socket, rejectUnauthorized: false, ...options });
}

/** Logs `app_user.acme` in over TLS, unless told otherwise; resolves when the client is ready or refused. */
export async function logInOverTls(wire: Wire, options: TlsConnectOptions = {}): Promise<TlsConnection> {
  const connection = await connectTls(wire, options);
  const { client } = connection;
  client.send(startupMessage({ user: options.user ?? "app_user.acme", database: "shop" }));
  await client.until(() => client.isReady || client.hasEnded);
  return connection;
}
