/**
 * What the program knows, in the form that the HTTP API answers with: the names of pgvpd 1.0 where it had them.
 */
import type { Explanation } from "../check/explain-login.ts";
import { canonicalTenant } from "../config/tenant-name.ts";
import type { Metrics } from "../observe/metrics.ts";
import type { SessionInfo } from "../proxy/session.ts";
import type { AdminPorts, OperatedPool } from "./ports.ts";

/** Of the pools in /status. */
const MAX_BUCKETS = 200;

interface Metric {
  get(): Promise<{ values: readonly { value: number; labels: Readonly<Record<string, unknown>> }[] }>;
}

export async function viewStatus(ports: AdminPorts) {
  const { metrics, version } = ports;
  const { pools } = ports;
  const { tenantRejected, tenantTimeouts } = metrics;
  return {
    version,
    uptime_seconds: Math.round(ports.uptimeSeconds()),
    is_draining: ports.isDraining(),
    connections_total: await valueOf(metrics.connectionsTotal),
    connections_active: await valueOf(metrics.connectionsActive),
    logins: {
      accepted: await valueOf(metrics.logins, { outcome: "accepted" }),
      refused: await valueOf(metrics.logins, { outcome: "refused" }),
      left: await valueOf(metrics.logins, { outcome: "left" }),
    },
    bytes: {
      from_client: metrics.bytes.fromClient,
      from_upstream: metrics.bytes.fromUpstream,
    },
    pool: { ...pools.counts, buckets: viewPools(pools, MAX_BUCKETS).pools },
    resolvers: { ...(await viewCache(metrics)), resolvers: await viewExecutions(metrics) },
    tenant: {
      rejected_deny: await valueOf(tenantRejected, { reason: "deny" }),
      rejected_limit: await valueOf(tenantRejected, { reason: "limit" }),
      rejected_rate: await valueOf(tenantRejected, { reason: "rate" }),
      timeouts: await valueOf(tenantTimeouts),
    },
  };
}

/** Those with the most connections first. */
export function viewPools(pool: Pick<OperatedPool, "sizes" | "isPaused">, limit: number) {
  const sizes = [...pool.sizes()].toSorted((a, b) => b.total - a.total);
  return {
    total: sizes.length,
    is_paused: pool.isPaused,
    pools: sizes
      .slice(0, limit)
      .map(({ database, role, total, idle, waiting }) => ({ database, role, total, idle, waiting })),
  };
}

async function viewCache(metrics: Metrics) {
  return {
    cache_hits: await valueOf(metrics.resolverCacheHits),
    cache_misses: await valueOf(metrics.resolverCacheMisses),
    cache_size: await valueOf(metrics.resolverCacheSize),
  };
}

async function viewExecutions(metrics: Metrics) {
  const { values } = await metrics.resolverExecutions.get();
  return Promise.all(
    values.map(async ({ value: executions, labels: { resolver: name } }) => {
      return { name, executions, errors: await valueOf(metrics.resolverErrors, { resolver: name ?? "" }) };
    }),
  );
}

export async function viewResolvers({ metrics, ...ports }: Pick<AdminPorts, "metrics" | "resolvers">) {
  const resolvers = await Promise.all(
    ports.resolvers().map(async ({ name, kind, params, variables, required, cacheTtlMs, timeoutMs, onChange }) => ({
      name,
      kind,
      params,
      variables,
      required,
      cache_ttl_seconds: cacheTtlMs / 1000,
      timeout_seconds: timeoutMs / 1000,
      on_change: onChange,
      executions: await valueOf(metrics.resolverExecutions, { resolver: name }),
      errors: await valueOf(metrics.resolverErrors, { resolver: name }),
      cache_hits: await valueOf(metrics.resolverLookups, { resolver: name, outcome: "hit" }),
      cache_misses: await valueOf(metrics.resolverLookups, { resolver: name, outcome: "miss" }),
      cache_size: await valueOf(metrics.resolverAnswers, { resolver: name }),
      invalidations: await valueOf(metrics.resolverInvalidations, { resolver: name }),
    })),
  );
  return { ...(await viewCache(metrics)), resolvers };
}

/** The oldest first: those are the ones that one looks for. @param tenant in whatever spelling. */
export function viewSessions(sessions: Iterable<SessionInfo>, tenant: string | undefined, limit: number) {
  const found: SessionInfo[] = [];
  const wanted = tenant === undefined ? undefined : canonicalTenant(tenant);
  let total = 0;
  for (const session of sessions) {
    if (wanted !== undefined && (session.tenant === undefined || canonicalTenant(session.tenant) !== wanted)) continue;
    total += 1;
    if (found.length < limit) found.push(session);
  }
  return {
    total,
    sessions: found.map(({ bytes, pooling, ...session }) => ({
      ...session,
      ...(pooling !== undefined && { pool_state: pooling.state }),
      ...(pooling?.pinReason !== undefined && { pin_reason: pooling.pinReason }),
      bytes_from_client: bytes.fromClient,
      bytes_from_upstream: bytes.fromUpstream,
    })),
  };
}

/** Those with the most connections first. */
export function viewTenants(ports: Pick<AdminPorts, "sessions" | "deniedTenants">, limit: number) {
  const tenants = new Map<
    string,
    { tenant: string; connections: number; bytes_from_client: number; bytes_from_upstream: number }
  >();
  for (const { tenant: spelling, bytes } of ports.sessions()) {
    if (spelling === undefined) continue;
    const tenant = canonicalTenant(spelling);
    const sum = tenants.get(tenant) ?? { tenant, connections: 0, bytes_from_client: 0, bytes_from_upstream: 0 };
    sum.connections += 1;
    sum.bytes_from_client += bytes.fromClient;
    sum.bytes_from_upstream += bytes.fromUpstream;
    tenants.set(tenant, sum);
  }
  const sorted = [...tenants.values()].toSorted((a, b) => b.connections - a.connections);
  const denied = ports.deniedTenants().map(({ pattern, reason }) => ({ tenant: pattern, reason }));
  return { total: tenants.size, tenants: sorted.slice(0, limit), denied };
}

export function viewExplanation({ identity, resolvers, context, verdict, reason }: Explanation) {
  return {
    verdict,
    ...(reason !== undefined && { reason }),
    ...(identity !== undefined && {
      identity: {
        kind: identity.kind,
        login_role: identity.loginRole,
        database: identity.database,
        ...(identity.kind === "tenant" && { role: identity.targetRole, tenant: identity.tenant }),
      },
    }),
    resolvers: resolvers.map(({ name, run }) => ({
      name,
      did_run: run !== undefined,
      values: run?.values ?? [],
      columns: run?.answer.columns ?? [],
      rows: run?.answer.rows ?? [],
      milliseconds: Math.round((run?.ms ?? 0) * 1000) / 1000,
    })),
    ...(context !== undefined && { context }),
  };
}

/** The value of the series with these labels; 0 where there is none yet. */
async function valueOf(metric: Metric, labels: Readonly<Record<string, unknown>> = {}): Promise<number> {
  const { values } = await metric.get();
  return (
    values.find((series) => Object.entries(labels).every(([name, value]) => series.labels[name] === value))?.value ?? 0
  );
}
