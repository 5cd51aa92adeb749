/**
 * The columns that hold a tenant: that none is empty, and that a query finds a tenant's rows without reading those of all.
 */
import { catalogTopic, type CatalogCheck, type Topic } from "./catalog-check.ts";
import { combine } from "./finding.ts";
import { MAX_COLUMNS } from "./scope.ts";

/** A partition has the columns and indexes of its table. */
const OF_PROTECTED = `FROM relations r JOIN tenant_columns c ON c.relid = r.oid
  WHERE r.relkind IN ('r', 'p') AND NOT r.relispartition AND (r.relrowsecurity OR r.oid IN (SELECT relid FROM grantees))`;

const CHECKS: readonly CatalogCheck[] = [
  {
    code: "tenant_column_nullable",
    severity: "warning",
    sql: `SELECT format('%s.%I', r.name, c.attname) AS object, 'a row without a tenant is nobody''s: no tenant sees it, and a careless policy shows it to all' AS why,
             format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', r.name, c.attname) AS fix
      ${OF_PROTECTED} AND NOT c.attnotnull ORDER BY 1`,
  },
  {
    code: "tenant_column_without_index",
    severity: "warning",
    sql: `SELECT format('%s.%I', r.name, c.attname) AS object, 'no index starts with it: every query reads the rows of all tenants, and its time tells of them' AS why,
             format('CREATE INDEX %sON %s (%I);', CASE r.relkind WHEN 'r' THEN 'CONCURRENTLY ' ELSE '' END, r.name, c.attname) AS fix
      ${OF_PROTECTED}
        AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = c.attnum)
      ORDER BY 1`,
  },
];

const catalogColumns = catalogTopic("columns", () => CHECKS);

export const columns: Topic = {
  name: "columns",
  async look(catalog, scope) {
    const look = await catalogColumns.look(catalog, scope);
    if (!scope.hasMoreColumns) return look;
    const reason = `policies name more than ${MAX_COLUMNS} tenant columns: name the others with --tenant-column`;
    return combine([look, { findings: [], notChecked: [{ what: "tenant columns", reason }] }]);
  },
};
