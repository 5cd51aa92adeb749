/** allow_from: what an entry may be, and who may come from where. */
import { describe, expect, it } from "vitest";
import { AllowedNetworks, usersOfNetworks } from "../../../src/config/networks.ts";
import { load, problemsOf } from "./load-text.ts";

const everybody = (network: string, address: string): boolean =>
  new AllowedNetworks([network]).allows(address, undefined);

describe("an entry of allow_from", () => {
  it.each([
    "10.0.0.0/8",
    "192.0.2.7",
    "192.0.2.7/32",
    "0.0.0.0/0",
    "2001:db8::/32",
    "::1",
    "postgres@::1",
    "10.1.2.3/8",
  ])("may be %s", (entry) => {
    expect(load({ file: `allow_from = ${entry}\n` }).config.allowFrom).toEqual([entry]);
  });

  it.each([
    "localhost",
    "db.example.com",
    "10.0.0.0/33",
    "10.0.0/8",
    "10.0.0.0/",
    "10.0.0.0/8/8",
    "10.0.0.0/-1",
    "10.0.0.0/255.0.0.0",
    "2001:db8::/129",
    "fe80::1%eth0",
    "@10.0.0.0/8",
    "postgres@",
    "10.0.0.0/8@postgres",
    "*",
    "all",
  ])("may not be %s", (entry) => {
    expect(problemsOf({ file: `allow_from = 127.0.0.1, ${entry}\n` })).toEqual([
      `pgvpd.conf:1: allow_from "127.0.0.1, ${entry}": "${entry}" is not a network: ` +
        "write 10.0.0.0/8, 2001:db8::/32, or user@192.0.2.7",
    ]);
  });

  it("may be for a user whose name holds an @", () => {
    expect([...usersOfNetworks(["admin@corp@10.0.0.0/8", "::1", "a@::1", "a@::2"])]).toEqual(["admin@corp", "a"]);
  });
});

describe("an address", () => {
  it.each([
    ["10.0.0.0/8", "10.255.255.255", "11.0.0.0"],
    ["10.1.2.3/8", "10.9.9.9", "11.1.2.3"],
    ["192.0.2.7", "192.0.2.7", "192.0.2.8"],
    ["192.0.2.0/25", "192.0.2.127", "192.0.2.128"],
    ["2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"],
    ["::1", "::1", "::2"],
    ["10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"],
    ["10.0.0.0/8", "::FFFF:10.0.0.1", "::10.0.0.1"],
    ["10.0.0.0/8", "::ffff:a00:1", "::ffff:b00:1"],
    ["::ffff:10.0.0.0/104", "10.0.0.1", "11.0.0.1"],
    ["fe80::/10", "fe80::1%eth0", "2001:db8::1"],
    ["0.0.0.0/0", "198.51.100.1", "2001:db8::1"],
  ])("of %s is %s, and is not %s", (network, inside, outside) => {
    expect(everybody(network, inside)).toBe(true);
    expect(everybody(network, outside)).toBe(false);
  });

  it("of ::/0 is any, of IPv4 too", () => {
    expect(everybody("::/0", "2001:db8::1") && everybody("::/0", "192.0.2.1")).toBe(true);
  });

  it("that is none is in no network", () => {
    for (const address of ["", "unknown", "10.0.0", "::ffff:"]) expect(everybody("0.0.0.0/0", address)).toBe(false);
  });
});

describe("who may connect", () => {
  it("is everybody where no network is given", () => {
    expect(new AllowedNetworks([]).allows("198.51.100.1", undefined)).toBe(true);
    expect(new AllowedNetworks([]).allows("198.51.100.1", "postgres")).toBe(true);
  });

  it("is who comes from one of the networks", () => {
    const networks = new AllowedNetworks(["10.0.0.0/8", "2001:db8::/32"]);
    for (const user of [undefined, "postgres"]) {
      expect(networks.allows("10.1.1.1", user) && networks.allows("2001:db8::1", user)).toBe(true);
      expect(networks.allows("192.0.2.1", user)).toBe(false);
    }
  });

  it("is whoever comes over the Unix-domain socket", () => {
    expect(new AllowedNetworks(["10.0.0.0/8", "postgres@::1"]).allows(undefined, "postgres")).toBe(true);
    expect(new AllowedNetworks(["10.0.0.0/8"]).allows(undefined, undefined)).toBe(true);
  });

  it("holds a user with entries of its own to those, and to no other", () => {
    const networks = new AllowedNetworks(["10.0.0.0/8", "postgres@127.0.0.1", "postgres@::1"]);
    expect(networks.allows("127.0.0.1", "postgres") && networks.allows("::1", "postgres")).toBe(true);
    expect(networks.allows("10.1.1.1", "postgres")).toBe(false);
    expect(networks.allows("10.1.1.1", "admin") && networks.allows("10.1.1.1", undefined)).toBe(true);
    expect(networks.allows("127.0.0.1", "admin") || networks.allows("127.0.0.1", undefined)).toBe(false);
  });

  it("limits nobody else where one user alone has entries", () => {
    const networks = new AllowedNetworks(["postgres@127.0.0.1"]);
    expect(networks.allows("198.51.100.1", undefined) && networks.allows("198.51.100.1", "admin")).toBe(true);
    expect(networks.allows("198.51.100.1", "postgres")).toBe(false);
  });

  it("knows users by their exact name", () => {
    expect(new AllowedNetworks(["postgres@127.0.0.1"]).allows("198.51.100.1", "Postgres")).toBe(true);
  });
});
