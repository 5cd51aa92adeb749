/** What doctor says of policies, where several hold on a table. */
import { describe, expect, it } from "vitest";
import { judgePolicies, type PolicyRow } from "../../../src/doctor/policies.ts";

const TENANT = "(tenant_id = ( SELECT public.current_tenant_id() AS current_tenant_id))";

const policy = (more: Partial<PolicyRow> = {}): PolicyRow => ({
  object: "public.t: p",
  table: "public.t",
  target: "p ON public.t",
  isPermissive: true,
  isPublic: true,
  namesTenants: false,
  command: "*",
  using: TENANT,
  check: TENANT,
  hasColumn: true,
  callsReader: false,
  ...more,
});

const codes = (...rows: PolicyRow[]): string[] => judgePolicies(rows, true).map(({ code }) => code);

describe("a permissive policy", () => {
  it("is in order where it compares a column with the tenant", () => {
    expect(codes(policy())).toEqual([]);
  });

  it("widens where it does not depend on the tenant, for reading or for writing", () => {
    expect(codes(policy({ using: "true", check: null }))).toEqual(["policy_widens"]);
    expect(codes(policy({ check: "true" }))).toEqual(["policy_widens"]);
    expect(codes(policy({ command: "a", using: null, check: "true" }))).toEqual(["policy_widens"]);
    expect(codes(policy({ hasColumn: false }))).toEqual(["policy_widens"]);
  });

  it("does not where a restrictive one for everybody depends on the tenant", () => {
    const open = policy({ using: "true", check: "true" });
    expect(codes(open, policy({ isPermissive: false }))).toEqual([]);
    expect(codes(open, policy({ isPermissive: false, command: "r" }))).toEqual(["policy_widens"]);
    expect(codes(open, policy({ isPermissive: false, isPublic: false, namesTenants: true }))).toContain(
      "policy_widens",
    );
    expect(codes(open, policy({ isPermissive: false, table: "public.other" }))).toEqual(["policy_widens"]);
  });

  it("is not narrowed by one that lets others through, and is unclear where it does so itself", () => {
    const wide = `(${TENANT} OR (body IS NOT NULL))`;
    const open = policy({ using: "true", check: "true" });
    expect(codes(open, policy({ isPermissive: false, using: wide, check: wide }))).toEqual(["policy_widens"]);
    expect(codes(policy({ using: wide }))).toEqual(["policy_unclear"]);
    const byFunction = "((tenant_id = app.tenant()) OR (body IS NOT NULL))";
    expect(codes(policy({ using: byFunction, callsReader: true }))).toEqual(["policy_unclear"]);
  });

  it("is nobody's concern where it is for roles that are no tenants'", () => {
    expect(codes(policy({ isPublic: false, using: "true", check: null }))).toEqual([]);
  });

  it("that asks another table or a function is not judged, unless the function reads the context", () => {
    for (const using of ["(a IN ( SELECT m.a FROM public.m))", "(tenant_id = auth.tenant('x.y('::text))"]) {
      expect(codes(policy({ using, check: null }))).toEqual(["policy_unclear"]);
      expect(codes(policy({ using, check: null, callsReader: true }))).toEqual([]);
    }
    expect(codes(policy({ using: "(a IN ( SELECT m.a FROM public.m))", check: "true" }))).toEqual(["policy_widens"]);
    expect(codes(policy({ using: "(a = lower('auth.tenant('::text))", check: null }))).toEqual(["policy_widens"]);
  });

  it("is to be for everybody where it names a role of tenants", () => {
    expect(codes(policy({ isPublic: false, namesTenants: true }))).toEqual(["policy_not_public"]);
  });
});

describe("what mends a policy", () => {
  it("gives WITH CHECK what USING says, and drops what has nothing to keep", () => {
    expect(judgePolicies([policy({ check: "true" })], true).map(({ fix }) => fix)).toEqual([
      `ALTER POLICY p ON public.t WITH CHECK (${TENANT});`,
    ]);
    expect(judgePolicies([policy({ using: "true", check: null })], true).map(({ fix }) => fix)).toEqual([
      "DROP POLICY p ON public.t;",
    ]);
  });

  it("changes both clauses at once", () => {
    const bare = "(tenant_id = public.current_tenant_id())";
    expect(judgePolicies([policy({ using: bare, check: bare })], true).map(({ fix }) => fix)).toEqual([
      "ALTER POLICY p ON public.t USING ((tenant_id = (SELECT public.current_tenant_id()))) WITH CHECK ((tenant_id = (SELECT public.current_tenant_id())));",
    ]);
  });

  it("leaves variables alone where nothing is sealed", () => {
    const rows = [policy({ using: "(tenant_id = ( SELECT current_setting('a.b'::text) AS current_setting))" })];
    expect(judgePolicies(rows, false)).toEqual([]);
    expect(judgePolicies(rows, true).map(({ fix }) => fix)).toEqual([
      "ALTER POLICY p ON public.t USING ((tenant_id = ( SELECT pgvpd.context_value('a.b'::text) AS current_setting)));",
    ]);
  });
});
