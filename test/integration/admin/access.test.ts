/**
 * Who may ask the HTTP API of the real program what: isolation.md's table of listeners and tokens, hosts, origins, limits.
 */
import { once } from "node:events";
import { X509Certificate } from "node:crypto";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { text } from "node:stream/consumers";
import { connect as connectTls } from "node:tls";
import { afterAll, describe, expect, it } from "vitest";
import { addAdminToken, type Scope } from "../../../src/config/admin-tokens.ts";
import { adminOf, ask, type AdminPlace } from "../../support/admin-client.ts";
import { makeAuthority, makeServerCertificate } from "../../support/certificates.ts";
import { launchProxy, startProxyProcess, type ProxyProcess } from "../../support/proxy-process.ts";

const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-admin-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const tokensFile = path.join(folder, "tokens");
const create = (scope: Scope): string => addAdminToken(tokensFile, scope, new Set([scope]));
const tokens = { metrics: create("metrics"), read: create("read"), operate: create("operate") };
const authority = makeAuthority(folder);
const own = makeServerCertificate(authority, { file: "admin" });
const tls = { admin_tls_cert: own.certFile, admin_tls_key: own.keyFile };
const ca = readFileSync(authority.certFile, "utf8");

const start = (settings: Record<string, string | number> = {}): Promise<ProxyProcess> =>
  startProxyProcess({ settings: { admin_port: 0, upstream_port: 1, ...settings } });

const READ = [
  "/sessions",
  "/tenants",
  "/pools",
  "/resolvers",
  "/config",
  "/openapi.json",
  "/explain?user=a",
  "/nothing",
];
const CHANGES = ["/sessions/1/terminate", "/pools/pause", "/pools/resume", "/resolvers/cache/clear", "/reload"];

/** The status of every path, with this token: of those that agree one line. */
async function statuses(place: AdminPlace, token?: string): Promise<Record<string, number>> {
  const status = async (at: string, method = "GET"): Promise<number> =>
    (await ask(place, at, { method, token })).status;
  const same = async (paths: readonly string[], method: string): Promise<number> => {
    const found = new Set<number>();
    for (const one of paths) found.add(await status(one, method));
    expect([...found], paths.join(" ")).toHaveLength(1);
    return [...found][0] ?? 0;
  };
  return {
    health: await status("/health"),
    ready: await status("/ready"),
    metrics: await status("/metrics"),
    status: await status("/status"),
    read: await same(
      READ.filter((one) => token !== tokens.read || (one !== "/nothing" && !one.startsWith("/explain"))),
      "GET",
    ),
    changes: await same(token === tokens.operate ? ["/resolvers/cache/clear", "/reload"] : CHANGES, "POST"),
  };
}

describe("what is open", () => {
  it("on loopback without tokens: health, ready, metrics and status, as in pgvpd 1.0", async () => {
    await using proxy = await start();
    const place = await adminOf(proxy);
    expect(await statuses(place)).toEqual({
      health: 200,
      ready: 503,
      metrics: 200,
      status: 200,
      read: 401,
      changes: 401,
    });
    expect(await statuses(place, tokens.operate)).toMatchObject({ status: 200, read: 401, changes: 401 });
    expect((await ask(place, "/health")).json()).toEqual({ status: "ok" });
    expect((await ask(place, "/ready")).json()).toEqual({ status: "fail" });
  });

  it("on loopback with tokens: health and ready, the rest by scope", async () => {
    await using proxy = await start({ admin_tokens_file: tokensFile });
    const place = await adminOf(proxy);
    const open = { health: 200, ready: 503 };
    expect(await statuses(place)).toEqual({ ...open, metrics: 401, status: 401, read: 401, changes: 401 });
    expect(await statuses(place, "pgvpd_wrong")).toEqual({
      ...open,
      metrics: 401,
      status: 401,
      read: 401,
      changes: 401,
    });
    expect(await statuses(place, tokens.metrics)).toEqual({
      ...open,
      metrics: 200,
      status: 403,
      read: 403,
      changes: 403,
    });
    expect(await statuses(place, tokens.read)).toEqual({ ...open, metrics: 403, status: 200, read: 200, changes: 403 });
    expect(await statuses(place, tokens.operate)).toEqual({
      ...open,
      metrics: 403,
      status: 403,
      read: 403,
      changes: 200,
    });
    expect((await ask(place, "/nothing", { token: tokens.read })).status).toBe(404);
    for (const [at, status] of [
      ["/health", 200],
      ["/status", 401],
      ["/metrics", 401],
    ] as const) {
      expect((await ask(place, at, { method: "HEAD" })).status, at).toBe(status);
    }

    const [hash = ""] = /[0-9a-f]{64}/.exec(readFileSync(tokensFile, "utf8")) ?? [];
    expect((await ask(place, "/metrics", { token: hash })).status).toBe(401);
    const basic = { authorization: `Basic ${Buffer.from(`x:${tokens.read}`).toString("base64")}` };
    const refused = await ask(place, "/status", { headers: basic });
    expect([refused.status, refused.headers["www-authenticate"]]).toEqual([401, 'Bearer realm="pgvpd"']);
    expect((await ask(place, `/status?token=${tokens.read}&access_token=${tokens.read}`)).status).toBe(401);
  });

  it("on another address without TLS: health and ready, and metrics with a token", async () => {
    await using proxy = await start({ admin_host: "0.0.0.0", admin_tokens_file: tokensFile });
    const place = await adminOf(proxy);
    await proxy.waitForLog(
      ({ level, msg }) => level === "warn" && String(msg).includes("open to a network without TLS"),
    );
    const open = { health: 200, ready: 503 };
    expect(await statuses(place)).toEqual({ ...open, metrics: 401, status: 403, read: 403, changes: 403 });
    expect(await statuses(place, tokens.metrics)).toEqual({
      ...open,
      metrics: 200,
      status: 403,
      read: 403,
      changes: 403,
    });
    expect(await statuses(place, tokens.operate)).toEqual({
      ...open,
      metrics: 403,
      status: 403,
      read: 403,
      changes: 403,
    });
  });

  it("on another address without TLS and without tokens: health and ready", async () => {
    await using proxy = await start({ admin_host: "*" });
    const found = await statuses(await adminOf(proxy));
    expect(found).toEqual({ health: 200, ready: 503, metrics: 401, status: 403, read: 403, changes: 403 });
  });

  it("on another address with TLS: as on loopback with tokens", async () => {
    await using proxy = await start({ admin_host: "0.0.0.0", admin_tokens_file: tokensFile, ...tls });
    const place = { ...(await adminOf(proxy)), ca };
    expect(await statuses(place)).toMatchObject({ health: 200, metrics: 401, status: 401, read: 401, changes: 401 });
    expect(await statuses(place, tokens.read)).toMatchObject({ metrics: 403, status: 200, read: 200, changes: 403 });
    await expect(ask({ port: place.port }, "/health")).rejects.toThrow();
  });

  it("on a socket of its owner's alone: as on loopback", async () => {
    const socket = path.join(folder, "admin.sock");
    await using proxy = await startProxyProcess({ settings: { admin_socket: socket, upstream_port: 1 } });
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    expect(await statuses({ path: socket })).toMatchObject({
      health: 200,
      metrics: 200,
      status: 200,
      read: 401,
      changes: 401,
    });
    await proxy.kill();
    // What a killed process left behind is in nobody's way.
    await using second = await startProxyProcess({ settings: { admin_socket: socket, upstream_port: 1 } });
    expect((await ask({ path: socket }, "/health")).status).toBe(200);
    expect(await second.stop()).toMatchObject({ code: 0 });
  });

  it("without admin_port and admin_socket: nothing", async () => {
    await using proxy = await startProxyProcess();
    expect(proxy.log.filter(({ msg }) => String(msg).includes("HTTP"))).toEqual([]);
    expect(await proxy.stop()).toMatchObject({ code: 0 });
  });
});

describe("one listener", () => {
  it("answers hosts that are addresses, localhost or listed, and others with 421", async () => {
    await using proxy = await start({ admin_server_names: "pgvpd.internal" });
    const place = await adminOf(proxy);
    const status = async (host: string): Promise<number> => (await ask(place, "/health", { headers: { host } })).status;
    const { port } = place;
    for (const host of ["127.0.0.1", `localhost:${port}`, "[::1]:9090", "10.0.0.7:1", "PGVPD.internal"]) {
      expect(await status(host), host).toBe(200);
    }
    for (const host of [
      "evil.example",
      `evil.example:${port}`,
      "127.0.0.1.evil.example",
      "localhost.evil.example",
      "x@localhost",
    ]) {
      expect(await status(host), host).toBe(421);
    }
    // HTTP/1.0 has no Host.
    expect(await raw(port, "GET /health HTTP/1.0\r\n\r\n")).toMatch(/^HTTP\/1\.1 421 /);
    expect(await raw(port, "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 /);
  });

  it("takes no change from a page of another origin, and lets none read", async () => {
    await using proxy = await start({ admin_tokens_file: tokensFile });
    const place = await adminOf(proxy);
    const change = async (headers: Record<string, string>): Promise<number> =>
      (await ask(place, "/resolvers/cache/clear", { method: "POST", token: tokens.operate, headers })).status;
    for (const headers of [
      { origin: "https://evil.example" },
      { origin: "null" },
      { origin: `http://127.0.0.1:${place.port + 1}` },
      { "sec-fetch-site": "cross-site" },
      { "sec-fetch-site": "same-site" },
    ]) {
      expect(await change(headers as Record<string, string>), JSON.stringify(headers)).toBe(403);
    }
    expect(await change({ origin: `http://127.0.0.1:${place.port}`, "sec-fetch-site": "same-origin" })).toBe(200);

    const headers = { origin: "https://evil.example", "access-control-request-method": "POST" };
    for (const method of ["GET", "OPTIONS"]) {
      const answer = await ask(place, "/health", { method, headers });
      expect(Object.keys(answer.headers).filter((name) => name.startsWith("access-control-"))).toEqual([]);
    }
    const { headers: sent } = await ask(place, "/health");
    expect(sent).toMatchObject({
      "content-security-policy": "default-src 'none';frame-ancestors 'none'",
      "x-content-type-options": "nosniff",
      "x-frame-options": "DENY",
      "cache-control": "no-store",
    });
  });

  it("bounds what it reads and whom it waits for", async () => {
    await using proxy = await start({ admin_tokens_file: tokensFile });
    const { port } = await adminOf(proxy);
    const post = (headers: Record<string, string>, body: string): Promise<number> =>
      ask({ port }, "/reload", { method: "POST", token: tokens.operate, headers, body }).then(({ status }) => status);
    expect(await post({ "content-type": "application/json" }, JSON.stringify("x".repeat(2_000)))).toBe(413);
    expect(await post({ "content-type": "text/plain" }, "x")).toBe(415);
    expect(await raw(port, `GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(9_000)}\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 431 /,
    );
    expect(await raw(port, "GET /%zz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).toMatch(
      /^HTTP\/1\.1 400 /,
    );
    // Beyond the limit the connection that is open for longest makes room.
    const silent = await Promise.all(Array.from({ length: 150 }, () => connectTo(port)));
    // The agent's own kept-alive connection may have been that one.
    const health = (): Promise<number> =>
      ask({ port }, "/health")
        .then(({ status }) => status)
        .catch(() => 0);
    await expect.poll(health).toBe(200);
    await expect.poll(() => silent.filter(({ destroyed }) => destroyed).length).toBeGreaterThanOrEqual(50);
    expect(silent.filter(({ destroyed }) => !destroyed).length).toBeGreaterThan(90);
    for (const socket of silent) socket.destroy();
  });
});

describe("SIGHUP", () => {
  it("takes new tokens, forgets those that are gone, and keeps them where the file is broken", async () => {
    const file = path.join(folder, "changing");
    const first = addAdminToken(file, "first", new Set(["read"]));
    await using proxy = await start({ admin_tokens_file: file });
    const place = await adminOf(proxy);
    const status = async (token: string): Promise<number> => (await ask(place, "/status", { token })).status;
    const reload = async (): Promise<unknown> => {
      const seen = proxy.log.length;
      process.kill(proxy.pid, "SIGHUP");
      const line = await proxy.waitForLog((one) => proxy.log.indexOf(one) >= seen && /reload/.test(String(one["msg"])));
      return line["level"];
    };
    expect(await status(first)).toBe(200);
    rmSync(file);
    const second = addAdminToken(file, "second", new Set(["read"]));
    expect(await reload()).toBe("info");
    expect([await status(first), await status(second)]).toEqual([401, 200]);
    writeFileSync(file, "second:read:abc\n");
    expect(await reload()).toBe("error");
    rmSync(file);
    expect(await reload()).toBe("error");
    expect([await status(first), await status(second)]).toEqual([401, 200]);
  });

  it("shows the new certificate of the API", async () => {
    const live = { cert: path.join(folder, "live.crt"), key: path.join(folder, "live.key") };
    const put = (file: string): string => {
      const made = makeServerCertificate(authority, { file });
      copyFileSync(made.certFile, live.cert);
      copyFileSync(made.keyFile, live.key);
      return new X509Certificate(readFileSync(made.certFile)).fingerprint256;
    };
    const first = put("first");
    await using proxy = await start({ admin_tls_cert: live.cert, admin_tls_key: live.key });
    const { port } = await adminOf(proxy);
    const shown = async (): Promise<string> => {
      const socket = connectTls({ host: "127.0.0.1", port, ca });
      await once(socket, "secureConnect");
      const { fingerprint256 } = socket.getPeerCertificate();
      socket.destroy();
      return fingerprint256;
    };
    expect(await shown()).toBe(first);
    const second = put("second");
    process.kill(proxy.pid, "SIGHUP");
    await proxy.waitForLog(({ msg }) => String(msg).startsWith("reloaded"));
    expect(await shown()).toBe(second);
  });
});

describe("the program does not start", () => {
  it.each([
    [
      "with a file of tokens that others can read",
      { admin_port: 0, admin_tokens_file: path.join(folder, "open") },
      /others can read it: chmod 600/,
    ],
    [
      "with tokens and nothing to ask",
      { admin_tokens_file: tokensFile },
      /used together with admin_port or admin_socket/,
    ],
    ["with a certificate without its key", { admin_port: 0, admin_tls_cert: own.certFile }, /needs admin_tls_key/],
    [
      "with a file that is no socket, which stays",
      { admin_socket: tokensFile },
      /cannot open the HTTP API on .*tokens: it is in use/,
    ],
    ["with a name as its address", { admin_port: 0, admin_host: "localhost" }, /expected one address/],
    ["with the port of its clients", { port: 6499, admin_port: 6499 }, /is the same as port/],
  ] as const)("%s", async (_case, settings, problem) => {
    writeFileSync(path.join(folder, "open"), readFileSync(tokensFile), { mode: 0o644 });
    await using proxy = await launchProxy({ settings });
    expect(await proxy.exited).toEqual({ code: 1, signal: null });
    expect(proxy.stderr()).toMatch(problem);
  });
});

async function connectTo(port: number) {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  await once(socket, "connect");
  return socket;
}

/** Everything that comes back for these bytes. */
async function raw(port: number, request: string): Promise<string> {
  const socket = await connectTo(port);
  socket.write(request);
  return text(socket);
}
