/**
 * Faults of PostgreSQL itself that a tenant who sends SQL can use: those of row-level security, and those by which any
 * role runs code as the server. The list is of known ones that minor releases closed; it ages, and so does every server.
 */
import { shared, sharedValues, type Topic } from "./catalog-check.ts";
import { lookUpTo } from "./look-up-to.ts";
import { combine, type Finding } from "./finding.ts";

const OLDEST_MAJOR = 14;

export interface Fault {
  readonly cve: string;
  readonly what: string;
  readonly kind: "rows" | "code";
  /** First minor release without it, by major version; a major that is not named never had it. */
  readonly fixedIn: Readonly<Record<number, number>>;
}

const UPSERT_FAULT = "CVE-2026-120154";

const FAULTS: readonly Fault[] = [
  {
    cve: UPSERT_FAULT,
    what: "INSERT ... ON CONFLICT DO UPDATE shows every row of a table that tenants may write",
    kind: "rows",
    fixedIn: { 14: 25, 15: 20, 16: 16, 17: 12, 18: 7 },
  },
  {
    cve: "CVE-2026-14666",
    what: "cached plans keep policies of before a change of a role",
    kind: "rows",
    fixedIn: { 14: 24, 15: 19, 16: 15, 17: 11, 18: 6 },
  },
  {
    cve: "CVE-2025-8713",
    what: "statistics of partitions show values of hidden rows",
    kind: "rows",
    fixedIn: { 14: 19, 15: 14, 16: 10, 17: 6 },
  },
  {
    cve: "CVE-2024-10976",
    what: "policies of another role are applied below subqueries after SET ROLE",
    kind: "rows",
    fixedIn: { 14: 14, 15: 9, 16: 5, 17: 1 },
  },
  { cve: "CVE-2023-39418", what: "MERGE passes by policies for UPDATE and SELECT", kind: "rows", fixedIn: { 15: 4 } },
  {
    cve: "CVE-2023-2455",
    what: "policies of another role are applied to inlined functions after SET ROLE",
    kind: "rows",
    fixedIn: { 14: 8, 15: 3 },
  },
  {
    cve: "CVE-2026-120141",
    what: "rows of changing type, as json_populate_recordset() makes them",
    kind: "code",
    fixedIn: { 14: 25, 15: 20, 16: 16, 17: 12, 18: 7 },
  },
  {
    cve: "CVE-2026-16239",
    what: "a cursor that is closed and declared again",
    kind: "code",
    fixedIn: { 14: 24, 15: 19, 16: 15, 17: 11, 18: 6 },
  },
  {
    cve: "CVE-2026-6473",
    what: "sizes that wrap around",
    kind: "code",
    fixedIn: { 14: 23, 15: 18, 16: 14, 17: 10, 18: 4 },
  },
  {
    cve: "CVE-2026-2006",
    what: "text that is cut within a character",
    kind: "code",
    fixedIn: { 14: 21, 15: 16, 16: 12, 17: 8, 18: 2 },
  },
];

/** @param version as server_version_num has it: 180004 is 18.4. */
export function faultsOf(version: number): Fault[] {
  const major = Math.floor(version / 10_000);
  return FAULTS.filter(({ fixedIn }) => (fixedIn[major] ?? 0) > version % 10_000);
}

const showVersion = (version: number): string => `${Math.floor(version / 10_000)}.${version % 10_000}`;

/** @param version as server_version_num has it. */
export function judgeVersion(version: number): Finding[] {
  const object = `PostgreSQL ${showVersion(version)}`;
  const major = Math.floor(version / 10_000);
  if (major < OLDEST_MAJOR) {
    const why = `it gets no fixes any more; ${OLDEST_MAJOR} is the oldest that pgvpd knows`;
    const fix = "-- upgrade to a major version that is supported";
    return [{ code: "server_unsupported", severity: "error", object, why, fix }];
  }
  const describe = (kind: Fault["kind"], code: string, what: string): Finding[] => {
    const faults = faultsOf(version).filter((fault) => fault.kind === kind);
    if (faults.length === 0) return [];
    const minor = Math.max(...faults.map(({ fixedIn }) => fixedIn[major] ?? 0));
    const why = `${what}: ${faults.map((fault) => `${fault.what} (${fault.cve})`).join("; ")}`;
    const fix = `-- install PostgreSQL ${major}.${minor} or a later ${major}: a minor upgrade, new programs and a restart`;
    return [{ code, severity: "error", object, why, fix }];
  };
  return [
    ...describe("rows", "server_rls_fault", "known ways past row-level security"),
    ...describe("code", "server_code_fault", "any role can run code as the server, and then no policy holds"),
  ];
}

/**
 * Tables where UPSERT_FAULT can be used: tenants may INSERT and UPDATE, and a unique index lets a new row meet that of
 * another tenant. The WHERE of DO UPDATE is evaluated for that row before its policies, and an error shows a value. Where the
 * index has the tenant column the new row is refused first; where the table has a rule for UPDATE there is no ON CONFLICT.
 */
const UPSERT_QUESTION =
  shared(`SELECT r.name AS object, string_agg(x.indexrelid::regclass::text, ', ' ORDER BY x.indexrelid::regclass::text) AS indexes,
    format('CREATE RULE pgvpd_no_upsert AS ON UPDATE TO %s WHERE false DO ALSO NOTHING;', r.name) AS fix
  FROM relations r JOIN pg_index x ON x.indrelid = r.oid AND x.indisunique AND x.indimmediate AND x.indisvalid
  WHERE r.relkind IN ('r', 'p') AND r.relrowsecurity
    AND EXISTS (SELECT FROM grants g WHERE g.relid = r.oid AND g.privilege = 'INSERT')
    AND EXISTS (SELECT FROM grants g WHERE g.relid = r.oid AND g.privilege = 'UPDATE')
    AND EXISTS (SELECT FROM tenant_columns c WHERE c.relid = r.oid)
    AND NOT EXISTS (SELECT FROM tenant_columns c WHERE c.relid = r.oid AND c.attnum = ANY ((x.indkey::int2[])[0:x.indnkeyatts - 1]))
    AND NOT EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = r.oid AND w.ev_type IN ('2', '3') AND w.ev_enabled <> 'D')
  GROUP BY r.name ORDER BY 1`);

const MAX_TABLES = 500;

interface UpsertRow {
  readonly object: string;
  readonly indexes: string;
  readonly fix: string;
}

export const serverVersion: Topic = {
  name: "server version",
  async look(catalog, scope) {
    const look = { findings: judgeVersion(scope.version), notChecked: [] };
    if (!faultsOf(scope.version).some(({ cve }) => cve === UPSERT_FAULT)) return look;
    const values = sharedValues(scope);
    return combine([
      look,
      await lookUpTo(MAX_TABLES, catalog, "table_upsert_shows_rows", UPSERT_QUESTION, values, judgeUpserts),
    ]);
  },
};

function judgeUpserts(rows: readonly UpsertRow[]): Finding[] {
  return rows.map(({ object, indexes, fix }) => {
    const why =
      `with this server a tenant reads every row by INSERT ... ON CONFLICT, as ${indexes} has no tenant column; ` +
      "until it is upgraded a rule can refuse ON CONFLICT and MERGE on the table";
    return { code: "table_upsert_shows_rows", severity: "error", object, why, fix };
  });
}
