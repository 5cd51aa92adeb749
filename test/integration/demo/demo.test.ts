/**
 * `pgvpd demo` and `pgvpd sql` end to end: the built program, the embedded PostgreSQL, real signals.
 */
import { existsSync } from "node:fs";
import { once } from "node:events";
import { createServer } from "node:net";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { freePort } from "../../../src/demo/embedded-postgres.ts";
import { commandOf } from "../../../src/demo/process-table.ts";
import {
  canRun,
  demoDataFolder,
  DemoProcess,
  embeddedServer,
  isListening,
  runProgram,
  unprivilegedUser,
} from "./demo-process.ts";

const isRoot = process.getuid?.() === 0;
const other = await unprivilegedUser();
const users = [{ who: isRoot ? "root" : "this user", user: {}, isPossible: true }];
if (isRoot) {
  const isPossible = canRun(other);
  users.push({
    who: `nobody${isPossible ? "" : " (skipped: this checkout is closed to others)"}`,
    user: other,
    isPossible,
  });
}

describe.each(users)("demo --once as $who", ({ user, isPossible }) => {
  test.runIf(isPossible)("shows both tenants, both refusals and the seal, and ends with 0", async () => {
    await using folder = await demoDataFolder(user);
    const port = await freePort();
    const { code, stdout, stderr } = await runProgram(
      ["demo", "--once", "--port", String(port), "--data-dir", folder.path],
      user,
    );

    expect(stderr).toBe("");
    expect(code).toBe(0);
    const steps = stdout.split(/^\d\. /m);
    expect(steps).toHaveLength(6);
    expect(steps[0]).toContain(`pgvpd listens on 127.0.0.1:${port}`);
    expect(steps[1]).toContain("| acme ");
    expect(steps[1]).not.toContain("globex");
    expect(steps[2]).toContain("| globex ");
    expect(steps[2]).not.toContain("| acme ");
    expect(steps[3]).toContain("FATAL 28000: Username must contain context values separated by '.'");
    expect(steps[4]).toContain("ERROR 42501: new row violates row-level security policy");
    expect(steps[5]).toContain("SET app.current_tenant_id = 'globex'");
    expect(steps[5]).toContain("| acme ");
    expect(steps[5]).not.toContain("| globex ");
    expect(steps[5]).toContain("the context is sealed");
    expect(stdout).not.toContain("\x1b"); // no terminal, no colours
    expect(await isListening(port)).toBe(false);
  });
});

describe("the demo's data", () => {
  test("is kept between two runs, passwords included, and gone with --fresh", async () => {
    await using folder = await demoDataFolder();
    const where = ["--data-dir", folder.path];
    const start = ["demo", "--port", String(await freePort()), ...where];
    const insert = "insert into contacts (name, email) values ('Porky Pig', 'porky@acme.example')";
    await using first = new DemoProcess(start);
    await first.isReady();
    expect(await runProgram(["sql", ...where, "acme", insert])).toMatchObject({ code: 0, stdout: "INSERT 0 1\n" });
    await first.signal("SIGINT");

    await using second = new DemoProcess(start);
    await second.isReady();
    expect(second.stdout).toContain("Porky Pig");
    expect(urlOf(second)).toBe(urlOf(first));
    await second.signal("SIGINT");

    const third = await runProgram([...start, "--fresh", "--once"]);
    expect(third.code).toBe(0);
    expect(third.stdout).not.toContain("Porky Pig");
  });

  test("belongs to one demo at a time: a second one is refused and says which one runs", async () => {
    await using folder = await demoDataFolder();
    const port = await freePort();
    const start = ["demo", "--port", String(port), "--data-dir", folder.path];
    await using first = new DemoProcess(start);
    await first.isReady();

    const second = await runProgram([...start, "--fresh"]);

    expect(second.code).toBe(1);
    expect(second.stderr).toContain(`a demo runs already on port ${port}`);
    expect(await isListening(port)).toBe(true);
  });
});

describe("the end of the demo", () => {
  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
    "%s leaves no process and no socket, exit code 0",
    async (signal) => {
      await using folder = await demoDataFolder();
      const port = await freePort();
      await using demo = new DemoProcess(["demo", "--port", String(port), "--data-dir", folder.path]);
      await demo.isReady();
      const server = await embeddedServer(folder.path);
      expect(await commandOf(server.pid)).toContain(folder.path);

      const { code, stderr } = await demo.signal(signal);

      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(await commandOf(server.pid)).toBe("");
      expect(await isListening(server.port)).toBe(false);
      expect(await isListening(port)).toBe(false);
      expect(existsSync(path.join(folder.path, "running.json"))).toBe(false);
    },
  );

  test("SIGINT while the database is being created ends it, and the next start works", async () => {
    await using folder = await demoDataFolder();
    const start = ["demo", "--once", "--port", String(await freePort()), "--data-dir", folder.path];
    await using demo = new DemoProcess(start);
    await expect.poll(() => demo.stdout).toContain("Creating a database");
    const { code } = await demo.signal("SIGINT");
    expect(code).toBe(0);

    expect(await runProgram(start)).toMatchObject({ code: 0, stderr: "" });
  });

  test("a second signal ends it at once, though the server does not", async () => {
    await using folder = await demoDataFolder();
    await using demo = new DemoProcess(["demo", "--port", String(await freePort()), "--data-dir", folder.path]);
    await demo.isReady();
    const server = await embeddedServer(folder.path);
    process.kill(server.pid, "SIGSTOP"); // it cannot shut down now
    void demo.signal("SIGINT");
    await setTimeout(600); // closer signals count as one: npm passes on what the terminal has sent already
    const { code, signal } = await demo.signal("SIGINT");
    expect({ code, signal }).toEqual({ code: null, signal: "SIGINT" });
    await expect.poll(() => isListening(server.port), { timeout: 15_000 }).toBe(false);
  });

  test("SIGKILL takes the server with it, and the next start works", async () => {
    await using folder = await demoDataFolder();
    const start = ["demo", "--port", String(await freePort()), "--data-dir", folder.path];
    await using demo = new DemoProcess(start);
    await demo.isReady();
    const server = await embeddedServer(folder.path);
    await demo.signal("SIGKILL");
    await expect.poll(() => isListening(server.port), { timeout: 15_000 }).toBe(false);

    expect(await runProgram([...start, "--once"])).toMatchObject({ code: 0, stderr: "" });
  });
});

test("a taken port is said, and the next free one is used", async () => {
  await using folder = await demoDataFolder();
  const taken = createServer().listen(await freePort(), "127.0.0.1");
  await once(taken, "listening");
  const address = taken.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;

  const { code, stdout } = await runProgram(["demo", "--once", "--port", String(port), "--data-dir", folder.path]);
  taken.close();

  expect(code).toBe(0);
  const next = Number(/Port (\d+) is taken: pgvpd takes (\d+)/.exec(stdout)?.[2]);
  expect(next).toBeGreaterThan(port);
  expect(stdout).toContain(`app_user.acme@127.0.0.1:${next}/pgvpd_demo`);
});

describe("pgvpd sql", () => {
  test("prints a table, or the error with its SQLSTATE and exit code 1", async () => {
    await using folder = await demoDataFolder();
    const where = ["--data-dir", folder.path];
    await using demo = new DemoProcess(["demo", "--port", String(await freePort()), ...where]);
    await demo.isReady();

    const table = await runProgram(["sql", ...where, "globex", "select item, price from orders order by id"]);
    expect(table).toMatchObject({ code: 0, stderr: "" });
    expect(table.stdout).toBe(
      [
        "     item     | price",
        "--------------+--------",
        " flamethrower | 899.00",
        " lunch box    |  12.75",
        "(2 rows)",
        "",
      ].join("\n"),
    );

    const hostile = await runProgram(["sql", ...where, "acme", "select E'a\\x1b[2Jb\\nc' as \"x\ty\", null as n"]);
    expect(hostile.stdout).toContain("\n a\\u001b[2Jb\\nc |\n(1 row)");

    const refused = await runProgram([
      "sql",
      ...where,
      "acme",
      "insert into contacts (tenant_id, name, email) values ('globex', 'x', 'x')",
    ]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toContain("ERROR 42501: new row violates row-level security policy");
  });

  test("says that no demo runs", async () => {
    await using folder = await demoDataFolder();
    const { code, stderr } = await runProgram(["sql", "--data-dir", folder.path, "acme", "select 1"]);
    expect(code).toBe(1);
    expect(stderr).toContain("No demo of this user is running");
  });
});

function urlOf(demo: DemoProcess): string | undefined {
  return /postgres:\/\/\S+(?=')/.exec(demo.stdout)?.[0];
}
