/** Limits of tenants: each at its edge, counted in one step, given back once. */
import { describe, expect, it } from "vitest";
import { TenantPolicy, type TenantConfig, type TenantTerms } from "../../../src/config/tenant-policy.ts";
import type { ProxyError } from "../../../src/errors/proxy-error.ts";
import { Admissions, type Admitted } from "../../../src/proxy/admit/admissions.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { proxyErrorOf } from "../../support/proxy-error-of.ts";
import { testConfig } from "../../support/test-config.ts";

const UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

class SessionStub implements Admitted {
  readonly errors: ProxyError[] = [];
  readonly terms: TenantTerms[] = [];
  terminate(error: ProxyError): void {
    this.errors.push(error);
  }
  onTerms(terms: TenantTerms): void {
    this.terms.push(terms);
  }
}

function open(config: Partial<TenantConfig> = {}) {
  const clock = new FakeClock();
  const rejected: string[] = [];
  const admissions = new Admissions(new TenantPolicy(testConfig(config)), {
    clock,
    countRejected: (reason) => void rejected.push(reason),
  });
  const admit = (tenant: string, session: Admitted = new SessionStub()) => admissions.admit(tenant, session);
  return { clock, rejected, admissions, admit };
}

describe("tenant_deny and tenant_allow", () => {
  it("refuse with 28000 and the setting's name", () => {
    const { admit, rejected } = open({ tenantDeny: ["blocked", "test-*"] });
    const error = proxyErrorOf(() => admit("test-7"));
    expect(error.definition.sqlstate).toBe("28000");
    expect(error.message).toBe('tenant "test-7" may not connect: tenant_deny lists it');
    expect(() => admit("blocked")).toThrow("tenant_deny");
    admit("acme");
    expect(rejected).toEqual(["deny", "deny"]);
    const only = open({ tenantAllow: ["acme"] });
    only.admit("acme");
    expect(() => only.admit("globex")).toThrow("tenant_allow does not list it");
  });

  it("know a UUID in every spelling", () => {
    const { admit } = open({ tenantDeny: [UUID.toUpperCase()] });
    expect(() => admit(`{${UUID.replaceAll("-", "")}}`)).toThrow("tenant_deny");
  });
});

describe("tenant_max_connections", () => {
  it("lets exactly as many in, and another one when one has left", () => {
    const { admit, rejected, admissions } = open({ tenantMaxConnections: 10 });
    const admitted = [];
    for (let n = 0; n < 100; n += 1) {
      try {
        admitted.push(admit("acme"));
      } catch (error) {
        expect((error as ProxyError).definition.sqlstate).toBe("53300");
        expect((error as Error).message).toBe('too many connections of tenant "acme": tenant_max_connections is 10');
      }
    }
    expect(admitted.length).toBe(10);
    expect(rejected.length).toBe(90);
    admit("globex");
    const [first] = admitted;
    first?.[Symbol.dispose]();
    first?.[Symbol.dispose]();
    expect(admissions.countOf("acme")).toBe(9);
    admit("acme");
    expect(() => admit("acme")).toThrow("tenant_max_connections is 10");
  });

  it("counts the spellings of one UUID together", () => {
    const { admit } = open({ tenantMaxConnections: 1 });
    admit(UUID);
    expect(() => admit(UUID.toUpperCase())).toThrow("tenant_max_connections is 1");
  });
});

describe("tenant_rate_limit", () => {
  it("is a bucket of a second, for each tenant", () => {
    const { admit, clock, rejected } = open({ tenantRateLimit: 2 });
    admit("acme");
    admit("acme");
    expect(() => admit("acme")).toThrow('too many new connections of tenant "acme": tenant_rate_limit is 2 a second');
    admit("globex");
    clock.advance(499);
    expect(() => admit("acme")).toThrow("tenant_rate_limit");
    clock.advance(1);
    admit("acme");
    expect(() => admit("acme")).toThrow("tenant_rate_limit");
    expect(rejected).toEqual(["rate", "rate", "rate"]);
  });

  it("remembers nobody for longer than a second", () => {
    const { admit, clock, admissions } = open({ tenantRateLimit: 1 });
    for (let n = 0; n < 10_000; n += 1) admit(`tenant-${n}`)[Symbol.dispose]();
    clock.advance(1_000);
    expect(admissions.size).toBe(0);
  });
});

describe("what changes at run time", () => {
  it("a denied tenant's sessions are ended, nobody else's, and it is let in again", () => {
    const { admit, admissions } = open();
    const [acme, globex] = [new SessionStub(), new SessionStub()];
    admit("acme", acme);
    admit("globex", globex);
    admissions.deny("ac*", "unpaid");
    expect(acme.errors.map(({ message, definition }) => [message, definition.sqlstate])).toEqual([
      ['terminating connection: tenant "acme" may not connect any more: unpaid', "57P01"],
    ]);
    expect(globex.errors).toEqual([]);
    expect(() => admit("acme")).toThrow('tenant "acme" may not connect: unpaid');
    expect(admissions.denials).toEqual([{ pattern: "ac*", reason: "unpaid" }]);
    expect(admissions.allow("acme")).toBe(false);
    expect(admissions.allow("ac*")).toBe(true);
    admit("acme");
  });

  it("a new policy holds at once, for sessions that are open too", () => {
    const { admit, admissions } = open({ tenantMaxConnections: 1 });
    const [acme, globex] = [new SessionStub(), new SessionStub()];
    admit("acme", acme);
    admit("globex", globex);
    admissions.use(new TenantPolicy(testConfig({ tenantMaxConnections: 2, tenantDeny: ["globex"] })));
    expect(acme.terms.map(({ maxConnections }) => maxConnections)).toEqual([2]);
    expect(globex.errors.length).toBe(1);
    admit("acme");
    expect(() => admit("acme")).toThrow("tenant_max_connections is 2");
  });

  it("denials are bounded", () => {
    const { admissions } = open();
    for (let n = 0; n < 1_000; n += 1) admissions.deny(`tenant-${n}`, "test");
    expect(() => admissions.deny("one more", "test")).toThrow("more than 1000");
    admissions.deny("tenant-0", "another reason");
  });
});
