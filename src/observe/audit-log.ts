/**
 * Who has done what, for auditors: a JSON line for each login, each end and each change by the HTTP API. Passwords, tokens
 * and SQL are never given to it; of the context it holds a hash. Lines go to the log or to a file of their own. Those that
 * a blocked file does not take are dropped beyond 16 MiB and counted: an auditor's disk must not stop the proxy.
 */
import { createHash } from "node:crypto";
import { openSync } from "node:fs";
import { pino, type Logger } from "pino";
import type { Config } from "../config/settings.ts";
import { naming } from "../config/secret-file.ts";
import { systemClock } from "../lib/clock.ts";
import type { Metrics } from "./metrics.ts";

const MAX_BUFFERED_BYTES = 16 * 1024 * 1024;
/** Lines are written together: one by one each would cost as much as a fifth of a login. */
const BATCH_BYTES = 8 * 1024;
const FLUSH_EVERY_MS = 100;
/** How long the end of the program waits for lines that are not written yet. */
const CLOSE_LIMIT_MS = 1_000;

/** What is known of a session, as its log lines have it. */
export interface SessionAbout {
  readonly conn: number;
  /** Address and port, or `unix`. */
  readonly client: string;
  readonly role?: string;
  readonly database?: string;
  readonly tenant?: string;
  /** The version of the client's TLS. */
  readonly tls?: string;
}

export interface AuditedLogin {
  /** The user name as the client gave it; undefined where the login ended before it was known. */
  readonly user: string | undefined;
  /** How the client proves who it is; undefined where it did not come to that. */
  readonly credential: "relayed" | "scram" | "cleartext" | undefined;
  /** True where the client has shown a certificate that is vouched for. */
  readonly hasCertificate: boolean;
  readonly context: readonly { readonly name: string; readonly value: string }[] | undefined;
  readonly outcome: "accepted" | "refused" | "left";
  /** A code of the catalogue; `upstream` for PostgreSQL's own refusal. */
  readonly reason?: string;
  readonly sqlstate?: string;
  readonly ms: number;
}

export interface AuditedEnd {
  readonly user: string | undefined;
  readonly seconds: number;
  readonly fromClient: number | undefined;
  readonly fromUpstream: number | undefined;
  /** A code of the catalogue; `closed` where client or server simply went. */
  readonly reason: string;
}

export interface AuditedChange {
  /** The name of the token. */
  readonly token: string | undefined;
  readonly source: string;
  /** Method and path. */
  readonly action: string;
  readonly outcome: "done" | "refused" | "failed";
  readonly status: number;
}

interface AuditFile {
  readonly logger: Logger;
  readonly destination: ReturnType<typeof pino.destination>;
}

export class AuditLog {
  readonly #path: string | undefined;
  readonly #log: Logger;
  readonly #metrics: Metrics;
  #lines: Logger;
  #file: AuditFile | undefined;

  /** @returns undefined with `audit_log = off`. @throws Error naming the file that cannot be opened. */
  static open({ auditLog }: Pick<Config, "auditLog">, log: Logger, metrics: Metrics): AuditLog | undefined {
    return auditLog === "off" ? undefined : new AuditLog(auditLog === "stdout" ? undefined : auditLog, log, metrics);
  }

  constructor(path: string | undefined, log: Logger, metrics: Metrics) {
    this.#path = path;
    this.#log = log;
    this.#metrics = metrics;
    // Whatever log_level says: audit_log alone turns these lines on and off.
    this.#lines = log.child({}, { level: "info" });
    this.prepareReload()();
  }

  login(about: SessionAbout, { user, context, ms, ...login }: AuditedLogin): void {
    const hash = context === undefined ? {} : { contextSha256: hashContext(context) };
    this.#lines.info({ audit: "login", ...about, user, ...login, ...hash, ms: Math.round(ms) });
  }

  end(about: SessionAbout, end: AuditedEnd): void {
    this.#lines.info({ audit: "end", ...about, ...end });
  }

  change(change: AuditedChange): void {
    this.#lines.info({ audit: "change", ...change });
  }

  /** Opens the file anew, after logrotate has moved it. @returns what puts it to use. @throws Error naming the file. */
  prepareReload(): () => void {
    const path = this.#path;
    if (path === undefined) return () => {};
    const file = this.#open(path);
    return () => {
      const before = this.#file;
      this.#file = file;
      this.#lines = file.logger;
      before?.destination.end();
    };
  }

  /** Writes what is not written yet, as far as the file takes it. */
  async close(): Promise<void> {
    const file = this.#file;
    if (file === undefined) return;
    this.#file = undefined;
    await new Promise<void>((resolve) => {
      const limit = systemClock.after(CLOSE_LIMIT_MS, resolve);
      file.destination.flush(() => {
        limit[Symbol.dispose]();
        resolve();
      });
    });
    file.destination.destroy();
  }

  #open(path: string): AuditFile {
    const fd = naming(path, () => openSync(path, "a", 0o600));
    const destination = pino.destination({
      fd,
      sync: false,
      minLength: BATCH_BYTES,
      periodicFlush: FLUSH_EVERY_MS,
      maxLength: MAX_BUFFERED_BYTES,
    });
    destination.on("drop", () => this.#metrics.auditLinesDropped.inc());
    destination.on("error", (error: Error) => this.#log.error({ err: error }, "could not write to audit_log"));
    const options = {
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label: string) => ({ level: label }) },
    };
    return { logger: pino(options, destination), destination };
  }
}

/** The same for the same variables and values, in whatever order they come. */
function hashContext(context: NonNullable<AuditedLogin["context"]>): string {
  const pairs = context
    .map(({ name, value }) => [name.toLowerCase(), value])
    .toSorted(([a = ""], [b = ""]) => (a < b ? -1 : 1));
  return createHash("sha256").update(JSON.stringify(pairs)).digest("hex");
}
