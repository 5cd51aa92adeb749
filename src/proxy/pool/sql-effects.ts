/**
 * What a statement's text says of the state that it leaves in its session. Reading SQL text can only ever be a hint: a
 * function hides what it does. So nothing of isolation rests on it; it decides what a client of a pool can keep, and
 * which sessions go through the barrier although the same identity uses them next.
 *
 * Words are looked for everywhere, in quotes and comments too; only where a statement begins is decided by reading quotes.
 */

/** Bits of what `readEffects` says. */
export const effects = {
  /** The session holds something that another one would not have: the client has to keep it. */
  pins: 1,
  /** The context, the role or a setting may be another one now: the barrier, before anybody else comes. */
  taints: 2,
  /** Context and role may be gone: they are set again before the client's next statement. */
  resets: 4,
  /** DEALLOCATE: prepared statements go. */
  deallocates: 8,
  /** `SET name = literal` of tracked settings: see `settings`. */
  sets: 16,
} as const;

export interface Effects {
  readonly bits: number;
  /** Why the client is pinned. */
  readonly pinReason: PinReason | undefined;
  /** What tracked `SET`s say, names in lower case; undefined is DEFAULT. */
  readonly settings: readonly { readonly name: string; readonly value: string | undefined }[];
  /** The name that DEALLOCATE gives; undefined is ALL. */
  readonly deallocated: string | undefined;
  /** Settings that RESET names, in lower case; `*` for all. */
  readonly reset: readonly string[];
}

export const pinReasons = [
  "advisory_lock",
  "copy",
  "cursor",
  "listen",
  "load",
  "prepare",
  "set",
  "statement_memory",
  "temporary",
] as const;

export type PinReason = (typeof pinReasons)[number];

const NOTHING: Effects = { bits: 0, pinReason: undefined, settings: [], deallocated: undefined, reset: [] };

type WordKind = "tainting" | "resetting" | "lock" | "other";

/** What matters wherever it stands. */
const ANYWHERE: Readonly<Record<string, WordKind>> = {
  set_config: "tainting",
  pg_settings: "tainting",
  execute: "tainting",
  reset: "resetting",
  discard: "resetting",
  authorization: "resetting",
  pg_advisory_lock: "lock",
  pg_advisory_lock_shared: "lock",
  pg_try_advisory_lock: "lock",
  pg_try_advisory_lock_shared: "lock",
  temp: "other",
  temporary: "other",
  pg_temp: "other",
  hold: "other",
};

/** What matters where a statement begins with it. */
const FIRST_WORDS: readonly string[] = ["set", "do", "call", "listen", "load", "prepare", "deallocate"];

/** Settings that the server reports by itself, or that end with their transaction. */
const REPORTED = new Set([
  "application_name",
  "client_encoding",
  "datestyle",
  "default_transaction_read_only",
  "intervalstyle",
  "names",
  "standard_conforming_strings",
  "time",
  "timezone",
]);

export class SqlReader {
  /** Hashes, so that no word of a statement becomes a string. */
  readonly #anywhere: ReadonlySet<number>;
  readonly #first = new Set(FIRST_WORDS.map(hashOf));
  readonly #variables: readonly string[];
  readonly #tracked: ReadonlySet<string>;

  /**
   * @param variables of the context, which no statement mentions in passing.
   * @param tracked settings that are remembered for a client.
   */
  constructor(variables: readonly string[], tracked: readonly string[]) {
    this.#variables = variables.map((name) => name.toLowerCase());
    this.#anywhere = new Set([...Object.keys(ANYWHERE), ...this.#variables].map(hashOf));
    this.#tracked = new Set(tracked.map((name) => name.toLowerCase()));
  }

  /** @param bytes the text from `start` to `end`, in an encoding whose ASCII is ASCII. */
  read(bytes: Uint8Array, start: number, end: number): Effects {
    return this.#mayMatter(bytes, start, end) ? this.#readClosely(bytes, start, end) : NOTHING;
  }

  /** Whether there is one of the words: most texts have none, and are not read further. */
  #mayMatter(bytes: Uint8Array, start: number, end: number): boolean {
    let isOpening = true;
    let hasComment = false;
    let at = start;
    while (at < end) {
      const byte = bytes[at] as number;
      if (!isWord(byte)) {
        if (byte === SEMICOLON) isOpening = true;
        else if (byte === SLASH || byte === MINUS) hasComment = true;
        at += 1;
        continue;
      }
      let word = SEED;
      let dotted = SEED;
      for (; at < end; at += 1) {
        const next = lower(bytes[at] as number);
        if (next === DOT) {
          if (this.#anywhere.has(word)) return true;
          word = SEED;
        } else if (isWord(next)) word = mix(word, next);
        else break;
        dotted = mix(dotted, next);
      }
      if (this.#anywhere.has(word) || this.#anywhere.has(dotted)) return true;
      if ((isOpening || hasComment) && this.#first.has(word)) return true;
      isOpening = false;
    }
    return false;
  }

  /** The slow way, for the few texts that have one of the words. */
  #readClosely(bytes: Uint8Array, start: number, end: number): Effects {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString("latin1");
    const lowered = text.toLowerCase();
    let bits = 0;
    let pinReason: PinReason | undefined;
    const settings: { name: string; value: string | undefined }[] = [];
    let deallocated: string | undefined;
    const reset: string[] = [];
    const pin = (reason: PinReason): void => {
      bits |= effects.pins;
      pinReason ??= reason;
    };
    for (const [word] of lowered.matchAll(/[a-z0-9_$\u0080-\u00ff]+/g)) {
      const kind = Object.hasOwn(ANYWHERE, word) ? ANYWHERE[word] : undefined;
      if (kind === "tainting") bits |= effects.taints;
      if (kind === "resetting") bits |= effects.resets | effects.taints;
      if (kind === "lock") pin("advisory_lock");
    }
    for (const variable of this.#variables) if (lowered.includes(variable)) bits |= effects.taints;

    for (const statement of splitStatements(text)) {
      const words = statement.words;
      const [first, second, third] = words;
      switch (first ?? "") {
        case "do":
        case "call":
          bits |= effects.taints;
          break;
        case "listen":
          pin("listen");
          break;
        case "load":
          pin("load");
          break;
        case "prepare":
          if (second !== "transaction") pin("prepare");
          break;
        case "deallocate": {
          bits |= effects.deallocates;
          const name = second === "prepare" ? third : second;
          deallocated = name === "all" && words.length <= 3 ? undefined : statement.identifier;
          break;
        }
        case "discard":
          if (second !== "all") break;
          bits |= effects.deallocates;
          reset.push("*");
          break;
        case "reset":
          reset.push(second === "all" ? "*" : (second ?? ""));
          break;
        case "declare":
          if (words.some((word, index) => word === "hold" && words[index - 1] === "with")) pin("cursor");
          break;
        case "create":
          if (words.slice(1, 5).some(isTemporary) || words.includes("pg_temp")) pin("temporary");
          break;
        case "select":
        case "with":
          if (words.some((word, index) => isTemporary(word) && /^(into|local)$/.test(words[index - 1] ?? "")))
            pin("temporary");
          break;
        case "set": {
          const found = this.#readSet(statement);
          if (found === "nothing") break;
          if (found === "unknown") pin("set");
          else {
            bits |= effects.sets;
            settings.push(found);
          }
          break;
        }
        default:
      }
    }
    return { bits, pinReason, settings, deallocated, reset };
  }

  #readSet({ text, words }: StatementText): { name: string; value: string | undefined } | "nothing" | "unknown" {
    const [, second, third] = words;
    if (second === "local" || second === "transaction" || second === "constraints") return "nothing";
    if (second === "session" && third === "characteristics") return "unknown";
    const match = /^\s*set\s+(?:session\s+)?([a-z_][a-z0-9_$.]*)\s*(?:=|\s+to\s)\s*([^]*?)\s*$/i.exec(text);
    const head = second === "session" ? third : second;
    if (head !== undefined && REPORTED.has(head)) return "nothing";
    if (match === null) return "unknown";
    const name = (match[1] as string).toLowerCase();
    if (!this.#tracked.has(name)) return "unknown";
    const value = match[2] as string;
    if (/^default$/i.test(value)) return { name, value: undefined };
    const literal = name === "search_path" ? listOf(value) : literalOf(value);
    return literal === undefined ? "unknown" : { name, value: literal };
  }
}

interface StatementText {
  /** Without comments. */
  readonly text: string;
  /** In lower case; what stands in quotes is left out. */
  readonly words: readonly string[];
  /** The first identifier behind DEALLOCATE, as PostgreSQL folds it. */
  readonly identifier: string | undefined;
}

/** Statements of a text: quotes, dollar quotes and comments are read as PostgreSQL does with standard strings. */
function splitStatements(text: string): StatementText[] {
  const statements: StatementText[] = [];
  const token =
    /--[^\n]*|\/\*|[eE]'(?:[^'\\]|\\[^]|'')*(?:'|$)|'(?:[^']|'')*(?:'|$)|"(?:[^"]|"")*(?:"|$)|\$([a-zA-Z_\u0080-\u00ff][\w\u0080-\u00ff]*)?\$|[\w$\u0080-\u00ff]+|;|[^]/g;
  let kept = "";
  let words: string[] = [];
  let quoted: string | undefined;
  const finish = (): void => {
    if (words.length > 0) statements.push({ text: kept, words, identifier: quoted ?? words.at(-1) });
    kept = "";
    words = [];
    quoted = undefined;
  };
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    const [found] = match;
    if (found === ";") finish();
    else if (found.startsWith("--")) kept += " ";
    else if (found === "/*") {
      token.lastIndex = endOfComment(text, match.index);
      kept += " ";
    } else if (/^\$.*\$$/.test(found)) {
      const end = text.indexOf(found, token.lastIndex);
      token.lastIndex = end === -1 ? text.length : end + found.length;
      kept += text.slice(match.index, token.lastIndex);
    } else {
      kept += found;
      if (found.startsWith('"')) quoted = found.slice(1, -1).replaceAll('""', '"');
      else if (/^[\w$\u0080-\u00ff]+$/.test(found)) words.push(found.toLowerCase());
    }
  }
  finish();
  return statements;
}

/** Comments nest. */
function endOfComment(text: string, start: number): number {
  let depth = 0;
  let at = start;
  while (at < text.length) {
    if (text.startsWith("/*", at)) {
      depth += 1;
      at += 2;
    } else if (text.startsWith("*/", at)) {
      depth -= 1;
      at += 2;
      if (depth === 0) return at;
    } else at += 1;
  }
  return text.length;
}

/** One literal, as set_config takes it; undefined for anything else. */
function literalOf(text: string): string | undefined {
  const quoted = /^'((?:[^'\\]|'')*)'$/.exec(text);
  if (quoted !== null) return (quoted[1] as string).replaceAll("''", "'");
  return /^[+-]?[\w.]+$/.test(text) ? text : undefined;
}

/** A list of names: those that stand as literals become names, quoted where PostgreSQL would quote them. */
function listOf(text: string): string | undefined {
  const items = [...text.matchAll(/\s*('(?:[^'\\]|'')*'|"(?:[^"]|"")+"|[\w$]+)\s*(,|$)/gy)];
  const length = items.reduce((sum, [whole]) => sum + whole.length, 0);
  if (items.length === 0 || length !== text.length || (items.at(-1)?.[2] ?? ",") === ",") return undefined;
  return items
    .map(([, item = ""]) => {
      if (!item.startsWith("'")) return item;
      if (/^'[a-z_][a-z0-9_]*'$/.test(item)) return item.slice(1, -1);
      return `"${item.slice(1, -1).replaceAll("''", "'").replaceAll('"', '""')}"`;
    })
    .join(", ");
}

function isTemporary(word: string): boolean {
  return word === "temp" || word === "temporary";
}

const SEED = 0x811c9dc5 | 0;
const DOT = 0x2e;
const SEMICOLON = 0x3b;
const SLASH = 0x2f;
const MINUS = 0x2d;

function mix(hash: number, byte: number): number {
  return Math.imul(hash ^ byte, 0x01000193);
}

function hashOf(word: string): number {
  let hash = SEED;
  for (let at = 0; at < word.length; at += 1) hash = mix(hash, word.charCodeAt(at));
  return hash;
}

function lower(byte: number): number {
  return byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte;
}

function isWord(byte: number): boolean {
  return (
    (byte >= 0x61 && byte <= 0x7a) ||
    (byte >= 0x41 && byte <= 0x5a) ||
    (byte >= 0x30 && byte <= 0x39) ||
    byte === 0x5f ||
    byte === 0x24 ||
    byte >= 0x80
  );
}
