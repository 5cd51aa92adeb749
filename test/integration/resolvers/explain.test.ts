/** `pgvpd explain` says what a login would become, and `pgvpd check` what the database says of the queries. */
import { writeFileSync } from "node:fs";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { checkResolvers } from "../../../src/check/check-resolvers.ts";
import { explain } from "../../../src/cli/explain.ts";
import { configFromSettings } from "../../../src/config/load.ts";
import type { SettingValues } from "../../../src/index.ts";
import { PASSWORD } from "../../support/tenant-fixture.ts";
import { chain, org, RESOLVER_PASSWORD, single, startStage, user, type Place, type Stage } from "./stage.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await startStage();
});
afterAll(() => stage[Symbol.asyncDispose]());
beforeEach(() => stage.reset());
afterEach(() => vi.restoreAllMocks());

/** Where resolvers run, with the password that pgvpd itself logs in with there. */
const settingsOf = (place: Place, toml: string, more: SettingValues = {}): SettingValues => {
  const settings = { ...(place === "session" ? { upstream_password: PASSWORD } : {}), ...more };
  return stage.settings({ place, toml, settings });
};

describe.each<Place>(["dedicated", "session"])("pgvpd explain, resolvers %s", (place) => {
  async function run(name: string, toml: string, ...flags: string[]): Promise<{ code: number; out: string }> {
    let out = "";
    vi.spyOn(process.stdout, "write").mockImplementation((text) => ((out += String(text)), true));
    const settings = settingsOf(place, toml);
    const file = `${String(settings["resolvers"])}.conf`;
    const lines = Object.entries(settings).map(([setting, value]) => `${setting} = ${String(value)}\n`);
    writeFileSync(file, lines.join(""), { mode: 0o600 });
    const code = await explain([name, "--database", "plain", "--config", file, ...flags]);
    return { code, out };
  }

  it("shows each resolver with its values and what it gave, the context and the role", async () => {
    const { code, out } = await run(`app_user.${user(1)}`, chain("cache_ttl = 60"));
    expect(out.replaceAll(/[0-9.]+ ms/g, "N ms").split("\n")).toEqual([
      "login role   app_user",
      "database     plain",
      "role         app_user",
      `tenant       ${user(1)}`,
      "",
      "resolver org (N ms; kept for 60 s)",
      `  $1 = ${user(1)}`,
      `  -> org_id = ${org(1)}, role = member`,
      "",
      "resolver teams (N ms; kept for 60 s)",
      `  $1 = ${user(1)}, $2 = ${org(1)}`,
      "  -> team = red",
      "",
      "resolver cases (N ms; kept for 60 s)",
      '  $1 = {"red"}',
      "  -> case_id = 10",
      "  -> case_id = 11",
      "",
      "context",
      `  app.user_id = ${user(1)}`,
      `  app.org_id = ${org(1)}`,
      "  app.org_role = member",
      '  app.teams = {"red"}',
      '  app.case_ids = {"10","11"}',
      "",
    ]);
    expect(code).toBe(0);
  });

  it("says which resolvers did not run", async () => {
    const { code, out } = await run(`app_user.${user(9)}`, chain());
    expect(out).toContain("ms; asked at every login)");
    expect(out).toContain("  -> no row\n\nresolver teams: did not run\n\nresolver cases: did not run\n");
    expect(code).toBe(0);
  });

  it.each([
    ["a required resolver without a row", "SELECT 1 AS x WHERE $1::text = ''", "required = true", "gave no row"],
    ["a second row", "SELECT $1::text AS x UNION SELECT 'b'", "", "more than one row"],
    ["a query that fails", "SELECT $1::text AS x FROM nowhere", "", "42P01"],
  ])("says why it would refuse: %s", async (_what, query, more, why) => {
    const { code, out } = await run(`app_user.${user(1)}`, single(query, more));
    expect(out).toMatch(/\nrefused: 28000 the session context could not be resolved \(resolver one: .*\)\n$/);
    expect(out).toContain(why);
    expect(code).toBe(1);
  });

  it("says that the database could not be asked", async () => {
    const { code, out } = await run(`app_user.${user(1)}`, chain(), "--upstream-port=1");
    expect(out).toMatch(/\nunknown: 08001 /);
    expect(code).toBe(1);
    vi.restoreAllMocks();
    const { out: json } = await run("app_user", chain(), "--json");
    expect(JSON.parse(json)).toMatchObject({ verdict: "refused", resolvers: [{ name: "org" }, {}, {}] });
  });
});

describe.each<Place>(["dedicated", "session"])("pgvpd check, resolvers %s", (place) => {
  const check = async (
    toml: string,
    database: string | undefined = "plain",
    more?: SettingValues,
  ): Promise<string[]> => {
    const settings = { login_roles: "app_user", ...more };
    const findings = await checkResolvers(configFromSettings(settingsOf(place, toml, settings)), database);
    return findings.slice(1).map(({ verdict, text }) => `${verdict}: ${text}`);
  };

  it("finds what can be prepared, with the types of its parameters, and what only the search_path finds", async () => {
    const path = expect.stringMatching(/^warning: resolver (org|teams|cases): .*schema/) as string;
    expect(await check(chain())).toEqual([
      "ok: resolver org: can be prepared ($1 uuid)",
      path,
      "ok: resolver teams: can be prepared ($1 uuid, $2 uuid)",
      path,
      "ok: resolver cases: can be prepared ($1 text[])",
      path,
    ]);
    expect(await check(single("SELECT org_id AS x FROM public.org_members WHERE user_id = $1"))).toEqual([
      "ok: resolver one: can be prepared ($1 uuid)",
    ]);
  });

  it("finds a column that was renamed, in the table and in the query, before a user does", async () => {
    await stage.sql("ALTER TABLE org_members RENAME org_id TO organisation");
    const inTable = await check(chain());
    await stage.sql("ALTER TABLE org_members RENAME organisation TO org_id");
    expect(inTable[0]).toMatch(/^error: resolver org: .*42703.*org_id/);
    expect(await check(single("SELECT org_id AS y FROM public.org_members WHERE user_id = $1"))).toEqual([
      "error: resolver one: its query has no column x: it has y",
    ]);
  });

  it("warns where everybody may create what queries would find", async () => {
    await stage.sql('CREATE SCHEMA IF NOT EXISTS "Open"; GRANT CREATE, USAGE ON SCHEMA "Open" TO PUBLIC');
    const query = single("SELECT org_id AS x FROM public.org_members WHERE user_id = $1");
    expect(await check(query, "plain", { resolver_search_path: "Open, public" })).toEqual([
      'warning: resolver_search_path: everybody may create objects in "Open", and queries would find them: REVOKE CREATE ON SCHEMA "Open" FROM PUBLIC',
      "ok: resolver one: can be prepared ($1 uuid)",
    ]);
    expect(await check(query)).toHaveLength(1);
  });

  it("executes nothing", async () => {
    await stage.sql("CREATE SEQUENCE IF NOT EXISTS counted; GRANT ALL ON SEQUENCE counted TO PUBLIC");
    await check(single("SELECT nextval('public.counted') AS x, $1::text"));
    expect(await stage.sql("SELECT is_called FROM counted")).toEqual([{ is_called: false }]);
  });

  it("says what it needs, and that a login failed", async () => {
    expect(await check(chain(), "")).toHaveLength(1);
    const config = configFromSettings(stage.settings({ place, toml: chain() }));
    const notAsked = await checkResolvers(config, place === "session" ? "plain" : undefined);
    expect(notAsked.map(({ verdict }) => verdict)).toEqual(["ok", "not checked"]);
    const wrong = { upstream_password: "wrong", ...(place === "dedicated" ? { resolver_password: "wrong" } : {}) };
    const [failed] = await check(chain(), "plain", wrong);
    expect(failed).toMatch(/^error: resolvers: plain as (resolver|app_user): .*28P01/);
    expect(failed).not.toContain(RESOLVER_PASSWORD);
  });
});
