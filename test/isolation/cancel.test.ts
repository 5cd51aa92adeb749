/**
 * A CancelRequest reaches the query of the session that holds its key, and nothing else; whatever is wrong with it, the
 * answer is silence. Keys of sessions that are gone reach nobody, however fast the next session comes.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client as frontend } from "../support/bytes.ts";
import { availableVersions } from "../support/postgres.ts";
import { RawClient, sendCancel, type Place } from "../support/raw-client.ts";
import { untilNoBackends, untilRunning } from "../support/server-side.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));

interface Key {
  readonly processId: number;
  readonly secret: Buffer;
}

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  let place: Place;
  const logIn = (tenant: string, minor = 0): Promise<RawClient> =>
    RawClient.logIn(place, {
      user: `app_user.${tenant}`,
      password: PASSWORD,
      minor,
      parameters: { database: "postgres" },
    });
  const outcome = async (name: string): Promise<number> => {
    const text = await fixture.proxy.metrics.getSingleMetricAsString("pgvpd_cancel_requests_total");
    return Number(new RegExp(`outcome="${name}"} (\\d+)`).exec(text)?.[1] ?? 0);
  };

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
    place = { host: "127.0.0.1", port: fixture.port };
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it("ends the query of its own session with 57014, and the session lives on", async () => {
    using client = await logIn("acme");
    using other = await logIn("acme");
    for (const [one, text] of [
      [client, "mine"],
      [other, "theirs"],
    ] as const) {
      one.send(frontend.query(`SELECT pg_sleep(60), '${text}'`));
      await untilRunning(fixture, text);
    }
    expect(await sendCancel(place, keyOf(client))).toHaveLength(0);
    await client.readUntil("Z");
    expect(client.error["C"]).toBe("57014");
    expect((await client.query("SELECT 1")).at(-1)?.type).toBe("Z");
    expect(other.types).not.toContain("E");
    await sendCancel(place, keyOf(other));
    await other.readUntil("Z");
  });

  const wrong: readonly (readonly [name: string, change: (key: Key) => Key])[] = [
    ["a wrong secret", ({ processId, secret }) => ({ processId, secret: flipped(secret) })],
    ["another process id", ({ processId, secret }) => ({ processId: processId + 1, secret })],
    ["a secret that is longer", ({ processId, secret }) => ({ processId, secret: Buffer.concat([secret, secret]) })],
  ];

  it.each(wrong)("meets %s with silence, and the query goes on", async (_name, change) => {
    using client = await logIn("acme");
    using gate = await logIn("globex");
    await gate.query("SELECT pg_advisory_lock(1)");
    client.send(frontend.query("SELECT pg_advisory_lock(1), 'not cancelled'"));
    await untilRunning(fixture, "not cancelled");
    const forwarded = await outcome("forwarded");
    expect(await sendCancel(place, change(keyOf(client)))).toHaveLength(0);
    expect(await outcome("forwarded")).toBe(forwarded);
    await gate.query("SELECT pg_advisory_unlock(1)");
    const answer = await client.readUntil("Z");
    expect(answer.map(({ type }) => type).join("")).toBe("TDCZ");
    await client.query("SELECT pg_advisory_unlock_all()");
  });

  it.each([0, 3, 257])("passes none with a secret of %i bytes on", async (length) => {
    using client = await logIn("acme");
    const forwarded = await outcome("forwarded");
    const said = await sendCancel(place, { ...keyOf(client), secret: Buffer.alloc(length) });
    expect(said.toString()).toMatch(/^$|08P01/);
    expect(await outcome("forwarded")).toBe(forwarded);
    client.send(frontend.terminate);
    await client.untilClosed();
  });

  it("meets the key of a session that has ended with silence", async () => {
    const client = await logIn("acme");
    const key = keyOf(client);
    client.send(frontend.terminate);
    await client.untilClosed();
    await expect.poll(() => fixture.proxy.sessionCount).toBe(0);
    const unknown = await outcome("unknown");
    expect(await sendCancel(place, key)).toHaveLength(0);
    expect(await outcome("unknown")).toBe(unknown + 1);
  });

  it("does not know the key of a login that has failed, or that the client of another proxy holds", async () => {
    const other = await fixture.proxyWith({});
    using client = await RawClient.logIn(
      { host: "127.0.0.1", port: other.port },
      { user: "app_user.acme", password: PASSWORD, parameters: { database: "postgres" } },
    );
    const unknown = await outcome("unknown");
    expect(await sendCancel(place, keyOf(client))).toHaveLength(0);
    expect(await outcome("unknown")).toBe(unknown + 1);
  });

  it("of 200 that race a disconnect and a reconnect, none ends a query of the next session", async () => {
    let cancelled = 0;
    const rounds = async (tenant: string): Promise<void> => {
      let client = await logIn(tenant);
      for (let round = 0; round < 50; round++) {
        const key = keyOf(client);
        const isBusy = round % 2 === 0;
        if (isBusy) client.send(frontend.query("SELECT pg_sleep(0.002)"));
        // The request, the end of this session and the login of the next are under way at the same time.
        const cancel = sendCancel(place, key);
        if (round % 3 === 0) client.socket.destroy();
        else client.send(frontend.terminate);
        const next = await logIn(tenant);
        const answers = await Promise.all([next.query("SELECT 'next'"), cancel]);
        const types = answers[0].map(({ type }) => type).join("");
        if (types !== "TDCZ" || next.types.includes("E")) cancelled++;
        client.socket.destroy();
        client = next;
      }
      client.socket.destroy();
    };
    await Promise.all(["acme", "globex", "initech", "umbrella"].map((tenant) => rounds(tenant)));
    expect(cancelled).toBe(0);
    await untilNoBackends(fixture);
    await expect.poll(() => fixture.proxy.sessionCount).toBe(0);
  });
});

function keyOf(client: RawClient): Key {
  if (client.key === undefined) throw new Error("no BackendKeyData");
  return client.key;
}

function flipped(secret: Buffer): Buffer {
  const other = Buffer.from(secret);
  other[other.length - 1] = (other.at(-1) ?? 0) ^ 1;
  return other;
}
