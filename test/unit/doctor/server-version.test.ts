/** Which servers have known faults, and what doctor says of them. */
import { describe, expect, it } from "vitest";
import { faultsOf, judgeVersion } from "../../../src/doctor/server-version.ts";

const cves = (version: number): string[] => faultsOf(version).map(({ cve }) => cve);

describe("a server", () => {
  it.each([180_007, 170_012, 160_016, 150_020, 140_025, 190_000])(
    "of version %i has none that are known",
    (version) => {
      expect(judgeVersion(version)).toEqual([]);
    },
  );

  it("has those that its minor release lacks", () => {
    expect(cves(180_004)).toEqual(["CVE-2026-120154", "CVE-2026-14666", "CVE-2026-120141", "CVE-2026-16239"]);
    expect(cves(180_006)).toEqual(["CVE-2026-120154", "CVE-2026-120141"]);
    expect(cves(150_003)).toContain("CVE-2023-39418");
    expect(cves(140_003)).not.toContain("CVE-2023-39418"); // 14 has no MERGE
    expect(cves(180_000)).not.toContain("CVE-2025-8713"); // 18 came without it
  });

  it("is told the one release that mends all, and apart from each other what the faults do", () => {
    expect(judgeVersion(170_010)).toMatchObject([
      {
        code: "server_rls_fault",
        severity: "error",
        object: "PostgreSQL 17.10",
        fix: expect.stringContaining(" 17.12 ") as string,
      },
      { code: "server_code_fault", severity: "error", fix: expect.stringContaining(" 17.12 ") as string },
    ]);
  });

  it("older than 14 is refused as a whole", () => {
    expect(judgeVersion(130_022)).toMatchObject([{ code: "server_unsupported", severity: "error" }]);
  });
});
