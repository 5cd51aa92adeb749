/** docs/resolvers.md and resolvers.toml.example do what they say: what stands in boxes is run, in its order. */
import { readFileSync } from "node:fs";
import { Client } from "pg";
import { expect, it } from "vitest";
import { checkResolvers } from "../../../src/check/check-resolvers.ts";
import { explainLogin } from "../../../src/check/explain-login.ts";
import { formatFinding } from "../../../src/check/finding.ts";
import { renderExplanation } from "../../../src/cli/explain.ts";
import { configFromSettings } from "../../../src/config/load.ts";
import { parseResolvers } from "../../../src/config/resolvers-file.ts";
import type { CodeResolver, SettingValues } from "../../../src/index.ts";
import { createLogger } from "../../../src/observe/logger.ts";
import { Metrics } from "../../../src/observe/metrics.ts";
import { startStage } from "./stage.ts";

const read = (name: string): string => readFileSync(new URL(`../../../${name}`, import.meta.url), "utf8");

/** Boxes of the page, with what they are. */
const boxes = [...read("docs/resolvers.md").matchAll(/^```(\w+)\n([^]*?)^```$/gm)].map(([, kind, text]) => ({
  kind: kind ?? "",
  text: text ?? "",
}));
const textOf = (kind: string): string[] => boxes.filter((box) => box.kind === kind).map(({ text }) => text);

const settingsIn = (text: string): SettingValues =>
  Object.fromEntries(
    text
      .trim()
      .split("\n")
      .map((line) => line.split(" = ") as [string, string])
      .filter(([name]) => name !== "resolvers"),
  );

const FIRST = "11111111-1111-1111-1111-111111111111";
const SECOND = "22222222-2222-2222-2222-222222222222";

it("docs/resolvers.md is true", async () => {
  await using stage = await startStage();
  await stage.sql("CREATE DATABASE mydb TEMPLATE postgres", [], "template1");
  // The page creates this role itself.
  for (const database of ["plain", "sealed"]) await stage.sql("DROP OWNED BY resolver", [], database);
  const admin = new Client({ connectionString: stage.server.url("mydb") });
  await admin.connect();
  await admin.query("DROP ROLE resolver");
  await admin.query(read("sql/resolvers.sql"));
  const [tables, acl, role, rows, triggers, withdrawal, roles] = textOf("sql");
  const [chain = "", roleChain = ""] = textOf("toml");
  const [ini = "", roleIni = ""] = textOf("ini");
  const run = async (...statements: (string | undefined)[]): Promise<void> => {
    for (const text of statements) await admin.query(text ?? "");
  };
  const inMydb = { database: "mydb" };

  await run(tables, acl, role, rows);
  const options = { place: "dedicated", toml: chain, settings: settingsIn(ini) } as const;
  const config = configFromSettings(stage.settings(options));
  const [checked = "", explained = ""] = textOf("text");
  const findings = await checkResolvers(config, "mydb");
  const lines = findings
    .map(formatFinding)
    .join("")
    .replace(config.resolvers ?? "", "resolvers.toml");
  expect(lines.slice(0, checked.length)).toBe(checked);
  const withoutTimes = (text: string): string => text.replaceAll(/[0-9.]+ ms/g, "N ms");
  const log = createLogger({ level: "off", format: "json" });
  const explanation = renderExplanation(await explainLogin(`app_user.${FIRST}`, "mydb", config, log));
  expect(withoutTimes(explanation)).toBe(withoutTimes(explained));

  const { plan } = (await import(`data:text/javascript,${encodeURIComponent(textOf("js")[0] ?? "")}`)) as {
    plan: CodeResolver;
  };
  const proxy = await stage.proxy({ ...options, resolvers: [plan] });
  const ids = (user: string): Promise<unknown[]> => proxy.ask(user, "SELECT id FROM cases ORDER BY id", inMydb);
  expect([await ids(FIRST), await ids(SECOND), await ids(FIRST.replaceAll("1", "9"))]).toEqual([[1, 3], [1, 2], []]);
  expect(await proxy.ask(FIRST, "SELECT pgvpd_context('app.plan')", inMydb)).toEqual(["gold"]);
  expect(await proxy.ask(FIRST, "SELECT unnest(pgvpd_context_array('app.features'))", inMydb)).toHaveLength(2);
  await run(triggers, withdrawal);
  await expect.poll(() => ids(FIRST)).toEqual([1]);

  await run(roles);
  const settings = { ...settingsIn(ini), ...settingsIn(roleIni) };
  const choosing = await stage.proxy({ place: "dedicated", toml: chain + roleChain, settings });
  const client = { ...inMydb, password: "the password of clients" };
  const whoAmI = "SELECT session_user || ' ' || current_user";
  expect(await choosing.ask(FIRST, whoAmI, client)).toEqual(["member member"]);
  expect(await choosing.ask(SECOND, whoAmI, client)).toEqual(["admin admin"]);
  await admin.end();
});

it("the metrics of docs/resolvers.md are those that there are", async () => {
  const [, section = ""] = read("docs/resolvers.md").split("\n## Metrics\n");
  const told = [...section.matchAll(/`(pgvpd_\w+)/g)].map(([, name]) => name);
  const there = (await new Metrics().registry.getMetricsAsJSON()).map(({ name }) => name);
  expect(new Set(told)).toEqual(new Set(there.filter((name) => name.startsWith("pgvpd_resolver_"))));
});

it("resolvers.toml.example is a file that pgvpd reads", () => {
  const plan = parseResolvers(read("resolvers.toml.example"), "resolvers.toml.example", ["app.current_user_id"]);
  expect(plan.map((level) => level.map(({ name }) => name))).toEqual([["org_membership"], ["granted_cases"]]);
});
