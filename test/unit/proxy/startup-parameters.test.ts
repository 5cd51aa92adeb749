/** What becomes of each parameter of a tenant's StartupMessage, and what of it goes upstream. */
import { describe, expect, it } from "vitest";
import type { Config } from "../../../src/config/settings.ts";
import type { ProxyError } from "../../../src/errors/proxy-error.ts";
import { decodeStartupPacket, type StartupMessage } from "../../../src/protocol/startup.ts";
import { identify } from "../../../src/proxy/tenant/identify.ts";
import type { ResolverTraits, TenantIdentity } from "../../../src/proxy/tenant/identity.ts";
import { encodeTenantStartup } from "../../../src/proxy/upstream/tenant-startup.ts";
import { startupMessage } from "../../support/bytes.ts";
import { proxyErrorOf } from "../../support/proxy-error-of.ts";
import { testConfig } from "../../support/test-config.ts";

type Parameters = Readonly<Record<string, string>>;

const identityOf = (parameters: Parameters, config: Partial<Config> = {}, minor = 0): TenantIdentity =>
  identify(
    decodeStartupPacket(startupMessage({ user: "app_user.acme", ...parameters }, minor)) as StartupMessage,
    testConfig(config),
  ) as TenantIdentity;

const text = (list: readonly { name: string; value: Buffer }[]): [string, string][] =>
  list.map(({ name, value }) => [name, value.toString()]);

/** What the upstream would read: names and values of its StartupMessage, in order. */
function upstreamPairs(parameters: Parameters, config: Partial<Config> = {}, minor = 0): [string, string][] {
  const packet = encodeTenantStartup(identityOf(parameters, config, minor), testConfig(config), []);
  return text((decodeStartupPacket(packet) as StartupMessage).parameters);
}

const refusal = (parameters: Parameters, config: Partial<Config> = {}): ProxyError =>
  proxyErrorOf(() => identityOf(parameters, config));

const PROTECTED = [
  "app.current_tenant_id",
  "role",
  "session_authorization",
  "row_security",
  "session_preload_libraries",
  "local_preload_libraries",
  "standard_conforming_strings",
];

describe("a protected parameter is refused with 42501", () => {
  it.each(PROTECTED)("%s", (name) => {
    const upper = name.toUpperCase();
    const mixed = name.replace(/(^|[._])[a-z]/g, (letter) => letter.toUpperCase());
    const hyphens = name.replaceAll("_", "-");
    const ways: Parameters[] = [
      { [name]: "x" },
      { [upper]: "x" },
      { [mixed]: "" },
      { options: `-c ${name}=x` },
      { options: `-c${upper}=x` },
      { options: `--${mixed}=x` },
      { options: `--${hyphens}=x` },
      { options: `-c work_mem=1MB -c ${hyphens}=` },
      { options: `-c ${[...name].map((letter) => `\\${letter}`).join("")}=x` },
    ];
    for (const parameters of ways) {
      const error = refusal(parameters);
      expect(error.definition.sqlstate).toBe("42501");
      expect(error.message).toMatch(/^parameter ".*" may not be set$/);
    }
  });

  it("every context variable, in any case", () => {
    const config = { contextVariables: ["app.Tenant", "app.user"] };
    const user = "app_user.acme:1";
    for (const name of ["app.tenant", "APP.TENANT", "app.USER"]) {
      expect(refusal({ user, [name]: "x" }, config).definition.sqlstate).toBe("42501");
      expect(refusal({ user, options: `--${name}=x` }, config).definition.sqlstate).toBe("42501");
    }
  });

  it("even where it is listed in client_parameters or ignored", () => {
    expect(refusal({ role: "x" }, { clientParameters: ["role"] }).definition.sqlstate).toBe("42501");
    expect(refusal({ role: "x" }, { ignoreStartupParameters: ["role"] }).definition.sqlstate).toBe("42501");
    expect(refusal({ options: "-c role=x" }, { clientParameters: ["*"] }).definition.sqlstate).toBe("42501");
  });
});

// In a StartupMessage these are no settings but fields, and the last one of a name wins: taken out of `options` and
// sent as pairs they would replace the role, the database and the kind of connection that pgvpd chose.
describe("a field of the StartupMessage inside options is refused with 42501", () => {
  it.each([
    "-c user=postgres",
    "--user=postgres",
    "-c database=other",
    "-c replication=database",
    "-c replication=off",
    "-c options=-crole=x",
    "-c _pq_.x=1",
    "---pq-.x=1",
    "-c User=postgres",
    "-c DATABASE=other",
    "-c \\user=postgres",
  ])("%s", (options) => {
    expect(refusal({ options }).definition.sqlstate).toBe("42501");
  });
});

describe("a field of the StartupMessage in another case is refused with 42501", () => {
  it.each(["Database", "Options", "REPLICATION", "_PQ_.x"])("%s", (name) => {
    expect(refusal({ [name]: "on" }).definition.sqlstate).toBe("42501");
  });
});

describe("search_path and client_encoding", () => {
  it("are held back, client_encoding first, however they are written", () => {
    const identity = identityOf({ Search_Path: "a, b", CLIENT_ENCODING: "LATIN1" });
    expect(text(identity.heldBack)).toEqual([
      ["CLIENT_ENCODING", "LATIN1"],
      ["Search_Path", "a, b"],
    ]);
    expect(identity.forwarded).toEqual([]);
  });

  it("are held back from options too", () => {
    const identity = identityOf({ options: "--search-path=x -c client_encoding=GBK -c work_mem=1MB" });
    expect(text(identity.heldBack)).toEqual([
      ["client_encoding", "GBK"],
      ["search_path", "x"],
    ]);
    expect(text(identity.forwarded)).toEqual([["work_mem", "1MB"]]);
  });

  it("never go upstream in the StartupMessage", () => {
    const sent = upstreamPairs({ search_path: "evil", client_encoding: "GBK", options: "-c Search_Path=evil2" });
    expect(sent.filter(([name]) => name.toLowerCase() === "search_path")).toEqual([]);
    expect(sent.filter(([name]) => name.toLowerCase() === "client_encoding")).toEqual([["client_encoding", "UTF8"]]);
  });
});

describe("other parameters", () => {
  it("are forwarded as they came", () => {
    const identity = identityOf({ application_name: "psql é", DateStyle: "ISO", "my.var": "" });
    expect(text(identity.forwarded)).toEqual([
      ["application_name", "psql é"],
      ["DateStyle", "ISO"],
      ["my.var", ""],
    ]);
  });

  it("inside options come out as parameters of their own; one beside options wins, and the last one inside", () => {
    const options = "-c work_mem=1MB -c work_mem=2MB --statement-timeout=5s";
    expect(text(identityOf({ options, Statement_Timeout: "1s" }).forwarded)).toEqual([
      ["work_mem", "2MB"],
      ["Statement_Timeout", "1s"],
    ]);
  });

  it("are refused with 42501 and a hint when client_parameters does not list them", () => {
    const config = { clientParameters: ["Application_Name", "search_path"] };
    expect(text(identityOf({ application_name: "x" }, config).forwarded)).toEqual([["application_name", "x"]]);
    for (const parameters of [{ work_mem: "1" }, { options: "-c work_mem=1" }, { client_encoding: "UTF8" }]) {
      const error = refusal(parameters, config);
      expect(error.definition.sqlstate).toBe("42501");
      expect(error.hint).toContain("client_parameters");
    }
  });

  it("are dropped when ignore_startup_parameters lists them", () => {
    const config = { ignoreStartupParameters: ["Extra_Float_Digits", "search_path"], clientParameters: ["work_mem"] };
    const identity = identityOf(
      { extra_float_digits: "3", search_path: "x", options: "-c extra-float-digits=2" },
      config,
    );
    expect(identity.forwarded).toEqual([]);
    expect(identity.heldBack).toEqual([]);
  });

  it("`options` in ignore_startup_parameters drops all of it, what is protected and what is no option", () => {
    const config = { ignoreStartupParameters: ["options"] };
    expect(identityOf({ options: "-c role=x -e" }, config).forwarded).toEqual([]);
  });

  it("_pq_. parameters are named and not forwarded", () => {
    const identity = identityOf({ "_pq_.a": "1", "_pq_.B": "2" });
    expect(identity.unknownOptions).toEqual(["_pq_.a", "_pq_.B"]);
    expect(identity.forwarded).toEqual([]);
  });

  it("options that are not settings are refused with 22023", () => {
    for (const options of ["-c", "--", "-c=", "x", "-e"]) {
      expect(refusal({ options }).definition.sqlstate).toBe("22023");
    }
  });
});

describe("replication", () => {
  it.each(["false", "off", "no", "0", "OFF", "No"])("%s is no replication, and is not forwarded", (value) => {
    expect(identityOf({ replication: value }).forwarded).toEqual([]);
    expect(upstreamPairs({ replication: value }).map(([name]) => name)).not.toContain("replication");
  });

  it.each(["true", "on", "yes", "1", "database", "", "offf", "t", "DATABASE", "off "])(
    "%j is refused with 42501",
    (value) => {
      expect(refusal({ replication: value }).definition.sqlstate).toBe("42501");
    },
  );
});

describe("the upstream's StartupMessage", () => {
  const pinned: [string, string][] = [
    ["row_security", "on"],
    ["standard_conforming_strings", "on"],
    ["local_preload_libraries", ""],
    ["client_encoding", "UTF8"],
    ["client_connection_check_interval", "5s"],
  ];

  it("with context_injection = startup carries role and context", () => {
    expect(upstreamPairs({ database: "shop", application_name: "x" })).toEqual([
      ["user", "app_user"],
      ["database", "shop"],
      ...pinned,
      ["role", "app_user"],
      ["app.current_tenant_id", "acme"],
      ["application_name", "x"],
    ]);
  });

  it("with context_injection = query carries neither", () => {
    expect(upstreamPairs({}, { contextInjection: "query" })).toEqual([
      ["user", "app_user"],
      ["database", "app_user"],
      ...pinned,
    ]);
  });

  it("leaves out what upstream_startup_parameters leaves out", () => {
    const names = (upstreamStartupParameters: string[]): string[] =>
      upstreamPairs({}, { upstreamStartupParameters }).map(([name]) => name);
    expect(names(["none"])).toEqual(["user", "database", "app.current_tenant_id"]);
    expect(names(["*", "-role", "-client_connection_check_interval"])).toEqual([
      "user",
      "database",
      "row_security",
      "standard_conforming_strings",
      "local_preload_libraries",
      "client_encoding",
      "app.current_tenant_id",
    ]);
  });

  it("lets the client choose what is pinned only to save its connection", () => {
    const sent = upstreamPairs({ Client_Connection_Check_Interval: "1s" });
    expect(sent.filter(([name]) => name.toLowerCase() === "client_connection_check_interval")).toEqual([
      ["Client_Connection_Check_Interval", "1s"],
    ]);
  });

  it("asks for the client's protocol version, 3.2 at most", () => {
    for (const [asked, sent] of [
      [0, 0],
      [2, 2],
      [9, 2],
    ] as const) {
      const packet = encodeTenantStartup(identityOf({}, {}, asked), testConfig(), []);
      expect((decodeStartupPacket(packet) as StartupMessage).minor).toBe(sent);
    }
  });

  it("carries values that look like syntax as they are", () => {
    const tenant = "a'b\"c\\d -c role=postgres; --";
    expect(upstreamPairs({ user: `app_user.${tenant}` })).toContainEqual(["app.current_tenant_id", tenant]);
  });
});

describe("with resolvers", () => {
  const resolved = (parameters: Parameters, resolvers: ResolverTraits, config: Partial<Config> = {}): TenantIdentity =>
    identify(
      decodeStartupPacket(startupMessage({ user: "app_user.acme", ...parameters })) as StartupMessage,
      testConfig(config),
      resolvers,
    ) as TenantIdentity;
  const dedicated = { variables: ["app.Org_id", "app.teams"], areInSession: false };
  const inSession = { ...dedicated, areInSession: true };

  it.each<Parameters>([
    { "app.org_id": "victim" },
    { "APP.TEAMS": "" },
    { options: "--app.org-id=victim" },
    { options: "-c App.Teams=victim" },
  ])("a variable that one of them sets is refused with 42501: %j", (parameters) => {
    const error = proxyErrorOf(() => resolved(parameters, dedicated));
    expect(error.definition.sqlstate).toBe("42501");
  });

  const clients = { search_path: "mine", TimeZone: "Asia/Tokyo", client_encoding: "LATIN1", options: "-c app.own=1" };

  it("that run on connections of their own, parameters go upstream as without", () => {
    const { forwarded, heldBack } = resolved(clients, dedicated);
    expect(forwarded.map(({ name }) => name)).toEqual(["app.own", "TimeZone"]);
    expect(heldBack.map(({ name }) => name)).toEqual(["client_encoding", "search_path"]);
  });

  it("that run in the client's own session, nothing of the client's is in force before", () => {
    const { forwarded, heldBack } = resolved(clients, inSession);
    expect(forwarded).toEqual([]);
    expect(text(heldBack)).toEqual([
      ["client_encoding", "LATIN1"],
      ["search_path", "mine"],
      ["app.own", "1"],
      ["TimeZone", "Asia/Tokyo"],
    ]);
  });
});

describe("stamp_application_name", () => {
  const stamped = { stampApplicationName: true };
  const nameOf = (parameters: Parameters, config: Partial<Config> = stamped): (string | undefined)[] =>
    upstreamPairs(parameters, config)
      .filter(([name]) => name.toLowerCase() === "application_name")
      .map(([, value]) => value);

  it("puts the tenant before the client's own name, however that is given", () => {
    expect(nameOf({})).toEqual(["acme"]);
    expect(nameOf({ application_name: "psql" })).toEqual(["acme: psql"]);
    expect(nameOf({ application_name: "" })).toEqual(["acme"]);
    expect(nameOf({ Application_Name: "psql" })).toEqual(["acme: psql"]);
    expect(nameOf({ options: "-c application_name=psql" })).toEqual(["acme: psql"]);
    expect(nameOf({ application_name: "psql" }, { ...stamped, ignoreStartupParameters: ["application_name"] })).toEqual(
      ["acme"],
    );
  });

  it("leaves the name alone where it is off", () => {
    expect(nameOf({}, {})).toEqual([]);
    expect(nameOf({ application_name: "psql" }, {})).toEqual(["psql"]);
  });

  it("holds nothing of the client's back that resolvers in its session must not see", () => {
    const startup = startupMessage({ user: "app_user.acme", application_name: "psql" });
    const { forwarded, heldBack } = identify(decodeStartupPacket(startup) as StartupMessage, testConfig(stamped), {
      variables: [],
      areInSession: true,
    }) as TenantIdentity;
    expect([text(forwarded), text(heldBack)]).toEqual([[], [["application_name", "acme: psql"]]]);
  });
});
