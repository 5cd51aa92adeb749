/**
 * Finds a peer's program and asks for its version. Looks into PATH and the folders where Debian keeps daemons, which an
 * ordinary user's PATH does not hold.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

export function findProgram(name: string): string | undefined {
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

export async function firstLineOf(program: string, flag: string): Promise<string> {
  const { stdout } = await promisify(execFile)(program, [flag]);
  return stdout.split("\n", 1)[0] ?? "";
}
