/**
 * Everything of seal-attack-table.ts in a session that is shared, sealed: the attacker sees and changes nothing of
 * another tenant's, and the clients that have the same session next, of both tenants, work in a context of their own.
 */
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../support/postgres.ts";
import { PASSWORD } from "../support/tenant-fixture.ts";
import { modes, POOL_PASSWORD } from "./pool-fixture.ts";
import { ATTACK_SCHEMA, attacksFor, isForeign, LOOK, OWN, type Attack } from "./seal-attack-table.ts";
import { carriersOf, startSealFixture, type Carrier, type SealFixture } from "./seal-fixture.ts";

const RESTORE = `
  TRUNCATE notes RESTART IDENTITY;
  INSERT INTO notes (tenant_id, body) VALUES ('acme', 'a1'), ('acme', 'a2'), ('globex', 'g1'), ('globex', 'g2'), ('globex', 'g3');
  TRUNCATE cases;
  INSERT INTO cases VALUES ('acme', 'a3'), ('globex', 'g4');
  DROP SCHEMA evil CASCADE;
  CREATE SCHEMA evil AUTHORIZATION app_user;
  GRANT ALL ON SCHEMA evil TO PUBLIC;
  ALTER ROLE app_user RESET ALL;
`;
const GLOBEX = ["g1", "g2", "g3", "g4"];

const versions = availableVersions().filter((version) => ["14", "18"].includes(version));

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: SealFixture;
  beforeAll(async () => {
    fixture = await startSealFixture({ version, schema: ATTACK_SCHEMA });
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(modes)("%s pool", (mode) => {
    let port: number;
    const admins = new Map<Carrier, Client>();
    beforeAll(async () => {
      const { superuser, password } = fixture.server;
      for (const carrier of carriersOf(version)) {
        admins.set(carrier, await fixture.direct(carrier, superuser, password));
      }
      const settings = {
        pool_mode: mode,
        pool_password: POOL_PASSWORD,
        upstream_password: PASSWORD,
        pool_size: 1,
        context_seal: "require",
        context_key_file: fixture.keyFile,
      };
      port = (await fixture.proxyWith(settings)).port;
    });

    describe.each(carriersOf(version))("%s", (carrier) => {
      it.each(attacksFor(version))("$name", async (attack) => {
        expect(isForeign(await play(attack, carrier))).toBe(false);
        const globex = await lookAs("globex", carrier);
        const acme = await lookAs("acme", carrier);
        await admins.get(carrier)?.query(RESTORE);
        expect(globex).toEqual(GLOBEX);
        expect(acme.filter((body) => !OWN.includes(body) && isForeign(body))).toEqual([]);
        expect(await lookAs("acme", carrier)).toEqual(OWN);
      });
    });

    const connect = (tenant: string, database: Carrier): Promise<Client> =>
      fixture.connect(`app_user.${tenant}`, { port, database, password: POOL_PASSWORD });

    /** All that it has seen. */
    async function play(attack: Attack, database: Carrier): Promise<string> {
      const client = await connect("acme", database);
      const seen: string[] = [];
      client.on("notice", ({ message, detail }) => seen.push(message ?? "", detail ?? ""));
      for (const sql of [...attack.sql, LOOK]) {
        try {
          const answers: unknown = await client.query({ text: sql, rowMode: "array" });
          for (const { rows } of [answers].flat() as { rows: unknown[] }[]) seen.push(JSON.stringify(rows));
        } catch (error) {
          const { message, detail, hint, where } = error as Record<string, string>;
          seen.push([message, detail, hint, where].join("\n"));
        }
      }
      await client.end();
      return seen.join("\n");
    }

    async function lookAs(tenant: string, database: Carrier): Promise<string[]> {
      const client = await connect(tenant, database);
      const { rows } = await client.query<{ body: string }>(LOOK);
      await client.end();
      return rows.map(({ body }) => body);
    }
  });
});
