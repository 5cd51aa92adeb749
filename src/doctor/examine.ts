/**
 * Doctor's visit: connects to a database, looks at every topic, and returns what it found. It changes nothing.
 */
import { withDatabase } from "../check/database-session.ts";
import type { DatabaseUrl } from "../config/database-url.ts";
import { combine, type Look } from "./finding.ts";
import { topicsFor, type Probing } from "./registry.ts";
import { findScope, missingRoles, type DoctorConfig, type Scope } from "./scope.ts";

export interface Examination extends Look {
  readonly scope: Scope;
}

export interface ExamineOptions {
  /** Names of columns that hold a tenant, beside those that policies compare with it. */
  readonly tenantColumns: readonly string[];
  readonly probing: Probing;
}

/** Throws what connecting throws, and the error of a session that is lost. */
export async function examine(
  server: DatabaseUrl,
  config: DoctorConfig,
  options: ExamineOptions,
): Promise<Examination> {
  return withDatabase(server, "pgvpd doctor", async (client) => {
    const scope = await findScope(client, config, options.tenantColumns);
    const looks: Look[] = [{ findings: [], notChecked: missingRoles(scope) }];
    for (const topic of topicsFor(options.probing)) looks.push(await topic.look(client, scope));
    return { scope, ...combine(looks) };
  });
}
