/** inject_role: a resolver chooses the role that logs in, so that no SET ROLE leads to another one. */
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { explainLogin } from "../../../src/check/explain-login.ts";
import { configFromSettings } from "../../../src/config/load.ts";
import { createLogger } from "../../../src/observe/logger.ts";
import { errorOf, PASSWORD } from "../../support/tenant-fixture.ts";
import { org, startStage, user, type DatabaseName, type ResolverProxy, type Stage } from "./stage.ts";

const OF_ROLE = `
[[resolver]]
name = "org"
query = "SELECT org_id, CASE role WHEN 'member' THEN 'reader' WHEN 'admin' THEN 'writer' ELSE role END AS login FROM org_members WHERE user_id = $1"
params = ["app.user_id"]
inject = { "app.org_id" = "org_id" }
inject_role = "login"
cache_ttl = 3600
on_change = "terminate"
`;

const POOL_PASSWORD = "the password of every client";
const SETTINGS = {
  client_auth: "scram",
  pool_password: POOL_PASSWORD,
  upstream_password: PASSWORD,
  login_roles: "app_user,reader,writer",
};

let stage: Stage;
beforeAll(async () => {
  stage = await startStage({ settings: { log_connections: "on" } });
  await stage.sql(`CREATE ROLE reader LOGIN PASSWORD '${PASSWORD}'; CREATE ROLE writer LOGIN PASSWORD '${PASSWORD}'`);
  for (const database of ["plain", "sealed"]) {
    await stage.sql(
      `CREATE TABLE papers AS SELECT org_id FROM cases;
       ALTER TABLE papers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
       CREATE POLICY of_org ON papers USING (org_id = pgvpd_context('app.org_id')::uuid);
       GRANT SELECT ON papers TO reader, writer; GRANT UPDATE ON papers TO writer`,
      [],
      database,
    );
  }
});
afterAll(() => stage[Symbol.asyncDispose]());
beforeEach(() => stage.reset());

async function proxyOf(database: DatabaseName = "plain"): Promise<ResolverProxy> {
  const proxy = await stage.proxy({ place: "dedicated", toml: OF_ROLE, settings: SETTINGS, database });
  onTestFinished(() => proxy.stop());
  return proxy;
}

const asClient = { password: POOL_PASSWORD };

describe.each<DatabaseName>(["plain", "sealed"])("a login role that a resolver gives, %s", (database) => {
  it("is the one of the session, whichever the client has named, and the only one", async () => {
    const proxy = await proxyOf(database);
    for (const named of ["app_user", "reader", "writer"]) {
      for (const [value, role] of [
        [user(1), "reader"],
        [user(2), "writer"],
      ] as const) {
        const client = await proxy.connect(value, { ...asClient, user: `${named}.${value}` });
        const { rows } = await client.query("SELECT session_user, current_user, pgvpd_context('app.org_id') AS org");
        expect(rows).toEqual([{ session_user: role, current_user: role, org: org(1) }]);
        expect((await client.query("SELECT FROM papers")).rowCount).toBe(20);
        const other = role === "reader" ? "writer" : "reader";
        for (const statement of [`SET ROLE ${other}`, `SET SESSION AUTHORIZATION ${other}`]) {
          expect(await errorOf(client.query(statement))).toMatchObject({ code: "42501" });
        }
        const update = client.query("UPDATE papers SET org_id = org_id");
        if (role === "reader") expect(await errorOf(update)).toMatchObject({ code: "42501" });
        else expect((await update).rowCount).toBe(20);
      }
    }
  });
});

describe("a login ends without a role of login_roles:", () => {
  it.each([
    ["no row", user(9), undefined],
    ["NULL", user(1), null],
    ["a superuser", user(1), "postgres"],
    ["resolver_user", user(1), "resolver"],
    ["a role that is not there", user(1), "nobody"],
    ["a role in another spelling", user(1), "READER"],
  ])("%s", async (_what, value, role) => {
    await stage.sql("ALTER TABLE org_members ALTER role DROP NOT NULL");
    if (role !== undefined) await stage.sql("UPDATE org_members SET role = $1 WHERE user_id = $2", [role, value]);
    const proxy = await proxyOf();
    const error = await errorOf(proxy.connect(value, asClient));
    expect(error).toMatchObject({ code: "28000", message: "the session context could not be resolved" });
    const detail = proxy.log.findLast((line) => line["code"] === "resolver_failed")?.["detail"];
    expect(detail).toBe(`role ${role ?? "NULL"} is not one of login_roles`);
  });
});

it("pgvpd explain says which role it is, or that there is none", async () => {
  const explained = async (value: string): Promise<unknown> => {
    const config = configFromSettings(stage.settings({ place: "dedicated", toml: OF_ROLE, settings: SETTINGS }));
    const log = createLogger({ level: "off", format: "json" });
    const { identity, verdict } = await explainLogin(`app_user.${value}`, "plain", config, log);
    return [verdict, identity?.loginRole];
  };
  expect(await explained(user(2))).toEqual(["accepted", "writer"]);
  expect(await explained(user(9))).toEqual(["refused", "app_user"]);
});

it("nothing is asked for who does not know the password", async () => {
  const proxy = await proxyOf();
  expect(await errorOf(proxy.connect(user(1), { password: "wrong" }))).toMatchObject({ code: "28P01" });
  expect(await proxy.metric("pgvpd_resolver_executions_total")).toBe(0);
});

it("a session ends when its role is another one now, whatever databases others have made up", async () => {
  const proxy = await proxyOf();
  for (let n = 0; n < 101; n++) {
    const login = proxy.connect(user(1), { ...asClient, database: `none_${n}` });
    expect(await errorOf(login)).toMatchObject({ code: "28000" });
  }
  const client = await proxy.connect(user(1), asClient);
  const ended = new Promise((resolve) => {
    client.on("error", (error) => "code" in error && resolve(error.code));
  });
  await stage.sql("UPDATE org_members SET role = 'admin' WHERE user_id = $1", [user(1)]);
  expect(await ended).toBe("57P01");
  await expect.poll(() => proxy.ask(user(1), "SELECT current_user", asClient)).toEqual(["writer"]);
});
