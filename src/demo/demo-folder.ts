/**
 * The demo's folder: its database between runs, its passwords, and the record of the demo that runs now, from which
 * `pgvpd sql` learns where to connect. One demo at a time: the record is the lock.
 * Used by the demo and by `pgvpd sql`. Everything in it is readable by its owner alone.
 */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, rm, writeFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import path from "node:path";
import { createKeyFile } from "../config/seal-keys.ts";
import { commandOf } from "./process-table.ts";
import { firstOwnFolder } from "./server-account.ts";

/** Made once per folder; `--fresh` makes new ones. */
export interface DemoPasswords {
  /** Of the embedded server's superuser. */
  readonly superuser: string;
  /** Of the role that tenants log in as. */
  readonly application: string;
}

/** How to reach the demo that runs. */
export interface RunningDemo {
  readonly pid: number;
  readonly port: number;
  readonly database: string;
  readonly role: string;
  readonly password: string;
}

/** A folder that is ours until it is disposed of. */
export interface DemoFolder extends AsyncDisposable {
  readonly path: string;
  readonly passwords: DemoPasswords;
  /** A file with the key that the context is sealed with. */
  readonly keyFile: string;
  /** From now on `pgvpd sql` finds the demo. */
  announce(demo: Omit<RunningDemo, "pid">): Promise<void>;
}

/** What a demo has written before it listens. */
type Record = Pick<RunningDemo, "pid"> & Partial<RunningDemo>;

/** The folder that was named, or this user's own. */
export async function locateDemoFolder(named: string | undefined): Promise<string> {
  if (named !== undefined) return firstOwnFolder([path.resolve(named)]);
  const uid = process.getuid?.() ?? "user";
  const temporary = path.join(tmpdir(), `pgvpd-demo-${uid}`); // where there is no home: a service account, a container
  // Root's home is closed to the account that PostgreSQL runs as.
  return firstOwnFolder([
    uid === 0 ? "/var/lib/pgvpd-demo" : path.join(homedir(), ".local/share/pgvpd/demo"),
    temporary,
  ]);
}

/** Takes the folder for this process. Throws where a demo runs in it already. `isFresh` forgets the earlier demo. */
export async function openDemoFolder(folder: string, isFresh: boolean): Promise<DemoFolder> {
  const record = path.join(folder, "running.json");
  await lock(record, folder);
  const keyFile = path.join(folder, "context.key");
  if (isFresh) for (const file of [path.join(folder, "passwords.json"), keyFile]) await rm(file, { force: true });
  if (!existsSync(keyFile)) createKeyFile(keyFile);
  return {
    path: folder,
    keyFile,
    passwords: await readPasswords(path.join(folder, "passwords.json")),
    announce: (demo) => writeSecret(record, { ...demo, pid: process.pid }),
    [Symbol.asyncDispose]: () => rm(record, { force: true }),
  };
}

/** The demo that runs in this folder, or undefined. */
export async function findRunningDemo(folder: string): Promise<RunningDemo | undefined> {
  const demo = await readRecord(path.join(folder, "running.json"));
  return demo !== undefined && isComplete(demo) && (await isDemo(demo.pid)) ? demo : undefined;
}

async function lock(record: string, folder: string): Promise<void> {
  for (;;) {
    try {
      await writeFile(record, JSON.stringify({ pid: process.pid }), { mode: 0o600, flag: "wx" });
      return;
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    }
    const other = await readRecord(record);
    if (other !== undefined && (await isDemo(other.pid))) {
      const where = other.port === undefined ? "" : ` on port ${other.port}`;
      throw new Error(
        `a demo runs already${where} (pid ${other.pid}); stop it, or give this one a folder of its own with --data-dir DIR ` +
          `(${folder} is taken)`,
      );
    }
    await rm(record, { force: true }); // of a demo that was killed
  }
}

/** A pid may belong to another program by now. */
async function isDemo(pid: number): Promise<boolean> {
  return pid !== process.pid && / demo( |$)/.test(await commandOf(pid));
}

function isComplete(demo: Record): demo is RunningDemo {
  return demo.port !== undefined && demo.password !== undefined;
}

async function readRecord(file: string): Promise<Record | undefined> {
  const text = await readFile(file, "utf8").catch(() => "");
  if (text === "") return undefined;
  const record: Record = JSON.parse(text);
  return record;
}

async function readPasswords(file: string): Promise<DemoPasswords> {
  const text = await readFile(file, "utf8").catch(() => undefined);
  if (text !== undefined) {
    const known: DemoPasswords = JSON.parse(text);
    return known;
  }
  const passwords = { superuser: randomPassword(), application: randomPassword() };
  await writeSecret(file, passwords);
  return passwords;
}

function randomPassword(): string {
  return randomBytes(18).toString("base64url");
}

async function writeSecret(file: string, content: unknown): Promise<void> {
  await writeFile(file, `${JSON.stringify(content, null, 2)}\n`, { mode: 0o600 });
}
