/**
 * The HTTP API of the real program in front of a real server: what it shows is so, every answer is as /openapi.json says,
 * changes do what they say and are audited, and no secret of the configuration is to be seen anywhere.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { addAdminToken } from "../../../src/config/admin-tokens.ts";
import { createKeyFile } from "../../../src/config/seal-keys.ts";
import { adminOf, ask, type Answer, type Ask } from "../../support/admin-client.ts";
import { makeAuthority, makeServerCertificate } from "../../support/certificates.ts";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { expectDocumented, type OpenApi } from "../../support/openapi.ts";
import { startProxyProcess, type LogLine, type ProxyProcess } from "../../support/proxy-process.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const POOL_PASSWORD = "the shared password of clients";
const RESOLVER_PASSWORD = "the password of resolvers";
const WRONG_PASSWORD = "a wrong password";

const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-admin-"));
const at = (name: string): string => path.join(folder, name);
const token = addAdminToken(at("tokens"), "on-call", new Set(["metrics", "read", "operate"]));
const reader = addAdminToken(at("tokens"), "reader", new Set(["read"]));
const certificate = makeServerCertificate(makeAuthority(folder), { file: "own" });

let fixture: TenantFixture;
let proxy: ProxyProcess;
let port: number;
let api: OpenApi;
const answers: string[] = [];

beforeAll(async () => {
  fixture = await startTenantFixture({ version: "18" });
  await fixture.asSuperuser(`CREATE ROLE resolver LOGIN PASSWORD '${RESOLVER_PASSWORD}'`);
  writeFileSync(at("resolver-password"), RESOLVER_PASSWORD, { mode: 0o600 });
  writeFileSync(
    at("resolvers.toml"),
    `[[resolver]]
     name = "plan"
     query = "SELECT 'gold of ' || $1 AS plan"
     params = ["app.current_tenant_id"]
     inject = { "app.plan" = "plan" }
     cache_ttl = 600`,
  );
  createKeyFile(at("context.key"));
  proxy = await startProxyProcess({
    settings: {
      upstream_host: fixture.server.host,
      upstream_port: fixture.server.port,
      client_auth: "scram",
      pool_password: POOL_PASSWORD,
      resolvers: at("resolvers.toml"),
      resolver_user: "resolver",
      resolver_password_file: at("resolver-password"),
      context_seal: "on",
      context_key_file: at("context.key"),
      tls_cert: certificate.certFile,
      tls_key: certificate.keyFile,
      admin_port: 0,
      admin_tokens_file: at("tokens"),
      audit_log: at("audit"),
      stamp_application_name: true,
      login_throttle: 0,
      log_level: "trace",
    },
    env: { PGVPD_UPSTREAM_PASSWORD: PASSWORD },
  });
  ({ port } = await adminOf(proxy));
  api = (await get("/openapi.json")).json() as OpenApi;
});
afterAll(async () => {
  await proxy?.kill();
  await fixture?.[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** Asks, with the right token, and keeps the answer for the search for secrets. */
async function get(where: string, more: Ask = {}): Promise<Answer> {
  const answer = await ask({ port }, where, { token, ...more });
  answers.push(`${JSON.stringify(answer.headers)}\n${answer.text}`);
  return answer;
}

/** The same; the answer must be as it is documented. */
async function documented(where: string, more: Ask = {}): Promise<Answer> {
  const answer = await get(where, more);
  expectDocumented(api, more.method ?? "GET", where, answer);
  return answer;
}

const logIn = async (tenant: string, more: object = {}): Promise<Client> => {
  const client = new Client(
    fixture.through(`app_user.${tenant}`, { port: proxy.port, password: POOL_PASSWORD, ...more }),
  );
  client.on("error", () => {});
  await client.connect();
  return client;
};

/** A client that has gone is a session for a moment more. */
async function untilSessions(count: number): Promise<void> {
  const total = async (): Promise<unknown> => ((await get("/sessions")).json() as { total: unknown }).total;
  await expect.poll(total, { timeout: 10_000, interval: 10 }).toBe(count);
}

const audit = (): LogLine[] =>
  readFileSync(at("audit"), "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as LogLine);

/** Resolves with the audit's first line that has these properties. */
async function audited(properties: object): Promise<LogLine> {
  await expect.poll(audit, { timeout: 10_000, interval: 20 }).toContainEqual(expect.objectContaining(properties));
  return audit().find((line) => Object.entries(properties).every(([name, value]) => line[name] === value)) as LogLine;
}

describe("what is shown", () => {
  it("is /ready where the upstream server answers", async () => {
    expect((await documented("/ready")).json()).toEqual({ status: "ok" });
    expect((await documented("/health")).json()).toEqual({ status: "ok" });
  });

  it("counts in /status under the names of pgvpd 1.0", async () => {
    await untilSessions(0);
    const before = (await documented("/status")).json() as Record<string, number>;
    const client = await logIn("status");
    await errorOf(logIn("status", { password: WRONG_PASSWORD }));
    await untilSessions(1);
    const now = (await documented("/status")).json() as Record<string, number>;
    expect(now).toMatchObject({
      connections_total: (before["connections_total"] ?? 0) + 2,
      connections_active: (before["connections_active"] ?? 0) + 1,
      logins: { accepted: 1, refused: 1, left: 0 },
      pool: { checkouts: 0, reuses: 0, creates: 0, checkins: 0, discards: 0, timeouts: 0, buckets: [] },
      resolvers: {
        cache_hits: 0,
        cache_misses: 0,
        cache_size: 0,
        resolvers: [{ name: "plan", executions: 1, errors: 0 }],
      },
      tenant: { rejected_deny: 0, rejected_limit: 0, rejected_rate: 0, timeouts: 0 },
    });
    expect(JSON.stringify(now)).not.toContain('status"');
    await client.end();
  });

  it("is each connection in /sessions, each tenant in /tenants, and of the right one", async () => {
    await untilSessions(0);
    const clients = [await logIn("acme"), await logIn("acme"), await logIn("globex")];
    const all = (await documented("/sessions")).json() as { total: number; sessions: Record<string, unknown>[] };
    expect(all.total).toBe(3);
    expect(all.sessions[2]).toMatchObject({
      state: "forwarding",
      tenant: "globex",
      role: "app_user",
      database: "postgres",
      client: expect.stringMatching(/^127\.0\.0\.1:\d+$/) as string,
    });
    expect((await documented("/sessions?tenant=acme&limit=1")).json()).toMatchObject({
      total: 2,
      sessions: [{ tenant: "acme" }],
    });
    expect((await documented("/tenants?limit=1")).json()).toMatchObject({
      total: 2,
      tenants: [{ tenant: "acme", connections: 2 }],
    });
    for (const wrong of ["/sessions?limit=0", "/sessions?limit=x", "/tenants?limit=1001"]) {
      expect((await documented(wrong)).status, wrong).toBe(400);
    }
    const name = await clients[2]?.query("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()");
    expect(name?.rows).toEqual([{ application_name: "globex" }]);
    const named = await logIn("acme", { application_name: "psql" });
    expect((await named.query("SHOW application_name")).rows).toEqual([{ application_name: "acme: psql" }]);
    await Promise.all([...clients, named].map((client) => client.end()));
  });

  it("is every setting in /config with its origin, and no secret", async () => {
    const { settings } = (await documented("/config")).json() as { settings: Record<string, unknown>[] };
    const of = (name: string): unknown => settings.find((setting) => setting["name"] === name);
    expect(of("client_auth")).toEqual({
      name: "client_auth",
      value: "scram",
      origin: expect.stringMatching(/pgvpd\.conf:\d+$/) as string,
    });
    expect(of("upstream_password")).toEqual({
      name: "upstream_password",
      value: "[redacted]",
      origin: "PGVPD_UPSTREAM_PASSWORD",
    });
    expect(of("pool_password")).toMatchObject({ value: "[redacted]" });
    expect(of("handshake_timeout")).toEqual({ name: "handshake_timeout", value: "30", origin: "default" });
    expect(of("set_role")).toEqual({ name: "set_role", value: null, origin: "default" });
  });

  it("is what a login would come to in /explain", async () => {
    expect((await documented("/explain?user=app_user.acme&database=postgres")).json()).toMatchObject({
      verdict: "accepted",
      identity: { kind: "tenant", login_role: "app_user", role: "app_user", tenant: "acme", database: "postgres" },
      resolvers: [{ name: "plan", did_run: true, values: ["acme"], rows: [["gold of acme"]] }],
      context: [
        { name: "app.current_tenant_id", value: "acme" },
        { name: "app.plan", value: "gold of acme" },
      ],
    });
    expect((await documented("/explain?user=nobody")).json()).toMatchObject({ verdict: "refused" });
    expect((await documented("/explain?user=postgres")).json()).toMatchObject({ identity: { kind: "bypass" } });
    for (const wrong of [
      "/explain",
      "/explain?user=",
      `/explain?user=${"x".repeat(1_001)}`,
      "/explain?user=a&database=",
    ]) {
      expect((await documented(wrong)).status, wrong).toBe(400);
    }
    const many = await Promise.all(Array.from({ length: 5 }, () => documented("/explain?user=app_user.acme")));
    expect(many.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 200, 429, 429, 429]);
  });

  it("is nothing in /pools without pools", async () => {
    expect((await documented("/pools")).json()).toEqual({ total: 0, is_paused: false, pools: [] });
    for (const order of ["pause", "resume"]) {
      expect((await documented(`/pools/${order}`, { method: "POST" })).status).toBe(409);
    }
  });

  it("is a resolver with what it does in /resolvers", async () => {
    expect((await documented("/resolvers")).json()).toMatchObject({
      resolvers: [
        {
          name: "plan",
          kind: "query",
          params: ["app.current_tenant_id"],
          variables: ["app.plan"],
          cache_ttl_seconds: 600,
        },
      ],
    });
  });

  it("is each metric in /metrics once, in a form that Prometheus takes", async () => {
    const { text, headers } = await documented("/metrics");
    expect(headers["content-type"]).toContain("version=0.0.4");
    for (const name of [
      ..."connections_total connections_active pool_connections_total pool_connections_idle".split(" "),
      ..."checkouts reuses creates checkins discards timeouts".split(" ").map((what) => `pool_${what}_total`),
      ..."resolver_cache_size resolver_cache_hits_total resolver_cache_misses_total".split(" "),
      ..."resolver_executions_total resolver_errors_total tenant_rejected_total tenant_timeouts_total".split(" "),
      ..."bytes_total login_phase_duration_seconds event_loop_delay_seconds build_info".split(" "),
    ]) {
      expect(text.split(`# TYPE pgvpd_${name} `), name).toHaveLength(2);
    }
    expect(text).toContain('pgvpd_tenant_rejected_total{reason="deny"} 0');
    expect(text).not.toMatch(/acme|globex/);
    for (const tenant of ["one", "two", "three"]) await (await logIn(tenant)).end();
    const seriesOf = (page: string): string[] => page.split("\n").map((line) => line.replace(/ \S+$/, ""));
    expect(seriesOf((await get("/metrics")).text)).toEqual(seriesOf(text));
    expect(text).not.toContain("NaN");
  });
});

describe("a change", () => {
  const post = (where: string, more: Ask = {}): Promise<Answer> => documented(where, { method: "POST", ...more });

  it("ends one connection with 57P01, and no other", async () => {
    await untilSessions(0);
    const [doomed, other] = [await logIn("acme"), await logIn("globex")];
    const { sessions } = (await get("/sessions?tenant=acme")).json() as { sessions: { conn: number }[] };
    const conn = sessions[0]?.conn ?? 0;
    const gone = new Promise<unknown>((resolve) => doomed.once("error", resolve));
    expect((await post(`/sessions/${conn}/terminate`)).json()).toEqual({ status: "ok" });
    expect(await gone).toMatchObject({ code: "57P01", message: "terminating connection due to administrator command" });
    await other.query("SELECT 1");
    await other.end();

    await expect.poll(() => post(`/sessions/${conn}/terminate`).then(({ status }) => status)).toBe(404);
    expect((await post("/sessions/0/terminate")).status).toBe(400);
    expect((await post("/sessions/x/terminate")).status).toBe(400);
    await audited({ audit: "end", conn, reason: "terminated" });
    await audited({
      audit: "change",
      token: "on-call",
      action: `POST /sessions/${conn}/terminate`,
      outcome: "done",
      status: 200,
    });
  });

  it("denies a tenant, whose sessions end, until it is allowed again", async () => {
    const [doomed, other] = [await logIn("acme"), await logIn("globex")];
    const gone = new Promise<unknown>((resolve) => doomed.once("error", resolve));
    expect((await post("/tenants/deny?tenant=ac*&reason=moved")).json()).toEqual({ status: "ok" });
    expect(await gone).toMatchObject({ code: "57P01", message: expect.stringContaining("moved") as string });
    await expect(logIn("acme")).rejects.toMatchObject({ code: "28000" });
    expect((await get("/explain?user=app_user.acme")).json()).toMatchObject({
      verdict: "refused",
      reason: '28000 tenant "acme" may not connect: moved',
    });
    await other.query("SELECT 1");
    await other.end();
    expect((await get("/tenants")).json()).toMatchObject({ denied: [{ tenant: "ac*", reason: "moved" }] });

    expect((await post("/tenants/allow?tenant=acme")).status).toBe(404);
    expect((await post("/tenants/allow?tenant=ac*")).status).toBe(200);
    await (await logIn("acme")).end();
    for (const wrong of [
      "",
      "?tenant=",
      "?tenant=acme&reason=",
      "?tenant=acme&reason=a%00b",
      "?tenant=acme&reason=%C2%9B2J",
      "?tenant=acme&reason=%E2%80%AEa",
      "?tenant=a&tenant=b",
    ]) {
      expect((await post(`/tenants/deny${wrong}`)).status, wrong).toBe(400);
    }
    await audited({ audit: "change", action: "POST /tenants/deny?tenant=ac*&reason=moved", outcome: "done" });
  });

  it("clears the resolvers' cache", async () => {
    const executions = async (): Promise<number | undefined> => {
      const { resolvers } = (await get("/resolvers")).json() as { resolvers: { executions: number }[] };
      return resolvers[0]?.executions;
    };
    const logInAndOut = async (): Promise<void> => (await logIn("cached")).end();
    // The first login of a database begins to listen for changes; from then on answers are kept.
    await expect
      .poll(async () => {
        const before = await executions();
        await logInAndOut();
        return (await executions()) === before;
      })
      .toBe(true);
    const before = (await executions()) ?? 0;
    expect((await post("/resolvers/cache/clear")).status).toBe(200);
    expect((await get("/resolvers")).json()).toMatchObject({ cache_size: 0 });
    await logInAndOut();
    expect(await executions()).toBe(before + 1);
  });

  it("reloads, all of it or nothing", async () => {
    expect((await post("/reload")).json()).toEqual({ status: "ok" });
    const text = readFileSync(at("resolvers.toml"), "utf8");
    writeFileSync(at("resolvers.toml"), `${text}\nnonsense = `);
    const refused = await post("/reload");
    expect(refused.status).toBe(409);
    expect(refused.text).toMatch(/everything stays as it was: .*resolvers\.toml/);
    writeFileSync(at("resolvers.toml"), text);
    expect((await post("/reload")).status).toBe(200);
    await audited({ audit: "change", action: "POST /reload", outcome: "failed", status: 409 });
  });

  it("that is refused is audited, too", async () => {
    for (const [more, status] of [
      [{ token: undefined }, 401],
      [{ token: "pgvpd_wrong" }, 401],
      [{ token: reader }, 403],
      [{ headers: { origin: "https://evil.example" } }, 403],
      [{ headers: { host: "evil.example" } }, 421],
    ] as const) {
      expect((await post("/drain", more)).status).toBe(status);
      await audited({ audit: "change", action: "POST /drain", outcome: "refused", status });
    }
    await audited({ audit: "change", token: "reader", status: 403 });
    expect((await get("/ready")).status).toBe(200);
  });
});

describe("the audit log", () => {
  it("has a line for each login and each end: who, from where, how, which context, and why it failed", async () => {
    const client = await logIn("audited");
    await client.query("SELECT 'a statement of a client'");
    await client.end();
    await errorOf(logIn("mistaken", { password: WRONG_PASSWORD }));
    await errorOf(logIn("unknown", { database: "nowhere" }));

    const context = JSON.stringify([
      ["app.current_tenant_id", "audited"],
      ["app.plan", "gold of audited"],
    ]);
    const about = { user: "app_user.audited", role: "app_user", tenant: "audited", database: "postgres" };
    const login = await audited({ audit: "login", user: "app_user.audited" });
    expect(login).toEqual({
      time: expect.stringMatching(/^20\d\d-.*Z$/) as string,
      level: "info",
      audit: "login",
      conn: expect.any(Number) as number,
      client: expect.stringMatching(/^127\.0\.0\.1:\d+$/) as string,
      ...about,
      credential: "scram",
      hasCertificate: false,
      contextSha256: createHash("sha256").update(context).digest("hex"),
      outcome: "accepted",
      ms: expect.any(Number) as number,
    });
    const end = await audited({ audit: "end", conn: login["conn"] });
    expect(end).toMatchObject({ ...about, reason: "closed", seconds: expect.any(Number) as number });
    expect(Number(end["fromClient"])).toBeGreaterThan(0);
    await untilSessions(0);
    const sum = (name: string): number => audit().reduce((total, line) => total + Number(line[name] ?? 0), 0);
    expect((await get("/status")).json()).toMatchObject({
      bytes: { from_client: sum("fromClient"), from_upstream: sum("fromUpstream") },
    });
    expect(await audited({ audit: "login", user: "app_user.mistaken" })).toMatchObject({
      outcome: "refused",
      reason: "password_failed",
      sqlstate: "28P01",
    });
    // The resolvers' own login finds that there is no such database.
    expect(await audited({ audit: "login", user: "app_user.unknown" })).toMatchObject({ outcome: "refused" });
  });
});

describeWithTools(["promtool"], "promtool", (promtool) => {
  it("finds nothing wrong but the one name that is kept", async () => {
    const { text } = await get("/metrics");
    const { stdout, stderr } = spawnSync(promtool ?? "", ["check", "metrics"], { input: text, encoding: "utf8" });
    const lines = `${stdout}${stderr}`.split("\n").filter((line) => line !== "");
    expect(lines.filter((line) => !line.startsWith("pgvpd_pool_connections_total "))).toEqual([]);
  });
});

describe("last of all", () => {
  it("a drain answers, lets sessions end, says that it is not ready, and ends the program", async () => {
    await untilSessions(0);
    const client = await logIn("drained");
    expect((await documented("/drain", { method: "POST" })).status).toBe(202);
    // Another one, and the signal of who supervises the program, cut nothing short.
    expect((await documented("/drain", { method: "POST" })).status).toBe(202);
    process.kill(proxy.pid, "SIGTERM");
    await proxy.waitForLog(({ msg }) => String(msg).startsWith("draining"));
    expect((await documented("/ready")).json()).toEqual({ status: "fail" });
    expect((await documented("/status")).json()).toMatchObject({ is_draining: true, connections_active: 1 });
    await client.query("SELECT 1");
    await client.end();
    expect(await proxy.exited).toEqual({ code: 0, signal: null });
    expect(audit().at(-1)).toMatchObject({ audit: "end", tenant: "drained" });
  });

  it("shows no secret in all that was answered and written until now", () => {
    const key = readFileSync(at("context.key"), "utf8");
    const secrets = {
      POOL_PASSWORD,
      PASSWORD,
      RESOLVER_PASSWORD,
      WRONG_PASSWORD,
      token,
      reader,
      ...Object.fromEntries(
        readFileSync(at("tokens"), "utf8")
          .match(/[0-9a-f]{64}/g)
          ?.map((hash) => [hash, hash]) ?? [],
      ),
      ...Object.fromEntries(key.match(/[A-Za-z0-9+/=_-]{32,}/g)?.map((part) => [part, part]) ?? []),
      tlsKey: readFileSync(certificate.keyFile, "utf8").split("\n")[1] ?? "",
      sql: "a statement of a client",
    };
    expect(Object.values(secrets).every((secret) => secret.length > 10)).toBe(true);
    expect(Object.keys(secrets).length).toBeGreaterThan(9);
    const logged = proxy.log.map((line) => JSON.stringify(line));
    const everything = [...answers, ...logged, readFileSync(at("audit"), "utf8"), proxy.stderr()].join("\n");
    expect(answers.length).toBeGreaterThan(40);
    for (const [name, secret] of Object.entries(secrets)) expect(everything.includes(secret), name).toBe(false);
  });
});
