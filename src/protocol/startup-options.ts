/**
 * The StartupMessage's `options`: a command line in miniature, split and read as PostgreSQL's pg_split_opts and
 * process_postgres_switches do. Only settings are accepted, `-c name=value`, `-cname=value` and `--name=value`; every
 * other switch is refused. Linear in the length of the input, and total: any bytes give a list or a ProxyError.
 */
import { ProxyError } from "../errors/proxy-error.ts";
import type { StartupParameter } from "./startup.ts";

const BACKSLASH = 0x5c;
const EQUALS = 0x3d;
const HYPHEN = 0x2d;
const LETTER_C = 0x63;

/**
 * The settings that `options` carries, in order; a name may come more than once, and the last one counts.
 * In names `-` is `_`, as PostgreSQL's ParseLongOption has it.
 *
 * @throws ProxyError options_syntax (22023).
 */
export function parseStartupOptions(options: Buffer): StartupParameter[] {
  const words = splitOptions(options);
  const settings: StartupParameter[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as Buffer;
    const second = word.length > 1 && word[0] === HYPHEN ? word[1] : undefined;
    if (second === HYPHEN && word.length > 2) {
      settings.push(parseAssignment(word.subarray(2)));
    } else if (second === LETTER_C && word.length > 2) {
      settings.push(parseAssignment(word.subarray(2)));
    } else if (second === LETTER_C) {
      const next = words[++i];
      if (next === undefined) throw syntaxError("-c without a setting");
      settings.push(parseAssignment(next));
    } else {
      throw syntaxError("only settings may be given");
    }
  }
  return settings;
}

/** Splits at white space; a backslash takes the next byte as it is. A trailing one is dropped, as PostgreSQL does. */
function splitOptions(options: Buffer): Buffer[] {
  const words: Buffer[] = [];
  const word = Buffer.alloc(options.length);
  let at = 0;
  while (at < options.length) {
    while (at < options.length && isSpace(options[at] as number)) at++;
    if (at === options.length) break;
    let length = 0;
    while (at < options.length && !isSpace(options[at] as number)) {
      if (options[at] === BACKSLASH && ++at === options.length) break;
      word[length++] = options[at++] as number;
    }
    words.push(Buffer.from(word.subarray(0, length)));
  }
  return words;
}

/** C's isspace() in the "C" locale. */
function isSpace(byte: number): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);
}

function parseAssignment(assignment: Buffer): StartupParameter {
  const equals = assignment.indexOf(EQUALS);
  if (equals === -1) throw syntaxError("a setting without a value");
  if (equals === 0) throw syntaxError("a value without a setting");
  const name = assignment.toString("latin1", 0, equals).replaceAll("-", "_");
  return { name, value: assignment.subarray(equals + 1) };
}

function syntaxError(problem: string): ProxyError {
  return new ProxyError("options_syntax", { params: { problem } });
}
