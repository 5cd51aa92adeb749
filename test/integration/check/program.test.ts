/** The built program as it is typed: what stands on stdout and stderr, and its exit code. */
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";

const program = path.join(import.meta.dirname, "../../../dist/main.js");

interface Run {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

let folder: string;
let server: PostgresServer;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "pgvpd-program-"));
  server = await startPostgres({ auth: "scram" }); // one of its own: without app_user
});
afterAll(async () => {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

/** Runs it in an empty folder, with no variable but PATH and those that are given. */
function pgvpd(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Run> {
  return new Promise((resolve) => {
    const options = { cwd: folder, env: { PATH: process.env["PATH"] ?? "", ...env }, timeout: 20_000 };
    execFile(process.execPath, [program, ...args], options, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err });
    });
  });
}

function fileWith(text: string): string {
  const file = path.join(folder, "test.conf");
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

describe("pgvpd", () => {
  it("tells a problem a line on stderr, and ends with 1 before it listens", async () => {
    const file = fileWith("prot = 7000\npool_mode = sesion\n");
    const { code, out, err } = await pgvpd(["--config", file], { PGVPD_UPSTREAM_TLS: "maybe" });
    expect([code, out]).toEqual([1, ""]);
    expect(err.split("\n")).toEqual([
      `pgvpd: ${file}:1: there is no setting "prot": did you mean port?`,
      `pgvpd: ${file}:2: pool_mode "sesion": expected none, session or transaction`,
      'pgvpd: PGVPD_UPSTREAM_TLS: upstream_tls "maybe": expected true, yes, on, 1 or false, no, off, 0',
      "",
    ]);
  });

  it("names the commands to who asks for another", async () => {
    for (const name of ["start", "constructor", "Serve"]) {
      expect(await pgvpd([name])).toEqual({
        code: 1,
        out: "",
        err: `pgvpd: there is no command "${name}": the commands are serve, check, doctor, explain, key, demo, sql, credential, token, help, version\n`,
      });
    }
  });

  it("keeps what is typed to one line", async () => {
    const { err } = await pgvpd(["--a\nb\u001b[31m"]);
    expect(err).toBe("pgvpd: --a\\x0ab\\x1b[31m: there is no such flag\n");
  });

  it("tells in a line, without a stack, that its port is taken", async () => {
    const { code, err } = await pgvpd(["--port", String(server.port), "--upstream-port", "1", "--log-level", "off"]);
    expect(code).toBe(1);
    expect(err).toMatch(/^pgvpd: cannot listen on 127\.0\.0\.1:\d+: it is in use[^\n]*\n$/);
  });

  it("serves with --config alone, until a signal", async () => {
    const file = fileWith(`port = 0\nlog_format = json\nupstream_port = ${server.port}\n`);
    const child = spawn(process.execPath, [program, "--config", file], {
      env: {},
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = once(child, "close");
    for await (const line of createInterface({ input: child.stdout })) {
      const { msg, port } = JSON.parse(line) as { msg: string; port?: number };
      if (msg !== "listening" || port === undefined) continue;
      const client = connect(port, "127.0.0.1");
      client.write(Buffer.from("0000000804d2162f", "hex")); // SSLRequest
      const [answer] = (await once(client, "data")) as [Buffer];
      expect(answer.toString()).toBe("N");
      client.destroy();
      child.kill("SIGTERM");
    }
    expect(await ended).toEqual([0, null]);
  });

  it("prints its version and its help", async () => {
    for (const args of [["--version"], ["-V"], ["version"]]) {
      expect((await pgvpd(args)).out).toMatch(/^pgvpd \d+\.\d+\.\d+\S*\n$/);
    }
    for (const args of [["--help"], ["-h"], ["help"], ["--port", "1", "--help"], ["help", "--help"]]) {
      const { code, out } = await pgvpd(args);
      expect([code, out.includes("--upstream-host")]).toEqual([0, true]);
    }
    for (const args of [
      ["serve", "--help"],
      ["help", "serve"],
      ["serve", "--port", "x", "-h"],
    ]) {
      expect((await pgvpd(args)).out).toMatch(/^Usage: pgvpd \[serve\]/);
    }
    expect((await pgvpd(["check", "--help"])).out).toMatch(/^Usage: pgvpd check/);
  });
});

describe("pgvpd check", () => {
  const upstream = (): string[] => ["--upstream-port", String(server.port)];

  it("ends with 0 where there is no error, a line for each finding", async () => {
    const { code, out, err } = await pgvpd(["check", ...upstream(), "--database-url", server.url()]);
    expect([code, err]).toEqual([0, ""]);
    expect(out.split("\n").map((line) => line.replace(/\d{2,}[\d.:]*/g, "N"))).toEqual([
      "ok           configuration: valid (there is no pgvpd.conf here)",
      'ok           configuration: upstream_port is "N" (--upstream-port)',
      "ok           upstream: N PostgreSQL answers",
      "ok           database: postgres on PostgreSQL N, as postgres",
      "ok           policies: none reads current_tenant_id()",
      "not checked  roles: login_roles names none, and there is no app_user: give --login-roles ROLE",
      "",
    ]);
  });

  it("ignores a DATABASE_URL that it inherits, and says what to give", async () => {
    const { code, out } = await pgvpd(["check", ...upstream()], {
      DATABASE_URL: "postgres://me:hunter2@127.0.0.1:1/x",
    });
    expect(code).toBe(0);
    expect(out).toContain("not checked  policies, roles: give --database-url URL\n");
    expect(out).not.toContain("hunter2");
  });

  it("ends with 1 where the upstream cannot be reached, and still looks at the rest", async () => {
    const { code, out } = await pgvpd(["check", "--upstream-port", "1", "--database-url", server.url()]);
    expect(code).toBe(1);
    expect(out).toContain("error        upstream: 127.0.0.1:1: nothing listens there\n");
    expect(out).toContain("ok           database: postgres on PostgreSQL");
  });

  it("ends with 1 where a tenant would get a role that row-level security does not hold", async () => {
    const args = ["check", ...upstream(), "--database-url", server.url(), "--login-roles", "postgres"];
    const { code, out } = await pgvpd(args);
    expect(code).toBe(1);
    expect(out).toContain("error        roles: postgres has SUPERUSER, BYPASSRLS, REPLICATION, CREATEROLE: ");
    const { code: allowed } = await pgvpd([...args, "--allow-unsafe-roles"]);
    expect(allowed).toBe(0);
  });

  it("ends with 1 where the configuration is not valid, with all problems and warnings", async () => {
    const file = fileWith("prot = 1\npool_mode = sesion\n");
    const { code, out, err } = await pgvpd(["check", "--config", file, "--port", "x"], { PGVPD_XYZZY: "1" });
    expect([code, err]).toEqual([1, ""]);
    expect(out.split("\n")).toEqual([
      expect.stringMatching(/^error {8}\S+test\.conf:1: there is no setting "prot"/),
      expect.stringMatching(/^error {8}\S+test\.conf:2: pool_mode "sesion": expected none/),
      expect.stringMatching(/^error {8}--port: port "x": expected a whole number/),
      "warning      PGVPD_XYZZY is no setting of pgvpd",
      "not checked  files, upstream, policies, roles: the configuration has to be valid first",
      "",
    ]);
  });

  it("ends with 1 where a file of TLS or of credentials cannot be used, as a start does", async () => {
    const written = (name: string, text: string, mode = 0o600): string => {
      const file = path.join(folder, name);
      writeFileSync(file, text, { mode });
      return file;
    };
    const credentials = written("users", '"app_user" "hunter2"\n\n"reports" "hunter3" ""\n');
    const cert = written("server.crt", "hunter4\n");
    const key = written("server.key", "hunter5\n", 0o644);
    const settings = `client_auth = scram\ncredentials_file = ${credentials}\ntls_cert = ${cert}\ntls_key = ${key}\n
      upstream_tls = yes\nupstream_tls_ca = ${folder}/none.crt\nupstream_password = hunter6\n`;
    const file = fileWith(settings);
    const { code, out, err } = await pgvpd(["check", "--config", file, ...upstream()]);
    expect([code, err]).toEqual([1, ""]);
    const errors = out.split("\n").filter((line) => line.startsWith("error") && !line.includes("upstream: "));
    expect(errors.map((line) => line.replaceAll(`${folder}/`, ""))).toEqual([
      "error        client TLS: tls_cert: server.crt: it holds no certificate in PEM form",
      "error        upstream TLS: upstream_tls_ca: none.crt: there is no such file",
      expect.stringMatching(
        /^error {8}credentials: credentials_file: users:1: a password in clear text proves no client/,
      ),
      expect.stringMatching(
        /^error {8}credentials: credentials_file: users:3: a password in clear text proves no client/,
      ),
    ]);
    expect(out).not.toContain("hunter");

    const started = await pgvpd(["--config", file, "--log-level", "off", "--port", "0"]);
    expect([started.code, started.out]).toEqual([1, ""]);
    expect(started.err).toBe(`pgvpd: tls_cert: ${cert}: it holds no certificate in PEM form\n`);
  });

  it("says that the credentials can be used, and what lines with tenants= need besides", async () => {
    const [users, password] = [path.join(folder, "bound"), path.join(folder, "password")];
    writeFileSync(password, "hunter2", { mode: 0o600 });
    const { out: line } = await pgvpd([
      "credential",
      "-U",
      "app_user",
      "--tenants",
      "acme",
      "--password-file",
      password,
    ]);
    writeFileSync(users, line, { mode: 0o600 });
    const args = ["check", ...upstream(), "--client-auth", "scram", "--credentials-file", users];
    const without = await pgvpd(args);
    expect(without.code).toBe(1);
    expect(without.out).toContain(`credentials_file: ${users}: a line with tenants= does not open PostgreSQL: set `);
    const { code, out } = await pgvpd(args, { PGVPD_UPSTREAM_PASSWORD: "hunter2" });
    expect([code, out.includes("ok           credentials: the files can be used\n")]).toEqual([0, true]);
  });

  it("refuses flags that are wrong on stderr", async () => {
    expect(await pgvpd(["check", "--database-ulr", "x"])).toEqual({
      code: 1,
      out: "",
      err: "pgvpd: --database-ulr: there is no such flag: did you mean --database-url?\n",
    });
  });
});
