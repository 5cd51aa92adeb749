/**
 * Many SCRAM logins at the same moment, ended by the real program in front of a real server that asks for SCRAM too:
 * what PBKDF2 costs is paid once and off the event loop, and who has a session goes on working. How fast that is, is for
 * the benchmark; here everything is counted in derivations, in logins and in answers.
 */
import { pbkdf2Sync } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createVerifier } from "../../../src/protocol/scram/keys.ts";
import { startupMessage } from "../../support/bytes.ts";
import { startPostgres, type PostgresServer } from "../../support/postgres.ts";
import { canMeasureProcesses, processorMs } from "../../support/process-usage.ts";
import { startProxyProcess, type ProxyProcess } from "../../support/proxy-process.ts";
import { RawClient } from "../../support/raw-client.ts";

const LOGINS = 200;
const UPSTREAM_PASSWORD = "what pgvpd logs in with";
const CLIENT_PASSWORD = "what acme logs in with";
/** As many as SCRAM allows: one derivation takes some 40 ms. */
const ITERATIONS = 100_000;
/** While the event loop computes keys, the query that is on its way is answered, and no other; else a hundred are. */
const FEW_ANSWERS = 2;

const PROOFS = ["pool_password", "a line with tenants="] as const;

let folder: string;
let server: PostgresServer;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "pgvpd-scram-load-"));
  const line = `"app_user" "${await createVerifier(CLIENT_PASSWORD, 4_096)}" tenants=acme\n`;
  await writeFile(path.join(folder, "credentials.txt"), line, { mode: 0o600 });

  server = await startPostgres({ auth: "scram", settings: { max_connections: String(LOGINS + 50) } });
  const superuser = new Client({ connectionString: server.url() });
  await superuser.connect();
  await superuser.query(`CREATE ROLE app_user LOGIN PASSWORD '${await createVerifier(UPSTREAM_PASSWORD, ITERATIONS)}'`);
  await superuser.end();
});
afterAll(async () => {
  await server?.stop();
  await rm(folder, { recursive: true, force: true });
});

it("queries are answered while a key is derived", async () => {
  await using proxy = await startProxy("pool_password");
  using asking = await logInAsSuperuser(proxy);
  using client = await RawClient.open(proxy);
  client.send(startupMessage({ user: "app_user.acme", database: "postgres" }));
  let answers = 0;
  // The first login makes pool_password's verifier before the client is asked for anything.
  while (client.types === "") {
    await asking.query("SELECT 1");
    answers++;
  }
  expect(client.types).toBe("R");
  expect(answers).toBeGreaterThan(FEW_ANSWERS);
});

describe.skipIf(!canMeasureProcesses)(`${LOGINS} logins at the same moment`, () => {
  it.each(PROOFS)(
    "with %s derive one key, and queries of another client are answered meanwhile",
    { timeout: 60_000 },
    async (proof) => {
      await using proxy = await startProxy(proof);
      using asking = await logInAsSuperuser(proxy);
      const before = processorMs(proxy.pid);
      const burst = Promise.all(Array.from({ length: LOGINS }, () => logIn(proxy)));
      const isOver = endOf(burst);
      let answers = 0;
      for (; !isOver(); answers++) await asking.query("SELECT 1");
      const clients = await burst;
      const spent = processorMs(proxy.pid) - before;

      for (const client of clients) {
        const answer = await client.query("SHOW app.current_tenant_id");
        expect(answer.find(({ type }) => type === "D")?.body.toString()).toContain("acme");
        client.socket.destroy();
      }
      expect(answers, "answers meanwhile").toBeGreaterThan(FEW_ANSWERS);
      expect(spent, "processor time, in ms").toBeLessThan((LOGINS / 2) * derivationMs());
    },
  );
});

/** A program that nobody has logged in to: it has derived nothing yet. */
function startProxy(proof: (typeof PROOFS)[number]): Promise<ProxyProcess> {
  const clients =
    proof === "pool_password"
      ? { pool_password: CLIENT_PASSWORD, scram_iterations: ITERATIONS }
      : { credentials_file: path.join(folder, "credentials.txt") };
  return startProxyProcess({
    settings: {
      upstream_host: server.host,
      upstream_port: server.port,
      client_auth: "scram",
      upstream_password: UPSTREAM_PASSWORD,
      log_connections: false,
      log_disconnections: false,
      ...clients,
    },
  });
}

function logIn(proxy: ProxyProcess): Promise<RawClient> {
  const parameters = { database: "postgres" };
  return RawClient.logIn(proxy, { user: "app_user.acme", password: CLIENT_PASSWORD, parameters });
}

/** A bypass user: its login is relayed, and costs pgvpd no key. */
function logInAsSuperuser(proxy: ProxyProcess): Promise<RawClient> {
  const { superuser: user, password } = server;
  return RawClient.logIn(proxy, { user, password, parameters: { database: "postgres" } });
}

/** Whether `work` is done, or has failed. */
function endOf(work: Promise<unknown>): () => boolean {
  let isOver = false;
  const note = (): void => void (isOver = true);
  work.then(note, note);
  return () => isOver;
}

/** Processor time of one derivation on this machine. */
function derivationMs(): number {
  const before = process.cpuUsage();
  pbkdf2Sync(UPSTREAM_PASSWORD, "a salt of its own", ITERATIONS, 32, "sha256");
  return process.cpuUsage(before).user / 1000;
}
