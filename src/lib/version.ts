/**
 * The version, as package.json has it. The file lies two folders up, from src/ as from dist/.
 */
import { readFileSync } from "node:fs";

/** `2.0.0-alpha.1`. */
export function readVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
