/**
 * A client on a real socket that sends what the test wants, in the pieces and the order that it wants, and logs in as
 * libpq does where it is told to. Against PostgreSQL or the proxy alike, over TCP or a Unix-domain socket.
 */
import { connect, type NetConnectOpts, type Socket } from "node:net";
import { once } from "node:events";
import { connect as connectTls, type ConnectionOptions } from "node:tls";
import {
  cancelRequest,
  client as frontend,
  errorFields,
  readMessages,
  SSL_REQUEST,
  startupMessage,
  type ReadMessage,
} from "./bytes.ts";
import { SCRAM_SHA_256, ScramClient } from "./scram.ts";
import { md5Answer } from "./scripted-upstream.ts";

/** Longer than anything that a test waits for takes on a busy machine. */
const LIMIT_MS = 20_000;

export type Place = ({ readonly host: string; readonly port: number } | { readonly path: string }) & {
  /** Given: over TLS, after an SSLRequest. */
  readonly tls?: ConnectionOptions;
};

export interface RawLogin {
  readonly user: string;
  readonly password?: string;
  /** Further parameters of the StartupMessage. */
  readonly parameters?: Readonly<Record<string, string | Buffer>>;
  readonly minor?: number;
  /** Sends every byte of the login as a segment of its own. */
  readonly byteByByte?: boolean;
  /** Ends the client's half when so many bytes were sent. */
  readonly endAfter?: number;
  /** Resets the connection there, where it would end its half. */
  readonly isAbrupt?: boolean;
  /** Sent in one write with the answer of that number; 0 is the StartupMessage. */
  readonly pipelined?: { readonly behind: number; readonly bytes: Buffer };
}

export class RawClient implements Disposable {
  readonly socket: Socket;
  /** Whole messages that came, in order. */
  readonly messages: ReadMessage[] = [];
  /** The other side has ended, or the connection was lost. */
  isClosed = false;
  /** BackendKeyData. */
  key: { readonly processId: number; readonly secret: Buffer } | undefined;
  readonly #chunks: Buffer[] = [];
  /** What came behind the last whole message. */
  #rest: Buffer[] = [];
  #restLength = 0;
  #restWanted = 5;
  #taken = 0;
  #sent = 0;
  #answers = 0;
  #changed: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    const note = (): void => {
      this.isClosed = true;
      this.#changed();
    };
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#split(chunk);
      this.#changed();
    });
    socket.on("end", note);
    socket.on("close", note);
    socket.on("error", note);
  }

  static async open(place: Place): Promise<RawClient> {
    const { tls, ...where } = place;
    const options: NetConnectOpts = { ...where, allowHalfOpen: true, noDelay: true };
    const socket = connect(options);
    await once(socket, "connect");
    return new RawClient(tls === undefined ? socket : await encrypt(socket, tls));
  }

  /** Opens a connection and logs in; rejects with what the server said where it refuses. */
  static async logIn(place: Place, login: RawLogin): Promise<RawClient> {
    const client = await RawClient.open(place);
    try {
      await client.logIn(login);
      if (client.key === undefined) throw new Error(`no login, but "${client.types}" ${JSON.stringify(client.error)}`);
      return client;
    } catch (error) {
      client.socket.destroy();
      throw error;
    }
  }

  /** Everything that came, as it came. */
  get received(): Buffer {
    return Buffer.concat(this.#chunks);
  }

  get types(): string {
    return this.messages.map(({ type }) => type).join("");
  }

  /** The ErrorResponse that came last, whole. */
  get errorBytes(): Buffer | undefined {
    return this.messages.findLast(({ type }) => type === "E")?.bytes;
  }

  /** Its fields. */
  get error(): Readonly<Record<string, string>> {
    const bytes = this.errorBytes;
    return bytes === undefined ? {} : errorFields(bytes.subarray(5));
  }

  send(...parts: Buffer[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** Resolves when the login has succeeded, or the other side has closed, or `endAfter` was reached and it has closed. */
  async logIn(login: RawLogin): Promise<void> {
    const { user, password = "", parameters = {}, minor = 0 } = login;
    const scram = new ScramClient(password);
    await this.#sendPart(login, startupMessage({ user, ...parameters }, minor));
    for (;;) {
      const next = await this.#read();
      if (next === undefined || next.type === "E") break;
      if (next.type === "K") this.key = { processId: next.body.readInt32BE(0), secret: next.body.subarray(4) };
      if (next.type === "Z") return;
      const answer = next.type === "R" ? answerTo(next.body, user, password, scram) : undefined;
      if (answer !== undefined) await this.#sendPart(login, answer);
    }
    await this.untilClosed();
  }

  /** The next message. */
  async readMessage(): Promise<ReadMessage> {
    const next = await this.#read();
    if (next === undefined)
      throw new Error(`the connection is closed; it gave "${this.types}" ${JSON.stringify(this.error)}`);
    return next;
  }

  /** Messages up to the next one of `type`, that one included. */
  async readUntil(type: string): Promise<ReadMessage[]> {
    const messages: ReadMessage[] = [];
    for (;;) {
      const next = await this.readMessage();
      messages.push(next);
      if (next.type === type) return messages;
    }
  }

  /** Sends a Query; the messages up to its ReadyForQuery. */
  query(sql: string): Promise<ReadMessage[]> {
    this.send(frontend.query(sql));
    return this.readUntil("Z");
  }

  async untilClosed(): Promise<void> {
    await this.#until(() => this.isClosed);
    this.socket.destroy();
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }

  /** `undefined` when the connection is closed and nothing is left. */
  async #read(): Promise<ReadMessage | undefined> {
    await this.#until(() => this.isClosed || this.#taken < this.messages.length);
    return this.messages[this.#taken++];
  }

  /** Looks at a large message once it may be whole, not with each of its chunks. */
  #split(chunk: Buffer): void {
    this.#rest.push(chunk);
    this.#restLength += chunk.length;
    if (this.#restLength < this.#restWanted) return;
    const { messages, rest } = readMessages(this.#rest.length === 1 ? chunk : Buffer.concat(this.#rest));
    for (const message of messages) this.messages.push(message);
    this.#rest = [rest];
    this.#restLength = rest.length;
    this.#restWanted = rest.length < 5 ? 5 : rest.readInt32BE(1) + 1;
  }

  async #sendPart(login: RawLogin, part: Buffer): Promise<void> {
    const { endAfter = Number.POSITIVE_INFINITY, byteByByte = false, isAbrupt = false, pipelined } = login;
    const whole = pipelined?.behind === this.#answers++ ? Buffer.concat([part, pipelined.bytes]) : part;
    const bytes = whole.subarray(0, Math.max(0, endAfter - this.#sent));
    this.#sent += bytes.length;
    for (const piece of byteByByte ? [...bytes].map((byte) => Buffer.of(byte)) : [bytes]) {
      if (piece.length === 0 || !this.socket.writable) continue;
      await new Promise<void>((resolve) => {
        this.socket.write(piece, () => resolve());
      });
    }
    if (this.#sent < endAfter) return;
    if (isAbrupt) this.socket.resetAndDestroy();
    else this.socket.end();
  }

  /** One waiter at a time, woken by every event of the socket. */
  async #until(isDone: () => boolean): Promise<void> {
    if (isDone()) return;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#changed = () => {};
        reject(new Error(`nothing came in ${LIMIT_MS} ms; so far "${this.types}" ${JSON.stringify(this.error)}`));
      }, LIMIT_MS);
      this.#changed = () => {
        if (!isDone()) return;
        this.#changed = () => {};
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

async function encrypt(socket: Socket, tls: ConnectionOptions): Promise<Socket> {
  socket.write(SSL_REQUEST);
  const [answer] = (await once(socket, "data")) as [Buffer];
  if (answer.toString("latin1") !== "S") throw new Error(`SSLRequest was answered with ${answer.toString("latin1")}`);
  const encrypted = connectTls({ socket, ...tls });
  await once(encrypted, "secureConnect");
  return encrypted;
}

/** Sends a CancelRequest and waits for the close; returns what came back, which should be nothing. */
export async function sendCancel(
  place: Place,
  key: { readonly processId: number; readonly secret: Buffer },
): Promise<Buffer> {
  using client = await RawClient.open(place);
  client.send(cancelRequest(key.processId, key.secret));
  await client.untilClosed();
  return client.received;
}

function answerTo(body: Buffer, user: string, password: string, scram: ScramClient): Buffer | undefined {
  switch (body.readInt32BE(0)) {
    case 3:
      return frontend.password(password);
    case 5:
      return frontend.password(md5Answer(password, user, body.subarray(4)));
    case 10:
      return frontend.saslInitial(SCRAM_SHA_256, scram.first());
    case 11:
      return frontend.saslResponse(scram.final(body.toString("utf8", 4)));
    default:
      return undefined;
  }
}
