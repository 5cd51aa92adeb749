/** What `pgvpd check` makes of the answers of a database, and how a finding is printed. */
import { describe, expect, it } from "vitest";
import { checkConfiguration } from "../../../src/check/check-configuration.ts";
import { checkDatabase } from "../../../src/check/check-database.ts";
import { formatFinding } from "../../../src/check/finding.ts";
import { judgePolicies, type PolicyRow } from "../../../src/check/policies.ts";
import { judgeRoles, rolesOf, type RoleRow } from "../../../src/check/roles.ts";
import { configFromSettings } from "../../../src/config/load.ts";

const policy = (tablename: string, total: number): PolicyRow => ({
  schemaname: "public",
  tablename,
  policyname: "p",
  total,
});

const role = (rolname: string, attributes: Partial<RoleRow> = {}): RoleRow => ({
  rolname,
  rolcanlogin: true,
  rolsuper: false,
  rolbypassrls: false,
  rolreplication: false,
  rolcreaterole: false,
  isMember: null,
  reachable: [],
  ...attributes,
});

describe("policies that read current_tenant_id()", () => {
  it("are in order where context_variables has app.current_tenant_id, in any case", () => {
    for (const variables of ["app.current_tenant_id", "app.user_id,App.Current_Tenant_Id"]) {
      const config = configFromSettings({ context_variables: variables });
      expect(judgePolicies([policy("orders", 1)], config).verdict).toBe("ok");
    }
  });

  it("are a warning where it does not, with some of their tables", () => {
    const config = configFromSettings({ context_variables: "app.user_id" });
    expect(judgePolicies([policy("a", 1)], config)).toEqual({
      verdict: "warning",
      text:
        "policies: 1 reads current_tenant_id() (on public.a), but context_variables lacks app.current_tenant_id: " +
        "tenants see no rows there",
    });
    const many = ["a", "b", "c"].map((table) => policy(table, 7));
    expect(judgePolicies(many, config).text).toContain(
      "7 read current_tenant_id() (on public.a, public.b, public.c, ...)",
    );
  });

  it("may be absent", () => {
    expect(judgePolicies([], configFromSettings({ context_variables: "app.user_id" })).verdict).toBe("ok");
  });
});

describe("roles", () => {
  const judge = (settings: Record<string, string | boolean>, ...rows: RoleRow[]): string[] =>
    judgeRoles(rows, configFromSettings(settings)).map(({ verdict, text }) => `${verdict}: ${text}`);

  it("are those of login_roles, or app_user, and the one of set_role", () => {
    expect(rolesOf(configFromSettings({}))).toEqual(["app_user"]);
    expect(rolesOf(configFromSettings({ set_role: "authenticated" }))).toEqual(["app_user", "authenticated"]);
    expect(rolesOf(configFromSettings({ login_roles: "a,b", set_role: "b" }))).toEqual(["a", "b"]);
  });

  it.each([
    ["rolsuper", "SUPERUSER"],
    ["rolbypassrls", "BYPASSRLS"],
    ["rolreplication", "REPLICATION"],
    ["rolcreaterole", "CREATEROLE"],
  ])("with %s are an error", (attribute, word) => {
    expect(judge({}, role("app_user", { [attribute]: true }))).toEqual([
      `error: roles: app_user has ${word}: row-level security does not hold it, and pgvpd refuses tenants as this role`,
    ]);
  });

  it("that are unsafe are a warning where allow_unsafe_roles lets them in", () => {
    const [line] = judge({ allow_unsafe_roles: true }, role("app_user", { rolsuper: true, rolcreaterole: true }));
    expect(line).toMatch(/^warning: roles: app_user has SUPERUSER, CREATEROLE: /);
  });

  it("that are safe are said to be", () => {
    expect(judge({ login_roles: "a" }, role("a"))).toEqual(["ok: roles: a is held by row-level security"]);
  });

  it("that can take on an unsafe one are a warning", () => {
    expect(judge({}, role("app_user", { reachable: ["admin"] }))[0]).toMatch(
      /^warning: roles: a tenant as app_user can SET ROLE admin, /,
    );
  });

  it("that are not there are a warning, except for the usual one, which nobody named", () => {
    expect(judge({ login_roles: "a" })).toEqual(["warning: roles: there is no role a: tenants cannot log in with it"]);
    expect(judge({ set_role: "b" }, role("app_user"))[1]).toMatch(/^warning: roles: there is no role b/);
    expect(judge({})).toEqual([
      "not checked: roles: login_roles names none, and there is no app_user: give --login-roles ROLE",
    ]);
  });

  it("must be able to log in, and to take on the role of set_role, which need not log in", () => {
    const lines = judge(
      { set_role: "authenticated" },
      role("app_user", { rolcanlogin: false, isMember: false }),
      role("authenticated", { rolcanlogin: false, isMember: true }),
    );
    expect(lines).toEqual([
      "warning: roles: app_user is NOLOGIN: tenants cannot log in with it",
      "warning: roles: app_user may not take on authenticated, the role of set_role: GRANT authenticated TO app_user",
      "ok: roles: authenticated is held by row-level security",
    ]);
  });
});

describe("a finding", () => {
  it("is a line, whatever a table is called", () => {
    expect(formatFinding({ verdict: "ok", text: "a\nerror  b" })).toBe("ok           a\\x0aerror  b\n");
    expect(formatFinding({ verdict: "not checked", text: "c" })).toBe("not checked  c\n");
  });
});

describe("the configuration", () => {
  const base = { file: "/dev/null", flags: [] } as const;

  it("is shown as it was given, with where", () => {
    const flags = [{ name: "set_role", value: "authenticated", origin: "--set-role" }];
    const { findings } = checkConfiguration({ ...base, flags, env: { PGVPD_PORT: "7000", PGVPD_X: "" } });
    expect(findings.map(({ verdict, text }) => `${verdict}: ${text}`)).toEqual([
      "ok: configuration: valid (read /dev/null)",
      'ok: configuration: port is "7000" (PGVPD_PORT)',
      'ok: configuration: set_role is "authenticated" (--set-role)',
      "warning: PGVPD_X is no setting of pgvpd",
    ]);
  });

  it("has every problem and every warning where it is not valid", () => {
    const env = { PGVPD_PORT: "x", PGVPD_POOL_MODE: "both", PGVPD_X: "" };
    const { findings, config } = checkConfiguration({ ...base, env });
    expect(config).toBeUndefined();
    expect(findings.map(({ verdict }) => verdict)).toEqual(["error", "error", "warning"]);
  });
});

describe("--database-url", () => {
  it("is not repeated when it is no URL: a password may stand in it", async () => {
    for (const url of ["host=db password=hunter2", "mysql://me:hunter2@db/x"]) {
      const [finding] = await checkDatabase(url, configFromSettings({}));
      expect(finding).toEqual({
        verdict: "error",
        text: "database: --database-url: expected postgres://USER@HOST:PORT/DATABASE",
      });
    }
  });

  it("that cannot be parsed is an error without a stack", async () => {
    for (const url of ["postgres://me:%zz@localhost/x", "postgres://[::1/x", "postgres://h:99999999/x"]) {
      const [finding] = await checkDatabase(url, configFromSettings({}));
      expect(finding?.verdict, url).toBe("error");
      expect(finding?.text).not.toMatch(/\n| at |zz/);
    }
  });
});
