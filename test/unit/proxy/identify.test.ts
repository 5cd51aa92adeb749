/** From the StartupMessage's user name to an identity, or to a refusal before anything is sent upstream. */
import { describe, expect, it } from "vitest";
import type { Config } from "../../../src/config/settings.ts";
import type { ProxyError } from "../../../src/errors/proxy-error.ts";
import { decodeStartupPacket, type StartupMessage } from "../../../src/protocol/startup.ts";
import { identify } from "../../../src/proxy/tenant/identify.ts";
import type { TenantIdentity } from "../../../src/proxy/tenant/identity.ts";
import { startupMessage } from "../../support/bytes.ts";
import { proxyErrorOf } from "../../support/proxy-error-of.ts";
import { testConfig } from "../../support/test-config.ts";

type Parameters = Readonly<Record<string, string | Buffer>>;

const decode = (parameters: Parameters, minor = 0): StartupMessage =>
  decodeStartupPacket(startupMessage(parameters, minor)) as StartupMessage;

function tenant(parameters: Parameters, config: Partial<Config> = {}): TenantIdentity {
  const identity = identify(decode(parameters), testConfig(config));
  if (identity.kind !== "tenant") throw new Error("a bypass user");
  return identity;
}

const refusal = (parameters: Parameters, config: Partial<Config> = {}): ProxyError => {
  const error = proxyErrorOf(() => identify(decode(parameters), testConfig(config)));
  expect(error.definition.severity).toBe("FATAL");
  return error;
};

const sqlstate = (parameters: Parameters, config: Partial<Config> = {}): string =>
  refusal(parameters, config).definition.sqlstate;

const TWO = { contextVariables: ["app.current_tenant_id", "app.current_user_id"] };

describe("a user name of role, separator and tenant", () => {
  it.each([
    ["app_user.acme", "app_user", "acme"],
    ["app_user.acme.eu", "app_user", "acme.eu"], // the first separator ends the role
    ["app_user..", "app_user", "."],
    ["app_user.a:b", "app_user", "a:b"], // with one variable nothing else is split
    ["App_User.Acme", "App_User", "Acme"],
    ["rôle.tenänt", "rôle", "tenänt"],
    ["app user.a'b\"c\\d$$;--", "app user", "a'b\"c\\d$$;--"],
  ])("%s logs in as %s for tenant %s", (user, loginRole, name) => {
    const identity = tenant({ user });
    expect(identity.loginRole).toBe(loginRole);
    expect(identity.targetRole).toBe(loginRole);
    expect(identity.tenant).toBe(name);
    expect(identity.context).toEqual([{ name: "app.current_tenant_id", value: name }]);
  });

  it("takes set_role as the role of the session, not of the login", () => {
    expect(tenant({ user: "login.acme" }, { setRole: "app" })).toMatchObject({ loginRole: "login", targetRole: "app" });
  });

  it.each([
    ["@", "app_user@acme", "acme"],
    ["$$", "app_user$$acme", "acme"],
    ["::", "app_user::a::b", "a::b"],
    ["..", "app_user...acme", ".acme"],
    ["→", "app_user→acme", "acme"],
    [".*", "app_user.*acme", "acme"],
  ])("takes tenant_separator %s literally", (tenantSeparator, user, name) => {
    expect(tenant({ user }, { tenantSeparator })).toMatchObject({ loginRole: "app_user", tenant: name });
  });

  it.each([
    ["no separator", "app_user", "Username must contain context values separated by '.'"],
    ["no role", ".acme", "user name has no role before the '.'"],
    ["only the separator", ".", "user name has no role before the '.'"],
    ["no tenant", "app_user.", "user name has no tenant"],
  ])("with %s is refused with 28000, saying how it should look", (_name, user, text) => {
    const error = refusal({ user });
    expect(error.definition.sqlstate).toBe("28000");
    expect(error.message).toContain(text);
    expect(error.hint).toContain("role.<current_tenant_id>");
  });

  it("with half of a long separator is refused with 28000", () => {
    expect(sqlstate({ user: "app_user.acme" }, { tenantSeparator: ".." })).toBe("28000");
  });

  it("that is missing or empty is refused with 28000", () => {
    expect(sqlstate({ database: "db" })).toBe("28000");
    expect(sqlstate({ user: "" })).toBe("28000");
    expect(sqlstate({ USER: "app_user.acme" })).toBe("28000");
  });
});

describe("several context variables", () => {
  it("take their values in order", () => {
    expect(tenant({ user: "app_user.acme:42" }, TWO).context).toEqual([
      { name: "app.current_tenant_id", value: "acme" },
      { name: "app.current_user_id", value: "42" },
    ]);
  });

  it("may be empty, but for the tenant", () => {
    expect(tenant({ user: "app_user.acme:" }, TWO).context[1]).toEqual({ name: "app.current_user_id", value: "" });
    for (const user of ["app_user.:42", "app_user.:", "app_user."]) expect(sqlstate({ user }, TWO)).toBe("28000");
  });

  it.each([
    ["app_user.acme", 1],
    ["app_user.acme:1:2", 3],
    ["app_user.acme::", 3],
    ["app_user.acme.1", 1],
  ])("of another number are refused with 28000: %s", (user, actual) => {
    const error = refusal({ user }, TWO);
    expect(error.definition.sqlstate).toBe("28000");
    expect(error.message).toBe(`Expected 2 context value(s), got ${actual}`);
    expect(error.hint).toContain("role.<current_tenant_id>:<current_user_id>");
  });

  it("are split at a value_separator of several characters", () => {
    const config = { ...TWO, valueSeparator: "||" };
    expect(tenant({ user: "app_user.a|b||c" }, config).context.map(({ value }) => value)).toEqual(["a|b", "c"]);
  });
});

describe("characters in user and database names", () => {
  const bad: [string, Buffer][] = [
    ["a byte that is no UTF-8", Buffer.from("app_user.ac\xffme", "latin1")],
    ["UTF-8 that is cut off", Buffer.from("app_user.acm\xc3", "latin1")],
    ["an overlong NUL", Buffer.from("app_user.ac\xc0\x80me", "latin1")],
    ["an overlong separator", Buffer.from("app_user\xc0\xaeacme", "latin1")],
    ["a surrogate", Buffer.from("app_user.\xed\xa0\x80", "latin1")],
    ["a line feed", Buffer.from("app_user.acme\n")],
    ["a tab", Buffer.from("app\tuser.acme")],
    ["an escape", Buffer.from("app_user.\u001b[31m")],
    ["DEL", Buffer.from("app_user.\u007f")],
    ["a C1 control character", Buffer.from("app_user.\u0085")],
  ];
  it.each(bad)("a user name with %s is refused with 28000", (_name, user) => {
    expect(sqlstate({ user })).toBe("28000");
  });

  it.each(bad)("a database name with %s is refused with 28000", (_name, database) => {
    expect(sqlstate({ user: "app_user.acme", database })).toBe("28000");
  });

  it("a byte order mark is part of the name", () => {
    expect(tenant({ user: "\ufeffapp.acme" }).loginRole).toBe("\ufeffapp");
  });
});

describe("names that PostgreSQL would cut", () => {
  it("a role of 63 bytes is taken, one of 64 is refused with 28000", () => {
    expect(tenant({ user: `${"r".repeat(63)}.acme` }).loginRole).toHaveLength(63);
    expect(sqlstate({ user: `${"r".repeat(64)}.acme` })).toBe("28000");
  });

  it("bytes count, not characters", () => {
    expect(tenant({ user: `${"é".repeat(31)}.acme` }).loginRole).toHaveLength(31);
    expect(sqlstate({ user: `${"é".repeat(32)}.acme` })).toBe("28000");
  });

  it("a database of 63 bytes is taken, one of 64 is refused with 28000", () => {
    expect(tenant({ user: "app_user.acme", database: "d".repeat(63) }).database).toHaveLength(63);
    expect(sqlstate({ user: "app_user.acme", database: "d".repeat(64) })).toBe("28000");
  });

  it("a tenant may be longer: it is a value, not a name", () => {
    expect(tenant({ user: `app_user.${"t".repeat(1_000)}` }).tenant).toHaveLength(1_000);
  });

  it("a tenant of 100 bytes without a database gets the role's database, not a refusal", () => {
    const user = `app_user.${"t".repeat(100)}`;
    expect(tenant({ user }).database).toBe("app_user");
    expect(tenant({ user, database: user }).database).toBe("app_user");
  });
});

describe("the database", () => {
  it.each<[string, Parameters, string]>([
    ["is what the client names", { user: "app_user.acme", database: "shop" }, "shop"],
    ["is the role's when there is none", { user: "app_user.acme" }, "app_user"],
    ["is the role's when it is empty", { user: "app_user.acme", database: "" }, "app_user"],
    [
      "is the role's when it equals the full user name",
      { user: "app_user.acme", database: "app_user.acme" },
      "app_user",
    ],
    ["may hold a separator", { user: "app_user.acme", database: "app_user.globex" }, "app_user.globex"],
  ])("%s", (_name, parameters, database) => {
    expect(tenant(parameters).database).toBe(database);
  });
});

describe("login_roles", () => {
  const config = { loginRoles: ["app_user", "reporting"] };

  it("lets in the roles that it lists, and no other", () => {
    expect(tenant({ user: "reporting.acme" }, config).loginRole).toBe("reporting");
    for (const role of ["postgres", "App_User", "app_user "]) {
      expect(sqlstate({ user: `${role}.acme` }, config)).toBe("28000");
    }
  });
});

describe("superuser_bypass", () => {
  it("lets a listed user through as it came", () => {
    const startup = decode({ user: "postgres", replication: "database", options: "-c role=x", "_pq_.a": "1" }, 2);
    expect(identify(startup, testConfig())).toEqual({
      kind: "bypass",
      user: "postgres",
      loginRole: "postgres",
      database: "postgres",
      minor: 2,
      unknownOptions: ["_pq_.a"],
      startup,
    });
  });

  it.each(["Postgres", "postgres ", "postgres.acme", "ppostgres"])("does not match %j", (user) => {
    const identity = user.includes(".") ? tenant({ user }) : undefined;
    if (identity === undefined) expect(sqlstate({ user })).toBe("28000");
    else expect(identity.kind).toBe("tenant");
  });

  it("matches a name that holds the separator", () => {
    const identity = identify(decode({ user: "admin.user" }), testConfig({ superuserBypass: ["admin.user"] }));
    expect(identity.kind).toBe("bypass");
  });
});
