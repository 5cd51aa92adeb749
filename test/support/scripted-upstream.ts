/**
 * The server's side of a session in memory: logs a client in as its script says, answers pgvpd's own pipelines as
 * PostgreSQL does, and keeps every byte that reached it. `play` replaces any of that, for servers that misbehave.
 */
import type { MemorySocket } from "./duplex-pair.ts";
import { createHash } from "node:crypto";
import { decodeStartupPacket, type StartupMessage } from "../../src/protocol/startup.ts";
import { client as frontend, readMessages, server, type ReadMessage } from "./bytes.ts";
import { SCRAM_SHA_256, ScramServer } from "./scram.ts";

export const MD5_SALT = Buffer.of(1, 2, 3, 0xff);

/** What a statement of pgvpd's is answered with: rows, or an ErrorResponse. */
type Answer = (sql: string, values: readonly string[]) => readonly (string | null)[][] | Buffer | undefined;

export interface UpstreamScript {
  readonly auth?: "trust" | "cleartext" | "md5" | "scram";
  readonly password?: string;
  /** ParameterStatus beyond, or instead of, the usual ones. */
  readonly parameters?: Readonly<Record<string, string>>;
  /** BackendKeyData's process id and secret. */
  readonly key?: { readonly processId: number; readonly secret: Buffer };
  /** Sent before the first authentication request. */
  readonly beforeAuthentication?: Buffer;
  /** Sent in one piece with the login's ReadyForQuery. */
  readonly afterReady?: Buffer;
  /** Attributes of roles, `t` or `f`: superuser, bypassrls, replication, createrole. */
  readonly roles?: Readonly<Record<string, readonly [string, string, string, string]>>;
  /** Answers statements that are asked by Parse; undefined leaves it to the script. */
  readonly answer?: Answer;
  /** Keeps its side open when the client's half ends. */
  readonly ignoresEnd?: boolean;
  /** How what is sent is cut into writes. */
  readonly segment?: (bytes: Buffer) => readonly Buffer[];
  /** Ends the connection when so many bytes were sent. */
  readonly endAfter?: number;
  /** Plays the whole part, in place of `logIn` and `serve`. */
  readonly play?: (upstream: ScriptedUpstream) => Promise<void>;
}

const PARAMETERS = {
  server_version: "18.1",
  server_encoding: "UTF8",
  client_encoding: "UTF8",
  is_superuser: "off",
};

const SAFE = ["f", "f", "f", "f"] as const;

export class ScriptedUpstream {
  readonly socket: MemorySocket;
  readonly script: UpstreamScript;
  /** Everything that has come, the StartupMessage included. */
  received = Buffer.alloc(0);
  startup: StartupMessage | undefined;
  /** Whole messages that have come behind the StartupMessage. */
  readonly messages: ReadMessage[] = [];
  hasEnded = false;
  sentBytes = 0;
  #unread = Buffer.alloc(0);
  #wake: () => void = () => {};
  #role = "";

  constructor(socket: MemorySocket, script: UpstreamScript) {
    this.socket = socket;
    this.script = script;
    socket.on("data", (chunk: Buffer) => {
      this.received = Buffer.concat([this.received, chunk]);
      this.#unread = Buffer.concat([this.#unread, chunk]);
      this.#wake();
    });
    const ended = (): void => {
      this.hasEnded = true;
      this.#wake();
    };
    socket.on("end", ended);
    socket.on("close", ended);
    socket.on("error", ended);
  }

  /** SQL of the statements that pgvpd sent, in order. */
  get statements(): string[] {
    return this.messages
      .filter(({ type }) => type === "P")
      .map(({ body }) => body.toString("utf8", 1, body.indexOf(0, 1)));
  }

  /** What came by Query, in order. */
  get queries(): string[] {
    return this.messages
      .filter(({ type }) => type === "Q")
      .map(({ body }) => body.toString("utf8", 0, body.length - 1));
  }

  /** Names and values of the StartupMessage. */
  get startupPairs(): Record<string, string> {
    return Object.fromEntries((this.startup?.parameters ?? []).map(({ name, value }) => [name, value.toString()]));
  }

  async run(): Promise<void> {
    if (this.script.play !== undefined) return this.script.play(this);
    if (await this.logIn()) await this.serve();
  }

  send(...parts: Buffer[]): void {
    const { segment = (bytes: Buffer) => [bytes], endAfter = Number.POSITIVE_INFINITY } = this.script;
    const left = endAfter - this.sentBytes;
    const whole = Buffer.concat(parts);
    const bytes = whole.subarray(0, Math.max(0, Math.min(left, whole.length)));
    if (!this.socket.writable) return;
    for (const piece of segment(bytes)) this.socket.write(piece);
    this.sentBytes += bytes.length;
    if (this.sentBytes >= endAfter) this.socket.end();
  }

  /** True when the client is logged in and the server said so. */
  async logIn(): Promise<boolean> {
    if (!(await this.readStartup())) return false;
    if (this.script.beforeAuthentication !== undefined) this.send(this.script.beforeAuthentication);
    if (!(await this.authenticate())) {
      this.send(server.error("28P01", 'password authentication failed for user "app_user"'));
      this.socket.end();
      return false;
    }
    this.greet();
    return true;
  }

  /** AuthenticationOk up to ReadyForQuery. */
  greet(): void {
    const parameters = { ...PARAMETERS, ...this.script.parameters };
    const { processId, secret } = this.script.key ?? { processId: 4711, secret: Buffer.from("key!") };
    this.send(
      server.authenticationOk,
      ...Object.entries(parameters).map(([name, value]) => server.parameterStatus(name, value)),
      server.backendKeyData(processId, secret),
      server.readyForQuery(),
      this.script.afterReady ?? Buffer.alloc(0),
    );
  }

  async readStartup(): Promise<boolean> {
    await this.#until(() => this.#unread.length >= 4 && this.#unread.length >= this.#unread.readInt32BE(0));
    if (this.#unread.length < 4) return false;
    const length = this.#unread.readInt32BE(0);
    const packet = decodeStartupPacket(this.#unread.subarray(0, length));
    if (packet.kind !== "startup") throw new Error(`a ${packet.kind} upstream`);
    this.#unread = this.#unread.subarray(length);
    this.startup = packet;
    this.#role = this.startupPairs["role"] ?? this.startupPairs["user"] ?? "";
    return true;
  }

  /** The client's next message; undefined when it has ended. */
  async readMessage(): Promise<ReadMessage | undefined> {
    await this.#until(() => readMessages(this.#unread).messages.length > 0);
    const next = readMessages(this.#unread).messages[0];
    if (next === undefined) return undefined;
    this.#unread = this.#unread.subarray(next.bytes.length);
    this.messages.push(next);
    return next;
  }

  async authenticate(): Promise<boolean> {
    const { auth = "trust", password = "correct horse" } = this.script;
    const expected = await this.#ask(auth, password);
    return expected;
  }

  async #ask(auth: NonNullable<UpstreamScript["auth"]>, password: string): Promise<boolean> {
    if (auth === "trust") return true;
    if (auth === "cleartext") {
      this.send(server.cleartextPassword);
      return (await this.readMessage())?.bytes.equals(frontend.password(password)) ?? false;
    }
    if (auth === "md5") {
      this.send(server.md5Password(MD5_SALT));
      const expected = frontend.password(md5Answer(password, this.startupPairs["user"] ?? "", MD5_SALT));
      return (await this.readMessage())?.bytes.equals(expected) ?? false;
    }
    const scram = new ScramServer(password);
    this.send(server.sasl(SCRAM_SHA_256));
    const initial = (await this.readMessage())?.body.toString() ?? "";
    this.send(server.saslContinue(scram.first(initial.slice(initial.indexOf("n,,")))));
    const final = scram.final((await this.readMessage())?.body.toString() ?? "");
    if (final === undefined) return false;
    this.send(server.saslFinal(final));
    return true;
  }

  /** Answers messages until the client has gone. */
  async serve(): Promise<void> {
    let sql = "";
    let values: string[] = [];
    let output: Buffer[] = [];
    let hasFailed = false;
    for (;;) {
      const next = await this.readMessage();
      if (next === undefined) {
        if (this.script.ignoresEnd !== true) this.socket.end();
        return;
      }
      switch (next.type) {
        case "S":
          this.send(...output, server.readyForQuery());
          output = [];
          hasFailed = false;
          break;
        case "Q":
          this.send(server.commandComplete("SELECT 0"), server.readyForQuery());
          break;
        case "X":
          this.socket.end();
          return;
        case "P":
          sql = next.body.toString("utf8", 1, next.body.indexOf(0, 1));
          if (!hasFailed) output.push(server.parseComplete);
          break;
        case "B":
          values = boundValues(next.body);
          if (!hasFailed) output.push(server.bindComplete);
          break;
        case "E":
          if (!hasFailed) {
            const answer = this.#answer(sql, values);
            output.push(answer);
            hasFailed = answer[0] === 0x45;
          }
          break;
        case "C":
          if (!hasFailed) output.push(server.closeComplete);
          break;
        default:
      }
    }
  }

  #answer(sql: string, values: readonly string[]): Buffer {
    const answer = this.script.answer?.(sql, values) ?? this.#usualAnswer(sql, values);
    if (Buffer.isBuffer(answer)) return answer;
    const rows = answer.map((row) => server.dataRow(...row));
    return Buffer.concat([...rows, server.commandComplete(`SELECT ${rows.length}`)]);
  }

  #usualAnswer(sql: string, values: readonly string[]): readonly (string | null)[][] {
    if (sql.includes("set_config")) {
      for (let at = 0; at < values.length; at += 2) {
        if (values[at] === "role") this.#role = values[at + 1] ?? "";
      }
      return [values.filter((_, index) => index % 2 === 1)];
    }
    if (sql.includes("pg_roles")) {
      const names = new Set([this.startupPairs["user"] ?? "", this.#role]);
      return [...names].map((name) => [name, ...(this.script.roles?.[name] ?? SAFE)]);
    }
    return [];
  }

  async #until(isDone: () => boolean): Promise<void> {
    while (!isDone() && !this.hasEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** 'md5' || md5(md5(password || user) || salt) */
export function md5Answer(password: string, user: string, salt: Buffer): string {
  const inner = createHash("md5")
    .update(password + user)
    .digest("hex");
  return `md5${createHash("md5").update(inner).update(salt).digest("hex")}`;
}

/** `String portal  String statement  Int16 n { Int16 format }  Int16 n { Int32 length  Bytes value }  ...` */
function boundValues(body: Buffer): string[] {
  let at = body.indexOf(0) + 1;
  at = body.indexOf(0, at) + 1;
  at += 2 + 2 * body.readInt16BE(at);
  const values: string[] = [];
  const count = body.readInt16BE(at);
  at += 2;
  for (let left = count; left > 0; left--) {
    const length = body.readInt32BE(at);
    values.push(body.toString("utf8", at + 4, at + 4 + length));
    at += 4 + length;
  }
  return values;
}
