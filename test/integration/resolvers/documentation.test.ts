/** docs/resolvers.md and resolvers.toml.example do what they say: what stands in boxes is run, in its order. */
import { readFileSync } from "node:fs";
import { Client } from "pg";
import { expect, it } from "vitest";
import { parseResolvers } from "../../../src/config/resolvers-file.ts";
import { startStage } from "./stage.ts";

const read = (name: string): string => readFileSync(new URL(`../../../${name}`, import.meta.url), "utf8");

/** Boxes of the page, with what they are. */
const boxes = [...read("docs/resolvers.md").matchAll(/^```(\w+)\n([^]*?)^```$/gm)].map(([, kind, text]) => ({
  kind: kind ?? "",
  text: text ?? "",
}));
const textOf = (kind: string): string[] => boxes.filter((box) => box.kind === kind).map(({ text }) => text);

it("docs/resolvers.md is true", async () => {
  await using stage = await startStage();
  await stage.sql("CREATE DATABASE documented TEMPLATE postgres", [], "template1");
  // The page creates this role itself.
  for (const database of ["plain", "sealed"]) await stage.sql("DROP OWNED BY resolver", [], database);
  const admin = new Client({ connectionString: stage.server.url("documented") });
  await admin.connect();
  await admin.query("DROP ROLE resolver");
  await admin.query(read("sql/resolvers.sql"));

  const statements = textOf("sql");
  const [toml = ""] = textOf("toml");
  const settings = Object.fromEntries(
    (textOf("ini")[0] ?? "")
      .trim()
      .split("\n")
      .map((line) => line.split(" = ") as [string, string])
      .filter(([name]) => name !== "resolvers"),
  );
  const last = statements.pop() ?? "";
  for (const text of statements) await admin.query(text);

  const proxy = await stage.proxy({ place: "dedicated", toml, settings });
  const ids = (digit: string): Promise<unknown[]> => {
    const name = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".replaceAll("x", digit);
    return proxy.ask(name, "SELECT id FROM cases ORDER BY id", { database: "documented" });
  };
  expect([await ids("1"), await ids("2"), await ids("9")]).toEqual([[1, 3], [1, 2], []]);
  await admin.query(last);
  await expect.poll(() => ids("1")).toEqual([1]);
  await admin.end();
});

it("resolvers.toml.example is a file that pgvpd reads", () => {
  const plan = parseResolvers(read("resolvers.toml.example"), "resolvers.toml.example", ["app.current_user_id"]);
  expect(plan.map((level) => level.map(({ name }) => name))).toEqual([["org_membership"], ["granted_cases"]]);
});
