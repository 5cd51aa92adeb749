/**
 * A client's startup parameters through the proxy have the effect that they have without it, and a server that refuses
 * one does so in the same words; however pgvpd itself is told to log in.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient } from "../../support/raw-client.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));
const SHOWN = [
  "application_name",
  "DateStyle",
  "TimeZone",
  "IntervalStyle",
  "extra_float_digits",
  "statement_timeout",
  "search_path",
  "work_mem",
  "client_encoding",
];
const sent: readonly (readonly [name: string, parameters: Readonly<Record<string, string>>])[] = [
  ["nothing", {}],
  ["an application_name", { application_name: "büro" }],
  ["the parameters of libpq's environment", { DateStyle: "German", TimeZone: "Asia/Tokyo", geqo: "off" }],
  ["those of pgjdbc", { client_encoding: "UTF8", DateStyle: "ISO", TimeZone: "UTC", extra_float_digits: "2" }],
  ["a search_path", { search_path: "pg_temp,public" }],
  ["a search_path inside options", { options: "-c search_path=information_schema,public" }],
  [
    "options of every form",
    { options: "-c work_mem=5MB -cstatement_timeout=4321 --IntervalStyle=iso_8601 --extra-float-digits=2" },
  ],
  ["a parameter twice, in options and on its own", { options: "-c work_mem=5MB -c work_mem=6MB", work_mem: "7MB" }],
  ["an empty value", { application_name: "" }],
  ["values with spaces and backslashes", { options: "-c application_name=one\\ two\\\\three" }],
  ["a placeholder of the application's", { "app.locale": "de" }],
];
const refused: readonly (readonly [name: string, sqlstate: string, parameters: Readonly<Record<string, string>>])[] = [
  ["a time zone that does not exist", "22023", { TimeZone: "Nope" }],
  ["one inside options", "22023", { options: "-c TimeZone=Nope" }],
  ["an encoding that does not exist", "22023", { client_encoding: "Nope" }],
  ["a parameter that does not exist", "42704", { nonsense: "1" }],
  ["a parameter for superusers", "42501", { log_statement: "none" }],
  ["a parameter of the server's start", "55P02", { shared_buffers: "1MB" }],
  ["a number that is none", "22023", { statement_timeout: "soon" }],
];

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  const ports: Record<string, number> = {};
  const logIn = async (
    port: number,
    user: string,
    parameters: Readonly<Record<string, string>>,
  ): Promise<RawClient> => {
    const client = await RawClient.open({ host: "127.0.0.1", port });
    await client.logIn({ user, password: PASSWORD, parameters: { database: "postgres", ...parameters } });
    return client;
  };
  const shown = async (client: RawClient): Promise<unknown> => {
    const names = SHOWN.map((name) => `'${name}=' || current_setting('${name}')`).join(" || ' ' || ");
    const row = (await client.query(`SELECT ${names}`)).find(({ type }) => type === "D");
    return row?.body.toString("utf8", 6);
  };
  /** The parameters that the server reports, as the client has heard of them last. */
  const reported = (client: RawClient): unknown =>
    Object.fromEntries(
      client.messages
        .filter(({ type }) => type === "S")
        .map(({ body }) => body.toString().split("\0").slice(0, 2) as [string, string])
        .sort(([one], [other]) => one.localeCompare(other)),
    );

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
    for (const context_injection of ["startup", "query"]) {
      ports[context_injection] = (await fixture.proxyWith({ context_injection })).port;
    }
    const settings = { context_injection: "query", upstream_startup_parameters: "none" };
    ports["query, without pins"] = (await fixture.proxyWith(settings)).port;
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(["startup", "query", "query, without pins"])("context_injection = %s", (injection) => {
    it.each(sent)("a client that sends %s gets the session that it would get directly", async (_name, parameters) => {
      using direct = await logIn(fixture.server.port, "app_user", parameters);
      using client = await logIn(ports[injection] ?? 0, "app_user.acme", parameters);
      expect(await shown(client)).toBe(await shown(direct));
      expect(reported(client)).toEqual(reported(direct));
      expect(client.types.replaceAll(/[SN]/g, "")).toBe(direct.types.replaceAll(/[SN]/g, ""));
    });

    it.each(refused)("%s is refused with %s as it would be directly", async (_name, sqlstate, parameters) => {
      using direct = await logIn(fixture.server.port, "app_user", parameters);
      using client = await logIn(ports[injection] ?? 0, "app_user.acme", parameters);
      const { S, C, M } = client.error;
      expect({ S, C, M }).toEqual({ S: direct.error["S"], C: direct.error["C"], M: direct.error["M"] });
      expect(C).toBe(sqlstate);
      expect(client.types).not.toContain("Z");
    });
  });
});
