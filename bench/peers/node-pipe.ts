/**
 * The floor: what a Node program costs that joins two sockets with pipe() and does nothing else. The distance between
 * this peer and pgvpd is pgvpd's own doing, the distance between this peer and HAProxy is Node's.
 */
import { freePort } from "../measure/workbench.ts";
import type { Peer } from "../peer.ts";
import { startChild } from "./start-child.ts";

/** Run with `node --eval`, so that no TypeScript loader sits in the measured process. */
const program = `
  const net = require("node:net");
  const [host, upstreamPort, port] = process.argv.slice(1);
  net.createServer({ noDelay: true, allowHalfOpen: true }, (client) => {
    const upstream = net.connect({ host, port: Number(upstreamPort), noDelay: true, allowHalfOpen: true });
    const end = () => { client.destroy(); upstream.destroy(); };
    client.on("error", end).on("close", end);
    upstream.on("error", end).on("close", end);
    client.pipe(upstream).pipe(client);
  }).listen({ host: "127.0.0.1", port: Number(port), backlog: 1024 });
`;

export const nodePipe: Peer = {
  name: "node-pipe",
  async probe() {
    return { version: `Node ${process.version}` };
  },
  async start(upstream, workbench) {
    const port = await freePort();
    const args = ["--eval", program, upstream.host, String(upstream.port), String(port)];
    return startChild(workbench, { command: process.execPath, args, target: { ...upstream, host: "127.0.0.1", port } });
  },
};
