/** docs/doctor.md names every code that doctor can report. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { readSource } from "../../support/source-files.ts";

const page = readFileSync(new URL("../../../docs/doctor.md", import.meta.url), "utf8");

it("the page has every code", () => {
  const code = readSource()
    .filter(({ path }) => path.startsWith("doctor/"))
    .map((file) => file.code)
    .join("\n");
  const codes = [...code.matchAll(/"((?:[a-z]+_){1,6}[a-z]+)"/g)].map(([, name = ""]) => name);
  const known =
    /^(server|table|role|login_role|application_role|partition|foreign_table|policy|tenant_column|view|materialized_view|function|public|database|setting|seal|probe)_/;
  const reported = codes.filter((name) => known.test(name));
  expect(reported.length).toBeGreaterThan(60);
  expect(reported.filter((name) => !page.includes(`\`${name}\``))).toEqual([]);
});
