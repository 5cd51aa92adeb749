/**
 * What passes in a session over TLS, on either leg and on both: large results and COPYs byte for byte, notifications,
 * a client that does not read, one that ends its half, and thousands of queries at once.
 */
import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bytes, client as frontend, message, type ReadMessage } from "../../support/bytes.ts";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient, type Place } from "../../support/raw-client.ts";
import { untilNoBackends } from "../../support/server-side.ts";
import { PASSWORD } from "../../support/tenant-fixture.ts";
import { startTlsFixture, type TlsFixture } from "../../support/tls-fixture.ts";

const LARGE = "SELECT repeat(md5(i::text), 32768) FROM generate_series(1, 32) AS i"; // 32 rows of 1 MiB

const matrix = availableVersions()
  .filter((version) => ["15", "18"].includes(version))
  .flatMap((version) => (["client", "upstream", "both"] as const).map((leg) => ({ version, leg })));

describe.each(matrix)("PostgreSQL $version, TLS on the leg of: $leg", ({ version, leg }) => {
  let fixture: TlsFixture;
  let place: Place;
  beforeAll(async () => {
    fixture = await startTlsFixture({ version, auth: "trust" });
    const { port } = await fixture.proxyWith({
      ...(leg === "upstream" ? {} : fixture.clientTls),
      ...(leg === "client" ? {} : fixture.upstreamTls),
    });
    const tls = { ca: fixture.ca, servername: "localhost" };
    place = { host: "127.0.0.1", port, ...(leg !== "upstream" && { tls }) };
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  const logIn = (tenant = "acme"): Promise<RawClient> =>
    RawClient.logIn(place, { user: `app_user.${tenant}`, password: PASSWORD, parameters: { database: "postgres" } });

  it("is what the server says it is", async () => {
    using client = await logIn();
    const answer = await client.query("SELECT concat(ssl, version) FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    expect(text(answer)).toBe(leg === "client" ? "f" : "tTLSv1.3");
  });

  it("carries a result of 32 MiB byte for byte", async () => {
    using client = await logIn();
    const rows = (await client.query(LARGE)).filter(({ type }) => type === "D");
    const received = createHash("md5");
    for (const { body } of rows) received.update(body.subarray(6));
    const [expected] = await fixture.asSuperuser(`SELECT md5(string_agg(row, '')) AS sum FROM (${LARGE}) AS t(row)`);
    expect(received.digest("hex")).toBe(expected?.["sum"]);
  });

  it("carries a COPY of 16 MiB in, and out again", async () => {
    using client = await logIn();
    await client.query("TRUNCATE plain");
    client.send(frontend.query("COPY plain FROM STDIN"));
    await client.readUntil("G");
    const line = `1\t${"x".repeat(1021)}\n`;
    const piece = message("d", line.repeat(64));
    for (let count = 0; count < 256; count++) client.send(piece);
    client.send(message("c"));
    expect(text(await client.readUntil("Z"), "C")).toBe("COPY 16384\0");
    const out = (await client.query("COPY plain TO STDOUT")).filter(({ type }) => type === "d");
    expect(out.length).toBe(16_384);
    expect(out.every(({ body }) => body.toString() === line)).toBe(true);
  });

  it("carries notifications to who listens", async () => {
    using listener = await logIn();
    using sender = await logIn("globex");
    await listener.query("LISTEN news");
    await sender.query("NOTIFY news, 'hello'");
    const notification = (await listener.readUntil("A")).at(-1);
    expect(notification?.body.subarray(4).toString()).toBe("news\0hello\0");
  });

  it("holds back the server while the client does not read, and goes on when it does", async () => {
    using client = await logIn();
    const pid = text(await client.query("SELECT pg_backend_pid()"));
    client.socket.pause();
    client.send(frontend.query(LARGE));
    const waits = async (): Promise<unknown> => {
      const [row] = await fixture.asSuperuser(`SELECT wait_event FROM pg_stat_activity WHERE pid = ${pid}`);
      return row?.["wait_event"];
    };
    await expect.poll(waits, { timeout: 20_000, interval: 20 }).toBe("ClientWrite");
    client.socket.resume();
    expect((await client.readUntil("Z")).filter(({ type }) => type === "D")).toHaveLength(32);
  });

  it("answers 10,000 queries that come at once", async () => {
    using client = await logIn();
    client.send(...Array.from({ length: 10_000 }, (_, count) => frontend.query(`SELECT ${count}`)));
    for (let count = 0; count < 10_000; count++) expect(text(await client.readUntil("Z"))).toBe(String(count));
  });

  it("executes and answers what was sent before the client has ended its half", async () => {
    using client = await logIn();
    client.send(bytes(frontend.query(LARGE), frontend.query("SELECT 'the end'")));
    client.socket.end();
    expect((await client.readUntil("Z")).filter(({ type }) => type === "D")).toHaveLength(32);
    expect(text(await client.readUntil("Z"))).toBe("the end");
    await client.untilClosed();
  });

  it("leaves no session behind that its client has left, in the middle of a result or a COPY", async () => {
    const reader = await logIn();
    reader.send(frontend.query(LARGE));
    await reader.readUntil("D");
    reader.socket.destroy();
    const writer = await logIn();
    writer.send(frontend.query("COPY plain FROM STDIN"));
    await writer.readUntil("G");
    writer.send(message("d", "1\tx\n").subarray(0, 6));
    writer.socket.destroy();
    await untilNoBackends(fixture);
    await expect.poll(() => fixture.proxy.sessionCount).toBe(0);
  });
});

/** The only values of all rows, or the bodies of the messages of another type, behind each other. */
function text(messages: readonly ReadMessage[], type = "D"): string {
  return messages
    .filter((one) => one.type === type)
    .map(({ body }) => body.toString("utf8", type === "D" ? 6 : 0))
    .join("");
}
