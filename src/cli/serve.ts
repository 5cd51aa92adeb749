/**
 * `pgvpd serve`: runs the proxy until a signal ends it. The first SIGTERM or SIGINT drains: no new connection, those that
 * are open may finish within `drain_timeout`. A second signal closes at once.
 */
import type { Config } from "../config/settings.ts";
import { systemClock } from "../lib/clock.ts";
import { createLogger, flushLog, type Logger } from "../observe/logger.ts";
import type { ListenAddress } from "../proxy/listen/listener.ts";
import { ProxyServer } from "../runtime/proxy.ts";
import { configFromArguments } from "./args.ts";

/** While it drains, the log tells this often how many connections are left. */
const REPORT_EVERY_MS = 5_000;

/** @returns the exit code: 0 after a drain, 1 when the proxy could not start. */
export async function serve(args: readonly string[]): Promise<number> {
  const { config, effective, warnings } = configFromArguments(args);
  const log = createLogger({ level: config.logLevel, format: config.logFormat });
  for (const warning of warnings) log.warn(warning);

  const proxy = new ProxyServer(config, log, {
    settings: effective,
    readConfig: () => configFromArguments(args),
    onDrainAsked: () => stop.begin("the HTTP API"),
  });
  const starting = start(proxy, config, log);
  const stop = new Stop(proxy, starting, log);
  process.on("SIGHUP", () => reload(proxy, log));
  process.on("SIGTERM", (signal) => stop.signal(signal));
  process.on("SIGINT", (signal) => stop.signal(signal));
  for (const address of await starting) log.info(address, "listening");
  await stop.done;
  log.info("stopped");
  await flushLog(log);
  return 0;
}

/** With doctor's code loaded only where it is asked for. */
async function start(proxy: ProxyServer, config: Config, log: Logger): Promise<readonly ListenAddress[]> {
  if (config.doctor !== "off") await (await import("../doctor/at-start.ts")).examineAtStart(config, log);
  return proxy.start();
}

/** All of it, or nothing: a file that cannot be used changes nothing. */
function reload(proxy: ProxyServer, log: Logger): void {
  try {
    proxy.reload();
  } catch (error) {
    log.error(`could not reload, everything stays as it was: ${(error as Error).message}`);
  }
}

/** The way to the end: a drain, which a second signal cuts short. Who asks by the HTTP API, however often, cuts nothing. */
class Stop {
  readonly #proxy: ProxyServer;
  readonly #starting: Promise<unknown>;
  readonly #log: Logger;
  #isDraining = false;
  #signals = 0;
  #report: Disposable | undefined;
  /** Resolves when a drain has been asked for, however early, and every session has ended. */
  readonly done: Promise<void>;
  #resolve!: () => void;

  constructor(proxy: ProxyServer, starting: Promise<unknown>, log: Logger) {
    this.#proxy = proxy;
    this.#starting = starting;
    this.#log = log;
    this.done = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  signal(signal: NodeJS.Signals): void {
    this.#signals += 1;
    if (this.#signals === 1) return this.begin(signal);
    this.#log.warn({ signal, connections: this.#proxy.sessionCount }, "second signal: closing now");
    void this.#proxy.closeNow();
  }

  begin(signal: string): void {
    if (this.#isDraining) return;
    this.#isDraining = true;
    this.#log.info({ signal }, "stopping: no new connections");
    if (this.#proxy.sessionCount > 0) this.#reportLeft();
    void this.#drain();
  }

  async #drain(): Promise<void> {
    // A start that fails is serve's to report.
    await this.#starting.catch(() => {});
    await this.#proxy.drain();
    this.#report?.[Symbol.dispose]();
    this.#resolve();
  }

  #reportLeft(): void {
    this.#log.info({ connections: this.#proxy.sessionCount }, "draining: waiting for the connections that are open");
    this.#report = systemClock.after(REPORT_EVERY_MS, () => this.#reportLeft());
  }
}
