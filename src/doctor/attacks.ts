/**
 * What a tenant who sends SQL of its own can try, and what it means when it works. Carried out by probes.ts.
 */
import type { SealKey } from "../config/seal-keys.ts";
import type { Finding, Severity } from "./finding.ts";
import type { Scope } from "./scope.ts";
import { judgeVersion } from "./server-version.ts";

/** What an attack is carried out with. */
export interface Ground {
  /** The table, as SQL names it: id, tenant_id, body; one row for each tenant. */
  readonly table: string;
  readonly own: { readonly tenant: string; readonly body: string };
  readonly other: { readonly tenant: string; readonly body: string };
  readonly variables: readonly string[];
  readonly scope: Scope;
  /** Undefined where the context is not sealed. */
  readonly key: SealKey | undefined;
}

export interface Attack {
  readonly finding: Finding;
  /** One after the other; an error ends it. */
  readonly sql: readonly string[];
  /**
   * When it has worked. `rows`: the other tenant's row is seen afterwards. `change`: the last statement changed one.
   * `message`: the error of a statement shows it. `no error`: all statements were carried out.
   */
  readonly success: "rows" | "change" | "message" | "no error";
  readonly isWithoutTenant?: boolean;
}

const SEAL = "-- install the seal: sql/seal.sql, context_seal = require";
const HARDEN = "-- run sql/hardening.sql; the findings above have single statements";
const POLICIES = "-- protect tables with pgvpd_protect() of sql/setup.sql; the findings above have single statements";

export function attacksOn({ table, own, other, variables, scope }: Ground): Attack[] {
  const isSealed = scope.carrier === "slot" || scope.carrier === "signed";
  // Without the seal the tenant is a session variable, which is a boundary for the cooperative: that is known.
  const known: Severity = isSealed || scope.config.contextSeal === "require" ? "error" : "warning";
  const tell = (code: string, severity: Severity, object: string, why: string, fix: string): Finding => {
    return { code: `probe_${code}`, severity, object, why, fix };
  };
  const set = (how: (name: string) => string): string[] => variables.map(how);
  const setThem = set((name) => `SET ${quoteVariable(name)} = '${other.tenant}'`);
  const cooperative = "it reads the rows of another tenant: the boundary holds for the cooperative only";
  const upgrade = judgeVersion(scope.version).at(0)?.fix ?? "-- install the latest minor version of PostgreSQL";

  const attacks: Attack[] = [
    {
      finding: tell("without_tenant", "error", "a session without a tenant", "it sees rows", POLICIES),
      sql: [],
      success: "rows",
      isWithoutTenant: true,
    },
    {
      finding: tell("set", known, "SET of the context variable", cooperative, SEAL),
      sql: setThem,
      success: "rows",
    },
    {
      finding: tell("set_config", known, "set_config in a DO block that builds it from strings", cooperative, SEAL),
      sql: set(
        (name) => `DO $$ BEGIN EXECUTE 'SELECT set_' || 'config(''${name}'', ''${other.tenant}'', false)'; END $$`,
      ),
      success: "rows",
    },
    {
      finding: tell("own_view", known, "a view of its own", cooperative, SEAL),
      sql: [
        `CREATE TEMPORARY VIEW probe_view AS SELECT body FROM ${table}`,
        ...setThem,
        `SELECT 1 / count(*) FROM pg_temp.probe_view WHERE body = '${other.body}'`,
      ],
      success: "no error",
    },
    {
      finding: tell("own_function", known, "a SECURITY DEFINER function of its own", cooperative, SEAL),
      sql: [
        `CREATE FUNCTION pg_temp.probe() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
           ${setThem.join("; ")}; RETURN (SELECT 1 / count(*) FROM ${table} WHERE body = '${other.body}'); END $$`,
        "SELECT pg_temp.probe()",
      ],
      success: "no error",
    },
    {
      finding: tell("insert", "error", "INSERT of a row for another tenant", "it is written", POLICIES),
      sql: [`INSERT INTO ${table} VALUES (3, '${other.tenant}', 'planted')`],
      success: "change",
    },
    {
      finding: tell("update", "error", "UPDATE that gives a row to another tenant", "it is written", POLICIES),
      sql: [`UPDATE ${table} SET tenant_id = '${other.tenant}'`],
      success: "change",
    },
    {
      finding: tell("update_other", "error", "UPDATE of another tenant's row", "it is written", POLICIES),
      sql: [`UPDATE ${table} SET body = 'taken' WHERE id = 2`],
      success: "change",
    },
    {
      finding: tell("row_security", "error", "SET row_security = off", "it reads the rows of all tenants", POLICIES),
      sql: ["SET row_security = off"],
      success: "rows",
    },
    {
      finding: tell(
        "reset_role",
        "error",
        "RESET ROLE",
        "it leads to a role that sees the rows of all tenants",
        HARDEN,
      ),
      sql: ["RESET ROLE"],
      success: "rows",
    },
    {
      finding: tell(
        "condition",
        "error",
        "a condition that shows what it is asked about",
        "it is asked about rows of others before the policies are",
        upgrade,
      ),
      sql: [`SELECT FROM ${table} WHERE id = 2 AND body::int = 1`],
      success: "message",
    },
    {
      finding: tell(
        "on_conflict",
        "error",
        "INSERT ... ON CONFLICT DO UPDATE WHERE",
        "its condition is evaluated for another tenant's row, and an error shows the value",
        upgrade,
      ),
      sql: [
        `INSERT INTO ${table} AS t VALUES (2, '${own.tenant}', '') ON CONFLICT (id) DO UPDATE SET body = '' WHERE t.body::int = 1`,
      ],
      success: "message",
    },
    {
      finding: tell(
        "plant_function",
        "error",
        "CREATE FUNCTION in schema public",
        "it is found in the queries of other tenants",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
      ),
      sql: ["CREATE FUNCTION public.pgvpd_doctor_planted() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
      success: "no error",
    },
  ];
  if (!isSealed) return attacks;

  const context = `{"${variables.join(`":"${other.tenant}","`)}":"${other.tenant}"}`;
  const zeros = "0".repeat(64);
  const forged = "a context is taken that pgvpd did not sign";
  return [
    ...attacks,
    {
      finding: tell(
        "read_keys",
        "error",
        "SELECT from pgvpd.context_keys",
        "whoever reads a key can be every tenant",
        "-- run sql/seal.sql again",
      ),
      sql: ["SELECT FROM pgvpd.context_keys"],
      success: "no error",
    },
    {
      finding: tell(
        "forge_signature",
        "error",
        "pgvpd.set_context with a signature of zeros",
        forged,
        "-- run sql/seal.sql again",
      ),
      sql: [
        "SELECT FROM pgvpd.hello()",
        `SELECT pgvpd.set_context(kid, '${context}', 9999999999, '\\x${zeros}') FROM generate_series(1, 3) AS kid`,
      ],
      success: "rows",
    },
    {
      finding: tell("write_slot", "error", "SET session_preload_libraries", forged, "-- run sql/seal.sql again"),
      sql: [`SET session_preload_libraries = 'pgvpd1:00000000-0000-0000-0000-000000000000:${context}'`],
      success: "rows",
    },
    {
      finding: tell("write_sealed", "error", "SET pgvpd.sealed", forged, "-- run sql/seal.sql again"),
      sql: [
        `SELECT set_config('pgvpd.sealed', replace(coalesce(current_setting('pgvpd.sealed', true), ''), '${own.tenant}', '${other.tenant}'), false)`,
      ],
      success: "rows",
    },
  ];
}

/** `app.current_tenant_id` as SQL names it. The names of settings have no quotes in them: they were checked. */
function quoteVariable(name: string): string {
  return name
    .split(".")
    .map((part) => `"${part}"`)
    .join(".");
}
