/**
 * What can be told of a resolver's query without a database: how many statements it is, and which parameters it names. It
 * is no parser: it steps over what may hold a `;` or a `$1` that is none - strings, quoted names, comments.
 */

export interface QueryOutline {
  /** Statements that are not empty. */
  readonly statements: number;
  /** The n of the highest $n; 0 where there is none. */
  readonly highestParameter: number;
}

/** One alternative for each thing to step over; the last one takes what is left, character by character. */
const TOKEN = new RegExp(
  [
    String.raw`--[^\n\r]*`,
    String.raw`/\*`,
    String.raw`[eE]'(?:[^'\\]|\\[\s\S]?|'')*(?:'|$)`,
    String.raw`'(?:[^']|'')*(?:'|$)`,
    String.raw`"(?:[^"]|"")*(?:"|$)`,
    String.raw`\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$`,
    String.raw`\$[0-9]+`,
    String.raw`[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*`,
    String.raw`;`,
    String.raw`\s+`,
    String.raw`[\s\S]`,
  ].join("|"),
  "y",
);

export function outlineQuery(sql: string): QueryOutline {
  let statements = 0;
  let isEmpty = true;
  let highestParameter = 0;
  for (let at = 0; at < sql.length;) {
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(sql)?.[0] ?? "";
    at += token.length;
    if (token === "/*") at = endOfComment(sql, at);
    else if (/^\$.*\$$/s.test(token)) at = endOfQuote(sql, at, token);
    else if (/^\$[0-9]/.test(token)) highestParameter = Math.max(highestParameter, Number(token.slice(1)));
    if (token === ";") isEmpty = true;
    else if (isEmpty && !/^(\s|--|\/\*)/.test(token)) {
      isEmpty = false;
      statements += 1;
    }
  }
  return { statements, highestParameter };
}

/** Comments nest in PostgreSQL. */
function endOfComment(sql: string, from: number): number {
  let depth = 1;
  const marks = /\/\*|\*\//g;
  marks.lastIndex = from;
  while (depth > 0) {
    const mark = marks.exec(sql);
    if (mark === null) return sql.length;
    depth += mark[0] === "/*" ? 1 : -1;
  }
  return marks.lastIndex;
}

function endOfQuote(sql: string, from: number, tag: string): number {
  const end = sql.indexOf(tag, from);
  return end === -1 ? sql.length : end + tag.length;
}
