/** The source as text, for the tests that hold the house rules: files, what they import, and their code without comments. */
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

export const SOURCE_FOLDER = path.join(import.meta.dirname, "../../src");

interface Import {
  /** A path below src, or the name of a package or of a module of Node's. */
  readonly from: string;
  readonly isTypeOnly: boolean;
  /** Names of the values that are imported. */
  readonly values: readonly string[];
}

export interface SourceFile {
  /** Below src, with slashes. */
  readonly path: string;
  readonly text: string;
  readonly code: string;
  readonly imports: readonly Import[];
}

const STATEMENT =
  /^(?:import|export)\s+(type\s+)?([^;"']*?)\s*from\s+["']([^"']+)["']|^import\s+["']([^"']+)["']|\bimport\(["']([^"']+)["']\)/gm;

export function readSource(): SourceFile[] {
  const files = readdirSync(SOURCE_FOLDER, { recursive: true, encoding: "utf8" });
  return files
    .filter((file) => file.endsWith(".ts"))
    .map((file) => file.split(path.sep).join("/"))
    .toSorted()
    .map((file) => {
      const text = readFileSync(path.join(SOURCE_FOLDER, file), "utf8");
      const code = text.replaceAll(/\/\*[^]*?\*\//g, "").replaceAll(/(^|\s)\/\/ .*$/gm, "");
      return { path: file, text, code, imports: importsOf(file, code) };
    });
}

function importsOf(file: string, code: string): Import[] {
  return [...code.matchAll(STATEMENT)].map(([, type, names = "", from, bare, dynamic]) => {
    const target = from ?? bare ?? dynamic ?? "";
    const values = names
      .replaceAll(/[{}]/g, " ")
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== "" && !name.startsWith("type "));
    return {
      from: target.startsWith(".") ? path.posix.join(path.posix.dirname(file), target) : target,
      isTypeOnly: type !== undefined || (names !== "" && values.length === 0),
      values: type === undefined ? values : [],
    };
  });
}
