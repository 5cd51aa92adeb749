/** max_client_conn and max_client_conn_per_address, at their edges. */
import { describe, expect, it } from "vitest";
import { ClientPlaces, sourceOf } from "../../../src/proxy/admit/client-places.ts";
import { testConfig } from "../../support/test-config.ts";

const open = (maxClientConn?: number, maxClientConnPerAddress?: number): ClientPlaces =>
  new ClientPlaces(testConfig({ maxClientConn, maxClientConnPerAddress }));

describe("places of clients", () => {
  it("are limited in total", () => {
    const places = open(2);
    const first = places.take("10.0.0.1");
    expect(places.take(undefined).refusal).toBeUndefined();
    const third = places.take("10.0.0.2");
    expect(third.refusal?.definition.sqlstate).toBe("53300");
    expect(third.refusal?.message).toBe("too many clients: max_client_conn is 2");
    third[Symbol.dispose]();
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    expect(places.take("10.0.0.2").refusal).toBeUndefined();
    expect(places.take("10.0.0.2").refusal).toBeDefined();
  });

  it("are limited for each address, however it is written", () => {
    const places = open(undefined, 1);
    places.take("10.0.0.1");
    expect(places.take("::ffff:10.0.0.1").refusal?.message).toBe(
      'too many connections from host "10.0.0.1": max_client_conn_per_address is 1',
    );
    expect(places.take("10.0.0.2").refusal).toBeUndefined();
    expect(places.take(undefined).refusal).toBeUndefined();
    expect(places.take(undefined).refusal).toBeUndefined();
  });

  it("far beyond a limit a connection is not heard at all", () => {
    const places = open(1);
    const taken = Array.from({ length: 102 }, () => places.take(undefined));
    expect(taken[100]?.isHeard).toBe(true);
    expect(taken[101]?.isHeard).toBe(false);
    for (const place of taken) place[Symbol.dispose]();
    expect(places.size).toBe(0);
  });

  it.each([
    ["192.0.2.1", "192.0.2.1"],
    ["::FFFF:192.0.2.1", "192.0.2.1"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
    ["2001:db8::1", "2001:db8:0:0::/64"],
    ["::1", "0:0:0:0::/64"],
    ["fe80::1%eth0", "fe80:0:0:0::/64"],
  ])("the source of %s is %s", (address, source) => {
    expect(sourceOf(address)).toBe(source);
  });
});
