/**
 * What another process is. A pid in a file that outlived its writer may belong to any program by now, so whoever acts on
 * one asks here first. Works without `ps` on Linux: slim images have none.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";

const run = promisify(execFile);

/** The command line of a process, its arguments separated by spaces; empty where there is no such process. */
export async function commandOf(pid: number): Promise<string> {
  try {
    const command = await readFile(`/proc/${pid}/cmdline`, "utf8");
    return command.replaceAll("\0", " ").trimEnd();
  } catch {
    const listed = await run("ps", ["-o", "args=", "-p", String(pid)]).catch(() => undefined);
    return listed?.stdout.trimEnd() ?? "";
  }
}
