/**
 * `pgvpd demo` from start to end: a server, a database on it, pgvpd in front of it, the showcase, and lines to paste. It
 * reads like a table of contents; what was started is given back in reverse order on every path.
 * Called by cli/demo.ts with parsed flags. Reads no environment: an inherited DATABASE_URL means some other database.
 */
import { createServer } from "node:net";
import { once } from "node:events";
import path from "node:path";
import { createProxy } from "../index.ts";
import { createDemoDatabase, demoDatabase, planDemoDatabase, type DemoPlan } from "./demo-database.ts";
import { locateDemoFolder, openDemoFolder, type DemoFolder, type RunningDemo } from "./demo-folder.ts";
import { startEmbeddedServer, useServer, type DemoServer } from "./demo-server.ts";
import { Interrupted, Interruption } from "./interruption.ts";
import { showcase } from "./showcase.ts";
import { bold, canAsk, confirm, dim, progress, say, yellow } from "./terminal.ts";

export interface DemoOptions {
  /** Where pgvpd listens, or the next free port above. */
  readonly port: number;
  /** A server to use in place of the embedded one. */
  readonly databaseUrl: string | undefined;
  /** Forget what an earlier demo left. */
  readonly isFresh: boolean;
  /** Create on the server of `databaseUrl` without asking. */
  readonly isConfirmed: boolean;
  /** End after the showcase. */
  readonly isOnce: boolean;
  /** Folder for data and passwords; a folder of the user's by default. */
  readonly dataDir: string | undefined;
}

/** @returns the exit code: 0 also when it was interrupted, after everything is cleaned up. Throws what went wrong. */
export async function runDemo(options: DemoOptions): Promise<number> {
  using interruption = new Interruption();
  try {
    await using folder = await openDemoFolder(await locateDemoFolder(options.dataDir), options.isFresh);
    await using server = await openServer(folder, options, interruption);
    interruption.onSecond = () => server.kill();
    interruption.check();
    const plan = await interruption.race(planDemoDatabase(server));
    if (!server.isOurs && !(await agreed(server, plan, options, interruption))) return 1;
    await interruption.race(
      progress("Installing pgvpd's SQL and two tenants, acme and globex", () =>
        createDemoDatabase(server, plan, folder, options.isFresh),
      ),
    );

    const port = await nextFreePort(options.port);
    if (port !== options.port) say(yellow(`Port ${options.port} is taken: pgvpd takes ${port}`));
    await using _proxy = await startProxy(server, port, plan.isSealed ? folder.keyFile : undefined);
    const overTls = server.tls["upstream_tls"] === true ? ", over TLS" : "";
    say(
      `pgvpd listens on ${bold(`127.0.0.1:${port}`)}, in front of PostgreSQL on ${server.host}:${server.port}${overTls}`,
    );
    const door = { port, database: demoDatabase, role: plan.role, password: folder.passwords.application };
    await folder.announce(door);

    await interruption.race(showcase(door, plan.isSealed));
    if (options.isOnce) return 0;
    sayWhatNext(door);
    await interruption.race(server.ended);
    throw new Error(`PostgreSQL ended by itself; see ${path.join(folder.path, "postgres.log")}`);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
    say();
    say("Stopped: pgvpd and what it started are gone; the data is kept (--fresh starts over).");
    return 0;
  }
}

async function openServer(folder: DemoFolder, options: DemoOptions, interruption: Interruption): Promise<DemoServer> {
  if (options.databaseUrl !== undefined) return useServer(options.databaseUrl);
  try {
    return await startEmbeddedServer(folder, options.isFresh, interruption.signal);
  } catch (error) {
    interruption.check(); // initdb was ended by the signal
    throw error;
  }
}

/** Says what will be created on somebody's own server, and asks. */
async function agreed(
  server: DemoServer,
  plan: DemoPlan,
  options: DemoOptions,
  interruption: Interruption,
): Promise<boolean> {
  const before = (exists: boolean): string => (exists ? " (is there, from an earlier demo)" : "");
  say(`On the server ${bold(`${server.host}:${server.port}`)} the demo creates, and changes nothing else:`);
  if (plan.databaseExists && options.isFresh) say(`  the database ${demoDatabase}, after dropping the earlier demo's`);
  else say(`  the database ${demoDatabase}${before(plan.databaseExists)}, with pgvpd's SQL helpers and three tables`);
  say(`  the role ${plan.role}${before(plan.roleExists)}, with a random password`);
  if (!plan.appUserExists) say("  the role app_user, without a password (sql/setup.sql creates it)");
  const sealsFirst = plan.isSealed && !plan.ownerExists;
  if (sealsFirst) say("  the role pgvpd_owner, which cannot log in (sql/seal.sql creates it)");
  const roles = [plan.role, ...(plan.appUserExists ? [] : ["app_user"]), ...(sealsFirst ? ["pgvpd_owner"] : [])];
  const drops = sealsFirst
    ? `DROP OWNED BY pgvpd_owner; DROP ROLE ${roles.join(", ")};`
    : `DROP ROLE ${roles.join(", ")};`;
  say(dim(`To remove it afterwards: DROP DATABASE ${demoDatabase}; ${drops}`));
  if (options.isConfirmed) return true;
  if (!canAsk()) {
    say("Nothing was created: nobody is there to ask. Run it again with --yes.");
    return false;
  }
  const isAgreed = await confirm("Create them?", interruption.signal);
  interruption.check();
  if (!isAgreed) say("Nothing was created.");
  return isAgreed;
}

/** The library's own door, as a program that embeds pgvpd uses it. */
async function startProxy(server: DemoServer, port: number, keyFile: string | undefined): Promise<AsyncDisposable> {
  const proxy = createProxy({
    listen_host: "127.0.0.1",
    port,
    upstream_host: server.host,
    upstream_port: server.port,
    ...server.tls,
    log_level: "off",
    ...(keyFile === undefined ? {} : { context_seal: "require", context_key_file: keyFile }),
  });
  await proxy.start();
  return { [Symbol.asyncDispose]: () => proxy.stop() };
}

/** `first`, or the next one above it that nobody listens on. */
async function nextFreePort(first: number): Promise<number> {
  for (let port = first; port < first + 100 && port < 65_536; port += 1) {
    if (await isFree(port)) return port;
  }
  throw new Error(`no free port from ${first} on; name another one with --port`);
}

async function isFree(port: number): Promise<boolean> {
  const probe = createServer();
  try {
    await once(probe.listen(port, "127.0.0.1"), "listening");
    return true;
  } catch {
    return false;
  } finally {
    probe.close();
  }
}

function sayWhatNext(door: Omit<RunningDemo, "pid">): void {
  const isPackage = import.meta.dirname.includes(`${path.sep}node_modules${path.sep}`);
  const command = isPackage ? "npx pgvpd sql" : "npm run sql --";
  const url = `postgres://${door.role}.acme:${encodeURIComponent(door.password)}@127.0.0.1:${door.port}/${door.database}`;
  say();
  say(bold("Now you, in another terminal:"));
  say(`  psql          psql '${url}'`);
  say(`  application   DATABASE_URL='${url}'`);
  say(`  no psql       ${command} acme 'select * from orders'`);
  say();
  say(dim(`The other tenant is ${door.role}.globex, with the same password. Ctrl-C ends the demo; the data is kept.`));
}
