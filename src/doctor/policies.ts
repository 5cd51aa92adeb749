/**
 * Policies: what their expressions say, and whom they are for. The expressions are read as PostgreSQL prints them, with
 * every name qualified; it judges their form, not their meaning.
 */
import { shared, sharedValues, type Topic } from "./catalog-check.ts";
import { lookUpTo } from "./look-up-to.ts";
import type { Scope } from "./scope.ts";
import {
  findContextReads,
  isBound,
  isCode,
  readsVariable,
  rewriteReads,
  testsNotNull,
  testsNull,
} from "./policy-expression.ts";
import { combine, type Finding, type Severity } from "./finding.ts";

export interface PolicyRow {
  /** `public.orders: name` */
  readonly object: string;
  readonly table: string;
  /** `name ON public.orders`, for what follows ALTER POLICY or DROP POLICY. */
  readonly target: string;
  readonly isPermissive: boolean;
  readonly isPublic: boolean;
  /** Whether it is TO a role that tenants are or can become. */
  readonly namesTenants: boolean;
  /** `r`, `a`, `w`, `d`, or `*` for all. */
  readonly command: string;
  readonly using: string | null;
  readonly check: string | null;
  readonly hasColumn: boolean;
  /** Whether it calls a function of somebody's own that reads the context. */
  readonly callsReader: boolean;
}

const MAX_POLICIES = 5_000;
const MAX_FUNCTIONS = 500;

/** Text of SQL: what function `f` runs. One with a body of the SQL standard has no source, but PostgreSQL prints it. */
const bodyOf = ({ version }: Scope): string =>
  version >= 140_000 ? "coalesce(pg_get_function_sqlbody(f.oid), f.prosrc)" : "f.prosrc";

/** A regular expression of PostgreSQL: the names that read the context. */
const READERS = String.raw`\m(current_setting|pgvpd_context\w*|context_value|current_tenant_id)\M`;

const policyQuestion = (scope: Scope): string =>
  shared(`SELECT format('%s: %I', r.name, p.polname) AS object, r.name AS "table", format('%I ON %s', p.polname, r.name) AS target,
    p.polpermissive AS "isPermissive", 0::oid = ANY (p.polroles) AS "isPublic",
    EXISTS (SELECT FROM reach WHERE oid = ANY (p.polroles)) AS "namesTenants", p.polcmd::text AS command,
    pg_get_expr(p.polqual, p.polrelid) AS "using", pg_get_expr(p.polwithcheck, p.polrelid) AS "check",
    EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid AND d.refobjsubid > 0) AS "hasColumn",
    EXISTS (SELECT FROM pg_depend d JOIN pg_proc f ON f.oid = d.refobjid
            WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
              AND NOT (f.pronamespace IN (to_regnamespace('public'), to_regnamespace('pgvpd')) AND f.proname ~ '^(current_tenant_id$|context_value$|pgvpd_context)')
              AND ${bodyOf(scope)} ~ '${READERS}') AS "callsReader"
  FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
  ORDER BY 1`);

/**
 * Functions that policies call, and what these call in turn: by what PostgreSQL knows of a body of the SQL standard, and by
 * name where the body is text. $6 says whether the context is sealed.
 */
const functionQuestion = (scope: Scope): string =>
  shared(`, callable AS MATERIALIZED (
    SELECT p.oid, p.prosrc, p.proname, '\\m' || regexp_replace(p.proname, '(\\W)', '\\\\\\1', 'g') || '"?\\s*[(]' AS call
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.prokind = 'f' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgvpd')),
  called (oid, caller) AS (
    SELECT d.refobjid, 0::oid FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
      JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
    UNION
    SELECT c.oid, b.oid FROM called o JOIN callable b ON b.oid = o.oid
      JOIN callable c ON c.oid <> b.oid AND (
        strpos(b.prosrc, c.proname) > 0 AND b.prosrc ~ c.call
        OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = b.oid AND d.refclassid = 'pg_proc'::regclass AND d.refobjid = c.oid))),
  bodies AS (
    SELECT f.oid, f.provolatile, l.lanname, ${bodyOf(scope)} AS body,
      ARRAY(SELECT DISTINCT o.caller::regprocedure::text FROM called o WHERE o.oid = f.oid AND o.caller <> 0) AS callers
    FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang
    WHERE f.oid IN (SELECT oid FROM called) AND f.oid IN (SELECT oid FROM callable)),
  judged AS (
    SELECT b.*, CASE WHEN b.body ~ '\\mcurrent_setting\\M' AND b.lanname IN ('sql', 'plpgsql') THEN
      rtrim(regexp_replace(pg_get_functiondef(b.oid), '(pg_catalog[.])?\\mcurrent_setting\\s*[(]\\s*(''[^'']+'')(::text)?\\s*(,\\s*\\w+\\s*)?[)]', 'pgvpd.context_value(\\2)', 'gi'), E'\\n') || ';' END AS sealed
    FROM bodies b)
  SELECT b.oid::regprocedure::text AS object, b.provolatile = 'i' AS "isImmutable", b.body ~ '${READERS}' AS "isReader", b.callers,
    $6::boolean AND b.body ~ '\\mcurrent_setting\\M' AS "readsPastSeal",
    format('ALTER FUNCTION %s STABLE;', b.oid::regprocedure) AS stable,
    CASE WHEN b.sealed !~ '\\mcurrent_setting\\s*[(]' THEN b.sealed END AS sealed
  FROM judged b ORDER BY 1`);

interface FunctionRow {
  readonly object: string;
  readonly isImmutable: boolean;
  /** Whether it reads the context itself. */
  readonly isReader: boolean;
  /** The functions that call it. */
  readonly callers: readonly string[];
  readonly readsPastSeal: boolean;
  readonly stable: string;
  readonly sealed: string | null;
}

export const policies: Topic = {
  name: "policies",
  async look(catalog, scope) {
    const isSealed = scope.carrier === "slot" || scope.carrier === "signed";
    const values = sharedValues(scope);
    return combine([
      await lookUpTo(MAX_POLICIES, catalog, "policies", policyQuestion(scope), values, (rows: readonly PolicyRow[]) =>
        judgePolicies(rows, isSealed),
      ),
      await lookUpTo(
        MAX_FUNCTIONS,
        catalog,
        "functions of policies",
        functionQuestion(scope),
        [...values, isSealed],
        judgeFunctions,
      ),
    ]);
  },
};

/** @param isSealed whether the context of this database is, so that a session variable is worth nothing. */
export function judgePolicies(rows: readonly PolicyRow[], isSealed: boolean): Finding[] {
  return rows.flatMap((row) => [...judgeReach(row, rows), ...judgeExpressions(row, isSealed)]);
}

function judgeReach(row: PolicyRow, all: readonly PolicyRow[]): Finding[] {
  if (!row.isPublic && !row.namesTenants) return []; // it is never applied to a tenant
  const finding = finder(row);
  const found: Finding[] = [];
  const isNarrowed = all.some((other) => other !== row && narrows(other, row));
  if (row.isPermissive && !isNarrowed) found.push(...judgeWidth(row));
  if (!row.isPublic && isHeld(`${row.using ?? ""} ${row.check ?? ""}`)) {
    const why = "whoever is the role that it names removes it with DROP OWNED, for all tenants";
    found.push(finding("policy_not_public", "error", why, `ALTER POLICY ${row.target} TO PUBLIC;`));
  }
  if (row.check === null && row.using !== null && (row.command === "*" || row.command === "w") && isHeld(row.using)) {
    const why =
      "it has no WITH CHECK, so USING decides what may be written too: whoever widens what is read widens that";
    found.push(finding("policy_without_check", "info", why, `ALTER POLICY ${row.target} WITH CHECK (${row.using});`));
  }
  return found;
}

/** Of a permissive policy that no other one narrows. */
function judgeWidth(row: PolicyRow): Finding[] {
  const finding = finder(row);
  const { using, check, target, hasColumn, callsReader } = row;
  const drop = `DROP POLICY ${target};`;
  const isOpen = (clause: string | null): clause is string => clause !== null && !isHeld(clause);
  if (isOpen(using) && !isCode(using)) {
    const why = "it adds rows that do not depend on the tenant: permissive policies add up";
    return [finding("policy_widens", "error", why, drop)];
  }
  if (isOpen(check) && !isCode(check)) {
    const why = "its WITH CHECK does not depend on the tenant: rows can be written for others";
    const fix = using === null ? drop : `ALTER POLICY ${target} WITH CHECK (${using});`;
    return [finding("policy_widens", "error", why, fix)];
  }
  if (isOpen(using) || isOpen(check)) {
    if (!callsReader) {
      const why =
        "it finds the tenant, if at all, by a subquery or a function, which is not read here: look at it yourself";
      return [finding("policy_unclear", "warning", why, COMPARE)];
    }
  } else if (!hasColumn) {
    const why = "it compares the tenant with no column of the table: whoever has a tenant has all rows";
    return [finding("policy_widens", "error", why, drop)];
  }
  const reads = (part: string): boolean => isHeld(part) || (callsReader && isCode(part));
  if ([using, check].every((clause) => clause === null || isBound(clause, reads))) return [];
  const why =
    "beside the tenant's rows it may let others through: not every way through it says that something equals the tenant";
  return [finding("policy_unclear", "warning", why, COMPARE)];
}

const COMPARE = "-- compare a column with (SELECT current_tenant_id()), where that says the same";

function isHeld(expression: string): boolean {
  return findContextReads(expression).length > 0;
}

/** A restrictive policy for everybody that depends on the tenant, for all that the permissive one allows. */
function narrows(other: PolicyRow, { table, command }: PolicyRow): boolean {
  const isForAll = other.command === "*" || other.command === command;
  return (
    !other.isPermissive &&
    other.table === table &&
    other.isPublic &&
    isForAll &&
    isBound(other.using ?? other.check ?? "", isHeld) &&
    isBound(other.check ?? other.using ?? "", isHeld)
  );
}

/** What an expression says, and how it would be said well. */
interface Fault {
  readonly code: string;
  readonly severity: Severity;
  readonly why: string;
  readonly is: (expression: string) => boolean;
  readonly mend: (expression: string) => string;
}

const FAULTS: readonly Fault[] = [
  {
    code: "policy_not_wrapped",
    severity: "warning",
    why: "it reads the context once for each row, 20 to 70 times as slow: (SELECT ...) is evaluated once for each query",
    is: (expression) => findContextReads(expression).some(({ isWrapped, isConstant }) => isConstant && !isWrapped),
    mend: (expression) =>
      rewriteReads(expression, ({ isConstant, isWrapped, text }) =>
        isConstant && !isWrapped ? `(SELECT ${text})` : text,
      ),
  },
  {
    code: "policy_tests_not_null",
    severity: "warning",
    why: "it tests that a variable IS NOT NULL, and after a transaction or RESET it is '', which is not NULL",
    is: testsNotNull.is,
    mend: testsNotNull.mend,
  },
  {
    code: "policy_opens_without_context",
    severity: "error",
    why: "it lets rows through when there is no tenant",
    is: testsNull.is,
    mend: testsNull.mend,
  },
];

const PAST_SEAL: Fault = {
  code: "policy_reads_past_seal",
  severity: "error",
  why: "it reads a session variable, which SQL of a tenant can set: the context of this database is sealed",
  is: (expression) => findContextReads(expression).some(readsVariable),
  mend: (expression) =>
    rewriteReads(expression, (read) => (readsVariable(read) ? `pgvpd.context_value(${read.argument})` : read.text)),
};

function judgeExpressions(row: PolicyRow, isSealed: boolean): Finding[] {
  return [...FAULTS, ...(isSealed ? [PAST_SEAL] : [])].flatMap(({ code, severity, why, is, mend }) => {
    const clauses: [string, string | null][] = [
      ["USING", row.using],
      ["WITH CHECK", row.check],
    ];
    const mended = clauses.flatMap(([clause, expression]) =>
      expression !== null && is(expression) ? [`${clause} (${mend(expression)})`] : [],
    );
    if (mended.length === 0) return [];
    return [finder(row)(code, severity, why, `ALTER POLICY ${row.target} ${mended.join(" ")};`)];
  });
}

function finder({ object }: PolicyRow) {
  return (code: string, severity: Severity, why: string, fix: string): Finding => ({
    code,
    severity,
    object,
    why,
    fix,
  });
}

function judgeFunctions(rows: readonly FunctionRow[]): Finding[] {
  const readers = new Set(rows.filter(({ isReader }) => isReader).map(({ object }) => object));
  // A set grows while it is walked: whoever calls a reader is one.
  for (const reader of readers) {
    for (const { object, callers } of rows) if (object === reader) callers.forEach((caller) => readers.add(caller));
  }
  return rows.flatMap((row) => judgeFunction(row, readers.has(row.object)));
}

function judgeFunction(
  { object, isImmutable, readsPastSeal, stable, sealed }: FunctionRow,
  isReader: boolean,
): Finding[] {
  const found: Finding[] = [];
  if (isImmutable && isReader) {
    const why =
      "a policy calls it, it reads the context and is IMMUTABLE: a cached plan shows the previous tenant's rows";
    found.push({ code: "policy_function_immutable", severity: "error", object, why, fix: stable });
  }
  if (readsPastSeal) {
    const why =
      "a policy calls it, and it reads a session variable, which SQL of a tenant can set: the context is sealed";
    const fix = sealed ?? "-- let it read pgvpd.context_value('app.current_tenant_id') instead";
    found.push({ code: "policy_function_reads_past_seal", severity: "error", object, why, fix });
  }
  return found;
}
