/**
 * What a tenant who sends SQL of its own can try, and what it means when it works. Carried out by probes.ts.
 */
import type { SealKey } from "../config/seal-keys.ts";
import type { Finding } from "./finding.ts";
import type { Scope } from "./scope.ts";
import { judgeVersion } from "./server-version.ts";

/** What an attack is carried out with. */
export interface Ground {
  /** The table, as SQL names it: id, tenant_id, body; row 1 is the attacker's, row 2 the other tenant's. */
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

/** An attack as the tables below write it; its finding is an error, unless it is said. */
type Written = Omit<Attack, "finding"> & Omit<Finding, "severity"> & Partial<Pick<Finding, "severity">>;

const PROTECT = "-- protect tables with pgvpd_protect() of sql/setup.sql; other findings have single statements";

export function attacksOn(ground: Ground): Attack[] {
  const { scope } = ground;
  const isSealed = scope.carrier === "slot" || scope.carrier === "signed";
  // Where RESET ROLE leads from any other session, no tenant can come.
  const isLogin = scope.isSuperuser || scope.loginRoles.includes(scope.role);
  const written = [
    ...settingTheVariable(ground, isSealed),
    ...passingPolicies(ground),
    ...(isLogin ? RESETTING_THE_ROLE : []),
    ...PLANTING,
    ...(isSealed ? forging(ground) : []),
  ];
  return written.map(({ code, severity = "error", object, why, fix, ...attack }) => ({
    ...attack,
    finding: { code, severity, object, why, fix },
  }));
}

function settingTheVariable({ table, other, variables, scope }: Ground, isSealed: boolean): Written[] {
  const set = variables.map((name) => `SET ${quoteVariable(name)} = '${other.tenant}'`);
  const common = {
    // Without the seal the tenant is a session variable, which is a boundary for the cooperative: that is known.
    severity: isSealed || scope.config.contextSeal === "require" ? "error" : "warning",
    why: "it shows the rows of another tenant: the boundary holds for the cooperative only",
    fix: "-- install the seal: sql/seal.sql, context_seal = require",
  } as const;
  return [
    { ...common, code: "probe_set", object: "SET of the context variable", sql: set, success: "rows" },
    {
      ...common,
      code: "probe_set_config",
      object: "set_config in a DO block that builds it from strings",
      sql: variables.map(
        (name) => `DO $$ BEGIN EXECUTE 'SELECT set_' || 'config(''${name}'', ''${other.tenant}'', false)'; END $$`,
      ),
      success: "rows",
    },
    {
      ...common,
      code: "probe_own_view",
      object: "a view of its own",
      sql: [
        `CREATE TEMPORARY VIEW probe_view AS SELECT body FROM ${table}`,
        ...set,
        `SELECT 1 / count(*) FROM pg_temp.probe_view WHERE body = '${other.body}'`,
      ],
      success: "no error",
    },
    {
      ...common,
      code: "probe_own_function",
      object: "a SECURITY DEFINER function of its own",
      sql: [
        `CREATE FUNCTION pg_temp.probe() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
           ${set.join("; ")}; RETURN (SELECT 1 / count(*) FROM ${table} WHERE body = '${other.body}'); END $$`,
        "SELECT pg_temp.probe()",
      ],
      success: "no error",
    },
  ];
}

function passingPolicies({ table, own, other, scope }: Ground): Written[] {
  const upgrade = judgeVersion(scope.version)[0]?.fix ?? "-- install the latest minor version of PostgreSQL";
  const upsert = `INSERT INTO ${table} AS t VALUES (2, '${own.tenant}', '') ON CONFLICT (id) DO UPDATE SET body = ''`;
  return [
    {
      code: "probe_without_tenant",
      object: "a session without a tenant",
      why: "it sees rows",
      fix: PROTECT,
      sql: [],
      success: "rows",
      isWithoutTenant: true,
    },
    {
      code: "probe_insert",
      object: "INSERT of a row for another tenant",
      why: "it is written",
      fix: PROTECT,
      sql: [`INSERT INTO ${table} VALUES (3, '${other.tenant}', 'planted')`],
      success: "change",
    },
    {
      code: "probe_update",
      object: "UPDATE that gives a row to another tenant",
      why: "it is written",
      fix: PROTECT,
      sql: [`UPDATE ${table} SET tenant_id = '${other.tenant}'`],
      success: "change",
    },
    {
      code: "probe_update_other",
      object: "UPDATE of another tenant's row",
      why: "it is written",
      fix: PROTECT,
      sql: [`UPDATE ${table} SET body = 'taken' WHERE id = 2`],
      success: "change",
    },
    {
      code: "probe_row_security",
      object: "SET row_security = off",
      why: "it shows the rows of all tenants",
      fix: PROTECT,
      sql: ["SET row_security = off"],
      success: "rows",
    },
    {
      code: "probe_condition",
      object: "a condition that fails and shows what it was asked about",
      why: "it is evaluated for rows of others, before their policies are",
      fix: upgrade,
      sql: [`SELECT FROM ${table} WHERE id = 2 AND body::int = 1`],
      success: "message",
    },
    {
      code: "probe_on_conflict",
      object: "INSERT ... ON CONFLICT DO UPDATE WHERE",
      why: "its condition is evaluated for another tenant's row, and an error shows the value",
      fix: upgrade,
      sql: [`${upsert} WHERE t.body::int = 1`],
      success: "message",
    },
  ];
}

const RESETTING_THE_ROLE: readonly Written[] = [
  {
    code: "probe_reset_role",
    object: "RESET ROLE",
    why: "it leads to a role that sees the rows of all tenants",
    fix: "-- let tenants log in as a role without rights: sql/hardening.sql",
    sql: ["RESET ROLE"],
    success: "rows",
  },
];

const PLANTING: readonly Written[] = [
  {
    code: "probe_plant_function",
    object: "CREATE FUNCTION in schema public",
    why: "it is found in the queries of other tenants",
    fix: "REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
    sql: ["CREATE FUNCTION public.pgvpd_doctor_planted() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
    success: "no error",
  },
];

function forging({ own, other, variables }: Ground): Written[] {
  const context = JSON.stringify(Object.fromEntries(variables.map((name) => [name, other.tenant])));
  const common = {
    why: "a context is taken that pgvpd did not sign",
    fix: "-- run sql/seal.sql again",
    success: "rows",
  } as const;
  return [
    {
      code: "probe_read_keys",
      object: "SELECT from pgvpd.context_keys",
      why: "whoever reads a key can be every tenant",
      fix: common.fix,
      sql: ["SELECT FROM pgvpd.context_keys"],
      success: "no error",
    },
    {
      ...common,
      code: "probe_forge_signature",
      object: "pgvpd.set_context with a signature of zeros",
      sql: [
        "SELECT FROM pgvpd.hello()",
        `SELECT pgvpd.set_context(kid, '${context}', 9999999999, '\\x${"0".repeat(64)}') FROM generate_series(1, 3) AS kid`,
      ],
    },
    {
      ...common,
      code: "probe_write_slot",
      object: "SET session_preload_libraries",
      sql: [`SET session_preload_libraries = 'pgvpd1:00000000-0000-0000-0000-000000000000:${context}'`],
    },
    {
      ...common,
      code: "probe_write_sealed",
      object: "SET pgvpd.sealed",
      sql: [
        `SELECT set_config('pgvpd.sealed', replace(coalesce(current_setting('pgvpd.sealed', true), ''), '${own.tenant}', '${other.tenant}'), false)`,
      ],
    },
  ];
}

/** `app.current_tenant_id` as SQL names it. Names of settings have no quotes in them: the configuration was checked. */
function quoteVariable(name: string): string {
  return name
    .split(".")
    .map((part) => `"${part}"`)
    .join(".");
}
