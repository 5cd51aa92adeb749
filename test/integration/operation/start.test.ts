/** What the built program says when it cannot start: the setting, where it stands and what is allowed, and exit code 1. */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { launchProxy, startProxyProcess } from "../../support/proxy-process.ts";

/** Starts what must not start; what it said on stderr. */
async function failedStart(
  settings: Readonly<Record<string, string | number | boolean>>,
  more: { args?: string[]; env?: Record<string, string> } = {},
): Promise<string> {
  await using proxy = await launchProxy({ settings, ...more });
  expect(await proxy.exited).toEqual({ code: 1, signal: null });
  expect(proxy.log).toEqual([]);
  return proxy.stderr();
}

describe("the program does not start, with exit code 1,", () => {
  // The file's first three lines are listen_host, port and log_format.
  it.each([
    ["an unknown key", { upstrem_host: "db" }, /pgvpd\.conf:4: there is no setting "upstrem_host": .*upstream_host/],
    ["a mode that does not exist", { pool_mode: "bogus" }, /pgvpd\.conf:4: pool_mode "bogus": .*none, session/],
    ["a boolean that is none", { upstream_tls: "maybe" }, /pgvpd\.conf:4: upstream_tls "maybe": .*true/],
    ["a port that is none", { upstream_port: "5432x" }, /pgvpd\.conf:4: upstream_port "5432x"/],
    ["a port out of range", { upstream_port: 70_000 }, /pgvpd\.conf:4: upstream_port "70000"/],
    ["a time that is none", { handshake_timeout: "soon" }, /pgvpd\.conf:4: handshake_timeout "soon"/],
    ["a role that cannot be set", { set_role: "none" }, /pgvpd\.conf:4: set_role "none"/],
    ["a protected context variable", { context_variables: "row_security" }, /pgvpd\.conf:4: context_variables/],
    ["TLS without a certificate", { tls_port: 6433 }, /pgvpd\.conf:4: tls_port: needs tls_cert and tls_key/],
    [
      "a relayed login with a pool",
      { pool_mode: "session", client_auth: "relay" },
      /pgvpd\.conf:5: client_auth: relay ties .*needs scram/,
    ],
  ])("on %s, and names file, line, key and what is allowed", async (_name, settings, message) => {
    expect(await failedStart(settings)).toMatch(message);
  });

  it("naming every problem of the file at once", async () => {
    const said = await failedStart({ upstream_port: "x", pool_mode: "bogus", nonsense: 1 });
    expect(said.trimEnd().split("\n")).toHaveLength(3);
  });

  it("on a bad flag and a bad variable of the environment, naming them", async () => {
    expect(await failedStart({}, { args: ["--upstream-port", "x"] })).toContain("--upstream-port");
    expect(await failedStart({}, { env: { PGVPD_UPSTREAM_PORT: "x" } })).toContain("PGVPD_UPSTREAM_PORT");
  });

  it("without the value of a secret in what it says", async () => {
    const said = await failedStart({ client_auth: "scram", pool_password: "hunter2", pool_size: "hunter3" });
    expect(said).toContain("pool_size");
    expect(said).not.toMatch(/hunter2/);
  });

  it("on a file of a secret that others can read, naming it and what to do", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "pgvpd-start-"));
    const file = path.join(folder, "password");
    await writeFile(file, "hunter2\n", { mode: 0o644 });
    const said = await failedStart({ client_auth: "scram", pool_password_file: file, upstream_password: "x" });
    expect(said).toContain(`chmod 600 ${file}`);
    expect(said).not.toContain("hunter2");
    await rm(folder, { recursive: true });
  });

  it("on a port that is taken, naming the address and what to do", async () => {
    await using first = await startProxyProcess();
    const said = await failedStart({ port: first.port });
    expect(said).toContain(`cannot listen on 127.0.0.1:${first.port}: it is in use`);
    expect(await first.stop()).toEqual({ code: 0, signal: null });
  });

  it("on an address that this machine does not have", async () => {
    expect(await failedStart({ listen_host: "192.0.2.1" })).toContain("cannot listen on 192.0.2.1");
  });

  it("on a second address that cannot be had, with the first one given back", async () => {
    const taken = createServer().listen(0, "127.0.0.2");
    await once(taken, "listening");
    const address = taken.address();
    const port = address !== null && typeof address === "object" ? address.port : 0;
    expect(await failedStart({ listen_host: "127.0.0.1,127.0.0.2", port })).toContain(
      `cannot listen on 127.0.0.2:${port}`,
    );
    taken.close();
  });

  it("on a folder for its socket that is not there", async () => {
    expect(await failedStart({ unix_socket_dir: "/nonexistent" })).toContain("cannot listen on /nonexistent/.s.PGSQL.");
  });

  it("on a file where its socket goes, which stays as it is", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "pgvpd-start-"));
    try {
      const file = path.join(folder, ".s.PGSQL.26432");
      await writeFile(file, "somebody's");
      expect(await failedStart({ unix_socket_dir: folder, port: 26_432 })).toContain(`cannot listen on ${file}`);
      expect(await readFile(file, "utf8")).toBe("somebody's");
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});

describe("the program starts", () => {
  it("over the socket file of a killed one, and not over one that is in use", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "pgvpd-socket-"));
    try {
      const killed = await startProxyProcess({ settings: { unix_socket_dir: folder } });
      const settings = { unix_socket_dir: folder, port: killed.port };
      await killed.kill();
      await using next = await startProxyProcess({ settings });
      expect(await next.waitForLog((line) => "path" in line)).toMatchObject({ msg: "listening" });
      const said = await failedStart({ ...settings, listen_host: "127.0.0.3" });
      expect(said).toContain(`.s.PGSQL.${next.port}: it is in use`);
      expect(await next.stop()).toEqual({ code: 0, signal: null });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

describe("the program starts", () => {
  it("and says which parameters it does not pin, where upstream_startup_parameters leaves some out", async () => {
    await using proxy = await startProxyProcess({ settings: { upstream_startup_parameters: "*,-role,-row_security" } });
    expect(proxy.log).toContainEqual(expect.objectContaining({ level: "warn", parameters: ["role", "row_security"] }));
  });
});
