/**
 * PgBouncer in session mode, its defaults otherwise: the peer that the targets are set against. A variant with a large
 * packet buffer takes part in bulk copies only. PGVPD_BENCH_PGBOUNCER names another binary than the installed one.
 */
import { freePort } from "../measure/workbench.ts";
import type { Peer, Upstream } from "../peer.ts";
import { poolScenarioNames, poolSize } from "../scenarios/pools.ts";
import { findProgram, firstLineOf } from "./find-program.ts";
import { startChild } from "./start-child.ts";

interface PgbouncerVariant {
  readonly name: string;
  readonly onlyIn?: readonly string[];
  /** Lines of the [pgbouncer] section that the variant adds or replaces. */
  readonly settings: Readonly<Record<string, string>>;
}

export const pgbouncer = pgbouncerPeer({ name: "pgbouncer", settings: {} });

export const pgbouncerLargeBuffer = pgbouncerPeer({
  name: "pgbouncer-64k",
  onlyIn: ["copy-out", "copy-out-narrow", "copy-in"],
  settings: { pkt_buf: "65536" },
});

export const pgbouncerPools: readonly Peer[] = (["session", "transaction"] as const).map((mode) =>
  pgbouncerPeer({
    name: `pgbouncer-${mode}`,
    onlyIn: poolScenarioNames,
    settings: {
      pool_mode: mode,
      ...(mode === "transaction" && { default_pool_size: String(poolSize) }),
      ...(process.env["PGVPD_BENCH_PGBOUNCER"] !== undefined && { max_prepared_statements: "200" }),
    },
  }),
);

function pgbouncerPeer(variant: PgbouncerVariant): Peer {
  return {
    name: variant.name,
    ...(variant.onlyIn === undefined ? {} : { onlyIn: variant.onlyIn }),
    async probe() {
      const program = programPath();
      if (program === undefined) return { missing: "not installed (Debian: apt-get install pgbouncer)" };
      return { version: (await firstLineOf(program, "-V")).replace(/^PgBouncer /, "") };
    },
    async start(upstream, workbench) {
      const port = await freePort();
      const users = workbench.writeFile("userlist.txt", `"${upstream.user}" "${upstream.scramVerifier ?? ""}"\n`);
      const config = workbench.writeFile("pgbouncer.ini", configuration(variant, upstream, port, users));
      const command = programPath() ?? "pgbouncer";
      const target = { ...upstream, host: "127.0.0.1", port };
      return startChild(workbench, { command, args: ["-q", config], target, unprivileged: true });
    },
  };
}

function programPath(): string | undefined {
  return process.env["PGVPD_BENCH_PGBOUNCER"] ?? findProgram("pgbouncer");
}

function configuration(variant: PgbouncerVariant, upstream: Upstream, port: number, users: string): string {
  const settings = {
    listen_addr: "127.0.0.1",
    listen_port: port,
    listen_backlog: 1024,
    unix_socket_dir: "",
    auth_type: upstream.auth === "scram" ? "scram-sha-256" : "trust",
    auth_file: users,
    pool_mode: "session",
    default_pool_size: upstream.maxConnections,
    max_client_conn: 6000,
    log_connections: 0,
    log_disconnections: 0,
    log_stats: 0,
    ...variant.settings,
  };
  const lines = Object.entries(settings).map(([key, value]) => `${key} = ${value}\n`);
  const { database, host } = upstream;
  return `[databases]\n${database} = host=${host} port=${upstream.port}\n[pgbouncer]\n${lines.join("")}`;
}
