/**
 * The paths of the HTTP API: what each asks for, and what it answers. Nothing is decided here: the views say what there is to see,
 * the ports do what is ordered.
 */
import type { FastifyInstance } from "fastify";
import type { AdminPorts } from "./ports.ts";
import * as schemas from "./schemas.ts";
import { viewExplanation, viewPools, viewResolvers, viewSessions, viewStatus, viewTenants } from "./views.ts";

/** Each opens connections upstream. */
const MAX_EXPLANATIONS = 2;

const open = { config: { access: { open: true } } } as const;
const read = { config: { access: { scope: "read" } } } as const;
const operate = { config: { access: { scope: "operate" } } } as const;

const REFUSALS = { 401: schemas.error, 403: schemas.error, 421: schemas.error };

export function addRoutes(api: FastifyInstance, ports: AdminPorts): void {
  addProbes(api, ports);
  addViews(api, ports);
  addOperations(api, ports);
  addTenantOperations(api, ports);
  addPoolOperations(api, ports);
}

function addProbes(api: FastifyInstance, ports: AdminPorts): void {
  api.get("/health", { ...open, schema: answers("The program runs.", { 200: schemas.health }) }, async () => ({
    status: "ok",
  }));
  api.get(
    "/ready",
    {
      ...open,
      schema: answers("It takes connections: the upstream server answers, and it does not drain.", {
        200: schemas.health,
        503: schemas.health,
      }),
    },
    async (_request, reply) => {
      const isReady = ports.isAccepting() && (await ports.isUpstreamReachable());
      return reply.code(isReady ? 200 : 503).send({ status: isReady ? "ok" : "fail" });
    },
  );
  api.get(
    "/metrics",
    {
      config: { access: { scope: "metrics", legacy: true } },
      schema: needing("metrics", {
        summary: "Metrics in Prometheus' text format.",
        response: {
          200: { description: "metrics", content: { "text/plain": { schema: { type: "string" } } } },
          ...REFUSALS,
        },
      }),
    },
    async (_request, reply) => {
      const { registry } = ports.metrics;
      return reply.type(registry.contentType).send(await registry.metrics());
    },
  );
}

function addViews(api: FastifyInstance, ports: AdminPorts): void {
  api.get(
    "/status",
    {
      config: { access: { scope: "read", legacy: true } },
      schema: needing(
        "read",
        answers("Counts of everything, without names of tenants.", { 200: schemas.status, ...REFUSALS }),
      ),
    },
    async () => viewStatus(ports),
  );
  api.get<{ Querystring: { tenant?: string; limit: number } }>(
    "/sessions",
    {
      ...read,
      schema: needing("read", {
        ...answers("Open connections, the oldest first.", { 200: schemas.sessions, 400: schemas.error, ...REFUSALS }),
        querystring: schemas.page,
      }),
    },
    async ({ query: { tenant, limit } }) => viewSessions(ports.sessions(), tenant, limit),
  );
  api.get<{ Querystring: { limit: number } }>(
    "/pools",
    {
      ...read,
      schema: needing("read", {
        ...answers("Pooled connections by database and role, those with most first.", {
          200: schemas.pools,
          400: schemas.error,
          ...REFUSALS,
        }),
        querystring: schemas.limit,
      }),
    },
    async ({ query: { limit } }) => viewPools(ports.pools, limit),
  );
  api.get<{ Querystring: { limit: number } }>(
    "/tenants",
    {
      ...read,
      schema: needing("read", {
        ...answers("Tenants with open connections, those with most first; and who was denied at run time.", {
          200: schemas.tenants,
          400: schemas.error,
          ...REFUSALS,
        }),
        querystring: schemas.limit,
      }),
    },
    async ({ query: { limit } }) => viewTenants(ports, limit),
  );
  api.get(
    "/resolvers",
    { ...read, schema: needing("read", answers("Context resolvers.", { 200: schemas.resolvers, ...REFUSALS })) },
    async () => viewResolvers(ports),
  );
  api.get(
    "/config",
    {
      ...read,
      schema: needing("read", answers("Every setting, and where it comes from.", { 200: schemas.config, ...REFUSALS })),
    },
    async () => ({ settings: ports.settings().map(({ value = null, ...setting }) => ({ ...setting, value })) }),
  );
  addExplain(api, ports);
  api.get("/openapi.json", { ...read, schema: { hide: true } }, async () => api.swagger());
}

function addExplain(api: FastifyInstance, ports: AdminPorts): void {
  let running = 0;
  api.get<{ Querystring: { user: string; database?: string } }>(
    "/explain",
    {
      ...read,
      schema: needing("read", {
        ...answers("What pgvpd would make of a client: see pgvpd explain.", {
          200: schemas.explanation,
          400: schemas.error,
          429: schemas.error,
          ...REFUSALS,
        }),
        querystring: schemas.login,
      }),
    },
    async ({ query: { user, database } }, reply) => {
      if (running === MAX_EXPLANATIONS) return reply.code(429).send({ error: "others are being explained: try again" });
      running += 1;
      try {
        return viewExplanation(await ports.explain(user, database));
      } finally {
        running -= 1;
      }
    },
  );
}

function addTenantOperations(api: FastifyInstance, ports: AdminPorts): void {
  api.post<{ Querystring: { tenant: string; reason: string } }>(
    "/tenants/deny",
    {
      ...operate,
      schema: needing("operate", {
        ...answers("Ends a tenant's sessions, and admits none until it is allowed again or pgvpd is started anew.", {
          200: schemas.done,
          400: schemas.error,
          409: schemas.error,
          ...REFUSALS,
        }),
        querystring: schemas.denial,
      }),
    },
    async ({ query: { tenant, reason } }, reply) => {
      try {
        ports.denyTenant(tenant, reason);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        return reply.code(409).send({ error: error.message });
      }
      return { status: "ok" };
    },
  );
  api.post<{ Querystring: { tenant: string } }>(
    "/tenants/allow",
    {
      ...operate,
      schema: needing("operate", {
        ...answers("Takes a denial of the same text back.", {
          200: schemas.done,
          400: schemas.error,
          404: schemas.error,
          ...REFUSALS,
        }),
        querystring: schemas.allowance,
      }),
    },
    async ({ query: { tenant } }, reply) =>
      ports.allowTenant(tenant)
        ? { status: "ok" }
        : reply
            .code(404)
            .send({ error: `"${tenant}" was not denied here: see /tenants, tenant_deny and tenants.toml` }),
  );
}

function addPoolOperations(api: FastifyInstance, ports: AdminPorts): void {
  const noPool = { error: "there are no pools: pool_mode is none" };
  api.post<{ Querystring: { wait: number } }>(
    "/pools/pause",
    {
      ...operate,
      schema: needing("operate", {
        ...answers(
          "Lends no pooled connections, and closes those that are free or come back: 200 when all are closed.",
          {
            200: schemas.done,
            202: schemas.unfinished,
            400: schemas.error,
            409: schemas.error,
            ...REFUSALS,
          },
        ),
        querystring: schemas.wait,
      }),
    },
    async ({ query: { wait } }, reply) => {
      if (!ports.hasPools) return reply.code(409).send(noPool);
      const isDone = await ports.pools.pause(AbortSignal.timeout(wait * 1_000)).then(
        () => true,
        () => false,
      );
      if (!ports.pools.isPaused) return reply.code(409).send({ error: "the pools were resumed meanwhile" });
      return reply.code(isDone ? 200 : 202).send({ status: isDone ? "ok" : "waiting" });
    },
  );
  api.post(
    "/pools/resume",
    {
      ...operate,
      schema: needing(
        "operate",
        answers("Lends pooled connections again.", { 200: schemas.done, 409: schemas.error, ...REFUSALS }),
      ),
    },
    async (_request, reply) => {
      if (!ports.hasPools) return reply.code(409).send(noPool);
      ports.pools.resume();
      return { status: "ok" };
    },
  );
}

function addOperations(api: FastifyInstance, ports: AdminPorts): void {
  api.post<{ Params: { conn: number } }>(
    "/sessions/:conn/terminate",
    {
      ...operate,
      schema: needing("operate", {
        ...answers("Ends a connection with 57P01.", {
          200: schemas.done,
          400: schemas.error,
          404: schemas.error,
          ...REFUSALS,
        }),
        params: schemas.conn,
      }),
    },
    async ({ params: { conn } }, reply) =>
      ports.terminate(conn) ? { status: "ok" } : reply.code(404).send({ error: `there is no connection ${conn}` }),
  );
  api.post(
    "/resolvers/cache/clear",
    {
      ...operate,
      schema: needing("operate", answers("Forgets what resolvers have answered.", { 200: schemas.done, ...REFUSALS })),
    },
    async () => {
      ports.clearResolverCache();
      return { status: "ok" };
    },
  );
  api.post(
    "/reload",
    {
      ...operate,
      schema: needing(
        "operate",
        answers("As SIGHUP: all of it or nothing.", { 200: schemas.done, 409: schemas.error, ...REFUSALS }),
      ),
    },
    async (_request, reply) => {
      try {
        ports.reload();
        return { status: "ok" };
      } catch (error) {
        return reply.code(409).send({ error: `everything stays as it was: ${(error as Error).message}` });
      }
    },
  );
  api.post(
    "/drain",
    {
      ...operate,
      schema: needing(
        "operate",
        answers("As SIGTERM: no new connections, then the program ends.", { 202: schemas.done, ...REFUSALS }),
      ),
    },
    async (_request, reply) => {
      // The end of the last session ends this one, too: first the answer.
      reply.raw.once("close", () => ports.drain());
      return reply.code(202).send({ status: "ok" });
    },
  );
}

function answers(summary: string, response: Readonly<Record<number, unknown>>) {
  return { summary, response };
}

function needing<T extends object>(scope: string, schema: T) {
  return { ...schema, description: `Needs a token with the scope ${scope}.`, security: [{ token: [scope] }] };
}
