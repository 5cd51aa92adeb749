/** `pgvpd key`: what each action does to the file and prints, and what it refuses. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { key, keyUsage } from "../../../src/cli/key.ts";
import { ConfigError } from "../../../src/config/config-error.ts";
import { readSealKeys, renderKeyInstallation } from "../../../src/config/seal-keys.ts";

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "pgvpd-key-"));
  file = path.join(folder, "context.key");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
beforeEach(() => rmSync(file, { force: true }));

/** What it writes to standard output and to standard error. */
async function run(...args: string[]): Promise<{ out: string; said: string }> {
  const out = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  const said = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  const written = (spy: typeof out): string => spy.mock.calls.map(([text]) => String(text)).join("");
  try {
    expect(await key(args)).toBe(0);
    return { out: written(out), said: written(said) };
  } finally {
    out.mockRestore();
    said.mockRestore();
  }
}
const kids = (): number[] => readSealKeys(file).map(({ kid }) => kid);

describe("pgvpd key", () => {
  it("create, rotate, install and retire make one life of a key; only install writes to standard output", async () => {
    expect(await run("create", "--file", file)).toEqual({
      out: "",
      said: `wrote ${file} with key 1: now pgvpd key install --file ${file} | psql -v ON_ERROR_STOP=1 -d your_database\n`,
    });
    expect(kids()).toEqual([1]);
    expect(await run("rotate", "--file", file)).toEqual({
      out: "",
      said: "added key 2: install it before pgvpd is reloaded\n",
    });
    expect(kids()).toEqual([1, 2]);
    expect(await run("install", "--file", file)).toEqual({ out: renderKeyInstallation(readSealKeys(file)), said: "" });
    expect(await run("retire", "--file", file)).toEqual({
      out: "",
      said: `${file} holds key 2 alone: install it, and the database refuses the others\n`,
    });
    expect(kids()).toEqual([2]);
    await run("rotate", "--file", file);
    expect(kids()).toEqual([2, 3]);
  });

  it("says no key but in the SQL", async () => {
    const said = (await run("create", "--file", file)).said + (await run("rotate", "--file", file)).said;
    for (const { bytes } of readSealKeys(file)) expect(said).not.toContain(bytes.toString("base64").slice(0, 8));
  });

  it("create overwrites nothing", async () => {
    writeFileSync(file, "precious\n", { mode: 0o600 });
    await expect(key(["create", "--file", file])).rejects.toThrow(
      `${file} exists already: pgvpd key rotate adds a key`,
    );
    expect(readFileSync(file, "utf8")).toBe("precious\n");
  });

  it.each(["rotate", "install", "retire"])(
    "%s without a file, or with a broken one, says so and writes nothing",
    async (action) => {
      await expect(key([action, "--file", file])).rejects.toThrow(`${file}: there is no such file`);
      expect(existsSync(file)).toBe(false);
      writeFileSync(file, "1 broken\n", { mode: 0o600 });
      await expect(key([action, "--file", file])).rejects.toThrow(`${file}:1: expected`);
      expect(readFileSync(file, "utf8")).toBe("1 broken\n");
    },
  );

  it.each([
    [[], "expected one of create, rotate, retire, install"],
    [["drop", "--file", "x"], "expected one of"],
    [["toString", "--file", "x"], "expected one of"],
    [["create", "rotate", "--file", "x"], "expected one of"],
    [["create"], "--file: expected the path of context_key_file"],
    [["create", "--fille", "x"], "Unknown option '--fille'"],
  ])("refuses %j", async (args, text) => {
    const error: unknown = await key(args).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ConfigError);
    expect((error as ConfigError).problems.join("\n")).toContain(text);
  });

  it("names every action in its usage, and the order of a change", () => {
    for (const action of ["create", "install", "rotate", "retire"])
      expect(keyUsage).toMatch(new RegExp(`^  ${action} `, "m"));
    const steps = [...keyUsage.matchAll(/pgvpd key (\w+) --file|kill -(HUP)/g)].map(
      ([, action, signal]) => action ?? signal,
    );
    expect(steps).toEqual(["rotate", "install", "HUP", "retire", "install"]);
  });
});
