/**
 * The HTTP API of one listener, as a Fastify application: its limits, who is let in, and what becomes of errors. The gate says who
 * may; routes.ts has what there is.
 */
import helmet from "@fastify/helmet";
import swagger from "@fastify/swagger";
import Fastify, {
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerOptions,
} from "fastify";
import type { Server, Socket } from "node:net";
import type { SecureContextOptions } from "node:tls";
import type { AdminToken } from "../config/admin-tokens.ts";
import { oneLine } from "../config/one-line.ts";
import { judge, type Access, type GateOptions } from "./gate.ts";
import type { AdminPorts } from "./ports.ts";
import { addRoutes } from "./routes.ts";

/** Nobody sends more: the largest request is a path and a token. */
const MAX_BODY_BYTES = 1_024;
const MAX_HEADER_BYTES = 8_192;
const MAX_CONNECTIONS = 100;
const REQUEST_MS = 10_000;
/** How often connections are looked at whose request is late. */
const CHECK_MS = 2_000;
/** Longer than an explanation, which waits for a database, may take. */
const SILENCE_MS = 60_000;
const KEEP_ALIVE_MS = 5_000;

declare module "fastify" {
  interface FastifyContextConfig {
    access?: Access;
  }
  interface FastifyRequest {
    token: AdminToken | undefined;
  }
}

/** What a request for a path that there is not needs: it tells nothing to who may see nothing. */
const ACCESS_ELSEWHERE: Access = { scope: "read" };

/** @param tls certificate and key where the listener speaks HTTPS. */
export async function createApi(
  ports: AdminPorts,
  gate: GateOptions,
  tls: SecureContextOptions | undefined,
): Promise<FastifyInstance> {
  const server = { maxHeaderSize: MAX_HEADER_BYTES, headersTimeout: REQUEST_MS, connectionsCheckingInterval: CHECK_MS };
  const options: FastifyServerOptions & { https?: object } = {
    bodyLimit: MAX_BODY_BYTES,
    requestTimeout: REQUEST_MS,
    connectionTimeout: SILENCE_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    maxRequestsPerSocket: 1_000,
    forceCloseConnections: true,
    frameworkErrors: refuseMalformedPath,
    ...(tls === undefined ? { http: server } : { https: { ...tls, ...server } }),
  };
  // Every answer is checked against its schema in tests; here nothing that is not in it gets out.
  const api = Fastify(options as FastifyServerOptions) as unknown as FastifyInstance;
  boundConnections(api.server);
  api.removeContentTypeParser("text/plain");

  api.decorateRequest("token", undefined);
  api.addHook("onRequest", async (request, reply) => letIn(request, reply, gate));
  api.addHook("onResponse", async (request, reply) => audit(request, reply, ports));
  api.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) => answerError(error, reply, ports));
  api.setNotFoundHandler(
    (_request, reply) => void reply.code(404).send({ error: "there is nothing here: see /openapi.json" }),
  );

  await api.register(helmet, {
    contentSecurityPolicy: { useDefaults: false, directives: { defaultSrc: ["'none'"], frameAncestors: ["'none'"] } },
    strictTransportSecurity: false,
    xFrameOptions: { action: "deny" },
  });
  await api.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: { title: "pgvpd", description: "The HTTP API of pgvpd.", version: ports.version },
      components: { securitySchemes: { token: { type: "http", scheme: "bearer" } } },
    },
  });
  await api.register(async (routes) => addRoutes(routes, ports));
  await api.ready();
  return api;
}

/** One too many takes the place of the one that is open for longest: connections that say nothing keep nobody out. */
function boundConnections(server: Server): void {
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    const [oldest] = sockets;
    if (sockets.size > MAX_CONNECTIONS) oldest?.destroy();
  });
}

/** What the router itself refuses comes by no hook. */
function refuseMalformedPath(_error: Error, _request: unknown, reply: unknown): void {
  void (reply as FastifyReply).code(400).send({ error: "the path is malformed" });
}

async function letIn(request: FastifyRequest, reply: FastifyReply, gate: GateOptions): Promise<void> {
  void reply.header("cache-control", "no-store");
  const access = request.routeOptions.config.access ?? ACCESS_ELSEWHERE;
  const verdict = judge({ method: request.method, headers: request.headers, access }, gate);
  request.token = verdict.token;
  if (!("status" in verdict)) return;
  if (verdict.status === 401) void reply.header("www-authenticate", 'Bearer realm="pgvpd"');
  await reply.code(verdict.status).send({ error: verdict.error });
}

/** Each change, and each attempt at one. */
function audit(request: FastifyRequest, reply: FastifyReply, { audit: auditLog, log }: AdminPorts): void {
  const { access } = request.routeOptions.config;
  if (access === undefined || "open" in access || access.scope !== "operate") return;
  const { statusCode: status } = reply;
  const change = {
    token: request.token?.name,
    source: sourceOf(request),
    action: oneLine(`${request.method} ${request.url}`),
    outcome: status < 300 ? "done" : status === 401 || status === 403 || status === 421 ? "refused" : "failed",
    status,
  } as const;
  auditLog?.change(change);
  log.info(change, "a change by the HTTP API");
}

function sourceOf({ socket: { remoteAddress, remotePort } }: FastifyRequest): string {
  return remoteAddress === undefined ? "unix" : `${remoteAddress}:${remotePort}`;
}

function answerError(error: Error & { statusCode?: number }, reply: FastifyReply, { log }: AdminPorts): void {
  const status = error.statusCode ?? 500;
  if (status >= 500) log.error({ err: error }, "the HTTP API could not answer");
  void reply.code(status).send({ error: status >= 500 ? "internal error: the log has the cause" : error.message });
}
