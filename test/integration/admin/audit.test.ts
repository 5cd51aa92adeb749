/**
 * Where the audit log of the real program goes: to stdout whatever log_level says, or to a file, which logrotate may move.
 * No server is needed: a login that finds none is audited, too.
 */
import { mkdtempSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { afterAll, describe, expect, it } from "vitest";
import { AuditLog } from "../../../src/observe/audit-log.ts";
import { Metrics } from "../../../src/observe/metrics.ts";
import { launchProxy, startProxyProcess, type LogLine, type ProxyProcess } from "../../support/proxy-process.ts";
import { RawClient } from "../../support/raw-client.ts";

const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-audit-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const file = path.join(folder, "audit");
const lines = (name: string): LogLine[] =>
  readFileSync(name, "utf8")
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line) as LogLine);

/** A login that the proxy refuses; resolves when the client has heard of it. */
async function refused(proxy: ProxyProcess, tenant: string): Promise<void> {
  using client = await RawClient.open(proxy);
  await client.logIn({ user: `app_user.${tenant}` });
  expect(client.error["C"]).toBe("08001");
}

const login = (tenant: string) =>
  expect.objectContaining({ audit: "login", tenant, outcome: "refused", reason: "upstream_unreachable" }) as LogLine;

describe("audit_log", () => {
  it("= stdout writes among the log's lines", async () => {
    await using proxy = await startProxyProcess({ settings: { upstream_port: 1, audit_log: "stdout" } });
    await refused(proxy, "acme");
    expect(await proxy.waitForLog((line) => line["audit"] === "login")).toEqual(login("acme"));
  });

  it.each(["error", "silent"])("= stdout writes with the log at %s, too", (level) => {
    const written: string[] = [];
    const log = pino({ level }, { write: (line) => void written.push(line) });
    const change = { token: "a", source: "unix", action: "POST /reload", outcome: "done", status: 200 } as const;
    AuditLog.open({ auditLog: "stdout" }, log, new Metrics())?.change(change);
    expect(written.map((line) => JSON.parse(line) as LogLine)).toEqual([
      expect.objectContaining({ audit: "change", ...change }),
    ]);
  });

  it("= off writes nothing", async () => {
    await using proxy = await startProxyProcess({ settings: { upstream_port: 1 } });
    await refused(proxy, "acme");
    await proxy.stop();
    expect(proxy.log.filter((line) => "audit" in line)).toEqual([]);
  });

  it("= a file that its owner alone can read; after SIGHUP the one that stands there then", async () => {
    await using proxy = await startProxyProcess({ settings: { upstream_port: 1, audit_log: file } });
    await refused(proxy, "first");
    await expect.poll(() => lines(file)).toEqual([login("first")]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    renameSync(file, `${file}.1`);
    await refused(proxy, "second");
    process.kill(proxy.pid, "SIGHUP");
    await proxy.waitForLog(({ msg }) => String(msg).startsWith("reloaded"));
    await refused(proxy, "third");
    expect(await proxy.stop()).toEqual({ code: 0, signal: null });
    expect(lines(`${file}.1`)).toEqual([login("first"), login("second")]);
    expect(lines(file)).toEqual([login("third")]);
  });

  it("= a file that cannot be written stops the start", async () => {
    await using proxy = await launchProxy({ settings: { audit_log: path.join(folder, "none", "audit") } });
    expect(await proxy.exited).toEqual({ code: 1, signal: null });
    expect(proxy.stderr()).toMatch(/none\/audit: there is no such file/);
  });

  it("has no line for a connection that says nothing", async () => {
    await using proxy = await startProxyProcess({ settings: { upstream_port: 1, audit_log: "stdout" } });
    const check = await RawClient.open(proxy);
    check[Symbol.dispose]();
    await refused(proxy, "acme");
    await proxy.stop();
    expect(proxy.log.filter((line) => "audit" in line)).toEqual([login("acme")]);
  });
});
