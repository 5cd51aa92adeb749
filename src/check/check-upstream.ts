/**
 * Whether PostgreSQL answers where `upstream_host` and `upstream_port` say. Every address of a name is asked, as a session
 * may get any of them: with an SSLRequest, which is answered by one byte before any login, and where `upstream_tls` is on
 * with a whole handshake.
 */
import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { isIP } from "node:net";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import type { Config } from "../config/settings.ts";
import { loadTenants, type TenantEntry } from "../config/tenants-file.ts";
import { ProxyError } from "../errors/proxy-error.ts";
import { systemClock } from "../lib/clock.ts";
import { Deadline, raceAbort } from "../lib/deadline.ts";
import { connectTo, describeAddress, type UpstreamAddress } from "../proxy/upstream/dial.ts";
import { askForTls, UpstreamTls } from "../proxy/upstream/upstream-tls.ts";
import type { Finding } from "./finding.ts";

const LIMIT_MS = 5_000;
const MAX_TENANT_SERVERS = 100;

/** What an address was found to be: a session goes on to the next one where it is not `reached`, and ends where it is `wrong`. */
interface Probed {
  readonly outcome: "reached" | "not reached" | "wrong";
  readonly text: string;
}

/**
 * A finding for each address.
 *
 * @param limitMs for the name, and again for each address.
 */
export async function checkUpstream(config: Config, limitMs = LIMIT_MS): Promise<Finding[]> {
  let addresses: readonly UpstreamAddress[];
  let tls: UpstreamTls | undefined;
  try {
    tls = config.upstreamTls ? new UpstreamTls(config) : undefined;
  } catch {
    // check-files.ts says why.
    return [{ verdict: "not checked", text: "upstream: the files of its TLS have to be right first" }];
  }
  try {
    addresses = await findAddresses(config, limitMs);
  } catch (error) {
    return [{ verdict: "error", text: `upstream: ${config.upstreamHost}: ${explain(error)}` }];
  }
  const probed = await Promise.all(addresses.map((address) => probe(address, config, tls, limitMs)));
  const isAnyReached = probed.some(({ outcome }) => outcome === "reached");
  return addresses.map((address, index) => {
    const { outcome, text } = probed[index] as Probed;
    const verdict = outcome === "reached" ? "ok" : outcome === "not reached" && isAnyReached ? "warning" : "error";
    return { verdict, text: `upstream: ${describeAddress(address)}: ${text}` };
  });
}

/** The same for the servers that tenants have for themselves, as far as `tenants` can be read. */
export async function checkTenantServers(config: Config): Promise<Finding[]> {
  let entries: readonly TenantEntry[];
  try {
    entries = loadTenants(config);
  } catch {
    return []; // check-files.ts says why
  }
  const servers = new Map<string, Config>();
  for (const { overrides } of entries) {
    const { upstreamHost = config.upstreamHost, upstreamPort = config.upstreamPort } = overrides;
    if (upstreamHost === config.upstreamHost && upstreamPort === config.upstreamPort) continue;
    servers.set(`${upstreamHost}:${upstreamPort}`, { ...config, upstreamHost, upstreamPort });
  }
  const checked = [...servers.values()].slice(0, MAX_TENANT_SERVERS);
  const findings = await Promise.all(checked.map((own) => checkUpstream(own)));
  return findings.flat();
}

async function findAddresses(config: Config, limitMs: number): Promise<readonly UpstreamAddress[]> {
  const { upstreamHost: host, upstreamPort: port } = config;
  if (host.startsWith("/")) return [{ path: join(host, `.s.PGSQL.${port}`) }];
  if (isIP(host) !== 0) return [{ host, port }];
  using deadline = limit(limitMs);
  const found = await raceAbort(lookup(host, { all: true, verbatim: true }), deadline.signal);
  return found.map(({ address }) => ({ host: address, port }));
}

async function probe(
  address: UpstreamAddress,
  config: Config,
  tls: UpstreamTls | undefined,
  limitMs: number,
): Promise<Probed> {
  using deadline = limit(limitMs);
  const { signal } = deadline;
  try {
    const socket = await connectTo(address, config, signal);
    try {
      if (tls === undefined) return judge(await askForTls(socket, signal));
      const encrypted = await tls.encrypt(socket, signal);
      const refusal = await close(encrypted, signal);
      if (refusal !== undefined) return { outcome: "wrong", text: refusal };
      const verified = config.upstreamTlsVerify ? "its certificate is verified" : "its certificate is not verified";
      return { outcome: "reached", text: `PostgreSQL answers over TLS, ${verified}` };
    } finally {
      socket.destroy();
    }
  } catch (error) {
    return { outcome: error instanceof ProxyError ? "wrong" : "not reached", text: explain(error) };
  }
}

/**
 * Closes in order: the server logs a connection that is cut off. Only now it tells of a certificate that it does not take.
 *
 * @returns what it says then.
 */
async function close(socket: TLSSocket, signal: AbortSignal): Promise<string | undefined> {
  const closed = once(socket, "close");
  socket.end();
  socket.resume();
  try {
    await raceAbort(closed, signal);
    return undefined;
  } catch (error) {
    signal.throwIfAborted();
    const { reason } = error as { reason?: string };
    return reason && `it refuses upstream_tls_cert (${reason}): does its ssl_ca_file hold the authority?`;
  }
}

/** S: TLS is possible. N: it is not. E: PostgreSQL before it could do either, with an error. */
function judge(answer: string): Probed {
  if (answer === "S" || answer === "N") return { outcome: "reached", text: "PostgreSQL answers" };
  const other = (text: string): Probed => ({ outcome: "not reached", text });
  if (answer === "") return other("it closed the connection without an answer: is it PostgreSQL?");
  if (/^E(\0|could not fork)/.test(answer)) return other("PostgreSQL answers with an error: look into its log");
  return other("what answers there is not PostgreSQL");
}

function limit(limitMs: number): Deadline {
  return new Deadline(systemClock, limitMs, () => new Error(`no answer in ${limitMs / 1000} s`));
}

function explain(error: unknown): string {
  if (error instanceof ProxyError) return explainTls(error);
  const { code, message } = error as NodeJS.ErrnoException;
  const known: Record<string, string> = {
    ECONNREFUSED: "nothing listens there",
    ENOENT: "there is no such socket",
    EACCES: "permission denied",
    ENOTFOUND: "the name is not known",
    EAI_AGAIN: "the name could not be looked up",
    ECONNRESET: "it closed the connection without an answer: is it PostgreSQL?",
    EHOSTUNREACH: "the host cannot be reached",
    ENETUNREACH: "the network cannot be reached",
  };
  return known[code ?? ""] ?? (message || code || "it cannot be reached");
}

/** With the cause, which a client never sees: the names of a certificate, say. */
function explainTls({ message, cause }: ProxyError): string {
  if (!(cause instanceof Error)) return message;
  const { reason } = cause as { reason?: string };
  return `${message} (${reason ?? cause.message})`;
}
