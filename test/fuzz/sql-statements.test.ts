/** The outline of random SQL against a transcription of PostgreSQL's scanner, character by character, and its limits. */
import { describe, expect, it } from "vitest";
import { outlineQuery, type QueryOutline } from "../../src/config/sql-statements.ts";
import { FUZZ_RUNS, fuzz, type SeededRandom } from "../support/seeded-random.ts";

const RUNS = Math.ceil(FUZZ_RUNS * 0.1);

const PIECES = [
  ..."' '' \" $$ $a$ $b1$ $1 $23 $ \\ \\' E' e' x' U&' -- /* */ ; a _e 1 é SELECT a$ a$b$ - / * + ( )".split(" "),
  " ",
  "\n",
  "\r",
];

function randomSql(random: SeededRandom): string {
  return Array.from({ length: random.below(16) }, () => random.pick(PIECES)).join("");
}

const isNameStart = (character: string): boolean => /[A-Za-z_\u0080-\uffff]/.test(character);
const isNamePart = (character: string): boolean => /[A-Za-z_0-9$\u0080-\uffff]/.test(character);

/** scan.l of PostgreSQL, as far as texts, comments, parameters and semicolons go. */
function scan(sql: string): QueryOutline {
  let at = 0;
  let statements = 0;
  let highestParameter = 0;
  let isEmpty = true;
  const something = (): void => {
    if (isEmpty) statements++;
    isEmpty = false;
  };
  const skipQuoted = (quote: string, hasEscapes: boolean): void => {
    for (at++; at < sql.length; at++) {
      if (hasEscapes && sql[at] === "\\") at++;
      else if (sql[at] === quote) {
        if (sql[at + 1] !== quote) break;
        at++;
      }
    }
    at++;
  };
  while (at < sql.length) {
    const character = sql[at] ?? "";
    if (sql.startsWith("--", at)) {
      while (at < sql.length && sql[at] !== "\n" && sql[at] !== "\r") at++;
    } else if (sql.startsWith("/*", at)) {
      let depth = 0;
      do {
        if (sql.startsWith("/*", at)) depth += 1;
        else if (sql.startsWith("*/", at)) depth -= 1;
        else {
          at++;
          continue;
        }
        at += 2;
      } while (depth > 0 && at < sql.length);
    } else if (" \t\n\r\f\v".includes(character)) at++;
    else if (character === ";") {
      isEmpty = true;
      at++;
    } else {
      something();
      if (character === "'") skipQuoted("'", false);
      else if (character === '"') skipQuoted('"', false);
      else if (/^e'/i.test(sql.slice(at, at + 2))) {
        at++;
        skipQuoted("'", true);
      } else if (isNameStart(character)) {
        while (at < sql.length && isNamePart(sql[at] ?? "")) at++;
      } else if (character === "$") {
        const digits = /^\$([0-9]+)/.exec(sql.slice(at));
        const tag = /^\$([A-Za-z_\u0080-\uffff][A-Za-z_0-9\u0080-\uffff]*)?\$/.exec(sql.slice(at))?.[0];
        if (tag !== undefined) {
          const end = sql.indexOf(tag, at + tag.length);
          at = end === -1 ? sql.length : end + tag.length;
        } else if (digits?.[1] !== undefined) {
          highestParameter = Math.max(highestParameter, Number(digits[1]));
          at += digits[0].length;
        } else at++;
      } else at++;
    }
  }
  return { statements, highestParameter };
}

describe("the outline of a query", () => {
  it("is PostgreSQL's, whatever the text", () => {
    fuzz(RUNS, (random) => {
      const sql = randomSql(random);
      expect(outlineQuery(sql), JSON.stringify(sql)).toEqual(scan(sql));
    });
  });

  // A megabyte is what resolvers.toml may have: what grows faster than the text would not come to an end here.
  it.each([
    "'",
    "''",
    "a''",
    "E'\\",
    "E'\\'",
    "$",
    "$$",
    "$a$",
    "$a",
    "/*",
    "*/",
    "/**/",
    "-- ",
    '"',
    "a",
    "1",
    ";",
    "é",
    " ",
  ])("comes to its end with a megabyte of %j, in a string too", (piece) => {
    const text = piece.repeat(Math.floor((1024 * 1024) / piece.length));
    for (const sql of [text, `'${text}`, `E'${text}`, `"${text}`, `$x$${text}`, `/*${text}`]) {
      expect(outlineQuery(sql).statements).toBeGreaterThanOrEqual(0);
    }
  });
});
