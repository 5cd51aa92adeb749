/**
 * The seal: whether it is there, whether it has a key, and whether anybody but pgvpd can make a context.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { catalogTopic, granteesOf, lookWith, type CatalogCheck, type Topic } from "./catalog-check.ts";
import { combine, type Finding } from "./finding.ts";
import type { Scope } from "./scope.ts";

const INSTALL =
  "-- psql -d DATABASE -f sql/setup.sql -f sql/helpers.sql -f sql/seal.sql; then pgvpd key create and install, context_seal = require";

/** The functions and the table of the seal, and what policies read it through. */
const PARTS = `, parts AS (
  SELECT 'FUNCTION' AS kind, p.oid::regprocedure::text AS name, p.proowner AS owner,
         p.proname IN ('hello', 'set_context', 'context_value', 'is_authentic', 'session_start', 'sealed_context') AS is_sealed
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE n.nspname = 'pgvpd' OR n.nspname = 'public' AND (p.proname = 'current_tenant_id' OR starts_with(p.proname, 'pgvpd_'))
  UNION ALL SELECT 'TABLE', c.oid::regclass::text, c.relowner, false FROM pg_class c WHERE c.relnamespace = to_regnamespace('pgvpd') AND c.relkind = 'r'
  UNION ALL SELECT 'SCHEMA', quote_ident(n.nspname), n.nspowner, false FROM pg_namespace n WHERE n.nspname = 'pgvpd')`;

const missing = ({ config, carrier }: Scope): CatalogCheck => ({
  code: "seal_missing",
  severity: config.contextSeal === "require" ? "error" : "warning",
  sql: `SELECT format('database %I', current_database()) AS object,
      'the tenant is a session variable: SQL of a tenant can set it to another one, and no proxy can filter that' AS why,
      '${carrier === "absent" ? INSTALL : INSTALL.replace("-f sql/setup.sql -f sql/helpers.sql ", "")}' AS fix`,
});

const CHECKS: readonly CatalogCheck[] = [
  {
    code: "seal_key_readable",
    severity: "error",
    // Of anybody at all: whoever reads a key can be every tenant.
    sql: `SELECT format('pgvpd.context_keys for %s', g.name) AS object, 'whoever reads or writes a key can be every tenant' AS why,
        format('REVOKE ALL ON TABLE pgvpd.context_keys FROM %s;', g.name) AS fix
      FROM (
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS name
        FROM pg_class c LEFT JOIN pg_attribute t ON t.attrelid = c.oid AND t.attacl IS NOT NULL
          CROSS JOIN LATERAL (SELECT * FROM aclexplode(c.relacl) UNION ALL SELECT * FROM aclexplode(t.attacl)) AS a
        WHERE c.oid = to_regclass('pgvpd.context_keys') AND a.grantee <> c.relowner) AS g
      ORDER BY 1`,
  },
  {
    code: "seal_function_callable",
    severity: "error",
    sql: `SELECT p.oid::regprocedure::text AS object, 'it says whether a signature is right, and is for the seal alone' AS why,
        format('REVOKE ALL ON FUNCTION %s FROM %s;', p.oid::regprocedure, g.names) AS fix
      FROM pg_proc p CROSS JOIN LATERAL (SELECT ${granteesOf("coalesce(p.proacl, acldefault('f', p.proowner))", ["EXECUTE"])} AS names) AS g
      WHERE p.pronamespace = to_regnamespace('pgvpd') AND p.proname IN ('is_authentic', 'session_start', 'sealed_context') AND g.names IS NOT NULL ORDER BY 1`,
  },
  {
    code: "seal_reader_replaced",
    severity: "error",
    sql: `SELECT p.oid::regprocedure::text AS object, 'policies call it, and it does not read the sealed context' AS why,
        CASE p.proname WHEN 'current_tenant_id' THEN
          format('CREATE OR REPLACE FUNCTION public.current_tenant_id() RETURNS text LANGUAGE plpgsql STABLE PARALLEL %s SET search_path = pg_catalog, pg_temp AS %L;',
                 CASE p.proparallel WHEN 's' THEN 'SAFE' ELSE 'RESTRICTED' END, ' BEGIN RETURN pgvpd.context_value(''app.current_tenant_id''); END ')
          ELSE '-- psql -d DATABASE -f sql/setup.sql -f sql/helpers.sql' END AS fix
      FROM pg_proc p
      WHERE p.pronamespace = to_regnamespace('public') AND (p.proname = 'current_tenant_id' AND p.pronargs = 0 OR p.proname ~ '^pgvpd_context')
        AND p.prosrc !~ '(pgvpd[.]context_value|public[.]pgvpd_context)' ORDER BY 1`,
  },
  {
    code: "seal_owner_unsafe",
    severity: "error",
    sql: `SELECT quote_ident(r.rolname) AS object, 'it owns the keys, so nobody should log in as it, and it needs no attribute' AS why,
        format('ALTER ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOREPLICATION;', r.rolname) AS fix
      FROM pg_roles r
      WHERE r.rolname = 'pgvpd_owner' AND (r.rolcanlogin OR r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolreplication)`,
  },
  {
    code: "seal_without_key",
    severity: "error",
    sql: `SELECT 'pgvpd.context_keys' AS object, 'it holds no active key: no session gets a context, so no tenant sees a row' AS why,
        '-- pgvpd key install --file CONTEXT_KEY_FILE | psql -d DATABASE' AS fix
      WHERE NOT EXISTS (SELECT FROM pgvpd.context_keys k WHERE k.active)`,
  },
];

/** What pgvpd's functions are built from is worth owning, sealed or not. */
const OWNER_CHECK: CatalogCheck = {
  code: "seal_part_of_other_role",
  severity: "error",
  sql: `${PARTS}
    SELECT lower(p.kind) || ' ' || p.name AS object, format('it belongs to %I, %s: its owner can replace what policies read', r.rolname,
        CASE WHEN r.oid IN (SELECT oid FROM reach) THEN 'which a tenant can become' ELSE 'who does not own the keys' END) AS why,
      format('ALTER %s %s OWNER TO %I;', p.kind, p.name, CASE WHEN p.is_sealed THEN coalesce(k.rolname, w.rolname) ELSE w.rolname END) AS fix
    FROM parts p JOIN pg_roles r ON r.oid = p.owner CROSS JOIN trusted w LEFT JOIN pg_class c ON c.oid = to_regclass('pgvpd.context_keys')
      LEFT JOIN pg_roles k ON k.oid = c.relowner AND k.oid NOT IN (SELECT oid FROM reach)
    WHERE r.oid IN (SELECT oid FROM reach WHERE NOT is_tenant)
       OR p.is_sealed AND r.oid <> c.relowner AND NOT r.rolsuper AND r.oid NOT IN (SELECT oid FROM tenants)
    ORDER BY 1`,
};

/** PostgreSQL 15 and newer. */
const SLOT_CHECK: CatalogCheck = {
  code: "seal_slot_granted",
  severity: "error",
  sql: `SELECT format('session_preload_libraries for %s', g.name) AS object,
      'whoever may set it writes the context of his session without a signature, and loads libraries into it' AS why,
      format('REVOKE SET, ALTER SYSTEM ON PARAMETER session_preload_libraries FROM %s;', g.name) AS fix
    FROM (
      SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS name
      FROM pg_parameter_acl p CROSS JOIN LATERAL aclexplode(p.paracl) AS a LEFT JOIN pg_roles r ON r.oid = a.grantee
      WHERE p.parname = 'session_preload_libraries' AND NOT coalesce(r.rolsuper OR r.rolname = 'pgvpd_owner', false)) AS g
    ORDER BY 1`,
};

const catalogSeal = catalogTopic("seal", (scope) => [
  ...(scope.carrier === "absent" || scope.carrier === "none" ? [missing(scope)] : CHECKS),
  OWNER_CHECK,
  ...(scope.version >= 150_000 ? [SLOT_CHECK] : []),
]);

const FILE = path.join(import.meta.dirname, "../../sql/seal.sql");

export const seal: Topic = {
  name: "seal",
  async look(catalog, scope) {
    const look = await catalogSeal.look(catalog, scope);
    if (scope.carrier !== "slot" && scope.carrier !== "signed") return look;
    const file = await readFile(FILE, "utf8").catch(() => undefined);
    if (file === undefined) {
      const reason = `${FILE} cannot be read, which says what the seal's functions are`;
      return combine([look, { findings: [], notChecked: [{ what: "seal_function_replaced", reason }] }]);
    }
    const expected = sealFunctions(file, scope.carrier);
    const judge = (rows: readonly SealFunction[]): Finding[] => judgeSealFunctions(rows, expected);
    return combine([
      look,
      await lookWith(catalog, "seal_function_replaced", FUNCTION_QUESTION, [[...expected.keys()]], judge),
    ]);
  },
};

const FUNCTION_QUESTION = `SELECT p.proname::text AS name, p.oid::regprocedure::text AS object, p.prosecdef AS "isDefiner", p.prosrc AS body,
    coalesce(array_to_string(p.proconfig, ' '), '') AS settings
  FROM pg_proc p WHERE p.pronamespace = to_regnamespace('pgvpd') AND p.proname = ANY ($1) ORDER BY 2 LIMIT 100`;

interface SealFunction {
  readonly name: string;
  readonly object: string;
  readonly isDefiner: boolean;
  readonly body: string;
  readonly settings: string;
}

/** What sql/seal.sql makes for a carrier, by name. */
export function sealFunctions(file: string, carrier: "slot" | "signed"): Map<string, Omit<SealFunction, "object">> {
  const [common = "", carriers = ""] = file.split("DO $carrier$");
  const [slot = "", signed = ""] = carriers.split(/^ {2}(?:ELSE|END IF;)\r?$/m);
  const created = /CREATE OR REPLACE FUNCTION pgvpd\.(\w+)\([^;]*?\n *AS \$\$(.*?)\$\$/gs;
  const text = `${common}${carrier === "slot" ? slot : signed}`;
  return new Map(
    [...text.matchAll(created)].map(([all, name = "", body = ""]) => {
      const isDefiner = all.slice(0, all.length - body.length).includes("SECURITY DEFINER");
      return [name, { name, isDefiner, body, settings: "search_path=pg_catalog, pg_temp" }];
    }),
  );
}

function judgeSealFunctions(
  rows: readonly SealFunction[],
  expected: ReadonlyMap<string, Omit<SealFunction, "object">>,
): Finding[] {
  const fix = "-- psql -d DATABASE -f sql/seal.sql";
  const finding = (object: string, why: string): Finding => ({
    code: "seal_function_replaced",
    severity: "error",
    object,
    why,
    fix,
  });
  const isSame = (row: SealFunction): boolean => {
    const own = expected.get(row.name);
    const words = (text = ""): string => text.trim().replaceAll(/\s+/g, " ");
    return row.isDefiner === own?.isDefiner && row.settings === own.settings && words(row.body) === words(own.body);
  };
  const replaced = rows.filter((row) => !isSame(row));
  const absent = [...expected.keys()].filter((name) => !rows.some((row) => row.name === name));
  const why =
    "it is not what this version's sql/seal.sql makes, so what it accepts or returns may be unsealed: run that again";
  return [
    ...replaced.map(({ object }) => finding(object, why)),
    ...absent.map((name) => finding(`pgvpd.${name}`, "it is missing, and the seal needs it: run sql/seal.sql again")),
  ];
}
