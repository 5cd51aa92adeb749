/**
 * HAProxy as a TCP proxy on one thread: the cheapest thing that moves the same bytes, without a word of PostgreSQL.
 */
import { freePort } from "../measure/workbench.ts";
import type { Peer, Upstream } from "../peer.ts";
import { findProgram, firstLineOf } from "./find-program.ts";
import { startChild } from "./start-child.ts";

export const haproxy: Peer = {
  name: "haproxy",
  async probe() {
    const program = findProgram("haproxy");
    if (program === undefined) return { missing: "not installed (Debian: apt-get install haproxy)" };
    return { version: (await firstLineOf(program, "-v")).replace(/^HAProxy version (\S+).*/, "$1") };
  },
  async start(upstream, workbench) {
    const port = await freePort();
    const config = workbench.writeFile("haproxy.cfg", configuration(upstream, port));
    const command = findProgram("haproxy") ?? "haproxy";
    const target = { ...upstream, host: "127.0.0.1", port };
    return startChild(workbench, { command, args: ["-db", "-q", "-f", config], target });
  },
};

function configuration(upstream: Upstream, port: number): string {
  return `
global
  nbthread 1
  maxconn 6000
defaults
  mode tcp
  maxconn 6000
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen bench
  bind 127.0.0.1:${port} backlog 1024
  server postgres ${upstream.host}:${upstream.port}
`;
}
