/**
 * Once per test run, before the first worker: names the folder in which PostgreSQL templates and data of this run live,
 * and removes it at the end; checks that what PGVPD_TEST_REQUIRE lists is there.
 * Starts nothing: unit tests begin at once, and a server is started by the suite that needs it.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { availableVersions, requiredForTests, requireTool } from "./postgres.ts";

/** Called by vitest; what it returns is called when the run is over. */
export function setup(): () => void {
  for (const name of requiredForTests()) {
    const version = /^pg(\d+)$/.exec(name)?.[1];
    if (version === undefined) requireTool(name);
    else if (!availableVersions().includes(version)) {
      throw new Error(`PGVPD_TEST_REQUIRE lists ${name}, but there is no PostgreSQL ${version} on this machine`);
    }
  }
  const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-run-"));
  chmodSync(folder, 0o711); // as root the servers run as somebody else
  process.env["PGVPD_TEST_RUN_FOLDER"] = folder;
  return () => rmSync(folder, { recursive: true, force: true, maxRetries: 20 });
}
