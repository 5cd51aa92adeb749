/**
 * A suite that needs programs which npm does not install (psql, pg_dump, pgbench). Where one is missing the suite is
 * skipped and its title says why; where PGVPD_TEST_REQUIRE lists it, it fails instead.
 */
import { describe } from "vitest";
import { requireTool } from "./postgres.ts";

/** `describe` whose body gets the tools' paths in the order of the names: `describeWithTools(["psql"], "...", (psql) => ...)`. */
export function describeWithTools(
  names: readonly string[],
  title: string,
  body: (...paths: readonly string[]) => void,
): void {
  const tools = names.map((name) => requireTool(name));
  const missing = tools.flatMap((tool) => tool.missing ?? []);
  const paths = tools.map((tool) => tool.path ?? "");
  if (missing.length === 0) describe(title, () => body(...paths));
  else describe.skip(`${title} (skipped: ${missing.join(", ")})`, () => body(...paths));
}
