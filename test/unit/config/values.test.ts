/** What each kind of value takes, and refuses. */
import { describe, expect, it } from "vitest";
import { load, problemsOf } from "./load-text.ts";

const accepts = (line: string): boolean => {
  load({ file: line });
  return true;
};
const refuses = (line: string): string => problemsOf({ file: line })[0] ?? "";

describe("a boolean", () => {
  it.each(["true", "1", "yes", "on", "TRUE", "Yes", "oN"])("is true as %s", (text) => {
    expect(load({ file: `allow_unsafe_roles = ${text}\n` }).config.allowUnsafeRoles).toBe(true);
  });

  it.each(["false", "0", "no", "off", "FALSE", "No"])("is false as %s", (text) => {
    expect(load({ file: `log_connections = ${text}\n` }).config.logConnections).toBe(false);
  });

  it.each(["", "maybe", "2", "y", "truefalse"])("is nothing as %j", (text) => {
    expect(refuses(`log_connections = ${text}\n`)).toMatch(/expected true, yes, on, 1 or false, no, off, 0$/);
  });
});

describe("a number", () => {
  it.each(["", "-1", "65536", "7000.5", "7e3", "0x10", "7 000", "port", "+1", "99999999999999999999", "٣"])(
    "is refused as %j",
    (text) => {
      expect(refuses(`port = ${text}\n`)).toMatch(/expected a whole number from 0 to 65535$/);
    },
  );
});

describe("a time", () => {
  it("is seconds, and may have a fraction down to a millisecond", () => {
    expect(load({ file: "handshake_timeout = 0.25\ndrain_timeout = 0\n" }).config).toMatchObject({
      handshakeTimeoutMs: 250,
      drainTimeoutMs: 0,
    });
  });

  it.each(["", "0", "-1", "30s", "1.2345", ".5", "1e2", "Infinity", "86401"])("is refused as %j", (text) => {
    expect(refuses(`handshake_timeout = ${text}\n`)).toMatch(/expected seconds, from 0\.001 to 86400$/);
  });
});

describe("an empty value", () => {
  it("unsets a setting that may be unset, whatever the file says", () => {
    const file = "set_role = authenticated\nlogin_roles = app_user\n";
    expect(load({ file, env: { PGVPD_SET_ROLE: "" }, flags: ["--login-roles="] }).config).toMatchObject({
      setRole: undefined,
      loginRoles: [],
    });
  });

  it("is an empty list: nobody bypasses", () => {
    expect(load({ file: "superuser_bypass =\n" }).config.superuserBypass).toEqual([]);
  });

  it.each([
    "port",
    "upstream_host",
    "tenant_separator",
    "log_level",
    "context_variables",
    "upstream_startup_parameters",
  ])("is refused for %s", (name) => {
    expect(refuses(`${name} =\n`)).toMatch(new RegExp(`^pgvpd.conf:1: ${name} "": expected `));
  });
});

describe("context_variables", () => {
  it("are names that PostgreSQL takes, separated by commas", () => {
    const { config } = load({ file: "context_variables = app.a , app.B_2$,\n" });
    expect(config.contextVariables).toEqual(["app.a", "app.B_2$"]);
    expect(accepts("context_variables = server_app.tenant\n")).toBe(true);
  });

  it.each(["a b", "app.", ".x", "app..x", "1a", "app.x'", "x".repeat(64), "app-x"])("are refused as %j", (name) => {
    expect(refuses(`context_variables = ${name}\n`)).toMatch(/is not a name that PostgreSQL takes/);
  });

  it.each([
    "role",
    "ROLE",
    "session_authorization",
    "row_security",
    "search_path",
    "client_encoding",
    "server_version",
  ])("may not be %s", (name) => {
    expect(refuses(`context_variables = ${name}\n`)).toMatch(/cannot carry context/);
  });

  it("come once, and no more than 32 of them", () => {
    expect(refuses("context_variables = app.a,APP.A\n")).toMatch(/comes twice/);
    const many = Array.from({ length: 33 }, (_, index) => `app.v${index}`).join(",");
    expect(refuses(`context_variables = ${many}\n`)).toMatch(/at most 32 variables/);
  });
});

describe("roles", () => {
  it("may not be none, which means no SET ROLE to PostgreSQL", () => {
    expect(refuses("set_role = none\n")).toMatch(/"none" is no role/);
    expect(refuses("set_role = NONE\n")).toMatch(/"none" is no role/);
    expect(refuses("login_roles = app_user, none\n")).toMatch(/"none" is no role/);
  });

  it("have at most 63 bytes: PostgreSQL would cut a longer one to another role", () => {
    expect(accepts(`set_role = ${"é".repeat(31)}\n`)).toBe(true);
    expect(refuses(`set_role = ${"é".repeat(32)}\n`)).toMatch(/at most 63 bytes/);
  });
});

describe("hosts", () => {
  it.each(["127.0.0.1", "::1", "fe80::1%eth0", "localhost", "db-1.internal", "my_db", "/var/run/postgresql"])(
    "of the upstream may be %s",
    (host) => {
      expect(load({ file: `upstream_host = ${host}\n` }).config.upstreamHost).toBe(host);
    },
  );

  it.each(["db:5432", "[::1]", "a b", "me@db", "db/mydb"])("of the upstream may not be %s", (host) => {
    expect(refuses(`upstream_host = ${host}\n`)).toMatch(/expected a host name or an address, without a port$/);
  });

  it("of the upstream may not be a URL or a list", () => {
    expect(refuses("upstream_host = postgres://db/x\n")).toMatch(/not a URL/);
    expect(refuses("upstream_host = db1,db2\n")).toMatch(/expected one host/);
  });

  it("to listen on are a list", () => {
    expect(load({ file: "listen_host = 127.0.0.1, ::1\n" }).config.listenHosts).toEqual(["127.0.0.1", "::1"]);
    expect(load({ file: "listen_host = *\n" }).config.listenHosts).toEqual(["*"]);
    expect(refuses("listen_host = 127.0.0.1:6432\n")).toMatch(/without a port$/);
  });
});

describe("upstream_startup_parameters", () => {
  it("are all, none, or all but some", () => {
    for (const value of ["*", "none", "-role", "*, -row_security, -role"]) {
      expect(accepts(`upstream_startup_parameters = ${value}\n`)).toBe(true);
    }
  });

  it("are nothing else: what reads as none must not pin all", () => {
    expect(refuses("upstream_startup_parameters = role\n")).toMatch(/"role" is not one of \*, none, -role/);
    expect(refuses("upstream_startup_parameters = none, -role\n")).toMatch(/none stands alone/);
    expect(refuses("upstream_startup_parameters = -work_mem\n")).toMatch(/"-work_mem" is not one of/);
  });
});

describe("the login", () => {
  it("has its defaults", () => {
    expect(load({}).config).toMatchObject({
      clientAuth: undefined,
      credentialsFile: undefined,
      authUser: undefined,
      authDbname: "postgres",
      authCacheTtlMs: 5_000,
      upstreamRequireAuth: [],
      scramIterations: 4_096,
      allowFrom: [],
      loginThrottleMs: 1_000,
    });
  });

  it("is checked by relay, scram or cleartext", () => {
    expect(load({ file: "client_auth = Relay\n" }).config.clientAuth).toBe("relay");
    expect(refuses("client_auth = md5\n")).toMatch(/client_auth "md5": expected relay, scram or cleartext$/);
  });

  it("may be asked for upstream by the methods that libpq knows", () => {
    const { config } = load({ file: "upstream_require_auth = scram-sha-256, md5, password, none\n" });
    expect(config.upstreamRequireAuth).toEqual(["scram-sha-256", "md5", "password", "none"]);
    for (const method of ["gss", "!md5", "SCRAM-SHA-256", "trust"]) {
      expect(refuses(`upstream_require_auth = md5, ${method}\n`)).toContain(
        `"${method}" is not one of scram-sha-256, md5, password, none`,
      );
    }
  });

  it("has numbers with limits", () => {
    const file = "auth_cache_ttl = 0\nscram_iterations = 100000\nlogin_throttle = 0.5\n";
    expect(load({ file }).config).toMatchObject({ authCacheTtlMs: 0, scramIterations: 100_000, loginThrottleMs: 500 });
    expect(refuses("auth_cache_ttl = 3601\n")).toMatch(/expected seconds, from 0 to 3600$/);
    expect(refuses("scram_iterations = 4095\n")).toMatch(/expected a whole number from 4096 to 100000$/);
    expect(refuses("scram_iterations = 100001\n")).toMatch(/expected a whole number from 4096 to 100000$/);
    expect(refuses("login_throttle = 61\n")).toMatch(/expected seconds, from 0 to 60$/);
  });

  it("has a role, a query and a database that are not empty", () => {
    expect(refuses("auth_user = none\n")).toMatch(/"none" is no role/);
    expect(refuses("auth_query =\n")).toMatch(/expected an SQL query$/);
    expect(refuses("auth_dbname =\n")).toMatch(/expected the name of a database$/);
  });
});

describe("TLS", () => {
  it("has its defaults", () => {
    expect(load({}).config).toMatchObject({
      tlsCert: undefined,
      tlsKey: undefined,
      tlsPort: undefined,
      clientTlsSslmode: "allow",
      clientTlsCaFile: undefined,
      clientCertMap: "tenant",
      upstreamTls: false,
      upstreamTlsVerify: true,
      upstreamTlsCa: undefined,
      upstreamTlsNegotiation: "postgres",
      upstreamTlsCert: undefined,
      upstreamTlsKey: undefined,
    });
  });

  it.each(["disable", "allow", "require", "verify-ca", "verify-full"])("may be %s with clients", (mode) => {
    const file = `client_tls_sslmode = ${mode}\ntls_cert = c\ntls_key = k\n`;
    const ca = mode.startsWith("verify-") ? "client_tls_ca_file = ca\n" : "";
    expect(load({ file: file + ca }).config.clientTlsSslmode).toBe(mode);
  });

  it("may not be what would fall back: libpq's prefer", () => {
    expect(refuses("client_tls_sslmode = prefer\n")).toMatch(
      /expected disable, allow, require, verify-ca or verify-full$/,
    );
  });

  it("has words for what a certificate names, and for how the upstream is asked", () => {
    expect(refuses("client_cert_map = user\n")).toMatch(/expected tenant or role$/);
    expect(refuses("upstream_tls_negotiation = fast\n")).toMatch(/expected postgres or direct$/);
    expect(refuses("tls_port = 65536\n")).toMatch(/expected a whole number from 0 to 65535$/);
  });
});

describe("text", () => {
  it("may hold no control characters", () => {
    expect(refuses("tenant_separator = a\u0000b\n")).toMatch(/expected at least one character$/);
    expect(refuses("superuser_bypass = a\tb\n")).toMatch(/expected user names, separated by commas$/);
  });

  it("that is one of some words may be in capitals", () => {
    expect(load({ file: "log_level = WARN\n" }).config.logLevel).toBe("warn");
    expect(refuses("log_level = verbose\n")).toMatch(/expected trace, debug, info, warn, error or off$/);
    expect(load({ file: "log_level = off\n" }).config.logLevel).toBe("off");
  });
});
