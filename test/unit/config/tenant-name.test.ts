/** A tenant has one name, however its UUID is written, and patterns find it in every spelling. */
import { describe, expect, it } from "vitest";
import { canonicalTenant, TenantMatch } from "../../../src/config/tenant-name.ts";

const UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";

describe("canonicalTenant", () => {
  it.each([
    "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
    "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
    "a0eebc999c0b4ef8bb6d6bb9bd380a11",
    "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    "{A0EEBC99-9c0b4ef8-bb6d6bb9-bd380a11}",
  ])("PostgreSQL reads %s as the same UUID", (spelling) => {
    expect(canonicalTenant(spelling)).toBe(UUID);
  });

  it.each([
    "acme",
    "Acme",
    "7",
    "",
    `${UUID}0`,
    `{${UUID}`,
    `${UUID}}`,
    ` ${UUID}`,
    "a0e-ebc999c0b4ef8bb6d6bb9bd380a11",
  ])('"%s" is what it is', (tenant) => {
    expect(canonicalTenant(tenant)).toBe(tenant);
  });
});

describe("TenantMatch", () => {
  it.each<[string, string, boolean]>([
    ["acme", "acme", true],
    ["acme", "Acme", false],
    ["acme", "acme2", false],
    ["acme*", "acme2", true],
    ["*", "anything", true],
    ["a*c*e", "abcde", true],
    ["a*c*e", "abcd", false],
    ["{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", UUID, true],
    ["A0EEBC99-*", UUID, true],
    ["A0EEBC99-*", "A0EEBC99-x", true],
    ["A0EEBC99-*", "a0eebc99-x", false],
    ["A0EEBC999C0B*", UUID, true],
    ["{a0eebc99*", UUID, true],
    ["*bb9bd380a11}", UUID, true],
    ["a0eebc99c0b*", UUID, false],
    // No separator is taken apart: the tenant alone is compared.
    ["blocked", "blocked:user1", false],
  ])("%s of %s: %s", (pattern, tenant, expected) => {
    expect(new TenantMatch(pattern).matches(canonicalTenant(tenant))).toBe(expected);
  });
});
