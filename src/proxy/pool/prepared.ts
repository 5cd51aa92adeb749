/**
 * Named prepared statements of the protocol, shared by the clients of a pool: the same text, types and search_path are one
 * statement, whatever a client calls it. On the server it has a name of ours, which a session learns when it is needed.
 */
import { LRUCache } from "lru-cache";
import { encodeMessage } from "../../protocol/message.ts";
import { frontend } from "../../protocol/message-types.ts";
import type { Effects, SqlReader } from "./sql-effects.ts";

/** Beyond these a statement that comes again is another one. */
const MAX_REMEMBERED = 10_000;
const MAX_REMEMBERED_BYTES = 64 * 1024 * 1024;

export interface Prepared {
  /** What follows the name in Parse: text and parameter types. */
  readonly definition: Buffer;
  readonly effects: Effects;
  /** Part of its name on servers; another one when what servers have cannot be used any more. */
  number: number;
  /** `pgvpd_<number>` and the zero behind it. */
  serverName: Buffer;
}

export class PreparedStatements {
  readonly #reader: SqlReader;
  #last = 0;
  readonly #known = new LRUCache<string, Prepared>({
    max: MAX_REMEMBERED,
    maxSize: MAX_REMEMBERED_BYTES,
    sizeCalculation: ({ definition }, key) => definition.length + key.length + 200,
  });

  constructor(reader: SqlReader) {
    this.#reader = reader;
  }

  /** @param definition may be overwritten afterwards. @param searchPath that it was prepared with, where it is known. */
  find(definition: Buffer, searchPath: string): Prepared {
    const key = `${searchPath}\0${definition.toString("latin1")}`;
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    const prepared = this.#name({
      definition: Buffer.from(definition),
      effects: this.#reader.read(definition, 0, Math.max(definition.indexOf(0), 0)),
    });
    this.#known.set(key, prepared);
    return prepared;
  }

  /** What servers have under its name cannot be used any more: from now on it has another. */
  rename(prepared: Prepared): void {
    Object.assign(prepared, this.#name(prepared));
  }

  #name({ definition, effects }: Pick<Prepared, "definition" | "effects">): Prepared {
    const number = ++this.#last;
    return { definition, effects, number, serverName: serverNameOf(number) };
  }
}

/** `pgvpd_<number>` and the zero behind it. */
export function serverNameOf(number: number): Buffer {
  return Buffer.from(`pgvpd_${number}\0`);
}

/** `Byte1('P') Int32 length String name String query Int16 count { Int32 type }...` */
export function encodeParse(name: Buffer, definition: Buffer): Buffer {
  return encodeMessage(frontend.parse, Buffer.concat([name, definition]));
}

/** `Byte1('C') Int32 length Byte1('S') String name` */
export function encodeCloseStatement(name: Buffer): Buffer {
  return encodeMessage(frontend.close, Buffer.concat([Buffer.from("S"), name]));
}
