/** tenants.toml: what it may say, what is said of what it may not, and which entry is a tenant's. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { ConfigError } from "../../../src/config/config-error.ts";
import { TenantPolicy, type TenantConfig } from "../../../src/config/tenant-policy.ts";
import { loadTenants, parseTenants } from "../../../src/config/tenants-file.ts";
import { testConfig } from "../../support/test-config.ts";

const UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

function problemsOf(work: () => unknown): readonly string[] {
  try {
    work();
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

const policyOf = (text: string, config: Partial<TenantConfig> = {}): TenantPolicy =>
  new TenantPolicy(testConfig({ upstreamHost: "db", upstreamPort: 5432, ...config }), parseTenants(text, "t.toml"));

describe("an entry", () => {
  it("has settings under their names, the rest is as in pgvpd.conf", () => {
    const text = `
      [[tenant]]
      match = "acme*"
      tenant_max_connections = 5
      tenant_rate_limit = "none"
      tenant_pool_size = 3
      tenant_query_timeout = 60
      query_timeout = 0
      transaction_timeout = 1.5
      upstream_host = "acme.db"
      database = "acme"
    `;
    const policy = policyOf(text, {
      tenantMaxConnections: 50,
      tenantRateLimit: 10,
      queryTimeoutMs: 30_000,
      clientIdleTimeoutMs: 7_000,
    });
    expect(policy.termsOf("acme-2")).toEqual({
      denied: undefined,
      maxConnections: 5,
      rateLimit: undefined,
      poolSize: 3,
      timeouts: { silenceMs: 60_000, queryMs: undefined, transactionMs: 1_500, heldMs: undefined, idleMs: 7_000 },
      upstream: { host: "acme.db", port: 5432 },
      database: "acme",
    });
    expect(policy.termsOf("globex")).toMatchObject({ maxConnections: 50, rateLimit: 10, upstream: undefined });
  });

  it("is a tenant's own when it is the first that matches", () => {
    const policy = policyOf(`
      [[tenant]]
      match = ["acme", "${UUID.toUpperCase()}"]
      tenant_max_connections = 1
      [[tenant]]
      match = "a*"
      tenant_max_connections = 2
      [[tenant]]
      match = "apple"
      tenant_max_connections = 3
      [[tenant]]
      match = "*"
      tenant_max_connections = 4
    `);
    const limits = ["acme", UUID, "apple", "b"].map((tenant) => policy.termsOf(tenant).maxConnections);
    expect(limits).toEqual([1, 1, 2, 4]);
  });

  it("denies with its reason, and does not allow what tenant_deny denies", () => {
    const text = `
      [[tenant]]
      match = "acme"
      deny = "the bill is not paid"
      [[tenant]]
      match = "globex"
      deny = true
      [[tenant]]
      match = "initech"
      deny = false
    `;
    const policy = policyOf(text, { tenantDeny: ["initech"] });
    expect(["acme", "globex", "initech"].map((tenant) => policy.termsOf(tenant).denied)).toEqual([
      "the bill is not paid",
      "tenants denies it",
      "tenant_deny lists it",
    ]);
  });

  it.each([
    [`match = ""`, 't.toml:1: match: expected a tenant or a list of them, as "acme*" or ["acme", "globex"]'],
    ["", 't.toml:1: match: expected a tenant or a list of them, as "acme*" or ["acme", "globex"]'],
    [`match = "a"\nquery_timout = 3`, 't.toml:1: there is no "query_timout": did you mean query_timeout?'],
    [`match = "a"\nconstructor = 1`, 't.toml:1: there is no "constructor"'],
    [`match = "a"\nquery_timeout = -1`, 't.toml:1: query_timeout "-1": expected seconds, from 0 to 86400'],
    [
      `match = "a"\ntenant_max_connections = 0`,
      't.toml:1: tenant_max_connections "0": expected a whole number from 1 to 1000000, or "none"',
    ],
    [`match = "a"\nquery_timeout = true`, "t.toml:1: query_timeout: expected seconds, from 0 to 86400"],
    [`match = "a"\ndeny = ""`, /^t\.toml:1: deny: expected true, false or the reason/],
    [`match = "a"\ntenant_idle_timeout = 1\ntenant_query_timeout = 1`, /set twice, under two names$/],
    [`match = "a"\nupstream_password = "x"`, /^t\.toml:1: there is no "upstream_password"/],
  ])("%s is refused", (lines, problem) => {
    const problems = problemsOf(() => parseTenants(`[[tenant]]\n${lines}\n`, "t.toml"));
    expect(problems).toEqual([typeof problem === "string" ? problem : expect.stringMatching(problem)]);
  });
});

describe("the file", () => {
  it.each([
    ["[tenant]", "t.toml: an entry begins with [[tenant]], in double brackets"],
    ["[[tenants]]", 't.toml: there is no "tenants": an entry begins with [[tenant]]'],
    ["[[tenant]]\nmatch = acme", /^t\.toml:2: /],
  ])("%s is refused", (text, problem) => {
    const problems = problemsOf(() => parseTenants(text, "t.toml"));
    expect(problems).toEqual([typeof problem === "string" ? problem : expect.stringMatching(problem)]);
  });

  it("is read where `tenants` names it, and has to be there", () => {
    const folder = mkdtempSync(path.join(tmpdir(), "tenants-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const file = path.join(folder, "tenants.toml");
    expect(loadTenants(testConfig())).toEqual([]);
    expect(problemsOf(() => loadTenants(testConfig({ tenants: file })))).toEqual([`${file}: there is no such file`]);
    writeFileSync(file, `[[tenant]]\nmatch = "a"\ntenant_pool_size = 2\n`);
    expect(problemsOf(() => loadTenants(testConfig({ tenants: file })))[0]).toContain("needs pool_mode");
    expect(loadTenants(testConfig({ tenants: file, poolMode: "transaction" }))).toHaveLength(1);
    writeFileSync(file, Buffer.from([0xff]));
    expect(problemsOf(() => loadTenants(testConfig({ tenants: file })))).toEqual([`${file}: it is not UTF-8`]);
  });
});
