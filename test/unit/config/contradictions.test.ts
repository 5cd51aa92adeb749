/** Values that are each right on their own, and refused together; beside each what is accepted. */
import { describe, expect, it } from "vitest";
import { findContradictions } from "../../../src/config/contradictions.ts";
import { clientAuthOf, hasUpstreamCredential } from "../../../src/config/login-method.ts";
import { configFromSettings } from "../../../src/config/load.ts";
import { load, problemsOf } from "./load-text.ts";

/** `upstream_tls = yes; tls_port = 1` as a file, a setting a line. */
const fileOf = (text: string): string => text.split("; ").join("\n");
const refused = (text: string): readonly string[] => problemsOf({ file: fileOf(text) });
const accepted = (text: string): unknown => load({ file: fileOf(text) }).config;

describe("listeners", () => {
  it("may not be where pgvpd itself would connect to", () => {
    for (const listen of ["127.0.0.1", "*", "0.0.0.0", "10.0.0.1, ::"]) {
      expect(refused(`port = 5432; listen_host = ${listen}`), listen).toEqual([
        "default: upstream_port: 127.0.0.1 with port 5432 is where pgvpd itself listens: it would connect to itself",
      ]);
    }
    accepted("port = 5432; listen_host = 10.0.0.1");
  });

  it("are those of tls_port and of the socket too", () => {
    expect(refused("tls_cert = c; tls_key = k; tls_port = 5432")).toHaveLength(1);
    accepted("tls_cert = c; tls_key = k; tls_port = 5432; upstream_port = 5433");
    expect(refused("unix_socket_dir = /tmp; upstream_host = /tmp; port = 5432")).toHaveLength(1);
    accepted("unix_socket_dir = /tmp; upstream_host = /tmp; port = 5433");
    accepted("tls_cert = c; tls_key = k; unix_socket_dir = /tmp; upstream_host = /tmp; tls_port = 5432");
  });

  it("must be there", () => {
    expect(refused("listen_host =")).toEqual([
      "pgvpd.conf:1: listen_host: expected an address, or unix_socket_dir to be set",
    ]);
    accepted("listen_host = ; unix_socket_dir = /tmp");
    expect(refused("listen_host = ; unix_socket_dir = /tmp; tls_cert = c; tls_key = k; tls_port = 6433")).toEqual([
      "pgvpd.conf:5: tls_port: needs an address in listen_host",
    ]);
  });

  it("have ports of their own, unless the system chooses them", () => {
    expect(refused("tls_port = 6432; tls_cert = c; tls_key = k")).toEqual([
      "pgvpd.conf:1: tls_port: is the same as port",
    ]);
    accepted("tls_port = 0; port = 0; tls_cert = c; tls_key = k");
  });

  it("may use one separator for both purposes, as 1.0 allows", () => {
    expect(accepted("context_variables = a.b, c.d; value_separator = .")).toMatchObject({
      tenantSeparator: ".",
      valueSeparator: ".",
    });
  });
});

describe("doctor", () => {
  it("needs databases, and to enforce it a credential of pgvpd's own", () => {
    expect(refused("doctor = warn")).toEqual(["pgvpd.conf:1: doctor: warn needs doctor_database"]);
    expect(refused("doctor = enforce; doctor_database = app")).toEqual([
      "pgvpd.conf:1: doctor: enforce: pgvpd has nothing of its own to log in with: set upstream_password, upstream_tls_cert or upstream_require_auth = none",
    ]);
    expect(refused("doctor_database = app")).toEqual([
      "pgvpd.conf:1: doctor_database: is used together with doctor = warn or enforce alone",
    ]);
    accepted("doctor = warn; doctor_database = app");
    accepted("doctor = enforce; doctor_database = app, other; upstream_require_auth = none");
  });
});

describe("a setting that would do nothing", () => {
  const needsVerifying = "is used together with client_tls_sslmode = verify-ca or verify-full alone";
  it.each([
    ["client_tls_ca_file = ca", needsVerifying],
    ["client_tls_ca_file = ca; tls_cert = c; tls_key = k; client_tls_sslmode = require", needsVerifying],
    ["client_cert_map = role", "is used together with client_tls_sslmode = verify-full alone"],
    ["upstream_tls_negotiation = direct", "is used together with upstream_tls = true alone"],
    ["credentials_file = u", "is used together with client_auth = scram or cleartext alone"],
    ["auth_user = a", "is used together with client_auth = scram or cleartext alone"],
    ["auth_query = SELECT 1; client_auth = scram; credentials_file = u", "is used together with auth_user alone"],
    ["auth_dbname = app; client_auth = scram; credentials_file = u", "is used together with auth_user alone"],
  ])("is refused: %s", (text, problem) => {
    const [name] = text.split(" ");
    expect(refused(text)).toEqual([`pgvpd.conf:1: ${name}: ${problem}`]);
  });

  it("is refused for each file of upstream_tls", () => {
    expect(refused("upstream_tls_cert = c; upstream_tls_key = k")).toEqual([
      "pgvpd.conf:1: upstream_tls_cert: is used together with upstream_tls = true alone",
      "pgvpd.conf:2: upstream_tls_key: is used together with upstream_tls = true alone",
    ]);
  });

  it.each([
    "client_tls_ca_file = ca; client_tls_sslmode = verify-ca; tls_cert = c; tls_key = k",
    "client_tls_ca_file = ca; client_tls_sslmode = verify-full; client_cert_map = role; tls_cert = c; tls_key = k",
    "upstream_tls = true; upstream_tls_ca = ca; upstream_tls_negotiation = direct",
    "upstream_tls = true; upstream_tls_cert = c; upstream_tls_key = k",
    "client_auth = scram; credentials_file = u",
    "client_auth = scram; auth_user = a; auth_query = SELECT 1; auth_dbname = app",
  ])("is accepted where it does something: %s", (text) => {
    accepted(text);
  });

  it("is accepted where existing files may have it: PostgreSQL checks passwords without a pool", () => {
    accepted("pool_password = p; upstream_password = p; upstream_tls_verify = false");
  });

  it("is accepted with its default", () => {
    accepted(
      "client_cert_map = tenant; upstream_tls_negotiation = postgres; auth_dbname = postgres; client_tls_ca_file =",
    );
  });
});

describe("TLS with clients", () => {
  it.each([
    ["tls_cert = c", "tls_cert: needs tls_key"],
    ["tls_key = k", "tls_key: needs tls_cert"],
    ["tls_port = 6433", "tls_port: needs tls_cert and tls_key"],
    ["client_tls_sslmode = require", "client_tls_sslmode: require needs tls_cert and tls_key"],
    [
      "client_tls_sslmode = disable; tls_cert = c; tls_key = k; tls_port = 6433",
      "client_tls_sslmode: disable contradicts tls_port",
    ],
    [
      "client_tls_sslmode = verify-ca; tls_cert = c; tls_key = k",
      "client_tls_sslmode: verify-ca needs client_tls_ca_file",
    ],
    [
      "client_tls_sslmode = verify-full; tls_cert = c; tls_key = k",
      "client_tls_sslmode: verify-full needs client_tls_ca_file",
    ],
  ])("refuses %s", (text, problem) => {
    expect(refused(text)).toEqual([`pgvpd.conf:1: ${problem}`]);
  });

  it.each([
    "tls_cert = c; tls_key = k",
    "tls_cert = c; tls_key = k; tls_port = 6433; client_tls_sslmode = require",
    "tls_cert = c; tls_key = k; client_tls_sslmode = disable",
    "client_tls_sslmode = allow",
    "client_tls_sslmode = disable",
  ])("accepts %s", (text) => {
    accepted(text);
  });
});

describe("TLS upstream", () => {
  it.each([
    ["upstream_tls_cert = c; upstream_tls = yes", "upstream_tls_cert: needs upstream_tls_key"],
    ["upstream_tls_key = k; upstream_tls = yes", "upstream_tls_key: needs upstream_tls_cert"],
    [
      "upstream_tls = yes; upstream_host = /tmp",
      "upstream_tls: PostgreSQL does not encrypt its Unix-domain socket: leave it off",
    ],
  ])("refuses %s", (text, problem) => {
    expect(refused(text)).toEqual([`pgvpd.conf:1: ${problem}`]);
  });

  it("accepts no more than upstream_tls, and a server that is not verified", () => {
    accepted("upstream_tls = yes");
    accepted("upstream_tls = yes; upstream_tls_verify = no");
  });
});

describe("the login", () => {
  const noVerifiers = "needs verifiers: credentials_file, auth_user (for auth_query) or pool_password";
  it.each([
    ["client_auth = scram", `client_auth: scram ${noVerifiers}`],
    ["client_auth = cleartext; tls_cert = c; tls_key = k", `client_auth: cleartext ${noVerifiers}`],
    [
      "client_auth = cleartext; credentials_file = u",
      "client_auth: cleartext needs TLS: tls_cert and tls_key, and client_tls_sslmode other than disable",
    ],
    [
      "client_auth = cleartext; credentials_file = u; tls_cert = c; tls_key = k; client_tls_sslmode = disable",
      "client_auth: cleartext needs TLS: tls_cert and tls_key, and client_tls_sslmode other than disable",
    ],
    [
      "pool_password = p; client_auth = scram",
      "pool_password: is no role's own: upstream_password is needed too, or upstream_tls_cert, or upstream_require_auth = none",
    ],
    ["allow_from = 10.0.0.0/8, app_user@10.0.0.0/8", 'allow_from: "app_user" is not in superuser_bypass'],
  ])("refuses %s", (text, problem) => {
    expect(refused(text)).toEqual([`pgvpd.conf:1: ${problem}`]);
  });

  it.each([
    "client_auth = relay",
    "client_auth = scram; credentials_file = u",
    "client_auth = scram; auth_user = a",
    "client_auth = scram; pool_password = p; upstream_password = q",
    "client_auth = scram; pool_password = p; upstream_require_auth = none, scram-sha-256",
    "client_auth = scram; pool_password = p; upstream_tls = yes; upstream_tls_cert = c; upstream_tls_key = k",
    "client_auth = cleartext; credentials_file = u; tls_cert = c; tls_key = k",
    "allow_from = postgres@127.0.0.1, admin@::1; superuser_bypass = postgres, admin",
  ])("accepts %s", (text) => {
    accepted(text);
  });

  // pool_mode is not in this version, so that no file gets this far.
  const pooled = (values: Record<string, string>): string[] =>
    findContradictions({ ...configFromSettings(values), poolMode: "session" }, () => "here");

  it("cannot be relayed with a pool", () => {
    const own = { credentials_file: "u", upstream_password: "p", client_auth: "scram" };
    expect(pooled(own)).toEqual([]);
    expect(pooled({ client_auth: "relay" })).toEqual([
      "here: client_auth: relay ties a login to an upstream connection of its own: pool_mode = session needs scram",
    ]);
  });

  it("is scram with a pool where client_auth is not set, and then needs verifiers", () => {
    expect(clientAuthOf({ clientAuth: undefined, poolMode: "none" })).toBe("relay");
    expect(clientAuthOf({ clientAuth: undefined, poolMode: "transaction" })).toBe("scram");
    expect(clientAuthOf({ clientAuth: "cleartext", poolMode: "session" })).toBe("cleartext");
    expect(pooled({})).toEqual([`here: client_auth: scram ${noVerifiers}`]);
    expect(pooled({ pool_password: "p", upstream_password: "q" })).toEqual([]);
  });
});

describe("a credential of pgvpd's own upstream", () => {
  it("is a password, a certificate, or none where the server asks for none", () => {
    const own = (values: Record<string, string>): boolean => hasUpstreamCredential(configFromSettings(values));
    expect(own({})).toBe(false);
    expect(own({ upstream_require_auth: "scram-sha-256, md5" })).toBe(false);
    expect(own({ upstream_require_auth: "none" })).toBe(true);
    expect(own({ upstream_password: "p" })).toBe(true);
    expect(own({ upstream_tls: "yes", upstream_tls_cert: "c", upstream_tls_key: "k" })).toBe(true);
  });
});

it("a contradiction is told together with the others, each where it stands", () => {
  expect(
    problemsOf({ file: "tls_cert = c\n", env: { PGVPD_UPSTREAM_TLS_CERT: "c" }, flags: ["--client-auth=scram"] }),
  ).toEqual([
    "PGVPD_UPSTREAM_TLS_CERT: upstream_tls_cert: is used together with upstream_tls = true alone",
    "pgvpd.conf:1: tls_cert: needs tls_key",
    "PGVPD_UPSTREAM_TLS_CERT: upstream_tls_cert: needs upstream_tls_key",
    `--client-auth: client_auth: scram needs verifiers: credentials_file, auth_user (for auth_query) or pool_password`,
  ]);
});
