/**
 * Sessions that no driver would hold: pipelines that nobody reads, messages cut off in the middle, clients that vanish
 * in a COPY or in a transaction. Nothing deadlocks, nothing is committed that was not, nothing stays behind.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { bytes, client as frontend, cstring, header, int16, int32, message } from "../../support/bytes.ts";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient } from "../../support/raw-client.ts";
import { untilNoBackends, untilRunning } from "../../support/server-side.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));

/** Parse, Bind and Execute of one statement, without a Sync. */
const extended = (sql: string): Buffer =>
  bytes(
    message("P", cstring(""), cstring(sql), int16(0)),
    message("B", cstring(""), cstring(""), int16(0), int16(0), int16(0)),
    message("E", cstring(""), int32(0)),
  );

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  const logIn = (tenant = "acme"): Promise<RawClient> =>
    RawClient.logIn(
      { host: "127.0.0.1", port: fixture.port },
      { user: `app_user.${tenant}`, password: PASSWORD, parameters: { database: "postgres" } },
    );
  const countPlain = async (): Promise<number> => {
    const [row] = await fixture.asSuperuser("SELECT count(*)::int AS count FROM plain");
    return Number(row?.["count"]);
  };

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
  });
  afterEach(async () => {
    await expect.poll(() => fixture.proxy.sessionCount, { timeout: 20_000, interval: 10 }).toBe(0);
    await untilNoBackends(fixture);
    await fixture.asSuperuser("TRUNCATE plain");
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it("answers 10,000 pipelined queries in their order, however late the client begins to read", async () => {
    using client = await logIn();
    const first = client.received.length;
    client.socket.pause();
    const queries = Array.from({ length: 10_000 }, (_, index) =>
      frontend.query(`SELECT 'answer ${index}', repeat('x', 5000)`),
    );
    client.send(...queries);
    // 50 MB of answers are more than lies between server and client: the server waits, and so does what is unsent.
    await untilBlocked(fixture);
    client.socket.resume();
    const answers: string[] = [];
    for (let ready = 0; ready < 10_000; ready++) {
      const [, row] = await client.readUntil("Z");
      answers.push(row?.body.toString("latin1", 6, 6 + (row?.body.readInt32BE(2) ?? 0)) ?? "");
    }
    expect(answers).toEqual(Array.from({ length: 10_000 }, (_, index) => `answer ${index}`));
    expect(client.received.length - first).toBeGreaterThan(50_000_000);
    client.send(frontend.terminate);
    await client.untilClosed();
  });

  it("gives a client that ends its half behind its queries their answers", async () => {
    using client = await logIn();
    client.send(frontend.query("SELECT pg_sleep(0.1), 'late'"), frontend.query("INSERT INTO plain VALUES (1)"));
    client.socket.end();
    await client.untilClosed();
    expect(client.types).toMatch(/TDCZCZ$/);
    expect(await countPlain()).toBe(1);
  });

  it.each([3, -1, 0])("ends a session whose message has the length %i with 08P01", async (length) => {
    using client = await logIn();
    client.send(header("Q", length), Buffer.from("SELECT 1\0"));
    await client.untilClosed();
    expect(client.error).toMatchObject({ S: "FATAL", C: "08P01" });
  });

  it.each([
    ["in a message's header", bytes("Q", 0, 0)],
    ["in a message", bytes(header("Q", 100), "INSERT INTO plain VALUES (1)")],
    ["in a transaction", frontend.query("BEGIN; INSERT INTO plain VALUES (1)")],
    ["in a failed transaction", frontend.query("BEGIN; INSERT INTO plain VALUES (1); SELECT 1/0")],
    ["behind extended work without Sync", extended("INSERT INTO plain VALUES (1)")],
    ["in COPY", bytes(frontend.query("COPY plain FROM STDIN"), message("d", "1\tone\n"))],
    ["in a message of COPY", bytes(frontend.query("COPY plain FROM STDIN"), header("d", 100), "1\tone\n")],
    ["in COPY out", frontend.query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 1e5)) TO STDOUT")],
    ["in a large result", frontend.query("SELECT repeat('x', 1000) FROM generate_series(1, 1e5)")],
  ])("commits nothing of a client that vanishes %s", async (_name, sent) => {
    for (const isAbrupt of [false, true]) {
      using client = await logIn();
      client.send(sent);
      if (sent.includes("generate_series")) await client.readUntil(sent.includes("COPY") ? "d" : "D");
      if (isAbrupt) client.socket.resetAndDestroy();
      else client.socket.end();
      await client.untilClosed();
      await untilNoBackends(fixture);
      expect(await countPlain()).toBe(0);
    }
  });

  it.runIf(version === versions.at(-1))(
    "ends an abandoned query by the check that pgvpd pins for its server",
    async () => {
      using client = await logIn();
      client.send(frontend.query("SELECT pg_sleep(60), 'abandoned'"));
      await untilRunning(fixture, "abandoned");
      client.socket.resetAndDestroy();
      await untilNoBackends(fixture); // client_connection_check_interval is 5 s
    },
  );

  it("carries COPY in both directions, CopyFail and a function call of the protocol", async () => {
    using client = await logIn();
    client.send(frontend.query("COPY plain FROM STDIN"));
    await client.readUntil("G");
    client.send(message("d", "1\tone\n2\tt"), message("d", "wo\n"), message("c"));
    await client.readUntil("Z");
    client.send(frontend.query("COPY plain FROM STDIN"));
    await client.readUntil("G");
    client.send(message("d", "3\tthree\n"), message("f", cstring("changed my mind")));
    await client.readUntil("Z");
    expect(client.error["C"]).toBe("57014");
    client.send(frontend.query("COPY plain TO STDOUT"));
    const copied = (await client.readUntil("Z")).filter(({ type }) => type === "d").map(({ body }) => body.toString());
    expect(copied).toEqual(["1\tone\n", "2\ttwo\n"]);
    const [row] = await fixture.asSuperuser("SELECT 'pg_catalog.pg_backend_pid'::regproc::oid::int AS oid");
    client.send(message("F", int32(Number(row?.["oid"])), int16(0), int16(0), int16(0)));
    const answer = (await client.readUntil("Z")).find(({ type }) => type === "V");
    expect(answer?.body.toString("latin1", 4)).toBe(String(client.key?.processId));
    client.send(frontend.terminate);
    await client.untilClosed();
  });
});

/** Resolves when a backend waits for its client to take what it has written. */
async function untilBlocked(fixture: TenantFixture): Promise<void> {
  const waiting = (): Promise<unknown[]> =>
    fixture.asSuperuser("SELECT FROM pg_stat_activity WHERE wait_event = 'ClientWrite'");
  await expect.poll(async () => (await waiting()).length, { timeout: 20_000, interval: 10 }).toBe(1);
}
