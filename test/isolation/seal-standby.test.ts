/** A hot standby behind a proxy of its own: nothing may be written there, and the sealed context needs no write. */
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { availableVersions, startStandby, type PostgresServer } from "../support/postgres.ts";
import { carriersOf, startSealFixture, type SealFixture } from "./seal-fixture.ts";

describe.each(availableVersions())("PostgreSQL %s", (version) => {
  let fixture: SealFixture;
  let standby: PostgresServer;
  let port = 0;
  beforeAll(async () => {
    fixture = await startSealFixture({ version });
    standby = await startStandby(fixture.server);
    const seal = { context_seal: "require", context_key_file: fixture.keyFile };
    port = (await fixture.proxyWith({ ...seal, upstream_port: standby.port })).port;
  });
  afterAll(async () => {
    await fixture?.[Symbol.asyncDispose]();
    await standby?.stop();
  });

  describe.each(carriersOf(version))("%s", (database) => {
    const bodiesOf = async (client: Client): Promise<string[]> => {
      const { rows } = await client.query<{ body: string }>("SELECT body FROM notes ORDER BY body");
      return rows.map(({ body }) => body);
    };

    it("each tenant sees its rows on the standby, and after SET still", async () => {
      for (const [tenant, own] of [
        ["acme", ["a1", "a2"]],
        ["globex", ["g1", "g2", "g3"]],
      ] as const) {
        const client = await fixture.connect(`app_user.${tenant}`, { port, database });
        const { rows } = await client.query("SELECT pg_is_in_recovery() AS standby, pgvpd.seal_carrier() AS carrier");
        expect(rows).toEqual([{ standby: true, carrier: database }]);
        expect(await bodiesOf(client)).toEqual(own);
        await client.query("SET app.current_tenant_id = 'globex'");
        expect(await bodiesOf(client)).toEqual(own);
        await client.query("DISCARD ALL");
        expect(await bodiesOf(client)).toEqual([]);
        await client.end();
      }
    });

    it("keys that the primary accepts, and what it writes, reach the standby", async () => {
      const client = await fixture.connect("app_user.acme", { port, database });
      await fixture.asSuperuser(
        "INSERT INTO notes (tenant_id, body) VALUES ('acme', 'a9'), ('globex', 'g9')",
        database,
      );
      const [lsn] = await fixture.asSuperuser("SELECT pg_current_wal_lsn()::text AS lsn", database);
      const replayed = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS done";
      while ((await client.query<{ done: boolean }>(replayed, [lsn?.["lsn"]])).rows[0]?.done !== true);
      expect(await bodiesOf(client)).toEqual(["a1", "a2", "a9"]);
      await client.end();
    });
  });
});
