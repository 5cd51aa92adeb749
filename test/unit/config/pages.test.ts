/** What is made from the table: the two files are as `npm run generate` writes them, and the example can be used. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { renderDocumentation, renderExampleFile, renderIntoReadme, wrap } from "../../../src/config/render.ts";
import { settingList } from "../../../src/config/settings.ts";
import { load } from "./load-text.ts";

const committed = (name: string): string => readFileSync(new URL(`../../../${name}`, import.meta.url), "utf8");

describe("pgvpd.conf.example", () => {
  it("is what the table says: npm run generate", () => {
    expect(committed("pgvpd.conf.example")).toBe(renderExampleFile());
  });

  it("has the table of README.md made from the table of settings", () => {
    expect(committed("README.md")).toBe(renderIntoReadme(committed("README.md")));
  });

  it("changes nothing as it is, and nothing when every setting is uncommented", () => {
    const example = renderExampleFile();
    const uncommented = example.replace(/^#(?=[a-z])/gm, "");
    expect(load({ file: example }).given).toEqual([]);
    expect(load({ file: uncommented }).given).toHaveLength(settingList.length);
    expect(load({ file: uncommented }).config).toEqual(load({}).config);
  });

  it("has every setting", () => {
    for (const [, { name }] of settingList)
      expect(renderExampleFile()).toContain(`
#${name} =`);
  });
});

describe("docs/configuration.md", () => {
  it("is what the table says: npm run generate", () => {
    expect(committed("docs/configuration.md")).toBe(renderDocumentation());
  });

  it("has every setting with its variable, its flag and its aliases", () => {
    const text = renderDocumentation();
    for (const [, { name, env, flag, aliases }] of settingList) {
      expect(text).toContain(`| \`${name}\` |`);
      expect(text).toContain(`\`${env}\``);
      if (flag !== undefined) expect(text).toContain(`\`--${flag}\``);
      for (const alias of aliases) expect(text).toContain(`| \`${alias}\` | \`${name}\` |`);
    }
  });

  it("has tables whose rows all have the same number of cells", () => {
    const rows = renderDocumentation()
      .split("\n")
      .filter((line) => line.startsWith("| `") && line.includes("PGVPD_"));
    expect(rows).toHaveLength(settingList.length);
    for (const row of rows) expect(row.replaceAll("\\|", "").split("|")).toHaveLength(8);
  });
});

describe("wrap", () => {
  it("breaks at spaces, and leaves a word that is too long whole", () => {
    expect(wrap("aa bb cc", 5)).toEqual(["aa bb", "cc"]);
    expect(wrap("a abcdefgh b", 4)).toEqual(["a", "abcdefgh", "b"]);
  });
});
