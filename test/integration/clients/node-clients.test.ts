/**
 * pg, postgres.js and Drizzle through the proxy, on real servers: what an application does all day, as a tenant.
 */
import { createHash } from "node:crypto";
import { drizzle } from "drizzle-orm/node-postgres";
import { integer, pgTable, text } from "drizzle-orm/pg-core";
import type { Client } from "pg";
import postgres from "postgres";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { errorOf, PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const matrix = availableVersions()
  .filter((version) => ["15", "18"].includes(version))
  .flatMap((version) => (["scram", "trust"] as const).map((auth) => ({ version, auth })));

const bodies = async (client: Client): Promise<unknown> =>
  (await client.query("SELECT body FROM notes ORDER BY id")).rows.map((row: { body: string }) => row.body);

describe.each(matrix)("PostgreSQL $version, $auth", ({ version, auth }) => {
  let fixture: TenantFixture;
  let acme: Client;
  beforeAll(async () => {
    fixture = await startTenantFixture({ version, auth });
    acme = await fixture.connect("app_user.acme");
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  it.each(["startup", "query"])("shows each tenant its own rows only (context_injection = %s)", async (injection) => {
    const { port } = await fixture.proxyWith({ context_injection: injection });
    expect(await bodies(await fixture.connect("app_user.acme", { port }))).toEqual(["a1", "a2"]);
    expect(await bodies(await fixture.connect("app_user.globex", { port }))).toEqual(["g1", "g2", "g3"]);
    expect(await bodies(await fixture.connect("app_user.initech", { port }))).toEqual([]);
  });

  it("refuses an INSERT and an UPDATE for another tenant with 42501", async () => {
    const insert = errorOf(acme.query("INSERT INTO notes (tenant_id, body) VALUES ('globex', 'x')"));
    expect((await insert).code).toBe("42501");
    const update = errorOf(acme.query("UPDATE notes SET tenant_id = 'globex'"));
    expect((await update).code).toBe("42501");
  });

  it("lets UPDATE and DELETE touch no foreign row", async () => {
    expect((await acme.query("UPDATE notes SET body = 'x' WHERE tenant_id = 'globex'")).rowCount).toBe(0);
    expect((await acme.query("DELETE FROM notes WHERE tenant_id <> 'acme'")).rowCount).toBe(0);
    const [row] = await fixture.asSuperuser("SELECT count(*) FROM notes WHERE tenant_id = 'globex'");
    expect(row?.["count"]).toBe("3");
  });

  it("keeps transactions, savepoints and the session after an error", async () => {
    await acme.query("BEGIN; INSERT INTO notes (tenant_id, body) VALUES ('acme', 'gone'); SAVEPOINT s");
    expect((await errorOf(acme.query("SELECT 1/0"))).code).toBe("22012");
    await acme.query("ROLLBACK TO s; ROLLBACK");
    expect(await bodies(acme)).toEqual(["a1", "a2"]);
  });

  it("runs named prepared statements and pipelined queries in their order", async () => {
    const query = { name: "by-body", text: "SELECT body FROM notes WHERE body = $1" };
    for (const body of ["a1", "a2", "g1"]) {
      const { rows } = await acme.query({ ...query, values: [body] });
      expect(rows).toEqual(body === "g1" ? [] : [{ body }]);
    }
    const pipelined = await Promise.all(Array.from({ length: 500 }, (_, i) => acme.query("SELECT $1::int AS i", [i])));
    expect(pipelined.map(({ rows }) => (rows[0] as { i: number }).i)).toEqual(Array.from({ length: 500 }, (_, i) => i));
  });

  it("delivers NOTIFY to a session that listens", async () => {
    const listener = await fixture.connect("app_user.acme");
    const heard = new Promise((resolve) => listener.once("notification", ({ payload }) => resolve(payload)));
    await listener.query("LISTEN news");
    await acme.query("NOTIFY news, 'hello'");
    expect(await heard).toBe("hello");
  });

  it("passes a result of 32 MB unchanged", async () => {
    const sql = "SELECT md5(i::text) || repeat('x', 992) AS line FROM generate_series(1, 32768) i";
    const digest = async (user: string, port: number): Promise<string> => {
      const hash = createHash("sha256");
      const connection = postgres({ host: "127.0.0.1", port, user, password: PASSWORD, database: "postgres", max: 1 });
      for await (const rows of connection.unsafe(sql).cursor(2000)) for (const row of rows) hash.update(row["line"]);
      await connection.end();
      return hash.digest("hex");
    };
    expect(await digest("app_user.acme", fixture.port)).toBe(await digest("app_user", fixture.server.port));
  });

  it("cancels the running query of its own session, which lives on", async () => {
    const sql = postgres({ ...fixture.through("app_user.acme"), username: "app_user.acme", max: 1 } as never);
    const sleeping = sql`SELECT pg_sleep(30)`.execute();
    const started = await waitForActivity(fixture, "SELECT pg_sleep(30)");
    sleeping.cancel();
    expect((await errorOf(sleeping)).code).toBe("57014");
    expect(await sql`SELECT pg_backend_pid() AS pid`).toMatchObject([{ pid: started }]);
    await sql.end();
  });

  it("serves postgres.js: rows, INSERT, transaction, COPY out and COPY into a table without a policy", async () => {
    const sql = postgres({ ...fixture.through("app_user.globex"), username: "app_user.globex", max: 1 } as never);
    expect(await sql`SELECT body FROM notes ORDER BY id`).toMatchObject([
      { body: "g1" },
      { body: "g2" },
      { body: "g3" },
    ]);
    expect((await errorOf(sql`INSERT INTO notes (tenant_id) VALUES ('acme')`)).code).toBe("42501");
    await sql.begin((transaction) => transaction`INSERT INTO plain VALUES (1, 'postgres.js')`);
    const copied: Buffer[] = [];
    for await (const chunk of await sql`COPY (SELECT body FROM notes ORDER BY id) TO STDOUT`.readable())
      copied.push(chunk);
    expect(Buffer.concat(copied).toString()).toBe("g1\ng2\ng3\n");
    const writable = await sql`COPY plain FROM STDIN`.writable();
    await new Promise<void>((resolve, reject) => {
      writable.once("finish", resolve).once("error", reject);
      writable.end("2\tcopied\n3\tcopied\n");
    });
    expect(await sql`SELECT count(*)::int AS n FROM plain WHERE body = 'copied'`).toMatchObject([{ n: 2 }]);
    await sql.end();
  });

  it("serves Drizzle with nothing changed but the user name", async () => {
    const notes = pgTable("notes", {
      id: integer("id").generatedAlwaysAsIdentity(),
      tenantId: text("tenant_id"),
      body: text("body"),
    });
    const db = drizzle(acme);
    const found = await db.select({ body: notes.body }).from(notes).orderBy(notes.id);
    expect(found).toEqual([{ body: "a1" }, { body: "a2" }]);
    const foreign = await errorOf(db.insert(notes).values({ tenantId: "globex", body: "x" }));
    expect((foreign.cause as { code?: string }).code).toBe("42501");
  });
});

/** The pid of the backend that runs `query`, as soon as there is one. */
async function waitForActivity(fixture: TenantFixture, query: string): Promise<number> {
  const quoted = query.replaceAll("'", "''");
  for (;;) {
    const rows = await fixture.asSuperuser(
      `SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = '${quoted}' AND pid <> pg_backend_pid()`,
    );
    if (rows[0] !== undefined) return rows[0]["pid"] as number;
  }
}
