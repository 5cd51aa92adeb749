/**
 * `pgvpd serve`: runs the proxy until a signal ends it. The first SIGTERM or SIGINT drains: no new connection, those that
 * are open may finish within `drain_timeout`. A second signal closes at once.
 */
import { systemClock } from "../lib/clock.ts";
import { createLogger, flushLog, type Logger } from "../observe/logger.ts";
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
    // The way of a signal: the program ends when it has drained.
    onDrainAsked: () => process.emit("SIGTERM", "SIGTERM"),
  });
  const starting = proxy.start();
  process.on("SIGHUP", () => reload(proxy, log));
  const drained = drainOnSignal(proxy, starting, log);
  for (const address of await starting) log.info(address, "listening");
  await drained;
  log.info("stopped");
  await flushLog(log);
  return 0;
}

/** All of it, or nothing: a file that cannot be used changes nothing. */
function reload(proxy: ProxyServer, log: Logger): void {
  try {
    proxy.reload();
  } catch (error) {
    log.error(`could not reload, everything stays as it was: ${(error as Error).message}`);
  }
}

/** Resolves when a signal has come, however early, and every session has ended. */
function drainOnSignal(proxy: ProxyServer, starting: Promise<unknown>, log: Logger): Promise<void> {
  return new Promise((resolve) => {
    let isDraining = false;
    let report: Disposable | undefined;
    const reportLeft = (): void => {
      log.info({ connections: proxy.sessionCount }, "draining: waiting for the connections that are open");
      report = systemClock.after(REPORT_EVERY_MS, reportLeft);
    };
    const drain = async (): Promise<void> => {
      // A start that fails is serve's to report.
      await starting.catch(() => {});
      await proxy.drain();
      report?.[Symbol.dispose]();
      resolve();
    };
    const stop = (signal: NodeJS.Signals): void => {
      if (isDraining) {
        log.warn({ signal, connections: proxy.sessionCount }, "second signal: closing now");
        void proxy.closeNow();
        return;
      }
      isDraining = true;
      log.info({ signal }, "stopping: no new connections");
      if (proxy.sessionCount > 0) reportLeft();
      void drain();
    };
    process.on("SIGTERM", stop);
    process.on("SIGINT", stop);
  });
}
