/**
 * Signatures: which contexts the database takes, with a key in hand and a session that does not come through pgvpd. The
 * attacker here knows what pgvpd sent, and has caught whatever it could: the right one is taken once, in its session, and
 * every other is refused and changes nothing.
 */
import { randomBytes } from "node:crypto";
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { renderKeyInstallation } from "../../src/config/seal-keys.ts";
import { outerVersions } from "../support/postgres.ts";
import { errorOf } from "../support/tenant-fixture.ts";
import {
  carriersOf,
  contextOf,
  enter,
  hello,
  sealDatabase,
  sealFor,
  setContext,
  startSealFixture,
  type Covered,
  type Hello,
  type Seal,
  type SealFixture,
} from "./seal-fixture.ts";

const tenantOf = async (client: Client): Promise<unknown> =>
  (await client.query<{ tenant: unknown }>("SELECT current_tenant_id() AS tenant")).rows[0]?.tenant;
const rowsOf = async (client: Client): Promise<string[]> =>
  (await client.query<{ body: string }>("SELECT body FROM notes ORDER BY body")).rows.map(({ body }) => body);
const ACME = ["a1", "a2"];
const GLOBEX = ["g1", "g2", "g3"];

describe.each(outerVersions())("PostgreSQL %s", (version) => {
  let fixture: SealFixture;
  beforeAll(async () => {
    fixture = await startSealFixture({ version, auth: "trust" });
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(carriersOf(version))("%s", (carrier) => {
    const session = (): Promise<Client> => fixture.direct(carrier);
    /** A session in acme's context, and what its next hello says. */
    async function acme(): Promise<{ client: Client; said: Hello }> {
      const client = await session();
      await enter(client, fixture.key, "acme");
      return { client, said: await hello(client) };
    }
    const refused = async (client: Client, seal: Seal): Promise<void> => {
      expect(await errorOf(setContext(client, seal))).toMatchObject({ code: "28000" });
      expect(await tenantOf(client)).toBeNull();
      expect(await rowsOf(client)).toEqual([]);
    };

    it("the right one is taken", async () => {
      const { client, said } = await acme();
      await setContext(client, sealFor(said, fixture.key, "globex"));
      expect(await rowsOf(client)).toEqual(GLOBEX);
    });

    it.each<[string, Covered]>([
      ["another version of the format", { version: "pgvpd2" }],
      ["the other carrier", { version: carrier === "slot" ? "pgvpd1s" : "pgvpd1" }],
      ["another process", { pid: 1 }],
      ["another nonce", { nonce: carrier === "slot" ? "00000000-0000-0000-0000-000000000000" : "1" }],
      ["no nonce", { nonce: "" }],
      ["another database", { database: "plain" }],
      ["another tenant", { context: contextOf("acme") }],
      ["a context with a blank more", { context: `${contextOf("globex")} ` }],
      ["the database with what follows it in its name", { database: `${carrier}|${contextOf("acme")}` }],
    ])("one for %s is refused", async (_name, covered) => {
      const { client, said } = await acme();
      await refused(client, sealFor(said, fixture.key, "globex", covered));
    });

    it("one with a bit changed, cut off, or with a byte behind it is refused", async () => {
      const { client, said } = await acme();
      const right = sealFor(said, fixture.key, "globex");
      const flipped = Buffer.from(right.mac);
      flipped[31] = (flipped[31] ?? 0) ^ 1;
      const forged = [flipped, right.mac.subarray(0, 31), Buffer.concat([right.mac, Buffer.of(0)]), Buffer.alloc(0)];
      for (const mac of forged) await refused(client, { ...right, mac });
      await setContext(client, right);
      expect(await rowsOf(client)).toEqual(GLOBEX);
    });

    it("one of another key, under that key's number or this one's, is refused", async () => {
      const { client, said } = await acme();
      const other = { kid: 7, bytes: randomBytes(32) };
      await refused(client, sealFor(said, other, "globex"));
      await refused(client, { ...sealFor(said, other, "globex"), kid: fixture.key.kid });
      await refused(client, { ...sealFor(said, fixture.key, "globex"), kid: 7 });
    });

    it("the database of another key does not take it", async () => {
      const own = `other_${carrier}`;
      await fixture.asSuperuser(`CREATE DATABASE ${own} TEMPLATE plain`);
      await sealDatabase(fixture, own, carrier, [{ kid: fixture.key.kid, bytes: randomBytes(32) }]);
      const client = await fixture.direct(own);
      await refused(client, sealFor(await hello(client), fixture.key, "acme", { database: own }));
    });

    it("in a database without a key every one is refused", async () => {
      const own = `keyless_${carrier}`;
      await fixture.asSuperuser(`CREATE DATABASE ${own} TEMPLATE plain`);
      await sealDatabase(fixture, own, carrier, [fixture.key]);
      await fixture.asSuperuser("DELETE FROM pgvpd.context_keys", own);
      const client = await fixture.direct(own);
      await refused(client, sealFor(await hello(client), fixture.key, "acme", { database: own }));
    });

    it("one that was caught in another session is refused", async () => {
      const victim = await session();
      const caught = sealFor(await hello(victim), fixture.key, "globex");
      const { client } = await acme();
      await refused(client, caught);
      await setContext(victim, caught);
      expect(await rowsOf(victim)).toEqual(GLOBEX);
    });

    it("with a retired key it is refused; with the next one it is taken", async () => {
      const next = { kid: 2, bytes: randomBytes(32) };
      const { client, said } = await acme();
      try {
        await fixture.asSuperuser(renderKeyInstallation([fixture.key, next]), carrier);
        await setContext(client, sealFor(said, fixture.key, "globex"));
        expect(await rowsOf(client)).toEqual(GLOBEX);
        await fixture.asSuperuser(renderKeyInstallation([next]), carrier);
        const later = await hello(client);
        expect(await errorOf(setContext(client, sealFor(later, fixture.key, "globex")))).toMatchObject({
          code: "28000",
        });
        await setContext(client, sealFor(later, next, "acme"));
        expect(await rowsOf(client)).toEqual(ACME);
      } finally {
        await fixture.asSuperuser(renderKeyInstallation([fixture.key]), carrier);
      }
    });

    it("a context that cannot be told apart from nothing is refused", async () => {
      const { client, said } = await acme();
      const nothing = sealFor(said, fixture.key, "x", { context: "" });
      await refused(client, { ...nothing, context: "" });
    });

    it("a signed context that is no object of JSON gives no rows", async () => {
      const { client, said } = await acme();
      for (const context of ["[]", '"globex"', "null", "1", "globex", '{"app.current_tenant_id"']) {
        const next = await hello(client);
        await setContext(client, { ...sealFor(next, fixture.key, "x", { context }), context }).catch(() => {});
        expect(await rowsOf(client).catch(() => [])).toEqual([]);
      }
      expect(said.carrier).toBe(carrier);
    });

    it("names are compared without case, and a value that is empty is none", async () => {
      const client = await session();
      const context = JSON.stringify({ "app.current_tenant_id": "", "app.user_id": "7" });
      await setContext(client, { ...sealFor(await hello(client), fixture.key, "x", { context }), context });
      const { rows } = await client.query(
        "SELECT current_tenant_id() AS tenant, pgvpd_context('App.User_ID') AS own, pgvpd_context('app.other') AS other",
      );
      expect(rows).toEqual([{ tenant: null, own: "7", other: null }]);
    });

    it("two sessions do not see each other's context", async () => {
      const [one, other] = [await session(), await session()];
      await enter(one, fixture.key, "acme");
      await enter(other, fixture.key, "globex");
      expect(await rowsOf(one)).toEqual(ACME);
      expect(await rowsOf(other)).toEqual(GLOBEX);
    });
  });

  describe.runIf(Number(version) >= 15)("slot", () => {
    const session = (): Promise<Client> => fixture.direct("slot");

    it("one is taken once: not again at once, nor behind another hello", async () => {
      const client = await session();
      const caught = sealFor(await hello(client), fixture.key, "globex");
      await setContext(client, caught);
      expect(await errorOf(setContext(client, caught))).toMatchObject({ code: "28000" });
      expect(await rowsOf(client)).toEqual(GLOBEX);
      await enter(client, fixture.key, "acme");
      expect(await errorOf(setContext(client, caught))).toMatchObject({ code: "28000" });
      await hello(client);
      expect(await errorOf(setContext(client, caught))).toMatchObject({ code: "28000" });
      expect(await rowsOf(client)).toEqual([]);
    });

    it("the nonce that set_context returns is good for the next one", async () => {
      const client = await session();
      const said = await hello(client);
      const { kid, context, expires, mac } = sealFor(said, fixture.key, "acme");
      const { rows } = await client.query<{ next: string }>("SELECT pgvpd.set_context($1, $2, $3, $4) AS next", [
        kid,
        context,
        expires,
        mac,
      ]);
      await setContext(client, sealFor({ ...said, nonce: rows[0]?.next ?? "" }, fixture.key, "globex"));
      expect(await rowsOf(client)).toEqual(GLOBEX);
    });

    it("a rolled-back hello brings no nonce back that was used: one caught in the session's past is refused", async () => {
      const client = await session();
      const caught = sealFor(await hello(client), fixture.key, "globex");
      await setContext(client, caught); // as pgvpd does, before the client's first byte
      await enter(client, fixture.key, "acme");
      for (const game of [
        ["BEGIN", "SAVEPOINT s", "SELECT FROM pgvpd.hello()", "ROLLBACK TO s"],
        ["BEGIN", "SELECT FROM pgvpd.hello()", "ROLLBACK"],
        ["BEGIN", "SAVEPOINT s", "SELECT FROM pgvpd.hello()", "RELEASE s", "ROLLBACK"],
        ["SELECT FROM pgvpd.hello()", "RESET ALL"],
        ["DISCARD ALL"],
      ]) {
        for (const statement of game) await client.query(statement);
        expect(await errorOf(setContext(client, caught))).toMatchObject({ code: "28000" });
        await client.query("ROLLBACK");
        expect(await rowsOf(client)).not.toEqual(GLOBEX);
      }
    });

    it("set_context that is rolled back leaves what was before: pgvpd calls it outside of a transaction", async () => {
      const client = await session();
      await enter(client, fixture.key, "acme");
      await client.query("BEGIN");
      await enter(client, fixture.key, "globex");
      expect(await rowsOf(client)).toEqual(GLOBEX);
      await client.query("ROLLBACK");
      expect(await rowsOf(client)).toEqual(ACME);
    });

    it("a session that has not said hello has no nonce to sign", async () => {
      const client = await session();
      const said: Hello = { carrier: "slot", pid: 0, nonce: "", now: "0" };
      const { rows } = await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
      for (const nonce of ["", "$libdir/auto_explain"]) {
        const seal = sealFor({ ...said, pid: rows[0]?.pid ?? 0 }, fixture.key, "globex", { nonce });
        expect(await errorOf(setContext(client, seal))).toMatchObject({ code: "28000" });
      }
      expect(await rowsOf(client)).toEqual([]);
    });
  });

  describe("signed", () => {
    it("an end that is over, or another than was signed, is refused", async () => {
      const client = await fixture.direct("signed");
      const said = await hello(client);
      const past = sealFor(said, fixture.key, "globex", { expires: "1" });
      expect(await errorOf(setContext(client, { ...past, expires: "1" }))).toMatchObject({ code: "28000" });
      expect(await errorOf(setContext(client, past))).toMatchObject({ code: "28000" });
      expect(await errorOf(setContext(client, { ...past, expires: "-1" }))).toMatchObject({ code: "28000" });
      expect(await rowsOf(client)).toEqual([]);
    });

    it("when its end has come the session is told to connect again, and sees nothing", async () => {
      const client = await fixture.direct("signed");
      const said = await hello(client);
      const expires = String(BigInt(said.now) + 2n);
      await setContext(client, { ...sealFor(said, fixture.key, "acme", { expires }), expires });
      expect(await rowsOf(client)).toEqual(ACME);
      await client.query("SELECT pg_sleep_until(to_timestamp($1::bigint) + interval '10 ms')", [expires]);
      expect(await errorOf(rowsOf(client))).toMatchObject({ code: "28000", hint: "Connect again." });
    });

    it("when its key is retired the session is told so, and sees nothing", async () => {
      const client = await fixture.direct("signed");
      await enter(client, fixture.key, "acme");
      try {
        await fixture.asSuperuser(renderKeyInstallation([{ kid: 2, bytes: randomBytes(32) }]), "signed");
        const error = await errorOf(rowsOf(client));
        expect(error).toMatchObject({ code: "28000", hint: "Connect again." });
        expect(error.message).toContain("has been retired");
      } finally {
        await fixture.asSuperuser(renderKeyInstallation([fixture.key]), "signed");
      }
    });

    it("in one backend the session's earlier context comes back: why it is not for a pool of tenants", async () => {
      const client = await fixture.direct("signed");
      await enter(client, fixture.key, "globex");
      const token = (await client.query<{ token: string }>("SELECT current_setting('pgvpd.sealed') AS token")).rows[0];
      await enter(client, fixture.key, "acme");
      await client.query("SELECT set_config('pgvpd.sealed', $1, false)", [token?.token]);
      expect(await rowsOf(client)).toEqual(GLOBEX);

      // In any other it does not.
      const other = await fixture.direct("signed");
      await other.query("SELECT set_config('pgvpd.sealed', $1, false)", [token?.token]);
      expect(await rowsOf(other)).toEqual([]);
    });
  });
});
