/**
 * The demo as a child process of a test: the built program, its output as it comes, and a folder of its own for data.
 */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, mkdtemp, readFile, rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { serverAccount, type ServerAccount } from "../../../src/demo/server-account.ts";

const program = path.join(import.meta.dirname, "../../../dist/main.js");

/** Environment of every child: what a shell would give, and a DATABASE_URL that leads nowhere. */
const environment = {
  PATH: process.env["PATH"] ?? "",
  HOME: "/nonexistent",
  DATABASE_URL: "postgres://inherited:secret@127.0.0.1:1/production",
};

export interface Ending {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A user who is not root: `nobody` where the tests run as root, else ourselves. */
export async function unprivilegedUser(): Promise<ServerAccount> {
  return serverAccount();
}

/** Can that user run the built program at all? Not in a checkout below a closed home. */
export function canRun(user: ServerAccount): boolean {
  return spawnSync(process.execPath, [program, "--version"], { ...user, cwd: "/", env: environment }).status === 0;
}

/** A folder for `--data-dir` that `user` may write to; removed when disposed of. */
export async function demoDataFolder(user: ServerAccount = {}): Promise<{ path: string } & AsyncDisposable> {
  const folder = await mkdtemp(path.join(tmpdir(), "pgvpd-demo-test-"));
  await chmod(folder, 0o711);
  if (user.uid !== undefined) await chown(folder, user.uid, user.gid ?? user.uid);
  return {
    path: path.join(folder, "data"),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true, maxRetries: 20 }),
  };
}

/** Runs a command of the program to its end. */
export async function runProgram(args: readonly string[], user: ServerAccount = {}): Promise<Ending> {
  return new DemoProcess(args, user).ended;
}

export class DemoProcess implements AsyncDisposable {
  readonly ended: Promise<Ending>;
  readonly #child: ChildProcess;
  #stdout = "";
  #stderr = "";

  constructor(args: readonly string[], user: ServerAccount = {}) {
    const child = spawn(process.execPath, [program, ...args], {
      ...user,
      cwd: "/",
      env: environment,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#child = child;
    child.stdout.setEncoding("utf8").on("data", (text: string) => (this.#stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (this.#stderr += text));
    this.ended = once(child, "close").then(() => ({
      code: child.exitCode,
      signal: child.signalCode,
      stdout: this.#stdout,
      stderr: this.#stderr,
    }));
  }

  get stdout(): string {
    return this.#stdout;
  }

  /** Resolves when the demo has said that it is ready for visitors; rejects when it ends before. */
  async isReady(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const look = (): void => {
        if (this.#stdout.includes("Ctrl-C ends the demo")) resolve();
      };
      this.#child.stdout?.on("data", look);
      void this.ended.then((ending) => reject(new Error(`the demo ended: ${ending.stdout}${ending.stderr}`)));
      look();
    });
  }

  signal(name: NodeJS.Signals): Promise<Ending> {
    this.#child.kill(name);
    return this.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.signal("SIGTERM"); // not SIGKILL: the server would still be ending when its folder is removed
  }
}

/** The embedded server of a demo: its pid and port, as postmaster.pid has them. */
export async function embeddedServer(dataFolder: string): Promise<{ pid: number; port: number }> {
  const lines = (await readFile(path.join(dataFolder, "postgres-18/postmaster.pid"), "utf8")).split("\n");
  return { pid: Number(lines[0]), port: Number(lines[3]) };
}

/** Whether somebody listens on a port of 127.0.0.1. */
export function isListening(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
