/** What resolvers need of the other settings. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { configFromSettings, type SettingValues } from "../../../src/config/load.ts";
import { choosesRole, loadPlan } from "../../../src/config/resolver-plan.ts";

const ROLE = 'inject_role = "role"';
const TERMINATE = 'on_change = "terminate"';
const dedicated = { resolver_user: "resolver", resolver_password: "x" };

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "pgvpd-plan-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

function planOf(more: string, settings: SettingValues): () => boolean {
  const file = path.join(folder, "r.toml");
  writeFileSync(file, `[[resolver]]\nname = "a"\nquery = "SELECT 'x' AS role"\nrequired = true\n${more}\n`);
  return () => choosesRole(loadPlan(configFromSettings({ resolvers: file, ...settings })));
}

it.each<[string, string, SettingValues, string]>([
  ["on_change", TERMINATE, {}, "on_change = terminate needs resolver_user"],
  ["a role", ROLE, {}, "inject_role needs resolver_user, client_auth = scram or cleartext, login_roles"],
  ["a role, of a client that is relayed", ROLE, { ...dedicated, login_roles: "a" }, "client_auth = scram or cleartext"],
  [
    "a role, whichever it is",
    ROLE,
    { ...dedicated, client_auth: "scram", pool_password: "p", upstream_password: "x" },
    "login_roles",
  ],
])("%s is refused without what it needs", (_what, more, settings, problem) => {
  expect(planOf(more, settings)).toThrow(`r.toml: resolver "a": `);
  expect(planOf(more, settings)).toThrow(problem);
});

it("a role is chosen where everything is there", () => {
  const settings = { ...dedicated, client_auth: "scram", pool_password: "p", upstream_password: "x", login_roles: "a" };
  expect(planOf(ROLE, settings)()).toBe(true);
  expect(planOf("", settings)()).toBe(false);
});
