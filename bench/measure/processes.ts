/**
 * CPU time, memory and core of processes, read from /proc. Scenarios read a peer's process group before and after their
 * work; where there is no /proc (macOS) every reading is undefined and the tables show a dash. It never starts or stops
 * a process.
 */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { promisify } from "node:util";

/** Linux counts in hundredths of a second towards user space, whatever the kernel's own tick is. */
const microsecondsPerTick = 10_000;

export interface CpuTime {
  readonly totalUs: number;
  readonly userUs: number;
}

/** CPU time spent so far by all processes of a group, with what their finished children spent. */
export function cpuTime(group: number | undefined): CpuTime | undefined {
  return group === undefined ? undefined : sumOf(processesOf(group));
}

/** The same of a process and its descendants, each of which may lead a group of its own, as PostgreSQL's do. */
export function treeCpuTime(root: number | undefined): CpuTime | undefined {
  if (root === undefined) return undefined;
  const tree = new Set([root, ...descendantsOf(root)]);
  return sumOf(allProcesses().filter(({ pid }) => tree.has(pid)));
}

function sumOf(members: readonly ProcessStat[]): CpuTime | undefined {
  if (members.length === 0) return undefined;
  let userTicks = 0;
  let systemTicks = 0;
  for (const { fields } of members) {
    userTicks += Number(fields[11]) + Number(fields[13]); // utime, cutime
    systemTicks += Number(fields[12]) + Number(fields[14]); // stime, cstime
  }
  return { totalUs: (userTicks + systemTicks) * microsecondsPerTick, userUs: userTicks * microsecondsPerTick };
}

export function cpuSince(before: CpuTime | undefined, group: number | undefined): CpuTime | undefined {
  const now = cpuTime(group);
  if (before === undefined || now === undefined) return undefined;
  return { totalUs: now.totalUs - before.totalUs, userUs: now.userUs - before.userUs };
}

/** KiB of memory that all processes of a group hold, shared pages counted in proportion. */
export function memoryKib(group: number | undefined): number | undefined {
  if (group === undefined) return undefined;
  const members = processesOf(group);
  if (members.length === 0) return undefined;
  return members.reduce((sum, { pid }) => sum + proportionalSetKib(pid), 0);
}

function proportionalSetKib(pid: number): number {
  const rollup = readProc(`${pid}/smaps_rollup`)?.match(/^Pss:\s+(\d+) kB$/m);
  const resident = rollup ?? readProc(`${pid}/status`)?.match(/^VmRSS:\s+(\d+) kB$/m);
  return Number(resident?.[1] ?? 0);
}

/** Moves a process, its threads and its descendants onto the cores of a list such as `1` or `0-3`. */
export async function pin(root: number, cores: string): Promise<void> {
  const run = promisify(execFile);
  for (const pid of [root, ...descendantsOf(root)]) {
    await run("taskset", ["-acp", cores, String(pid)]).catch(() => undefined); // a backend may have left meanwhile
  }
}

function descendantsOf(root: number): number[] {
  const all = allProcesses();
  const found = [root];
  for (const parent of found) {
    for (const { pid, fields } of all) if (Number(fields[1]) === parent) found.push(pid);
  }
  return found.slice(1);
}

interface ProcessStat {
  readonly pid: number;
  /** The fields of /proc/PID/stat from the third on: state, ppid, pgrp, ... */
  readonly fields: readonly string[];
}

function processesOf(group: number): ProcessStat[] {
  return allProcesses().filter(({ fields }) => Number(fields[2]) === group);
}

function allProcesses(): ProcessStat[] {
  return listProc().flatMap((pid) => {
    const fields = statOf(pid);
    return fields === undefined ? [] : [{ pid, fields }];
  });
}

function listProc(): number[] {
  try {
    return readdirSync("/proc").map(Number).filter(Number.isInteger);
  } catch {
    return [];
  }
}

function statOf(pid: number): readonly string[] | undefined {
  const stat = readProc(`${pid}/stat`);
  return stat?.slice(stat.lastIndexOf(")") + 2).split(" "); // a process name may itself hold spaces and parentheses
}

function readProc(path: string): string | undefined {
  try {
    return readFileSync(`/proc/${path}`, "utf8");
  } catch {
    return undefined;
  }
}
