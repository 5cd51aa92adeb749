/**
 * The lines of a pgvpd.conf: `key = value`, `#` at the start of a line begins a comment, matching quotes around a value are
 * dropped. Knows nothing of which keys there are. What it says of a bad line never repeats it: a password may stand there.
 */

export interface FileLine {
  readonly number: number;
  readonly key: string;
  readonly value: string;
}

/** What is wrong with a line that is none of the above. */
export interface BadLine {
  readonly number: number;
  readonly problem: string;
}

const KEY = /^[\p{L}\p{N}_.-]+$/u;

/** @param text without a byte order mark; decoding has dropped it. */
export function parseConfigFile(text: string): {
  readonly lines: readonly FileLine[];
  readonly bad: readonly BadLine[];
} {
  const lines: FileLine[] = [];
  const bad: BadLine[] = [];
  const rows = text.split(/\r\n|\n|\r/);
  for (const [index, row] of rows.entries()) {
    const number = index + 1;
    const line = row.trim();
    if (line === "" || line.startsWith("#")) continue;
    if (/^\[.*\]$/.test(line)) {
      bad.push({ number, problem: "expected key = value: there are no sections in this file" });
      continue;
    }
    const equals = line.indexOf("=");
    const key = line.slice(0, Math.max(equals, 0)).trim();
    if (KEY.test(key)) lines.push({ number, key, value: unquote(line.slice(equals + 1).trim()) });
    else bad.push({ number, problem: "expected key = value" });
  }
  return { lines, bad };
}

function unquote(value: string): string {
  const quote = value[0];
  const isQuoted = value.length >= 2 && (quote === '"' || quote === "'") && value.endsWith(quote);
  return isQuoted ? value.slice(1, -1) : value;
}
