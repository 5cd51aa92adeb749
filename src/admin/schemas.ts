/**
 * What the HTTP API answers, as JSON schemas: /openapi.json shows them, answers are written after them, and nothing that is
 * not in them gets out.
 */
import { pinReasons } from "../proxy/pool/sql-effects.ts";

type Schema = Readonly<Record<string, unknown>>;

const text = { type: "string" } as const;
const count = { type: "integer", minimum: 0 } as const;
const number = { type: "number", minimum: 0 } as const;

/** An object with exactly these properties; those that are not `required` may be missing. */
function object(properties: Readonly<Record<string, Schema>>, optional: readonly string[] = []): Schema {
  const required = Object.keys(properties).filter((name) => !optional.includes(name));
  return { type: "object", properties, required, additionalProperties: false };
}

function list(items: Schema): Schema {
  return { type: "array", items };
}

export const error = object({ error: text });

export const health = object({ status: { type: "string", enum: ["ok", "fail"] } });

export const done = object({ status: { type: "string", enum: ["ok"] } });

export const unfinished = object({ status: { type: "string", enum: ["waiting"] } });

export const status = object({
  version: text,
  uptime_seconds: number,
  is_draining: { type: "boolean" },
  connections_total: count,
  connections_active: count,
  logins: object({ accepted: count, refused: count, left: count }),
  bytes: object({ from_client: count, from_upstream: count }),
  pool: object({
    checkouts: count,
    reuses: count,
    creates: count,
    checkins: count,
    discards: count,
    timeouts: count,
    buckets: list(object({ database: text, role: text, total: count, idle: count })),
  }),
  resolvers: object({
    cache_hits: count,
    cache_misses: count,
    cache_size: count,
    resolvers: list(object({ name: text, executions: count, errors: count })),
  }),
  tenant: object({ rejected_deny: count, rejected_limit: count, rejected_rate: count, timeouts: count }),
});

export const sessions = object({
  total: count,
  sessions: list(
    object(
      {
        conn: count,
        state: text,
        client: text,
        role: text,
        tenant: text,
        database: text,
        tls: text,
        seconds: number,
        bytes_from_client: count,
        bytes_from_upstream: count,
        pool_state: { type: "string", enum: ["active", "waiting", "idle"] },
        pin_reason: { type: "string", enum: pinReasons },
      },
      ["role", "tenant", "database", "tls", "pool_state", "pin_reason"],
    ),
  ),
});

export const tenants = object({
  total: count,
  tenants: list(object({ tenant: text, connections: count, bytes_from_client: count, bytes_from_upstream: count })),
  denied: list(object({ tenant: text, reason: text })),
});

export const resolvers = object({
  cache_hits: count,
  cache_misses: count,
  cache_size: count,
  resolvers: list(
    object({
      name: text,
      kind: { type: "string", enum: ["query", "code"] },
      params: list(text),
      variables: list(text),
      required: { type: "boolean" },
      cache_ttl_seconds: number,
      timeout_seconds: number,
      on_change: text,
      executions: count,
      errors: count,
      cache_hits: count,
      cache_misses: count,
      cache_size: count,
      invalidations: count,
    }),
  ),
});

export const config = object({
  settings: list(object({ name: text, value: { type: ["string", "null"] }, origin: text })),
});

export const pools = object({
  total: count,
  is_paused: { type: "boolean" },
  pools: list(object({ database: text, role: text, total: count, idle: count, waiting: count })),
});

const contextValue = object({ name: text, value: text });

export const explanation = object(
  {
    verdict: { type: "string", enum: ["accepted", "refused", "unknown"] },
    reason: text,
    identity: object(
      {
        kind: { type: "string", enum: ["tenant", "bypass"] },
        login_role: text,
        role: text,
        tenant: text,
        database: text,
      },
      ["role", "tenant"],
    ),
    resolvers: list(
      object({
        name: text,
        did_run: { type: "boolean" },
        values: list(text),
        columns: list(text),
        rows: list(list({ type: ["string", "null"] })),
        milliseconds: number,
      }),
    ),
    context: list(contextValue),
  },
  ["reason", "identity", "context"],
);

export const page = {
  type: "object",
  properties: {
    tenant: { type: "string", maxLength: 1_000, description: "of this tenant alone" },
    limit: { type: "integer", minimum: 1, maximum: 1_000, default: 100 },
  },
  additionalProperties: false,
} as const;

export const limit = {
  type: "object",
  properties: { limit: page.properties.limit },
  additionalProperties: false,
} as const;

export const wait = {
  type: "object",
  properties: {
    wait: { type: "integer", minimum: 0, maximum: 30, default: 30, description: "seconds until it answers 202" },
  },
  additionalProperties: false,
} as const;

export const login = {
  type: "object",
  properties: {
    user: { type: "string", minLength: 1, maxLength: 1_000, description: "as a client gives it: app_user.acme" },
    database: { type: "string", minLength: 1, maxLength: 63 },
  },
  required: ["user"],
  additionalProperties: false,
} as const;

const pattern = {
  type: "string",
  minLength: 1,
  maxLength: 1_000,
  description: "a tenant, or a pattern of tenants in which * stands for any characters",
} as const;

export const denial = {
  type: "object",
  properties: {
    tenant: pattern,
    reason: {
      type: "string",
      pattern: "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028-\\u202e\\u2066-\\u2069]{1,200}$",
      default: "by an operator",
      description: "which the tenant's clients are told",
    },
  },
  required: ["tenant"],
  additionalProperties: false,
} as const;

export const allowance = {
  type: "object",
  properties: { tenant: pattern },
  required: ["tenant"],
  additionalProperties: false,
} as const;

export const conn = {
  type: "object",
  properties: { conn: { type: "integer", minimum: 1, maximum: Number.MAX_SAFE_INTEGER } },
  required: ["conn"],
  additionalProperties: false,
} as const;
