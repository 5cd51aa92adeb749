/** A look at so many rows and no more, which says so where there are more. */
import type { QueryResultRow } from "pg";
import type { Catalog, CatalogValue } from "./catalog.ts";
import { lookWith } from "./catalog-check.ts";
import { combine, type Finding, type Look } from "./finding.ts";

// oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- as with lookWith
export async function lookUpTo<Row extends QueryResultRow>(
  limit: number,
  catalog: Catalog,
  what: string,
  sql: string,
  values: readonly CatalogValue[],
  judge: (rows: readonly Row[]) => Finding[],
): Promise<Look> {
  let isMore = false;
  const look = await lookWith<Row>(catalog, what, `${sql} LIMIT ${limit + 1}`, values, (rows) => {
    isMore = rows.length > limit;
    return judge(rows.slice(0, limit));
  });
  if (!isMore) return look;
  const reason = `there are more than ${limit}, and only the first ${limit} were looked at`;
  return combine([look, { findings: [], notChecked: [{ what, reason }] }]);
}
