/** PGVPD_* variables: settings, somebody else's, and those that Kubernetes adds. */
import { describe, expect, it } from "vitest";
import { load, problemsOf } from "./load-text.ts";

describe("a variable", () => {
  it("that is no setting is a warning with the nearest variable", () => {
    const { config, warnings } = load({ env: { PGVPD_PROT: "7000", PGVPD_XYZZY: "1" } });
    expect(config.port).toBe(6432);
    expect(warnings).toEqual([
      "PGVPD_PROT is no setting of pgvpd: did you mean PGVPD_PORT?",
      "PGVPD_XYZZY is no setting of pgvpd",
    ]);
  });

  it("is called PGVPD_HOST for listen_host, and who guesses is told", () => {
    expect(load({ env: { PGVPD_HOST: "::1" } }).config.listenHosts).toEqual(["::1"]);
    expect(load({ env: { PGVPD_LISTEN_HOST: "::1" } }).warnings).toEqual([
      "PGVPD_LISTEN_HOST is no setting of pgvpd: did you mean PGVPD_HOST?",
    ]);
    expect(load({ env: { PGVPD_SEPARATOR: "-" } }).warnings[0]).toContain("did you mean PGVPD_TENANT_SEPARATOR?");
  });

  it("whose value does not parse stops the start", () => {
    expect(problemsOf({ env: { PGVPD_PORT: "" } })).toEqual([
      'PGVPD_PORT: port "": expected a whole number from 0 to 65535',
    ]);
  });

  it("of the tests, the benchmarks or another program is left alone", () => {
    const env = {
      PGVPD_TEST_REQUIRE: "psql",
      PGVPD_BENCH_PGBOUNCER: "x",
      PORT: "1",
      pgvpd_port: "1",
      DATABASE_URL: "x",
    };
    const { config, warnings } = load({ env });
    expect([config.port, warnings]).toEqual([6432, []]);
  });
});

describe("what Kubernetes sets for a Service", () => {
  it("named pgvpd is ignored, with one warning that says how to be rid of it", () => {
    const { config, warnings } = load({
      env: {
        PGVPD_SERVICE_HOST: "10.0.0.1",
        PGVPD_SERVICE_PORT: "6432",
        PGVPD_SERVICE_PORT_POSTGRES: "6432",
        PGVPD_PORT: "tcp://10.0.0.1:6432",
        PGVPD_PORT_6432_TCP: "tcp://10.0.0.1:6432",
        PGVPD_PORT_6432_TCP_PROTO: "tcp",
        PGVPD_PORT_6432_TCP_PORT: "6432",
        PGVPD_PORT_6432_TCP_ADDR: "10.0.0.1",
      },
    });
    expect(config.port).toBe(6432);
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatch(/^ignored PGVPD_SERVICE_HOST, .* enableServiceLinks: false/);
  });

  it("named pgvpd-admin or pgvpd-upstream is ignored too", () => {
    const { config, warnings } = load({
      env: {
        PGVPD_ADMIN_PORT: "tcp://10.0.0.2:9090",
        PGVPD_ADMIN_SERVICE_HOST: "10.0.0.2",
        PGVPD_ADMIN_PORT_9090_TCP_ADDR: "10.0.0.2",
        PGVPD_UPSTREAM_PORT: "tcp://10.0.0.3:5432",
      },
    });
    expect([config.adminPort, config.upstreamPort, warnings.length]).toEqual([undefined, 5432, 1]);
  });

  it("is not any value that is wrong", () => {
    expect(problemsOf({ env: { PGVPD_PORT: "http://10.0.0.1" } })).toEqual([
      "PGVPD_PORT: port [a URL]: expected a whole number from 0 to 65535",
    ]);
  });
});
