/**
 * Whether `pgvpd check` tells PostgreSQL from what is none: a real server, by TCP and by the folder of its socket, and
 * scripted ones that answer wrongly, late or not at all.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { checkUpstream } from "../../../src/check/check-upstream.ts";
import { configFromSettings } from "../../../src/config/load.ts";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";

const LIMIT_MS = 500;

async function check(host: string, port: number): Promise<string[]> {
  const config = configFromSettings({ upstream_host: host, upstream_port: port });
  return (await checkUpstream(config, LIMIT_MS)).map(({ verdict, text }) => `${verdict}: ${text}`);
}

/** A server that does as `serve` says with each connection; closed when the test ends. */
async function scripted(serve: (socket: Socket) => void, where: { host: string } | { path: string }): Promise<Server> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    serve(socket);
  });
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen("path" in where ? where : { ...where, port: 0 }, resolve));
  return server;
}

async function checkScripted(serve: (socket: Socket) => void): Promise<string> {
  const server = await scripted(serve, { host: "127.0.0.1" });
  const { port } = server.address() as AddressInfo;
  const [finding = ""] = await check("127.0.0.1", port);
  return finding.replace(`127.0.0.1:${port}`, "it");
}

describe("a real server", () => {
  let server: PostgresServer;
  beforeAll(async () => {
    server = await startPostgres({ settings: { unix_socket_directories: "" } });
  });
  afterAll(() => server.stop());

  it("is reached by address", async () => {
    expect(await check("127.0.0.1", server.port)).toEqual([
      `ok: upstream: 127.0.0.1:${server.port}: PostgreSQL answers`,
    ]);
  });

  it("is reached by name, and an address of the name that does not answer is a warning", async () => {
    const findings = await check("localhost", server.port);
    expect(findings).toContain(`ok: upstream: 127.0.0.1:${server.port}: PostgreSQL answers`);
    for (const finding of findings) expect(finding).toMatch(/^(ok|warning): /);
  });

  it("leaves nothing in the server's log", async () => {
    const { readFileSync } = await import("node:fs");
    await check("127.0.0.1", server.port);
    expect(readFileSync(server.logFile, "utf8")).not.toMatch(/incomplete startup packet|SSL/);
  });
});

describe("a socket", () => {
  it("is asked in its folder, under the name that PostgreSQL gives it", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-socket-"));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const socket = path.join(folder, ".s.PGSQL.5432");
    await scripted((client) => client.once("data", () => client.end("N")), { path: socket });
    expect(await check(folder, 5432)).toEqual([`ok: upstream: ${socket}: PostgreSQL answers`]);
    expect(await check(folder, 5433)).toEqual([`error: upstream: ${folder}/.s.PGSQL.5433: there is no such socket`]);
  });
});

describe("what is no PostgreSQL", () => {
  it("gets an SSLRequest, and one byte, S or N, is taken for an answer", async () => {
    const received: Buffer[] = [];
    for (const answer of ["S", "N"]) {
      const finding = await checkScripted((socket) => {
        socket.once("data", (bytes) => {
          received.push(bytes);
          socket.write(answer);
        });
      });
      expect(finding).toBe("ok: upstream: it: PostgreSQL answers");
    }
    expect(received.map((bytes) => bytes.toString("hex"))).toEqual(["0000000804d2162f", "0000000804d2162f"]);
  });

  it("is told by what it answers", async () => {
    for (const answer of ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "NN", "s", "\0"]) {
      const finding = await checkScripted((socket) => socket.once("data", () => socket.write(answer)));
      expect(finding).toBe("error: upstream: it: what answers there is not PostgreSQL");
    }
  });

  it("may be PostgreSQL in trouble", async () => {
    const finding = await checkScripted((socket) =>
      socket.once("data", () => socket.end("Ecould not fork new process")),
    );
    expect(finding).toBe("error: upstream: it: PostgreSQL answers with an error: look into its log");
  });

  it("may close, or reset, the connection", async () => {
    const closed = "error: upstream: it: it closed the connection without an answer: is it PostgreSQL?";
    expect(await checkScripted((socket) => socket.end())).toBe(closed);
    expect(await checkScripted((socket) => socket.once("data", () => socket.resetAndDestroy()))).toBe(closed);
  });

  it("may say nothing: there is a limit", async () => {
    expect(await checkScripted(() => {})).toBe("error: upstream: it: no answer in 0.5 s");
  });

  it("may not be there", async () => {
    const server = await scripted(() => {}, { host: "127.0.0.1" });
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    expect(await check("127.0.0.1", port)).toEqual([`error: upstream: 127.0.0.1:${port}: nothing listens there`]);
  });

  it("may have a name that nobody knows", async () => {
    const [finding] = await check("no-such-host.invalid", 5432);
    expect(finding).toMatch(/^error: upstream: no-such-host\.invalid: (the name |no answer in)/);
  });
});
