/**
 * Owns everything the benchmark leaves on the machine while it runs: child processes, a temporary folder, servers.
 * main.ts makes one and cleans it up on every way out; peers and scenarios start their processes through it. It never
 * lets a process outlive the benchmark: each runs in its own process group, which is killed as a whole.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, chmodSync, rmSync, writeFileSync, readFileSync } from "node:fs";
import { createServer, connect, type Server } from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const keptOutputBytes = 16_384;

export interface SpawnOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Run as `nobody` when the benchmark itself runs as root; PgBouncer refuses root. */
  readonly unprivileged?: boolean;
}

export class Child {
  readonly pid: number;
  readonly #process: ChildProcess;
  readonly #exited: Promise<number>;
  #stdout = "";
  #stderr = "";
  #hasExited = false;

  constructor(process: ChildProcess, pid: number) {
    this.pid = pid;
    this.#process = process;
    process.stdout?.on("data", (text: Buffer) => (this.#stdout = keepEnd(this.#stdout + text.toString())));
    process.stderr?.on("data", (text: Buffer) => (this.#stderr = keepEnd(this.#stderr + text.toString())));
    this.#exited = once(process, "close").then(([code]) => {
      this.#hasExited = true;
      return typeof code === "number" ? code : -1;
    });
  }

  /** The exit code, or -1 after a signal; resolves once the output is complete. */
  get exited(): Promise<number> {
    return this.#exited;
  }

  get hasExited(): boolean {
    return this.#hasExited;
  }

  get stdout(): string {
    return this.#stdout;
  }

  /** The end of what it said, for an error message. */
  get lastWords(): string {
    return (this.#stderr + this.#stdout).trim().split("\n").slice(-6).join("\n");
  }

  killGroup(): void {
    try {
      process.kill(-this.pid, "SIGKILL");
    } catch {
      this.#process.kill("SIGKILL"); // the group is gone already, or never came to be
    }
  }
}

function keepEnd(text: string): string {
  return text.length > keptOutputBytes ? text.slice(-keptOutputBytes) : text;
}

export class Workbench {
  readonly folder: string;
  readonly #children = new Set<Child>();
  readonly #closers: (() => Promise<void>)[] = [];
  #cleaning: Promise<void> | undefined;
  #fileCount = 0;

  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), "pgvpd-bench-"));
    chmodSync(this.folder, 0o755); // a peer that gave up root must still read its configuration
    process.once("exit", () => this.#abandon());
  }

  get isClosing(): boolean {
    return this.#cleaning !== undefined;
  }

  /** Writes a configuration file that lives as long as the benchmark. */
  writeFile(name: string, text: string): string {
    return this.#write(name, text, 0o644);
  }

  /** The same for a file that its owner alone may read. */
  writeSecretFile(name: string, text: string): string {
    return this.#write(name, text, 0o600);
  }

  async spawn(command: string, args: readonly string[], options: SpawnOptions = {}): Promise<Child> {
    if (this.isClosing) throw new Error("interrupted");
    const asNobody = options.unprivileged === true && process.getuid?.() === 0 ? nobody() : {};
    const started = spawn(command, args, {
      cwd: "/",
      detached: true,
      env: options.env ?? process.env,
      stdio: ["ignore", "pipe", "pipe"],
      ...asNobody,
    });
    await once(started, "spawn");
    if (started.pid === undefined) throw new Error(`${command} has no process id`);
    const child = new Child(started, started.pid);
    this.#children.add(child);
    void child.exited.then(() => this.#children.delete(child));
    return child;
  }

  /** Runs a command to its end; throws its last words when it fails or takes longer than it may. */
  async run(
    command: string,
    args: readonly string[],
    limitSeconds: number,
    options: SpawnOptions = {},
  ): Promise<string> {
    const child = await this.spawn(command, args, options);
    const timer = setTimeout(() => child.killGroup(), limitSeconds * 1000);
    const code = await child.exited;
    clearTimeout(timer);
    if (code !== 0) throw new Error(`${command} failed (${code}): ${child.lastWords}`);
    return child.stdout;
  }

  /** Called in reverse order on clean-up, after the children are gone; at once when that has begun already. */
  onClose(close: () => Promise<void>): void {
    if (this.isClosing) void close();
    else this.#closers.push(close);
  }

  /** Stops and removes everything; a second call waits for the first one. */
  cleanUp(): Promise<void> {
    return (this.#cleaning ??= this.#clean());
  }

  /** For a file that another program writes. */
  newPath(name: string): string {
    this.#fileCount += 1;
    return join(this.folder, `${this.#fileCount}-${name}`);
  }

  #write(name: string, text: string, mode: number): string {
    const path = this.newPath(name);
    writeFileSync(path, text, { mode });
    return path;
  }

  async #clean(): Promise<void> {
    const children = [...this.#children];
    for (const child of children) child.killGroup();
    await Promise.all(children.map((child) => child.exited));
    for (const close of this.#closers.reverse()) await close().catch(() => undefined);
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** The last resort, synchronous: what an unexpected exit would leave behind. */
  #abandon(): void {
    for (const child of this.#children) child.killGroup();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function nobody(): { uid: number; gid: number } {
  const line = readFileSync("/etc/passwd", "utf8").match(/^nobody:[^:]*:(\d+):(\d+):/m);
  return { uid: Number(line?.[1] ?? 65_534), gid: Number(line?.[2] ?? 65_534) };
}

/** A port that was free a moment ago, on loopback. @param taken another one than this. */
export async function freePort(taken?: number): Promise<number> {
  const server = createServer();
  const port = await listenOnFreePort(server);
  server.close();
  await once(server, "close");
  return port === taken ? freePort(taken) : port;
}

/** Lets a server listen on loopback; returns the port that the system chose. */
export async function listenOnFreePort(server: Server): Promise<number> {
  server.listen({ host: "127.0.0.1", port: 0, backlog: 1024 });
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("a server without a port");
  return address.port;
}

/** Resolves when the child accepts connections; throws its last words when it exits first or never does. */
export async function untilListening(child: Child, port: number, limitSeconds = 15): Promise<void> {
  const deadline = Date.now() + limitSeconds * 1000;
  while (Date.now() < deadline) {
    if (child.hasExited) throw new Error(`exited before it listened: ${child.lastWords}`);
    if (await accepts(port)) return;
    await sleep(50);
  }
  throw new Error(`did not listen within ${limitSeconds} s: ${child.lastWords}`);
}

async function accepts(port: number): Promise<boolean> {
  const socket = connect({ host: "127.0.0.1", port });
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
