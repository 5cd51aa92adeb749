/** The table itself: what every setting has to hold, and the settings that an existing pgvpd.conf relies on. */
import { describe, expect, it } from "vitest";
import { settingList } from "../../../src/config/settings.ts";
import { load } from "./load-text.ts";

const all = settingList.map(([, setting]) => setting);

describe.each(all.map((setting) => [setting.name, setting] as const))("%s", (name, setting) => {
  it("may be written out with its default", () => {
    const { config } = load({ file: `${name} = ${setting.default}\n` });
    expect(config).toEqual(load({}).config);
  });

  it("may be given as a variable and as a flag", () => {
    const flags = setting.flag === undefined ? [] : [`--${setting.flag}=${setting.default}`];
    expect(load({ env: { [setting.env]: setting.default }, flags }).config).toEqual(load({}).config);
  });

  it("has one line of explanation, and says what is allowed", () => {
    expect(setting.doc).toMatch(/^\S[^\n]*\.$/);
    expect(setting.type.allowed).not.toBe("");
  });
});

describe("names", () => {
  it("are given once, as name, alias, variable or flag", () => {
    for (const names of [
      all.flatMap(({ name, aliases }) => [name, ...aliases]),
      all.map(({ env }) => env),
      all.flatMap(({ flag, shortFlag }) => [flag ?? [], shortFlag ?? []].flat()),
    ]) {
      expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
    }
  });

  it("of secrets are no flags", () => {
    for (const { flag, isSecret } of all) expect(flag === undefined).toBe(isSecret);
  });
});

describe("what pgvpd 1.0 documents", () => {
  // name, default, variable
  const documented = `port 6432 PORT | listen_host 127.0.0.1 HOST | upstream_host 127.0.0.1 UPSTREAM_HOST
    | upstream_port 5432 UPSTREAM_PORT | tenant_separator . TENANT_SEPARATOR
    | context_variables app.current_tenant_id CONTEXT_VARIABLES | value_separator : VALUE_SEPARATOR
    | superuser_bypass postgres SUPERUSER_BYPASS | log_level info LOG_LEVEL | handshake_timeout 30 HANDSHAKE_TIMEOUT
    | tls_port - TLS_PORT | tls_cert - TLS_CERT | tls_key - TLS_KEY | upstream_tls false UPSTREAM_TLS
    | upstream_tls_verify true UPSTREAM_TLS_VERIFY | upstream_tls_ca - UPSTREAM_TLS_CA | pool_mode none POOL_MODE
    | pool_size 20 POOL_SIZE | pool_password - POOL_PASSWORD | upstream_password - UPSTREAM_PASSWORD
    | pool_idle_timeout 300 POOL_IDLE_TIMEOUT | pool_checkout_timeout 5 POOL_CHECKOUT_TIMEOUT | resolvers - RESOLVERS
    | set_role - SET_ROLE | tenant_allow - TENANT_ALLOW | tenant_deny - TENANT_DENY
    | tenant_max_connections - TENANT_MAX_CONNECTIONS | tenant_rate_limit - TENANT_RATE_LIMIT
    | tenant_query_timeout - TENANT_QUERY_TIMEOUT | admin_port - ADMIN_PORT`;
  const rows = documented.split("|").map((row) => row.trim().split(" "));

  it("is 30 settings, each with its name, default and variable", () => {
    expect(rows).toHaveLength(30);
    for (const [name, value, variable] of rows) {
      const setting = all.find((candidate) => candidate.name === name);
      expect([name, setting?.default, setting?.env]).toEqual([name, value === "-" ? "" : value, `PGVPD_${variable}`]);
    }
  });

  it.each([
    ["listen_port", "port", "7000"],
    ["host", "listen_host", "::1"],
    ["separator", "tenant_separator", "-"],
    ["context", "context_variables", "app.x"],
    ["superuser", "superuser_bypass", "admin"],
    ["handshake_timeout_secs", "handshake_timeout", "5"],
  ])("has %s as another name of %s", (alias, name, value) => {
    const { config } = load({ file: `${alias} = ${value}\n` });
    expect(config).toEqual(load({ file: `${name} = ${value}\n` }).config);
    expect(config).not.toEqual(load({}).config);
  });
});

it("takes a file for the session pool of 1.0", () => {
  const file = `pool_mode = session
      pool_size = 20
      pool_password = secret
      upstream_password = secret
      pool_idle_timeout = 300
      pool_checkout_timeout = 5`;
  expect(load({ file }).config).toMatchObject({ poolMode: "session", poolSize: 20, clientAuth: undefined });
  expect(load({ file: file.replace("session", "none") }).config.poolPassword?.reveal()).toBe("secret");
});
