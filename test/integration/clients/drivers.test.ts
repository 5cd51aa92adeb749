/**
 * What drivers do beyond plain queries, on every server version: their own way of cancelling, cursors, LISTEN through a
 * dedicated connection, COPY, pipelines, bulk inserts, types, and errors that leave the session usable. Drizzle on both
 * of its drivers, in transactions that fail.
 */
import { randomUUID } from "node:crypto";
import { sql as drizzleSql } from "drizzle-orm";
import { drizzle as drizzleOnPg } from "drizzle-orm/node-postgres";
import { integer, pgTable, text } from "drizzle-orm/pg-core";
import { drizzle as drizzleOnPostgresJs } from "drizzle-orm/postgres-js";
import { Client, Pool } from "pg";
import postgres, { type Sql } from "postgres";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { untilNoBackends, untilRunning } from "../../support/server-side.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const notes = pgTable("notes", {
  id: integer("id").generatedAlwaysAsIdentity(),
  tenantId: text("tenant_id"),
  body: text("body"),
});

describe.each(availableVersions())("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  const open: { end(): Promise<void> }[] = [];
  const postgresJs = (tenant: string, options: postgres.Options<Record<string, never>> = {}): Sql => {
    const { port } = fixture;
    const login = { host: "127.0.0.1", port, username: `app_user.${tenant}`, password: PASSWORD, database: "postgres" };
    const sql = postgres({ ...login, max: 1, onnotice: () => {}, ...options });
    open.push(sql);
    return sql;
  };

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
  });
  afterEach(async () => {
    await Promise.all(open.splice(0).map((client) => client.end()));
    await untilNoBackends(fixture);
    const counts = "SELECT tenant_id, count(*)::int AS rows FROM notes GROUP BY tenant_id ORDER BY tenant_id";
    expect(await fixture.asSuperuser(counts)).toEqual([
      { tenant_id: "acme", rows: 2 },
      { tenant_id: "globex", rows: 3 },
    ]);
    await fixture.asSuperuser("TRUNCATE plain");
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe("node-postgres", () => {
    const connect = async (tenant: string): Promise<Client> => {
      const client = await fixture.connect(`app_user.${tenant}`);
      open.push({ end: () => client.end() });
      return client;
    };

    it("cancels a query from a second connection of its own, and goes on", async () => {
      const client = await connect("acme");
      const query = client.query("SELECT pg_sleep(60), 'cancelled by pg'");
      const failed = errorOf(query);
      await untilRunning(fixture, "cancelled by pg");
      // What pg's query_timeout and its users' code do: a new Client that sends nothing but the CancelRequest.
      const { processID, secretKey } = client as unknown as { processID: number; secretKey: number };
      const canceller = new Client(fixture.through("app_user.acme"));
      const { connection } = canceller as unknown as {
        connection: {
          connect(port: number, host: string): void;
          cancel(processID: number, secretKey: number): void;
          on(event: string, listener: () => void): void;
        };
      };
      connection.on("connect", () => connection.cancel(processID, secretKey));
      connection.connect(fixture.port, "127.0.0.1");
      expect((await failed).code).toBe("57014");
      expect((await client.query("SELECT current_tenant_id() AS tenant")).rows).toEqual([{ tenant: "acme" }]);
    });

    it("keeps a savepoint's work and drops what came behind it", async () => {
      const client = await connect("acme");
      await client.query("BEGIN");
      await client.query("INSERT INTO plain VALUES (1, 'kept')");
      await client.query("SAVEPOINT s");
      await client.query("INSERT INTO plain VALUES (2, 'dropped')");
      expect((await errorOf(client.query("INSERT INTO notes (tenant_id) VALUES ('globex')"))).code).toBe("42501");
      expect((await errorOf(client.query("SELECT 1"))).code).toBe("25P02");
      await client.query("ROLLBACK TO s");
      await client.query("COMMIT");
      expect((await client.query("SELECT body FROM plain")).rows).toEqual([{ body: "kept" }]);
    });

    it("reads a cursor in steps, of its own rows only", async () => {
      const client = await connect("globex");
      await client.query("BEGIN");
      await client.query("DECLARE c CURSOR FOR SELECT body FROM notes ORDER BY body");
      expect((await client.query("FETCH 2 FROM c")).rows).toEqual([{ body: "g1" }, { body: "g2" }]);
      expect((await client.query("FETCH ALL FROM c")).rows).toEqual([{ body: "g3" }]);
      await client.query("ROLLBACK");
    });

    it("keeps a pool's sessions with their tenant", async () => {
      const pools = ["acme", "globex"].map((tenant) => new Pool({ ...fixture.through(`app_user.${tenant}`), max: 4 }));
      open.push(...pools);
      const asked = pools.flatMap((pool) =>
        Array.from({ length: 50 }, () => pool.query<{ tenant_id: string }>("SELECT DISTINCT tenant_id FROM notes")),
      );
      const tenants = (await Promise.all(asked)).map(({ rows }) => rows.map(({ tenant_id }) => tenant_id).join());
      expect(tenants).toEqual([...Array<string>(50).fill("acme"), ...Array<string>(50).fill("globex")]);
    });

    it.each([
      ["a syntax error", "SELEC 1", "42601"],
      ["an unknown table", "SELECT * FROM nowhere", "42P01"],
      ["a value of the wrong type", "SELECT 'x'::int", "22P02"],
      ["a RAISE", "DO $$ BEGIN RAISE 'said so' USING ERRCODE = 'P0099'; END $$", "P0099"],
    ])("lives on after %s", async (_name, statement, code) => {
      const client = await connect("acme");
      const { rows } = await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
      expect((await errorOf(client.query(statement))).code).toBe(code);
      expect((await client.query("SELECT pg_backend_pid() AS pid")).rows).toEqual(rows);
    });
  });

  describe("postgres.js", () => {
    it("cancels a query of its own", async () => {
      const sql = postgresJs("acme");
      const query = sql`SELECT pg_sleep(60), 'cancelled by postgres.js'`.execute();
      const failed = errorOf(query);
      await untilRunning(fixture, "cancelled by postgres.js");
      query.cancel();
      expect((await failed).code).toBe("57014");
      expect(await sql`SELECT current_tenant_id() AS tenant`).toMatchObject([{ tenant: "acme" }]);
    });

    it("pipelines hundreds of prepared queries, an error among them, and each gets its own answer", async () => {
      const sql = postgresJs("acme");
      const results = await Promise.allSettled(
        Array.from(
          { length: 300 },
          (_, index) => sql`SELECT ${index}::int AS i, 1 / ${index === 150 ? 0 : 1}::int AS one`,
        ),
      );
      const values = results.map((result) =>
        result.status === "fulfilled" ? (result.value[0]?.["i"] as number) : "failed",
      );
      expect(values).toEqual(Array.from({ length: 300 }, (_, index) => (index === 150 ? "failed" : index)));
    });

    it("listens on a connection of its own, through the proxy", async () => {
      const sql = postgresJs("acme");
      const heard: string[] = [];
      const listening = await sql.listen("news", (payload) => heard.push(payload));
      await sql.notify("news", "first");
      await sql.notify("news", "second");
      await expect.poll(() => heard).toEqual(["first", "second"]);
      await listening.unlisten();
    });

    it("copies out its own rows, copies into a table without a policy, and not into a protected one", async () => {
      const sql = postgresJs("globex");
      const rows: Buffer[] = [];
      for await (const chunk of await sql`COPY notes (body) TO STDOUT`.readable()) rows.push(chunk as Buffer);
      expect(Buffer.concat(rows).toString().split("\n").sort()).toEqual(["", "g1", "g2", "g3"]);
      const into = await sql`COPY plain FROM STDIN`.writable();
      const lines = Array.from({ length: 50_000 }, (_, index) => `${index}\t${"x".repeat(50)}\n`).join("");
      await new Promise<void>((resolve, reject) => {
        into.once("finish", () => resolve()).once("error", reject);
        into.end(lines);
      });
      await expect.poll(async () => (await sql`SELECT count(*)::int AS rows FROM plain`)[0]).toEqual({ rows: 50_000 });
      expect((await errorOf(sql`COPY notes (tenant_id, body) FROM STDIN`.writable())).code).toBe("0A000");
      expect(await sql`SELECT 1 AS alive`).toMatchObject([{ alive: 1 }]);
    });

    it("inserts in bulk and in a transaction that is rolled back as a whole", async () => {
      const sql = postgresJs("acme");
      const rows = Array.from({ length: 1_000 }, (_, id) => ({ id, body: randomUUID() }));
      const refused = sql.begin(async (transaction) => {
        await transaction`INSERT INTO plain ${transaction(rows)}`;
        await transaction.savepoint((savepoint) => savepoint`INSERT INTO notes (tenant_id) VALUES ('globex')`);
      });
      expect((await errorOf(refused)).code).toBe("42501");
      expect(await sql`SELECT count(*)::int AS rows FROM plain`).toMatchObject([{ rows: 0 }]);
    });
  });

  describe.each(["node-postgres", "postgres.js"])("Drizzle on %s", (driver) => {
    it("sees, changes and adds its own rows only", async () => {
      const pool = new Pool({ ...fixture.through("app_user.acme"), max: 1 });
      if (driver === "node-postgres") open.push(pool);
      const db = driver === "node-postgres" ? drizzleOnPg(pool) : drizzleOnPostgresJs(postgresJs("acme"));
      expect(await db.select({ body: notes.body }).from(notes).orderBy(notes.body)).toEqual([
        { body: "a1" },
        { body: "a2" },
      ]);
      const foreign = await errorOf(db.insert(notes).values({ tenantId: "globex", body: "forged" }));
      expect(foreign.cause).toMatchObject({ code: "42501" });
      expect(
        await db
          .update(notes)
          .set({ body: "x" })
          .where(drizzleSql`tenant_id = 'globex'`)
          .returning(),
      ).toEqual([]);
      expect(
        await db
          .delete(notes)
          .where(drizzleSql`tenant_id <> 'acme'`)
          .returning(),
      ).toEqual([]);

      const abandoned = db.transaction(async (transaction) => {
        await transaction.insert(notes).values({ tenantId: "acme", body: "a3" });
        expect(await transaction.select().from(notes)).toHaveLength(3);
        transaction.rollback();
      });
      await expect(abandoned).rejects.toThrow(/rollback/i);
      expect(await db.select().from(notes)).toHaveLength(2);
    });
  });
});
