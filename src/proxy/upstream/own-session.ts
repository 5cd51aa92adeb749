/**
 * Sessions that pgvpd opens for itself, to ask the database something: no client ever touches them.
 */
import { ProxyError } from "../../errors/proxy-error.ts";
import { encodeStartupMessage } from "../../protocol/startup.ts";
import { awaitReady, Greeting } from "./await-ready.ts";
import type { Dial } from "./dial.ts";
import { logIn, type LoginServices, type UpstreamSecrets } from "./log-in.ts";
import { openUpstream, type OpeningUpstream } from "./open-upstream.ts";
import { encodePipeline, runPipeline, type Row, type Statement } from "./pipeline.ts";

export interface OwnLogin {
  readonly role: string;
  readonly database: string;
  readonly secrets: UpstreamSecrets;
  /** What it is for, as pg_stat_activity shows it. */
  readonly applicationName: string;
}

export interface OwnSessionServices extends LoginServices {
  readonly dial: Dial;
}

/**
 * A session that is logged in and idle. The caller disposes of it.
 *
 * @throws ProxyError upstream_*; UpstreamRefusal, as for a database that does not exist; whatever aborts `signal`.
 */
export async function openOwnSession(
  { role, database, secrets, applicationName }: OwnLogin,
  services: OwnSessionServices,
  signal: AbortSignal,
): Promise<OpeningUpstream> {
  const session = await openUpstream(services.dial, signal);
  try {
    session.stream.write(
      encodeStartupMessage(0, [
        { name: "user", value: role },
        { name: "database", value: database },
        { name: "application_name", value: applicationName },
        { name: "client_encoding", value: "UTF8" },
      ]),
    );
    const greeting = new Greeting();
    const minor = await logIn(session, { role, minor: 0, secrets }, services, greeting, signal);
    await awaitReady(session.stream, greeting, minor, signal);
    return session;
  } catch (error) {
    session[Symbol.dispose]();
    throw error;
  }
}

/** @throws ProxyError upstream_login where the statement fails, upstream_login_lost, upstream_protocol. */
export async function ask(
  session: OpeningUpstream,
  statement: Statement,
  signal: AbortSignal,
): Promise<readonly Row[]> {
  session.stream.write(encodePipeline([statement]));
  const { results, error } = await runPipeline(session.stream, new Greeting(), signal);
  if (error !== undefined) throw new ProxyError("upstream_login", { detail: error.text });
  return results[0] ?? [];
}
