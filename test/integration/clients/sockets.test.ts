/**
 * Where clients connect to, and where the proxy does: Unix-domain sockets on both sides, IPv6, several addresses of the
 * listener, a name of the upstream with several addresses of which one answers. A CancelRequest takes the same ways.
 */
import { execFile } from "node:child_process";
import { chmod, mkdtemp, rm, stat } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { client as frontend } from "../../support/bytes.ts";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { RawClient, sendCancel, type Place } from "../../support/raw-client.ts";
import { untilRunning } from "../../support/server-side.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

/** Names that no resolver has to know; the server listens on 127.0.0.1 only. */
const names: Readonly<Record<string, readonly string[]>> = {
  "second-answers.test": ["127.0.0.9", "127.0.0.1"],
  "none-answers.test": ["127.0.0.8", "127.0.0.9"],
};
vi.mock("node:dns/promises", async (original) => {
  const dns = await original<typeof import("node:dns/promises")>();
  const lookup = (host: string, options: object): unknown =>
    names[host]?.map((address) => ({ address, family: 4 })) ?? dns.lookup(host, options);
  return { ...dns, lookup: async (host: string, options: object) => lookup(host, options) };
});

const run = promisify(execFile);
const login = { user: "app_user.acme", password: PASSWORD, parameters: { database: "postgres" } };

let fixture: TenantFixture;
/** The server's socket is here, and the proxy's. Anyone may pass: as root the server runs as somebody else. */
let folder: string;
let hasIPv6: boolean;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "pgvpd-sockets-"));
  await chmod(folder, 0o777);
  hasIPv6 = await canBind("::1");
  fixture = await startTenantFixture({ version: "18", settings: { unix_socket_directories: folder } });
});
afterAll(async () => {
  await fixture?.[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

/** A login with rows of its own, and a query cancelled. */
async function expectSession(place: Place): Promise<void> {
  using client = await RawClient.logIn(place, login);
  const rows = (await client.query("SELECT body FROM notes")).filter(({ type }) => type === "D");
  expect(rows).toHaveLength(2);
  client.send(frontend.query("SELECT pg_sleep(60), 'over any socket'"));
  await untilRunning(fixture, "over any socket");
  expect(await sendCancel(place, client.key ?? { processId: 0, secret: Buffer.alloc(4) })).toHaveLength(0);
  await client.readUntil("Z");
  expect(client.error["C"]).toBe("57014");
  client.send(frontend.terminate);
  await client.untilClosed();
}

describe("a Unix-domain socket", () => {
  it("takes clients, and cancels, when unix_socket_dir is set; it is gone when the proxy is", async () => {
    const { proxy, port } = await fixture.proxyWith({ unix_socket_dir: folder });
    const socket = path.join(folder, `.s.PGSQL.${port}`);
    expect((await stat(socket)).mode & 0o777).toBe(0o777);
    await expectSession({ path: socket });
    await expectSession({ host: "127.0.0.1", port });
    await proxy.stop();
    await expect(stat(socket)).rejects.toMatchObject({ code: "ENOENT" });
  });

  it("is how the upstream is reached when upstream_host is a folder", async () => {
    const { port } = await fixture.proxyWith({ upstream_host: folder });
    await expectSession({ host: "127.0.0.1", port });
  });

  it("serves on both sides at once, for node-postgres too", async () => {
    const { port } = await fixture.proxyWith({ upstream_host: folder, unix_socket_dir: folder });
    await expectSession({ path: path.join(folder, `.s.PGSQL.${port}`) });
    const client = new Client({ ...fixture.through("app_user.globex"), host: folder, port });
    await client.connect();
    expect((await client.query("SELECT body FROM notes")).rowCount).toBe(3);
    await client.end();
  });

  it("that is not there is 08001", async () => {
    const { port } = await fixture.proxyWith({ upstream_host: path.join(folder, "nothing") });
    expect((await errorOf(fixture.connect("app_user.acme", { port }))).code).toBe("08001");
  });
});

describeWithTools(["psql"], "psql over a Unix-domain socket", (psql = "") => {
  it("shows a tenant its rows", async () => {
    const { port } = await fixture.proxyWith({ upstream_host: folder, unix_socket_dir: folder });
    const args = ["-X", "-qAt", "-h", folder, "-p", String(port), "-U", "app_user.acme", "-d", "postgres"];
    const env = { PGPASSWORD: PASSWORD, PATH: "" };
    const { stdout } = await run(psql, [...args, "-c", "SELECT body FROM notes ORDER BY id"], { env });
    expect(stdout).toBe("a1\na2\n");
  });
});

describe("addresses", () => {
  it("of a name are each tried, and the one that answered is where cancels go", async () => {
    const { port } = await fixture.proxyWith({ upstream_host: "second-answers.test" });
    await expectSession({ host: "127.0.0.1", port });
    const localhost = await fixture.proxyWith({ upstream_host: "localhost" });
    await expectSession({ host: "127.0.0.1", port: localhost.port });
  });

  it("of a name none of which answers are 08001", async () => {
    const { port } = await fixture.proxyWith({ upstream_host: "none-answers.test" });
    expect((await errorOf(fixture.connect("app_user.acme", { port }))).code).toBe("08001");
  });

  it("several of the listener share a port", async () => {
    const { port } = await fixture.proxyWith({ listen_host: "127.0.0.1,127.0.0.2" });
    await expectSession({ host: "127.0.0.1", port });
    await expectSession({ host: "127.0.0.2", port });
    await expect(RawClient.open({ host: "127.0.0.3", port })).rejects.toMatchObject({ code: "ECONNREFUSED" });
  });

  it("of IPv6 are listened on", async (context) => {
    context.skip(!hasIPv6, "this machine has no IPv6");
    const { port } = await fixture.proxyWith({ listen_host: "::1" });
    await expectSession({ host: "::1", port });
    const both = await fixture.proxyWith({ listen_host: "*" });
    await expectSession({ host: "::1", port: both.port });
    await expectSession({ host: "127.0.0.1", port: both.port });
  });

  it("of IPv6 reach an upstream", async (context) => {
    context.skip(!hasIPv6, "this machine has no IPv6");
    await using upstream = await startTenantFixture({
      version: "18",
      auth: "host all all all scram-sha-256",
      settings: { listen_addresses: "::1,127.0.0.1" },
    });
    const { port } = await upstream.proxyWith({ upstream_host: "::1" });
    const client = await upstream.connect("app_user.acme", { port });
    const { rows } = await client.query(
      "SELECT inet_server_addr()::text AS address, (SELECT count(*)::int FROM notes)",
    );
    expect(rows).toEqual([{ address: "::1/128", count: 2 }]);
  });
});

async function canBind(host: string): Promise<boolean> {
  const probe = createServer();
  const bound = once(probe, "listening").then(
    () => true,
    () => false,
  );
  probe.listen(0, host);
  const isBound = await bound;
  probe.close();
  return isBound;
}
