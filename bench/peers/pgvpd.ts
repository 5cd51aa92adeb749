/**
 * pgvpd as users run it: the built program with a configuration file, in passthrough. A second peer of the same shape
 * runs another build, which PGVPD_BENCH_OTHER names, to compare before and after in one run; a third one checks the
 * clients' passwords itself. It never imports from src/.
 */
import { existsSync } from "node:fs";
import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { resolverChain, resolverRole } from "../measure/resolvers.ts";
import { freePort, type Workbench } from "../measure/workbench.ts";
import type { Peer, SealKind, Upstream } from "../peer.ts";
import { poolScenarioNames, poolSize } from "../scenarios/pools.ts";
import { sealScenarioNames } from "../scenarios/seal.ts";
import { startChild } from "./start-child.ts";

export const built = fileURLToPath(new URL("../../dist/main.js", import.meta.url));
const tenant = "acme";

export interface PgvpdVariant {
  readonly name: string;
  /** A main.js, which this Node runs, or an executable. */
  readonly program: string | undefined;
  readonly whyMissing: string;
  readonly onlyIn?: readonly string[];
  /** The database that the variant uses, and what it does with the context there. */
  readonly seal?: SealKind;
  /** Its metrics can be read. */
  readonly hasMetrics?: true;
  /** Lines that the variant adds to the configuration. */
  settings?(upstream: Upstream, workbench: Workbench): Readonly<Record<string, string>>;
}

export const pgvpd = pgvpdPeer({ name: "pgvpd", program: built, whyMissing: "not built: npm run build" });

export const pgvpdOther = pgvpdPeer({
  name: "pgvpd-other",
  program: process.env["PGVPD_BENCH_OTHER"],
  whyMissing: "PGVPD_BENCH_OTHER does not name another build's dist/main.js or executable",
});

/** The same program with the context in a variable and sealed, each in a database of its own. */
export const sealVariants: readonly Peer[] = (["unsealed", "slot", "signed"] as const).map((seal) =>
  pgvpdPeer({
    name: `pgvpd-${seal}`,
    program: built,
    whyMissing: "not built: npm run build",
    onlyIn: sealScenarioNames,
    seal,
    settings: (upstream): Readonly<Record<string, string>> =>
      seal === "unsealed" ? {} : { context_seal: "require", context_key_file: upstream.seal?.keyFile ?? "" },
  }),
);

/** Ends SCRAM itself, with the verifier that the role has on the server: the client's proof opens that too. */
export const pgvpdScram = pgvpdPeer({
  name: "pgvpd-scram",
  program: built,
  whyMissing: "not built: npm run build",
  onlyIn: ["connect-scram", "login-burst"],
  settings: ({ user, scramVerifier }, workbench) => ({
    client_auth: "scram",
    credentials_file: workbench.writeSecretFile("credentials.txt", `"${user}" "${scramVerifier ?? ""}"\n`),
  }),
});

/** With the chain of measure/resolvers.ts: its answers kept, asked at every login, and asked on the clients' connections. */
export const resolverVariants: readonly Peer[] = [
  resolverPeer("warm", 3600, { resolver_user: resolverRole }),
  resolverPeer("cold", 0, { resolver_user: resolverRole }),
  resolverPeer("session", 0, { resolver_connection: "session" }),
];

function resolverPeer(kind: string, cacheTtl: number, settings: Readonly<Record<string, string>>): Peer {
  const name = `pgvpd-resolvers-${kind}`;
  return pgvpdPeer({
    name,
    program: built,
    whyMissing: "not built: npm run build",
    onlyIn: ["login-resolvers"],
    settings: (_, workbench) => ({
      ...settings,
      resolvers: workbench.writeFile(`${name}.toml`, resolverChain(cacheTtl)),
    }),
  });
}

/** With the pools: `pool_password` from clients, and a server that trusts. */
export const pgvpdPools: readonly Peer[] = (["session", "transaction"] as const).map((mode) =>
  pgvpdPeer({
    name: `pgvpd-${mode}`,
    program: built,
    whyMissing: "not built: npm run build",
    // In session mode each of a thousand tenants would take an upstream session.
    onlyIn: mode === "session" ? poolScenarioNames.filter((name) => name !== "pool-tenants") : poolScenarioNames,
    settings: ({ password, maxConnections }): Readonly<Record<string, string>> => ({
      pool_mode: mode,
      pool_size: String(mode === "session" ? maxConnections : poolSize),
      pool_password: password,
      pool_checkout_timeout: "60",
      upstream_require_auth: "none",
    }),
  }),
);

export function pgvpdPeer(variant: PgvpdVariant): Peer {
  const { name, program = "" } = variant;
  return {
    name,
    ...(variant.onlyIn === undefined ? {} : { onlyIn: variant.onlyIn }),
    async probe() {
      if (!existsSync(program)) return { missing: variant.whyMissing };
      const { command, args } = invocation(program);
      const { stdout } = await promisify(execFile)(command, [...args, "--version"]);
      return { version: stdout.trim() };
    },
    async start(upstream, workbench) {
      const port = await freePort();
      const adminPort = variant.hasMetrics === true ? await freePort(port) : undefined;
      const text = configuration(variant, upstream, port, workbench);
      const config = workbench.writeFile(
        `${name}.conf`,
        adminPort === undefined ? text : `${text}admin_port = ${adminPort}\n`,
      );
      const { command, args } = invocation(program);
      const database = variant.seal === undefined ? upstream.database : databaseOf(variant.seal, upstream);
      const target = { ...upstream, host: "127.0.0.1", port, user: `${upstream.user}.${tenant}`, database };
      const running = await startChild(workbench, { command, args: [...args, "--config", config], target });
      return adminPort === undefined ? running : { ...running, metricsUrl: `http://127.0.0.1:${adminPort}/metrics` };
    },
  };
}

function databaseOf(kind: SealKind, { seal }: Upstream): string {
  if (seal === undefined) throw new Error("there is no database for it");
  return seal.databases[kind];
}

function invocation(program: string): { command: string; args: string[] } {
  return program.endsWith(".js") ? { command: process.execPath, args: [program] } : { command: program, args: [] };
}

function configuration(variant: PgvpdVariant, upstream: Upstream, port: number, workbench: Workbench): string {
  const settings = {
    listen_host: "127.0.0.1",
    port,
    upstream_host: upstream.host,
    upstream_port: upstream.port,
    log_level: "warn",
    ...variant.settings?.(upstream, workbench),
  };
  return Object.entries(settings)
    .map(([key, value]) => `${key} = ${value}\n`)
    .join("");
}
