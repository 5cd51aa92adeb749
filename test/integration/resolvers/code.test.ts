/** Resolvers that are functions of the program which embeds pgvpd: beside queries, under the same rules. */
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { CodeResolver, ResolveRequest } from "../../../src/index.ts";
import { errorOf } from "../../support/tenant-fixture.ts";
import { org, startStage, user, type Place, type ProxyOptions, type ResolverProxy, type Stage } from "./stage.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await startStage();
  await stage.reset();
});
afterAll(() => stage[Symbol.asyncDispose]());

async function proxyOf(options: ProxyOptions): Promise<ResolverProxy> {
  const proxy = await stage.proxy(options);
  onTestFinished(() => proxy.stop());
  return proxy;
}

const ORG = `
[[resolver]]
name = "org"
query = "SELECT org_id FROM org_members WHERE user_id = $1"
params = ["app.subject"]
inject = { "app.org_id" = "org_id" }
`;

describe.each<Place>(["dedicated", "session"])("resolvers in code, queries %s", (place) => {
  const proxyWith = (resolver: Partial<CodeResolver> & Pick<CodeResolver, "resolve">): Promise<ResolverProxy> => {
    const whole = { name: "code", params: ["app.user_id"], inject: ["app.subject", "app.teams"], ...resolver };
    return proxyOf({ place, toml: ORG, resolvers: [whole] });
  };

  it("give what queries need, are kept, and see no more than their params", async () => {
    const asked: Omit<ResolveRequest, "signal">[] = [];
    const resolve: CodeResolver["resolve"] = ({ signal, ...request }) => {
      expect(signal.aborted).toBe(false);
      asked.push(request);
      return { "app.subject": user(1), "app.teams": [`a"b`, "c,d"] };
    };
    const proxy = await proxyWith({ resolve, cacheTtl: 60 });
    for (let n = 0; n < 2; n++) {
      expect(await proxy.ask("somebody", "SELECT pgvpd_context('app.org_id')")).toEqual([org(1)]);
      expect(await proxy.ask("somebody", "SELECT unnest(pgvpd_context_array('app.teams'))")).toEqual([`a"b`, "c,d"]);
    }
    // Where it is followed what changes, nothing is kept until the listener is there.
    expect(asked[0]).toEqual({ loginRole: "app_user", database: "plain", values: { "app.user_id": "somebody" } });
    expect(await proxy.metric("pgvpd_resolver_executions_total", { resolver: "code" })).toBe(asked.length);
    expect(await proxy.metric("pgvpd_resolver_duration_seconds", { resolver: "code", le: "+Inf" })).toBe(asked.length);
  });

  it.each<[string, CodeResolver["resolve"]]>([
    ["nothing", () => undefined],
    ["an object without its outputs", () => ({})],
    ["null", () => Promise.resolve({ "app.subject": null })],
    ["empty text", () => ({ "app.subject": "" })],
    ["an output that is not its own", () => ({ "app.org_id": org(2), "app.user_id": user(1) })],
  ])("that give %s leave their variables unset, and what needs them does not run", async (_what, resolve) => {
    const proxy = await proxyWith({ resolve });
    expect(await proxy.ask("somebody", "SELECT pgvpd_context('app.org_id')")).toEqual([null]);
    const required = await proxyWith({ resolve, required: true });
    expect(await errorOf(required.connect("somebody"))).toMatchObject({ code: "28000" });
  });

  it.each<[string, CodeResolver["resolve"], string]>([
    ["fails", () => Promise.reject(new Error("the service is away")), "the service is away"],
    [
      "fails at once",
      () => {
        throw new Error("at once");
      },
      "at once",
    ],
    ["takes too long", () => new Promise(() => {}), "it took too long"],
    ["gives a number", () => ({ "app.subject": 7 }) as never, "app.subject: expected text"],
    ["gives a NUL", () => ({ "app.subject": "a\0b" }), "app.subject: expected text"],
    ["gives a list with null", () => ({ "app.teams": ["a", null] }) as never, "app.teams: expected text"],
  ])("that %s ends the login, and the log alone knows why", async (_what, resolve, why) => {
    const proxy = await proxyWith({ resolve, timeout: 0.1 });
    const error = await errorOf(proxy.connect("somebody"));
    expect(error).toMatchObject({ code: "28000", message: "the session context could not be resolved" });
    const detail = proxy.log.findLast((line) => line["code"] === "resolver_failed")?.["detail"];
    expect(detail).toContain(`resolver code: ${why}`);
    expect(await proxy.metric("pgvpd_resolver_errors_total", { resolver: "code" })).toBe(1);
  });
});
