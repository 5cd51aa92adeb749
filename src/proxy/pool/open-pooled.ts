/**
 * How a pool gets its upstream sessions, and gets rid of those that do not end by themselves.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { Deadline, pause } from "../../lib/deadline.ts";
import { awaitReady, Greeting } from "../upstream/await-ready.ts";
import type { Dial } from "../upstream/dial.ts";
import { logIn, type LoginServices, type UpstreamSecrets } from "../upstream/log-in.ts";
import { openUpstream } from "../upstream/open-upstream.ts";
import { ask, openOwnSession } from "../upstream/own-session.ts";
import type { RoleDefaults } from "../upstream/role-defaults.ts";
import { encodePooledStartup } from "../upstream/tenant-startup.ts";
import { encodePipeline, runPipeline } from "../upstream/pipeline.ts";
import type { OpenedSession } from "./pooled-session.ts";

const CONNECT_LIMIT_MS = 10_000;
const TERMINATE_LIMIT_MS = 60_000;
const TERMINATE_PAUSE_MS = 200;

const BACKEND_START =
  "SELECT b.backend_start::pg_catalog.text FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS b";

/** True while the backend is there. A pid may be another's by now: the time tells. */
const TERMINATE = `SELECT pg_catalog.pg_terminate_backend(b.pid)
  FROM pg_catalog.pg_stat_get_activity($1::pg_catalog.int4) AS b WHERE b.backend_start::pg_catalog.text OPERATOR(pg_catalog.=) $2`;

export interface OpenPooledServices extends LoginServices {
  readonly config: Config;
  readonly clock: Clock;
  readonly dial: Dial;
  readonly roleDefaults: RoleDefaults;
}

export interface PooledLogin {
  readonly role: string;
  readonly database: string;
  /** What the client has proved that the session is opened for. */
  readonly secrets: UpstreamSecrets;
}

/** @throws ProxyError upstream_timeout (08001) and those of openUpstream, logIn, awaitReady; UpstreamRefusal. */
export async function openPooled(
  { role, database, secrets }: PooledLogin,
  services: OpenPooledServices,
  signal: AbortSignal,
): Promise<OpenedSession> {
  const { clock, config, dial, roleDefaults } = services;
  using limit = new Deadline(clock, CONNECT_LIMIT_MS, () => new ProxyError("upstream_timeout"));
  const both = AbortSignal.any([signal, limit.signal]);
  const defaults = await roleDefaults.of(role, database, secrets, both);
  const upstream = await openUpstream(dial, both);
  try {
    const greeting = new Greeting();
    upstream.stream.write(encodePooledStartup(role, database, defaults, config));
    const minor = await logIn(upstream, { role, minor: 2, secrets }, services, greeting, both);
    await awaitReady(upstream.stream, greeting, minor, both);
    upstream.stream.write(encodePipeline([{ sql: BACKEND_START, values: [] }]));
    const { results } = await runPipeline(upstream.stream, greeting, both);
    const { address, stream } = upstream;
    return {
      stream,
      address,
      key: greeting.key,
      parameters: greeting.parameters,
      openedAt: clock.now(),
      backendStart: results[0]?.[0]?.[0] ?? undefined,
    };
  } catch (error) {
    upstream[Symbol.dispose]();
    throw error;
  }
}

/**
 * Ends a backend whose connection is closed: a loop that catches query_canceled goes on after that.
 *
 * @returns false where it is still there after a minute.
 * @throws what openOwnSession and ask throw.
 */
export async function terminateBackend(
  { key, backendStart }: Pick<OpenedSession, "key" | "backendStart">,
  { role, database }: Pick<PooledLogin, "role" | "database">,
  services: OpenPooledServices,
): Promise<boolean> {
  if (key === undefined || backendStart === undefined) return true;
  const { clock, config } = services;
  const { maintenanceUser = role, maintenancePassword } = config;
  using limit = new Deadline(clock, TERMINATE_LIMIT_MS, () => new ProxyError("upstream_timeout"));
  const secrets = maintenancePassword === undefined ? {} : { password: Buffer.from(maintenancePassword.reveal()) };
  const login = { role: maintenanceUser, database, secrets, applicationName: "pgvpd maintenance" };
  using session = await openOwnSession(login, services, limit.signal);
  for (;;) {
    const rows = await ask(session, { sql: TERMINATE, values: [String(key.processId), backendStart] }, limit.signal);
    if (rows.length === 0) return true;
    await pause(clock, TERMINATE_PAUSE_MS, limit.signal);
  }
}
