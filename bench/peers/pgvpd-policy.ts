/**
 * pgvpd with its limits, timers, metrics and audit log, and without: what a limit keeps from other tenants, and what all
 * of it costs. Variants of pgvpd.ts, for the scenarios that compare them alone.
 */
import type { Peer, Upstream } from "../peer.ts";
import { policyScenarioNames } from "../scenarios/policy-cost.ts";
import { poolSize } from "../scenarios/pools.ts";
import { tenantFlood } from "../scenarios/tenant-flood.ts";
import { built, pgvpdPeer } from "./pgvpd.ts";

type Settings = Readonly<Record<string, string>>;

const whyMissing = "not built: npm run build";
const modes = ["passthrough", "transaction"] as const;
type Mode = (typeof modes)[number];

/** For a tenant that has 200 clients where others have eight. */
const limits: Settings = { tenant_max_connections: "20", tenant_rate_limit: "20" };
const poolLimit: Settings = { tenant_pool_size: String(poolSize / 2) };

/** Longer than a measurement: none of them ends anything. */
const timers: Settings = {
  query_timeout: "30",
  transaction_timeout: "30",
  idle_transaction_timeout: "30",
  client_idle_timeout: "30",
  tenant_query_timeout: "30",
};

/** In front of a server that asks for passwords: in passthrough the client's own, with a pool one for all. */
export const floodVariants: readonly Peer[] = modes.flatMap((mode) =>
  [true, false].map((isLimited) =>
    pgvpdPeer({
      name: `${nameOf(mode)}-${isLimited ? "limits" : "no-limits"}`,
      program: built,
      whyMissing,
      onlyIn: [tenantFlood.name],
      settings: (upstream) => ({
        ...modeSettings(mode, upstream),
        ...(isLimited && limits),
        ...(isLimited && mode === "transaction" && poolLimit),
      }),
    }),
  ),
);

/** Everything that is counted, timed and written, or nothing of it. */
export const policyVariants: readonly Peer[] = modes.flatMap((mode, index) => {
  const onlyIn = policyScenarioNames.slice(index, index + 1);
  const common = { program: built, whyMissing, onlyIn };
  return [
    pgvpdPeer({
      ...common,
      name: `${nameOf(mode)}-bare`,
      settings: (upstream) => ({ ...modeSettings(mode, upstream), idle_transaction_timeout: "0" }),
    }),
    pgvpdPeer({
      ...common,
      name: `${nameOf(mode)}-policy`,
      hasMetrics: true,
      settings: (upstream, workbench) => ({
        ...modeSettings(mode, upstream),
        ...timers,
        tenant_max_connections: "1000",
        tenant_rate_limit: "1000",
        ...(mode === "transaction" && { tenant_pool_size: String(poolSize) }),
        audit_log: workbench.newPath("audit.log"),
      }),
    }),
  ];
});

function nameOf(mode: Mode): string {
  return mode === "passthrough" ? "pgvpd" : "pgvpd-transaction";
}

function modeSettings(mode: Mode, { auth, password }: Upstream): Settings {
  if (mode === "passthrough") return {};
  return {
    pool_mode: "transaction",
    pool_size: String(poolSize),
    pool_password: password,
    pool_checkout_timeout: "60",
    ...(auth === "trust" ? { upstream_require_auth: "none" } : { upstream_password: password }),
  };
}
