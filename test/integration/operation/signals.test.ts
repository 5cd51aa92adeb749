/**
 * The built program as an operator sees it: SIGTERM drains, a second signal does not wait, exit codes; and what its log
 * holds of a session, which is no password and no SQL.
 */
import { once } from "node:events";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend } from "../../support/bytes.ts";
import { startProxyProcess, type ProxyProcess } from "../../support/proxy-process.ts";
import { RawClient } from "../../support/raw-client.ts";
import { untilRunning } from "../../support/server-side.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

let fixture: TenantFixture;
const startProxy = (settings: Record<string, string | number | boolean> = {}): Promise<ProxyProcess> =>
  startProxyProcess({
    settings: { upstream_host: fixture.server.host, upstream_port: fixture.server.port, ...settings },
  });
const logIn = (proxy: ProxyProcess, tenant = "acme"): Promise<RawClient> =>
  RawClient.logIn(proxy, { user: `app_user.${tenant}`, password: PASSWORD, parameters: { database: "postgres" } });

beforeAll(async () => {
  fixture = await startTenantFixture({ version: "18" });
});
afterAll(() => fixture?.[Symbol.asyncDispose]());

describe.each(["SIGTERM", "SIGINT"] as const)("%s", (signal) => {
  it("without connections ends the program with 0", async () => {
    await using proxy = await startProxy();
    expect(await proxy.stop(signal)).toEqual({ code: 0, signal: null });
    expect(proxy.stderr()).toBe("");
  });

  it("lets a query that runs end, and ends the program with 0 when its client has gone", async () => {
    await using proxy = await startProxy({ drain_timeout: 600 });
    using gate = await RawClient.logIn(fixture.server, loginAsSuperuser());
    await gate.query("SELECT pg_advisory_lock(1)");
    using client = await logIn(proxy);
    client.send(frontend.query("SELECT pg_advisory_lock(1), 'drained'"));
    await untilRunning(fixture, "drained");

    process.kill(proxy.pid, signal);
    const line = await proxy.waitForLog(({ msg }) => String(msg).startsWith("draining"));
    expect(line["connections"]).toBe(1);
    await expect(RawClient.open(proxy)).rejects.toMatchObject({ code: "ECONNREFUSED" });

    await gate.query("SELECT pg_advisory_unlock(1)");
    expect((await client.readUntil("Z")).map(({ type }) => type).join("")).toBe("TDCZ");
    client.send(frontend.terminate);
    await client.untilClosed();
    expect(client.types).not.toContain("E");
    expect(await proxy.exited).toEqual({ code: 0, signal: null });
  });

  it("tells idle clients 57P01 when drain_timeout is over", async () => {
    await using proxy = await startProxy({ drain_timeout: 0.2 });
    const clients = [await logIn(proxy), await logIn(proxy, "globex")];
    const exited = proxy.stop(signal);
    for (const client of clients) {
      await client.untilClosed();
      expect(client.error).toMatchObject({ C: "57P01", S: "FATAL" });
      expect(client.error["M"]).toBe("terminating connection: pgvpd is shutting down");
    }
    expect(await exited).toEqual({ code: 0, signal: null });
  });

  it("a second time does not wait for drain_timeout", async () => {
    await using proxy = await startProxy({ drain_timeout: 600 });
    const idle = await logIn(proxy);
    const busy = await logIn(proxy, "globex");
    busy.send(frontend.query("SELECT pg_sleep(600), 'second signal'"));
    const pid = await untilRunning(fixture, "second signal");
    process.kill(proxy.pid, signal);
    await proxy.waitForLog(({ msg }) => String(msg).startsWith("draining"));
    const exited = proxy.stop(signal);
    await Promise.all([idle.untilClosed(), busy.untilClosed()]);
    expect(idle.error["C"]).toBe("57P01");
    expect(busy.error["C"]).toBe("57P01");
    expect(await exited).toEqual({ code: 0, signal: null });
    await fixture.asSuperuser(`SELECT pg_terminate_backend(${pid})`);
  });
});

describe("SIGTERM during a login", () => {
  it("ends it with 57P01 when drain_timeout is over", async () => {
    await using proxy = await startProxy({ drain_timeout: 0.2 });
    const silent = await RawClient.open(proxy);
    silent.send(Buffer.of(0, 0));
    const exited = proxy.stop();
    await silent.untilClosed();
    expect(silent.error["C"]).toBe("57P01");
    expect(await exited).toEqual({ code: 0, signal: null });
  });
});

describe("the log", () => {
  it.each(["info", "trace"])(
    "at level %s tells who connects and when they leave, and no SQL and no password",
    async (level) => {
      await using proxy = await startProxy({ log_level: level });
      const secrets = {
        sql: "SELECT 'a statement of a client'",
        literal: "a statement of a client",
        parameter: "a bound value",
        password: PASSWORD,
        wrong: "a wrong password",
        option: "a value of an option",
      };
      const client = await fixture.connect("app_user.acme", {
        port: proxy.port,
        options: "-c app.x=a\\ value\\ of\\ an\\ option",
      });
      await client.query(secrets.sql);
      await client.query("SELECT $1::text", [secrets.parameter]);
      await errorOf(client.query(`SELECT '${secrets.literal}'::int`));
      const ended = once(client, "end");
      await client.end();
      await ended;
      await errorOf(fixture.connect("app_user.acme", { port: proxy.port, password: secrets.wrong }));
      await errorOf(
        fixture.connect("app_user.acme", { port: proxy.port, options: "-c role=a\\ value\\ of\\ an\\ option" }),
      );
      await errorOf(fixture.connect("app_user", { port: proxy.port }));

      const about = { role: "app_user", tenant: "acme", database: "postgres" };
      expect(await proxy.waitForLog(({ msg }) => msg === "connected")).toMatchObject(about);
      const left = await proxy.waitForLog(({ msg }) => msg === "disconnected");
      expect(left).toMatchObject({
        ...about,
        seconds: expect.any(Number) as number,
        fromClient: expect.any(Number) as number,
      });
      const connected = proxy.log.find(({ msg }) => msg === "connected");
      expect(left["conn"]).toBe(connected?.["conn"]);
      expect(await proxy.stop()).toMatchObject({ code: 0 });
      const text = proxy.log.map((line) => JSON.stringify(line)).join("\n");
      for (const secret of Object.values(secrets)) expect(text).not.toContain(secret);
    },
  );

  it("keeps what clients choose on one line, control characters escaped", async () => {
    await using proxy = await startProxy();
    for (const user of ["app_user.evil\nforged", "app_user.\u001b[31mred", "app_user.\u0000x"]) {
      const client = await RawClient.open(proxy);
      await client.logIn({ user, password: PASSWORD });
      expect(client.error["C"]).toMatch(/^(28000|08P01)$/);
    }
    const refused = await proxy.waitForLog(({ blame }) => blame === "client");
    expect(JSON.stringify(refused)).not.toMatch(/forged|red/);
    await proxy.stop();
    expect(proxy.log.every((line) => !("text" in line))).toBe(true);
  });
});

function loginAsSuperuser(): { user: string; password: string; parameters: { database: string } } {
  return { user: "postgres", password: fixture.server.password, parameters: { database: "postgres" } };
}
