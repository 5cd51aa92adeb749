/**
 * The built program as its users run it: `node dist/main.js serve` in a child process, with a configuration file of the
 * test's own, its JSON log read line by line. Signals, exit codes and what stands in the log can be seen from outside.
 * Used by integration tests; those that need no process of their own use createProxy.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";

const program = path.join(import.meta.dirname, "../../dist/main.js");

/** One line of the log: an object, or `{ text }` for a line that is no JSON. */
export type LogLine = Readonly<Record<string, unknown>>;

export interface ProxyProcessOptions {
  /** Lines of the configuration file. `port = 0`, 127.0.0.1 and JSON logs unless they say otherwise. */
  readonly settings?: Readonly<Record<string, string | number | boolean>>;
  /** Further arguments, after `serve --config FILE`. */
  readonly args?: readonly string[];
  /** Environment of the child, on top of PATH alone. */
  readonly env?: Readonly<Record<string, string>>;
  readonly startLimitMs?: number;
}

export interface ProxyExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface ProxyProcess {
  readonly host: "127.0.0.1";
  /** The port of the first "listening" line. */
  readonly port: number;
  readonly pid: number;
  /** Its configuration file, which a test may rewrite. */
  readonly configFile: string;
  readonly log: readonly LogLine[];
  /** What stands on stderr so far. */
  readonly stderr: () => string;
  readonly exited: Promise<ProxyExit>;
  /** The first line, past or future, that `matches`; rejects when the process ends or `limitMs` passes before. */
  waitForLog(matches: (line: LogLine) => boolean, limitMs?: number): Promise<LogLine>;
  /** `postgres://` URL of a user through the proxy. */
  url(user: string, password: string, database: string): string;
  /** Sends the signal (SIGTERM by default) and waits for the end. */
  stop(signal?: NodeJS.Signals): Promise<ProxyExit>;
  kill(): Promise<ProxyExit>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Starts the proxy and resolves when it listens; rejects with what it wrote when it ends before. */
export async function startProxyProcess(options: ProxyProcessOptions = {}): Promise<ProxyProcess> {
  const child = await launchProxy(options);
  try {
    const listening = await child.waitForLog((line) => line["msg"] === "listening", options.startLimitMs);
    const port = Number(listening["port"]);
    return { ...child, port, url: urlOf(port) };
  } catch (error) {
    await child.kill();
    throw error;
  }
}

/** As `startProxyProcess`, without waiting: for a start that has to fail. `port` is 0. */
export async function launchProxy(options: ProxyProcessOptions = {}): Promise<ProxyProcess> {
  if (!existsSync(program)) throw new Error("dist/main.js is missing: npm run build");
  const folder = await mkdtemp(path.join(tmpdir(), "pgvpd-proxy-"));
  const file = path.join(folder, "pgvpd.conf");
  const settings = { listen_host: "127.0.0.1", port: 0, log_format: "json", ...options.settings };
  const text = Object.entries(settings).map(([name, value]) => `${name} = ${value}\n`);
  await writeFile(file, text.join(""), { mode: 0o600 });

  const child = spawn(process.execPath, [program, "serve", "--config", file, ...(options.args ?? [])], {
    env: { PATH: process.env["PATH"] ?? "", ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(child, "close").then(async (): Promise<ProxyExit> => {
    await rm(folder, { recursive: true, force: true });
    return { code: child.exitCode, signal: child.signalCode };
  });
  await once(child, "spawn");
  const log = new ProxyLog(child, exited);
  const stop = (signal: NodeJS.Signals = "SIGTERM"): Promise<ProxyExit> => {
    child.kill(signal);
    return exited;
  };
  return {
    host: "127.0.0.1",
    port: 0,
    pid: child.pid ?? 0,
    configFile: file,
    log: log.lines,
    stderr: () => log.stderr,
    exited,
    waitForLog: (matches, limitMs) => log.waitFor(matches, limitMs),
    url: urlOf(0),
    stop,
    kill: () => stop("SIGKILL"),
    [Symbol.asyncDispose]: async () => {
      await stop("SIGKILL");
    },
  };
}

function urlOf(port: number): ProxyProcess["url"] {
  return (user, password, database) =>
    `postgres://${encodeURIComponent(user)}:${encodeURIComponent(password)}@127.0.0.1:${port}/${encodeURIComponent(database)}`;
}

/** Lines as they come, and those who wait for one. */
class ProxyLog {
  readonly lines: LogLine[] = [];
  stderr = "";
  #end: string | undefined;
  readonly #waiting = new Set<() => void>();

  constructor(child: ChildProcess, exited: Promise<ProxyExit>) {
    if (child.stdout !== null) {
      createInterface({ input: child.stdout }).on("line", (text) => {
        this.lines.push(parseLine(text));
        this.#wake();
      });
    }
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.stderr += text));
    void this.#noteEnd(exited);
  }

  /** Rejects with the whole log, so that a failed test shows what the proxy said. */
  waitFor(matches: (line: LogLine) => boolean, limitMs = 20_000): Promise<LogLine> {
    let seen = 0;
    return new Promise((resolve, reject) => {
      const look = (): void => {
        while (seen < this.lines.length) {
          const line = this.lines[seen++];
          if (line !== undefined && matches(line)) return settle(() => resolve(line));
        }
        if (this.#end !== undefined) settle(() => reject(this.#failure(this.#end ?? "")));
      };
      const timer = setTimeout(() => settle(() => reject(this.#failure(`no such line in ${limitMs} ms`))), limitMs);
      const settle = (action: () => void): void => {
        clearTimeout(timer);
        this.#waiting.delete(look);
        action();
      };
      this.#waiting.add(look);
      look();
    });
  }

  async #noteEnd(exited: Promise<ProxyExit>): Promise<void> {
    const { code, signal } = await exited;
    this.#end = `the proxy ended with ${signal ?? code}`;
    this.#wake();
  }

  #wake(): void {
    for (const look of this.#waiting) look();
  }

  #failure(reason: string): Error {
    const lines = this.lines.map((line) => JSON.stringify(line));
    return new Error([reason, ...lines, this.stderr].join("\n"));
  }
}

function parseLine(text: string): LogLine {
  try {
    const line: LogLine = JSON.parse(text);
    return line;
  } catch {
    return { text };
  }
}
