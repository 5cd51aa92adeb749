/**
 * The program's log: pino, one JSON line an event on stdout, or readable lines on a terminal. No SQL, parameter,
 * password or authentication payload is ever given to it. Control characters in values that clients choose stay
 * escaped. Lines that a blocked stdout does not take are dropped beyond 1 MiB, so that a reader cannot stop the proxy.
 */
import { pino, type Logger } from "pino";
import { PinoPretty } from "pino-pretty";

export type { Logger } from "pino";

const MAX_BUFFERED_LOG_BYTES = 1024 * 1024;

export interface LoggerOptions {
  readonly level: "trace" | "debug" | "info" | "warn" | "error" | "off";
  /** `auto` is `pretty` where stdout is a terminal, else `json`. */
  readonly format: "auto" | "json" | "pretty";
}

/** pino's name of a level of ours. */
export function pinoLevel(level: LoggerOptions["level"]): string {
  return level === "off" ? "silent" : level;
}

export function createLogger({ level, format }: LoggerOptions): Logger {
  const options = {
    level: pinoLevel(level),
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  if (format === "pretty" || (format === "auto" && process.stdout.isTTY)) {
    return pino(options, PinoPretty({ sync: true, ignore: "time", colorize: process.stdout.isTTY }));
  }
  // With a minLength, if only of 1, `flush` waits for what is being written, and hears of a stdout that is gone.
  return pino(options, pino.destination({ dest: 1, sync: false, minLength: 1, maxLength: MAX_BUFFERED_LOG_BYTES }));
}

/**
 * Writes out what the log still holds; for the moment before the process ends: an exit that comes earlier would try for
 * ever to write to a stdout whose reader is gone.
 */
export function flushLog(logger: Logger): Promise<void> {
  return new Promise((resolve) => logger.flush(() => resolve()));
}
