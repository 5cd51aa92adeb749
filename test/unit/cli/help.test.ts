/** `pgvpd --help`, `pgvpd help COMMAND` and `pgvpd --version`. */
import { readFileSync } from "node:fs";
import { describe, expect, it, vi } from "vitest";
import { help, renderHelp } from "../../../src/cli/help.ts";
import { version } from "../../../src/cli/version.ts";
import { readVersion } from "../../../src/lib/version.ts";
import { settingList } from "../../../src/config/settings.ts";
import { ConfigError } from "../../../src/config/config-error.ts";

async function outputOf(command: () => Promise<number>): Promise<string> {
  const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  try {
    expect(await command()).toBe(0);
    return write.mock.calls.map(([text]) => String(text)).join("");
  } finally {
    write.mockRestore();
  }
}

describe("pgvpd --help", () => {
  it("has every setting of this version with its flag, its default and what it means", () => {
    const text = renderHelp(110).replace(/\s+/g, " ");
    for (const [, { flag, env, doc, default: kept }] of settingList) {
      const given = flag === undefined ? env : `--${flag}`;
      expect(text).toContain(` ${given} ${doc}${kept === "" ? "" : ` (default ${kept})`}`);
    }
  });

  it("has the variable of a secret, which has no flag", () => {
    const lines = renderHelp(110).split("\n");
    expect(lines.some((line) => line.startsWith("      PGVPD_POOL_PASSWORD   One password"))).toBe(true);
    expect(lines).toContain("      PGVPD_UPSTREAM_PASSWORD");
    expect(renderHelp(110)).not.toMatch(/--(pool|upstream)-password |undefined/);
  });

  it.each([80, 100])("fits a terminal of %i columns", (columns) => {
    for (const line of renderHelp(columns).split("\n")) expect(line.length, line).toBeLessThanOrEqual(columns);
  });

  it("is as wide for a narrower or wider terminal as can be read", () => {
    expect(renderHelp(20)).toBe(renderHelp(60));
    expect(renderHelp(400)).toBe(renderHelp(110));
  });
});

describe("pgvpd help COMMAND", () => {
  it.each(["serve", "check", "doctor", "explain", "key", "demo", "sql", "credential", "token", "help", "version"])(
    "says how %s is used",
    async (command) => {
      expect(await outputOf(() => help([command]))).toMatch(new RegExp(`^Usage: pgvpd \\[?${command}`));
    },
  );

  it("refuses what is no command", async () => {
    await expect(help(["toString"])).rejects.toThrow(
      'there is no command "toString": the commands are serve, check, doctor, explain, key, demo, sql, credential, token, help, version',
    );
    await expect(help(["serve", "now"])).rejects.toThrow(ConfigError);
  });
});

describe("pgvpd --version", () => {
  it("prints the version of package.json", async () => {
    const manifest = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
      version: string;
    };
    expect(readVersion()).toBe(manifest.version);
    expect(await outputOf(() => version([]))).toBe(`pgvpd ${manifest.version}\n`);
  });

  it("takes no arguments", async () => {
    await expect(version(["x"])).rejects.toThrow('unexpected argument "x"');
  });
});
