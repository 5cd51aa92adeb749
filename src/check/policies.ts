/**
 * Whether policies find the variable that they read: those that sql/setup.sql makes call current_tenant_id(), which reads
 * app.current_tenant_id, whatever context_variables says.
 */
import type { Config } from "../config/settings.ts";
import type { Finding } from "./finding.ts";

const VARIABLE = "app.current_tenant_id";
const SHOWN = 3;

/** A policy that calls current_tenant_id(); `total` is how many there are. */
export interface PolicyRow {
  readonly schemaname: string;
  readonly tablename: string;
  readonly policyname: string;
  readonly total: number;
}

/** To be asked with pg_catalog alone in the search_path. */
export const POLICY_QUESTION = `SELECT schemaname::text, tablename::text, policyname::text, (count(*) OVER ())::int AS total
  FROM pg_policies
  WHERE qual ~ '\\mcurrent_tenant_id\\(' OR with_check ~ '\\mcurrent_tenant_id\\('
  ORDER BY schemaname, tablename, policyname
  LIMIT ${SHOWN}`;

export function judgePolicies(
  rows: readonly PolicyRow[],
  { contextVariables }: Pick<Config, "contextVariables">,
): Finding {
  const total = rows[0]?.total ?? 0;
  if (total === 0) return { verdict: "ok", text: "policies: none reads current_tenant_id()" };
  const read = `policies: ${total} ${total === 1 ? "reads" : "read"} current_tenant_id()`;
  // The names of variables have no case in PostgreSQL.
  if (contextVariables.some((name) => name.toLowerCase() === VARIABLE)) {
    return { verdict: "ok", text: `${read}, and context_variables has ${VARIABLE}` };
  }
  const names = rows.map((row) => `${row.schemaname}.${row.tablename}`);
  const where = `${names.join(", ")}${total > rows.length ? ", ..." : ""}`;
  return {
    verdict: "warning",
    text: `${read} (on ${where}), but context_variables lacks ${VARIABLE}: tenants see no rows there`,
  };
}
