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
  /** The first argument as it stands, a literal with its cast; "" where there is none. */
  readonly argument: string;
  /** Whether its arguments are literals: only then is it the same for each row. */
  readonly isConstant: boolean;
  /** Whether it stands in a SELECT of its own, which is evaluated once. */
  readonly isWrapped: boolean;
}

const NAME =
  /(?:(?:public|pgvpd|pg_catalog)\.)?\b(current_tenant_id|pgvpd_context\w*|context_value|current_setting)\(/g;
const LITERAL = String.raw`'(?:[^']|'')*'(?:::[a-z ]+)?`;
const CONSTANT = new RegExp(String.raw`^(?:(${LITERAL})(?:, (?:true|false|${LITERAL}))*)?$`);

export function findContextReads(expression: string): ContextRead[] {
  const blanked = blankLiterals(expression);
  return [...blanked.matchAll(NAME)].map((match) => {
    const start = match.index;
    const open = start + match[0].length;
    const close = endOfArguments(blanked, open);
    const argumentsText = expression.slice(open, close);
    const constant = CONSTANT.exec(argumentsText);
    return {
      text: expression.slice(start, close + 1),
      start,
      end: close + 1,
      name: match[1] ?? "",
      argument: constant?.[1] ?? "",
      isConstant: constant !== null,
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

/** A variable of the session, by name: SET can change it. */
export function readsVariable({ name, argument }: ContextRead): boolean {
  return name === "current_setting" && argument !== "";
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
