/**
 * Doctor's visit: looks at every topic in a database, and returns what it found. It changes nothing.
 */
import { withDatabase } from "../check/database-session.ts";
import type { DatabaseUrl } from "../config/database-url.ts";
import type { Catalog } from "./catalog.ts";
import { combine, type Look } from "./finding.ts";
import { probe } from "./probes.ts";
import { CATALOG_TOPICS } from "./registry.ts";
import { findScope, missingRoles, type DoctorConfig, type Scope } from "./scope.ts";

export interface Examination extends Look {
  readonly scope: Scope;
}

/** Whether attacks are tried. `tables`: on the tables of the application too. */
export type Probing = "off" | "scratch" | "tables";

export interface ExamineOptions {
  /** Names of columns that hold a tenant, beside those that policies compare with it. */
  readonly tenantColumns: readonly string[];
  readonly probing: Probing;
}

/** With a connection of its own. Throws what connecting throws, and the error of a session that is lost. */
export async function examine(
  server: DatabaseUrl,
  config: DoctorConfig,
  { tenantColumns, probing }: ExamineOptions,
): Promise<Examination> {
  return withDatabase(server, "pgvpd doctor", async (client) => {
    const { scope, ...look } = await examineCatalogs(client, config, tenantColumns);
    if (probing === "off") return { scope, ...look };
    return { scope, ...combine([look, await probe(client, scope, probing === "tables")]) };
  });
}

/** What catalogs tell, and nothing that writes. @throws the error of a session that is lost. */
export async function examineCatalogs(
  catalog: Catalog,
  config: DoctorConfig,
  tenantColumns: readonly string[],
): Promise<Examination> {
  const scope = await findScope(catalog, config, tenantColumns);
  const looks: Look[] = [{ findings: [], notChecked: missingRoles(scope) }];
  for (const topic of CATALOG_TOPICS) looks.push(await topic.look(catalog, scope));
  return { scope, ...combine(looks) };
}
