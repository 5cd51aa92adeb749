/**
 * Where an expression reads the context of the session, and how it reads it. Expressions come as PostgreSQL prints them
 * (pg_get_expr), with nothing but pg_catalog in the search_path: `(tenant_id = ( SELECT public.current_tenant_id() AS current_tenant_id))`.
 */

/** A call of current_tenant_id(), pgvpd_context*() or current_setting(). */
export interface ContextRead {
  /** The call, with its arguments. */
  readonly text: string;
  readonly start: number;
  readonly end: number;
  readonly name: string;
  /** The first argument as it stands; "" where there is none. */
  readonly argument: string;
  /** Whether its arguments are literals: only then is it the same for each row. */
  readonly isConstant: boolean;
  /** Whether it stands in a SELECT of its own, which is evaluated once. */
  readonly isWrapped: boolean;
}

/** pgvpd's own by their schemas: a function of the same name in another one is anybody's. */
const NAME =
  /(?<![\w.$])(?:(?:public\.)?(current_tenant_id|pgvpd_context\w*)|(?:pgvpd\.)?(context_value)|(?:pg_catalog\.)?(current_setting))\(/g;
const LITERAL = String.raw`'(?:[^']|'')*'(?:::[a-z ]+)?`;
const CONSTANT = new RegExp(String.raw`^(?:${LITERAL}(?:, (?:true|false|${LITERAL}))*)?$`);

export function findContextReads(expression: string): ContextRead[] {
  const blanked = blankLiterals(expression);
  return [...blanked.matchAll(NAME)].map((match) => {
    const start = match.index;
    const open = start + match[0].length;
    const close = endOfArguments(blanked, open);
    const argumentsText = expression.slice(open, close);
    return {
      text: expression.slice(start, close + 1),
      start,
      end: close + 1,
      name: match[1] ?? match[2] ?? match[3] ?? "",
      argument: argumentsText.slice(0, topLevel(blanked.slice(open, close)).search(/,|$/)),
      isConstant: CONSTANT.test(argumentsText),
      isWrapped: isInSelect(blanked, start),
    };
  });
}

/** The expression with each read replaced by what `rewrite` makes of it. Reads within another one's arguments stay. */
export function rewriteReads(expression: string, rewrite: (read: ContextRead) => string): string {
  let text = "";
  let position = 0;
  for (const read of findContextReads(expression)) {
    if (read.start < position) continue;
    text += expression.slice(position, read.start) + rewrite(read);
    position = read.end;
  }
  return text + expression.slice(position);
}

/** Whether it asks other tables, or calls a function that is not PostgreSQL's own: these have their schema before them. */
export function isCode(expression: string): boolean {
  return /\bSELECT\b|[\w"]\.[\w"]+\(/.test(expression.replaceAll(/'(?:[^']|'')*'/g, ""));
}

/** A variable of the session: SET can change it, whatever its name is made from. */
export function readsVariable({ name }: ContextRead): boolean {
  return name === "current_setting";
}

/**
 * Whether a row passes only where something is equal to the context or is in it: one side of each AND, every side of each OR.
 * By the form alone, so that it errs on the side of no: what it cannot tell, it does not believe.
 *
 * @param reads whether a part of the expression reads the context.
 */
export function isBound(expression: string, reads: (part: string) => boolean): boolean {
  const text = withoutParentheses(expression.trim());
  if (text === "false") return true;
  const sides = split(text, " OR ");
  if (sides.length > 1) return sides.every((side) => isBound(side, reads));
  const conditions = split(text, " AND ");
  if (conditions.length > 1) return conditions.some((condition) => isBound(condition, reads));
  return reads(text) && isComparison(text, reads);
}

const EQUALITY = / (?:=|OPERATOR\([\w"]+\.=\)) (?:ANY )?/;
const MEMBERSHIP =
  /^(?:SELECT )?(?:public\.)?pgvpd_context_(?:text_)?contains\(_*\)(?: AS \w+)?$|^EXISTS \(_*\)$|^(?!SELECT ).+ (?:IN \(|@> |<@ |&& )/;

function isComparison(text: string, reads: (part: string) => boolean): boolean {
  const top = topLevel(blankLiterals(text));
  if (/^(?:NOT|CASE) /.test(top)) return false;
  const equality = EQUALITY.exec(top.replaceAll(/OPERATOR\(_*\)/g, (_, at: number) => text.slice(at, at + _.length)));
  if (equality === null) return MEMBERSHIP.test(top);
  if (top.startsWith("SELECT ")) return false;
  const left = text.slice(0, equality.index);
  const right = text.slice(equality.index + equality[0].length);
  const [other, read] = reads(right) ? [left, right] : [right, left];
  return !reads(other) && hasName(other) && !fallsBackTo(other, read);
}

/** `column = COALESCE(context, column)` is true without a context. */
function fallsBackTo(other: string, read: string): boolean {
  if (!/\b(?:COALESCE|CASE)\b/.test(blankLiterals(read))) return false;
  return namesIn(other).some((name) => namesIn(read).includes(name));
}

const hasName = (text: string): boolean => namesIn(text).length > 0;

function namesIn(text: string): string[] {
  const bare = text.replaceAll(new RegExp(LITERAL, "g"), "").replaceAll(/::[\w. ]+|\bAS \w+/g, "");
  return bare.match(/"(?:[^"]|"")*"|\b(?!(?:true|false)\b)[a-z_][\w$]*/g) ?? [];
}

function withoutParentheses(text: string): string {
  const blanked = blankLiterals(text);
  if (!blanked.startsWith("(") || endOfArguments(blanked, 1) !== text.length - 1) return text;
  return withoutParentheses(text.slice(1, -1).trim());
}

function split(text: string, separator: string): string[] {
  const top = topLevel(blankLiterals(text));
  let position = 0;
  return top.split(separator).map((part) => {
    const start = position;
    position += part.length + separator.length;
    return text.slice(start, start + part.length);
  });
}

/** As long as before: what stands in parentheses is left out. */
function topLevel(blanked: string): string {
  let depth = 0;
  let top = "";
  for (const character of blanked) {
    if (character === ")") depth--;
    top += depth > 0 ? "_" : character;
    if (character === "(") depth++;
  }
  return top;
}

/** A read, in a SELECT of its own or bare, with the test behind it. */
function tests(test: "IS NULL" | "IS NOT NULL", names: string) {
  const call = String.raw`(?:(?:public|pgvpd|pg_catalog)\.)?(?:${names})\((?:${LITERAL}(?:, true)?)?\)`;
  return new RegExp(String.raw`(?:\( SELECT (${call})(?: AS \w+)?\)|(${call})) ${test}\b`, "g");
}

const NOT_NULL = tests("IS NOT NULL", "current_setting");
const NULL = tests("IS NULL", String.raw`current_tenant_id|pgvpd_context\w*|context_value|current_setting`);

/** `current_setting(...) IS NOT NULL`, which is true for the empty string that a reset leaves behind. */
export const testsNotNull = {
  is: (expression: string): boolean => expression.search(NOT_NULL) !== -1,
  mend: (expression: string): string =>
    expression.replace(NOT_NULL, (_, wrapped?: string, bare?: string) => {
      return `(SELECT NULLIF(${wrapped ?? bare}, '')) IS NOT NULL`;
    }),
};

/** `... IS NULL`, which is true for a session without a tenant. */
export const testsNull = {
  is: (expression: string): boolean => expression.search(NULL) !== -1,
  mend: (expression: string): string => expression.replace(NULL, "false"),
};

/** As long as before, so that positions stay: what stands in quotes is no SQL. */
function blankLiterals(expression: string): string {
  return expression.replaceAll(/'(?:[^']|'')*'|"(?:[^"]|"")*"/g, (literal) => "_".repeat(literal.length));
}

function endOfArguments(blanked: string, from: number): number {
  let depth = 1;
  for (let at = from; at < blanked.length; at++) {
    if (blanked[at] === "(") depth++;
    else if (blanked[at] === ")" && --depth === 0) return at;
  }
  return blanked.length;
}

/** Whether one of the parentheses around a position opens a SELECT. */
function isInSelect(blanked: string, position: number): boolean {
  let depth = 0;
  for (let at = position - 1; at >= 0; at--) {
    if (blanked[at] === ")") depth++;
    else if (blanked[at] === "(") {
      if (depth > 0) depth--;
      else if (/^\( ?SELECT\b/.test(blanked.slice(at))) return true;
    }
  }
  return false;
}
