/** Where values come from, who wins, and what is said when something is wrong. */
import { describe, expect, it } from "vitest";
import { configFromSettings } from "../../../src/config/load.ts";
import { inspect } from "node:util";
import { load, problemsOf } from "./load-text.ts";

describe("the order", () => {
  it("is defaults, file, environment, flags", () => {
    const file = "port = 1001\n";
    const env = { PGVPD_PORT: "1002" };
    const flags = ["--port", "1003"];
    expect(load({}).config.port).toBe(6432);
    expect(load({ file }).config.port).toBe(1001);
    expect(load({ file, env }).config.port).toBe(1002);
    expect(load({ file, env, flags }).config.port).toBe(1003);
  });

  it("is told for every setting that was given", () => {
    const { given } = load({ file: "# one\nset_role = r\n", env: { PGVPD_HOST: "::1" }, flags: ["-p", "7000"] });
    expect(given.map(({ name, value, origin }) => `${name} ${value} ${origin.replace(/^.*\//, "")}`).sort()).toEqual([
      'listen_host "::1" PGVPD_HOST',
      'port "7000" -p',
      'set_role "r" pgvpd.conf:2',
    ]);
  });

  it("does not excuse a value that is overridden", () => {
    expect(problemsOf({ file: "port = abc\n", env: { PGVPD_PORT: "7000" } })).toEqual([
      'pgvpd.conf:1: port "abc": expected a whole number from 0 to 65535',
    ]);
  });

  it("lets a flag turn off what the file wants and this version lacks", () => {
    expect(load({ file: "pool_mode = session\n", flags: ["--pool-mode", "none"] }).config.poolMode).toBe("none");
  });
});

describe("problems", () => {
  it("are all told at once, each with where it stands", () => {
    const file = "prot = 7000\nhandshake_timeout = 30s\npool_mode = bogus\n";
    expect(problemsOf({ file, env: { PGVPD_UPSTREAM_TLS: "maybe" }, flags: ["--upstream-port", "0"] })).toEqual([
      'pgvpd.conf:1: there is no setting "prot": did you mean port?',
      'pgvpd.conf:2: handshake_timeout "30s": expected seconds, from 0.001 to 86400',
      'pgvpd.conf:3: pool_mode "bogus": expected none, session or transaction',
      'PGVPD_UPSTREAM_TLS: upstream_tls "maybe": expected true, yes, on, 1 or false, no, off, 0',
      '--upstream-port: upstream_port "0": expected a whole number from 1 to 65535',
    ]);
  });

  it("are one line each, whatever stands in the value", () => {
    const [problem, ...rest] = problemsOf({ env: { PGVPD_PORT: "1\n2\u001b[31m\u0085\u2028" } });
    expect(rest).toEqual([]);
    expect(problem).toBe('PGVPD_PORT: port "1\\x0a2\\x1b[31m\\x85\\x2028": expected a whole number from 0 to 65535');
  });

  it("cut a value that is long", () => {
    expect(problemsOf({ env: { PGVPD_PORT: "9".repeat(10_000) } })[0]?.length).toBeLessThan(250);
  });

  it("never show a password, nor a URL that may hold one", () => {
    const problems = problemsOf({
      file: "pool_password = hunter2\nupstream_host = postgres://me:hunter3@db\nlisten_host = http://me:hunter4@x\n",
      env: { PGVPD_UPSTREAM_PASSWORD: "hunter5" },
    });
    expect(problems).toHaveLength(2);
    expect(problems.join()).not.toContain("hunter");
    expect(problemsOf({ file: "pool_password = hunter2\nclient_auth = scram\n" }).join()).toMatch(
      /^pgvpd\.conf:1: pool_password: is no role's own/,
    );
  });
});

describe("a setting that comes twice in the file", () => {
  it("is refused, naming both lines", () => {
    expect(problemsOf({ file: "port = 1\nport = 1\n" })).toEqual([
      "pgvpd.conf:2: port is set already, in pgvpd.conf:1",
    ]);
  });

  it("is refused under an alias too", () => {
    expect(problemsOf({ file: "host = 127.0.0.1\nlisten_host = ::1\n" })).toEqual([
      "pgvpd.conf:2: listen_host is set already as host, in pgvpd.conf:1",
    ]);
  });
});

describe("an unknown setting", () => {
  const hintOf = (name: string): string => problemsOf({ file: `${name} = x\n` })[0]?.split('": ')[1] ?? "";

  it("is told the nearest name, whatever its case and hyphens", () => {
    expect(hintOf("upstream_prot")).toBe("did you mean upstream_port?");
    expect(hintOf("Upstream-Host")).toBe("did you mean upstream_host?");
    expect(hintOf("xyzzy")).toBe("");
  });

  it("is told ours where it is PgBouncer's", () => {
    expect(hintOf("listen_addr")).toBe("PgBouncer's listen_addr is listen_host here");
    expect(hintOf("default_pool_size")).toBe("PgBouncer's default_pool_size is pool_size here");
    expect(hintOf("query_wait_timeout")).toBe("PgBouncer's query_wait_timeout is pool_checkout_timeout here");
    expect(hintOf("auth_file")).toBe("PgBouncer's auth_file is credentials_file here");
    expect(hintOf("pidfile")).toBe("PgBouncer's pidfile has no counterpart here");
  });

  it("may be called like a property that every object has", () => {
    for (const name of ["constructor", "toString", "__proto__", "hasOwnProperty"]) {
      expect(problemsOf({ file: `${name} = 1\n` })[0]).toMatch(
        new RegExp(`^pgvpd.conf:1: there is no setting "${name}"$`),
      );
    }
  });
});

describe("configFromSettings", () => {
  it("takes the names of the file and its aliases, and numbers and booleans as such", () => {
    expect(configFromSettings({ listen_port: 7000, log_connections: false, handshake_timeout: 0.5 })).toMatchObject({
      port: 7000,
      logConnections: false,
      handshakeTimeoutMs: 500,
    });
  });

  it("reads no environment", () => {
    process.env["PGVPD_PORT"] = "7000";
    try {
      expect(configFromSettings({}).port).toBe(6432);
    } finally {
      delete process.env["PGVPD_PORT"];
    }
  });

  it("takes undefined for not given, and nothing else that is not a setting's value", () => {
    const values = { set_role: undefined, login_roles: ["a"], upstream_host: null } as never;
    expect(problemsOf(() => configFromSettings(values))).toEqual([
      "settings: login_roles: expected a string, a number or a boolean",
      "settings: upstream_host: expected a string, a number or a boolean",
    ]);
    expect(configFromSettings({ set_role: undefined } as never).setRole).toBeUndefined();
  });

  it("refuses a setting and its alias together, and a name that is none", () => {
    expect(problemsOf(() => configFromSettings({ port: 1, listen_port: 2, prot: 3 }))).toEqual([
      "settings: listen_port is set already as port, in settings",
      'settings: there is no setting "prot": did you mean port?',
    ]);
  });

  it("is frozen, lists included", () => {
    const config = configFromSettings({});
    expect(Object.isFrozen(config) && Object.isFrozen(config.listenHosts)).toBe(true);
  });
});

describe("a secret", () => {
  it("prints [redacted], however it is printed", async () => {
    const { Secret } = await import("../../../src/config/secret.ts");
    const secret = new Secret("hunter2");
    const printed = [String(secret), JSON.stringify({ secret }), inspect({ secret }, { showHidden: true })];
    expect(printed.join()).not.toContain("hunter2");
    expect(secret.reveal()).toBe("hunter2");
  });
});
