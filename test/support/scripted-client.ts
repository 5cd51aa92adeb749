/**
 * The client's side of a session in memory: answers authentication requests as libpq does, and keeps every byte that it
 * received. Tests send anything else themselves.
 */
import type { Duplex } from "node:stream";
import { client as frontend, errorFields, readMessages, type ReadMessage } from "./bytes.ts";
import type { MemorySocket } from "./duplex-pair.ts";
import { SCRAM_SHA_256, ScramClient } from "./scram.ts";
import { md5Answer } from "./scripted-upstream.ts";

export interface ClientScript {
  readonly user?: string;
  readonly password?: string;
  /** False: the test answers authentication requests itself. */
  readonly answers?: boolean;
  /** How what is sent is cut into writes. */
  readonly segment?: (bytes: Buffer) => readonly Buffer[];
  /** Ends the connection when so many bytes were sent. */
  readonly endAfter?: number;
  /** Appended to the answer with this number, counted from 0, in the same write. */
  readonly pipelined?: { readonly behindAnswer: number; readonly bytes: Buffer };
}

export class ScriptedClient<S extends Duplex = MemorySocket> {
  readonly socket: S;
  readonly script: ClientScript;
  received = Buffer.alloc(0);
  /** The other side has ended. */
  hasEnded = false;
  error: Error | undefined;
  sentBytes = 0;
  answersSent = 0;
  #seen = 0;
  #changed: () => void = () => {};
  #scram: ScramClient;

  constructor(socket: S, script: ClientScript) {
    this.socket = socket;
    this.script = script;
    this.#scram = new ScramClient(this.#password);
    socket.on("data", (chunk: Buffer) => {
      this.received = Buffer.concat([this.received, chunk]);
      if (script.answers !== false) this.#answerNew();
      this.#changed();
    });
    const ended = (): void => {
      this.hasEnded = true;
      this.#changed();
    };
    socket.on("end", ended);
    socket.on("close", ended);
    socket.on("error", (error) => {
      this.error = error;
    });
  }

  /** Resolves when `isTrue`, which is asked again whenever something has come. */
  async until(isTrue: () => boolean): Promise<void> {
    while (!isTrue()) {
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
  }

  /** Whole messages that have come. */
  get messages(): ReadMessage[] {
    return readMessages(this.received).messages;
  }

  /** Their types, as one string. */
  get types(): string {
    return this.messages.map(({ type }) => type).join("");
  }

  get isReady(): boolean {
    return this.types.includes("Z");
  }

  /** Fields of the ErrorResponse that came last. */
  get errorResponse(): Readonly<Record<string, string>> {
    const found = this.messages.findLast(({ type }) => type === "E");
    return found === undefined ? {} : errorFields(found.body);
  }

  /** Its SQLSTATE, or what the client has instead. */
  get sqlstate(): string {
    return this.errorResponse["C"] ?? `no error, but "${this.types}"`;
  }

  send(...parts: Buffer[]): void {
    const { segment = (bytes: Buffer) => [bytes], endAfter = Number.POSITIVE_INFINITY } = this.script;
    const whole = Buffer.concat(parts);
    const bytes = whole.subarray(0, Math.max(0, Math.min(endAfter - this.sentBytes, whole.length)));
    if (!this.socket.writable) return;
    for (const piece of segment(bytes)) this.socket.write(piece);
    this.sentBytes += bytes.length;
    if (this.sentBytes >= endAfter) this.socket.end();
  }

  get #password(): string {
    return this.script.password ?? "correct horse";
  }

  #answerNew(): void {
    const { messages } = this;
    for (; this.#seen < messages.length; this.#seen++) {
      const next = messages[this.#seen] as ReadMessage;
      const answer = next.type === "R" ? this.#answer(next.body) : undefined;
      if (answer === undefined) continue;
      const { pipelined } = this.script;
      this.send(answer, pipelined?.behindAnswer === this.answersSent ? pipelined.bytes : Buffer.alloc(0));
      this.answersSent++;
    }
  }

  #answer(body: Buffer): Buffer | undefined {
    switch (body.readInt32BE(0)) {
      case 3:
        return frontend.password(this.#password);
      case 5:
        return frontend.password(md5Answer(this.#password, this.script.user ?? "app_user.acme", body.subarray(4)));
      case 10:
        return frontend.saslInitial(SCRAM_SHA_256, this.#scram.first());
      case 11:
        return frontend.saslResponse(this.#scram.final(body.toString("utf8", 4)));
      default:
        return undefined;
    }
  }
}
