/**
 * Whether PostgreSQL answers where `upstream_host` and `upstream_port` say. Every address of a name is asked, as a session
 * may get any of them: an SSLRequest, which is answered by one byte before any login.
 */
import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { isIP } from "node:net";
import { join } from "node:path";
import type { Config } from "../config/settings.ts";
import { systemClock } from "../lib/clock.ts";
import { Deadline, raceAbort } from "../lib/deadline.ts";
import { connectTo, describeAddress, type UpstreamAddress } from "../proxy/upstream/dial.ts";
import type { Finding } from "./finding.ts";

type UpstreamConfig = Pick<Config, "upstreamHost" | "upstreamPort" | "tcpKeepalive" | "tcpKeepidleMs">;

/** Int32(8) length, Int32(80877103) SSLRequest. [PG protocol-message-formats/SSLREQUEST] */
const SSL_REQUEST = Buffer.from("0000000804d2162f", "hex");

const LIMIT_MS = 5_000;

/**
 * A finding for each address.
 *
 * @param limitMs for the name, and again for each address.
 */
export async function checkUpstream(config: UpstreamConfig, limitMs = LIMIT_MS): Promise<Finding[]> {
  let addresses: readonly UpstreamAddress[];
  try {
    addresses = await findAddresses(config, limitMs);
  } catch (error) {
    return [{ verdict: "error", text: `upstream: ${config.upstreamHost}: ${explain(error)}` }];
  }
  const problems = await Promise.all(addresses.map((address) => probe(address, config, limitMs)));
  const isReached = problems.includes(undefined);
  return addresses.map((address, index) => {
    const text = `upstream: ${describeAddress(address)}: ${problems[index] ?? "PostgreSQL answers"}`;
    if (problems[index] === undefined) return { verdict: "ok", text };
    // A session tries one address after the other, so that one is enough.
    return { verdict: isReached ? "warning" : "error", text };
  });
}

async function findAddresses(config: UpstreamConfig, limitMs: number): Promise<readonly UpstreamAddress[]> {
  const { upstreamHost: host, upstreamPort: port } = config;
  if (host.startsWith("/")) return [{ path: join(host, `.s.PGSQL.${port}`) }];
  if (isIP(host) !== 0) return [{ host, port }];
  using deadline = limit(limitMs);
  const found = await raceAbort(lookup(host, { all: true, verbatim: true }), deadline.signal);
  return found.map(({ address }) => ({ host: address, port }));
}

/** @returns what is wrong, or undefined where a PostgreSQL server answers. */
async function probe(address: UpstreamAddress, config: UpstreamConfig, limitMs: number): Promise<string | undefined> {
  using deadline = limit(limitMs);
  try {
    const socket = await connectTo(address, config, deadline.signal);
    try {
      socket.write(SSL_REQUEST);
      // Rejects with the error of a connection that is reset.
      const answered = once(socket, "data", { signal: deadline.signal });
      const ended = once(socket, "end", { signal: deadline.signal }).then((): [Buffer] => [Buffer.alloc(0)]);
      const [answer] = (await raceAbort(Promise.race([answered, ended]), deadline.signal)) as [Buffer];
      return judge(answer);
    } finally {
      socket.on("error", () => {}); // of a socket that nobody waits for any more
      socket.destroy();
    }
  } catch (error) {
    return explain(error);
  }
}

/** S: TLS is possible. N: it is not. E: PostgreSQL before it could do either, with an error. */
function judge(answer: Buffer): string | undefined {
  const text = answer.toString("latin1");
  if (text === "S" || text === "N") return undefined;
  if (text === "") return "it closed the connection without an answer: is it PostgreSQL?";
  if (/^E(\0|could not fork)/.test(text)) return "PostgreSQL answers with an error: look into its log";
  return "what answers there is not PostgreSQL";
}

function limit(limitMs: number): Deadline {
  return new Deadline(systemClock, limitMs, () => new Error(`no answer in ${limitMs / 1000} s`));
}

function explain(error: unknown): string {
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
