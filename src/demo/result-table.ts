/**
 * Results and errors as psql prints them: for the demo's showcase and for `pgvpd sql`. Text in, text out.
 */
import { type Client, DatabaseError, type QueryArrayResult } from "pg";

/** A result of a query in `rowMode: "array"` whose values are PostgreSQL's own text. */
export interface TextResult {
  readonly command: string | null;
  readonly rowCount: number | null;
  readonly fields: readonly { readonly name: string; readonly dataTypeID: number }[];
  readonly rows: readonly (readonly (string | null)[])[];
}

const numericTypes = new Set([20, 21, 23, 26, 700, 701, 790, 1700]); // int8 int2 int4 oid float4 float8 money numeric

/** Connection options with which values stay the text that PostgreSQL sent. */
export const textValues = { types: { getTypeParser: () => (value: string | Buffer) => String(value) } };

/** Runs what may be several statements and returns the result of each. */
export async function queryText(client: Client, statement: string): Promise<TextResult[]> {
  const answer: unknown = await client.query({ text: statement, rowMode: "array" });
  return (Array.isArray(answer) ? answer : [answer]).map((result: QueryArrayResult<(string | null)[]>) => result);
}

/** A table with its `(n rows)`, or the command tag of a statement without columns. */
export function formatResult(result: TextResult): string {
  if (result.fields.length === 0) {
    const count = result.rowCount === null ? "" : ` ${result.rowCount}`;
    return result.command === "INSERT" ? `INSERT 0${count}` : `${result.command ?? ""}${count}`;
  }
  const cells = result.rows.map((row) => row.map((value) => printable(value ?? "")));
  const columns = result.fields.map((field, index) => ({
    name: printable(field.name),
    isNumeric: numericTypes.has(field.dataTypeID),
    width: Math.max(printable(field.name).length, ...cells.map((row) => row[index]?.length ?? 0)),
  }));
  const header = columns.map(({ name, width }) => {
    const left = Math.floor((width - name.length) / 2);
    return ` ${" ".repeat(left)}${name.padEnd(width - left)} `;
  });
  const rule = columns.map(({ width }) => "-".repeat(width + 2));
  const lines = cells.map((row) =>
    row
      .map((value, index) => {
        const column = columns[index];
        const width = column?.width ?? 0;
        return ` ${column?.isNumeric === true ? value.padStart(width) : value.padEnd(width)} `;
      })
      .join("|")
      .trimEnd(),
  );
  const count = result.rows.length === 1 ? "(1 row)" : `(${result.rows.length} rows)`;
  return [header.join("|").trimEnd(), rule.join("+"), ...lines, count].join("\n");
}

/** `ERROR 42501: message`, with detail and hint below; any other error as its message. */
export function formatError(error: unknown): string {
  if (!(error instanceof DatabaseError)) return error instanceof Error ? error.message : String(error);
  const lines = [`${error.severity ?? "ERROR"} ${error.code ?? ""}: ${error.message}`];
  if (error.detail !== undefined) lines.push(`DETAIL:  ${error.detail}`);
  if (error.hint !== undefined) lines.push(`HINT:  ${error.hint}`);
  return lines.map(printable).join("\n");
}

/** Control characters could move the cursor or rewrite what stands above; a tab and a line break would break the table. */
function printable(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replaceAll(/[\u0000-\u001f\u007f-\u009f]/g, (character) => JSON.stringify(character).slice(1, -1));
}
