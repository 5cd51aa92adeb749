/**
 * Drivers and programs in transaction mode, as they come: several clients of two tenants over two sessions, named
 * prepared statements, errors in between, transactions that are rolled back. Every row belongs to its reader, and no
 * client is kept on a session by what its driver sets when it connects.
 */
import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { sql as drizzleSql } from "drizzle-orm";
import { drizzle as drizzleOnPg } from "drizzle-orm/node-postgres";
import { integer, pgTable, text } from "drizzle-orm/pg-core";
import { drizzle as drizzleOnPostgresJs } from "drizzle-orm/postgres-js";
import { Pool } from "pg";
import postgres from "postgres";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { describeWithTools } from "../../support/describe-with-tools.ts";
import { POOL_PASSWORD, startPooledProxy, type PooledProxy } from "../../support/pooled-proxy.ts";
import { availableVersions } from "../../support/postgres.ts";
import { libpqs } from "../../support/psql.ts";
import { errorOf, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));
const tenants = ["acme", "globex"] as const;
const CLIENTS = 3;
const TRANSACTIONS = 50;

const notes = pgTable("notes", {
  id: integer("id").generatedAlwaysAsIdentity(),
  tenantId: text("tenant_id"),
  body: text("body"),
});

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  let pooled: PooledProxy;

  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  /** A proxy of the test's own, so that its metrics are the test's too. */
  const start = async (): Promise<PooledProxy> => (pooled = await startPooledProxy(fixture));

  afterEach(async () => {
    expect(await pooled.pins()).toEqual({});
    await expect.poll(() => pooled.proxy.sessionCount, { timeout: 10_000 }).toBe(0);
    await pooled.proxy.stop();
    const counts = "SELECT tenant_id, count(*)::int AS rows FROM notes GROUP BY tenant_id ORDER BY tenant_id";
    expect(await fixture.asSuperuser(counts)).toEqual([
      { tenant_id: "acme", rows: 2 },
      { tenant_id: "globex", rows: 3 },
    ]);
  });

  /** Works for both tenants at once, and expects that each sees its own rows only. */
  const forBoth = async (
    work: (tenant: string, seen: (tenantId: string | null) => void) => Promise<void>,
  ): Promise<void> => {
    const seen: Record<string, Set<string | null>> = {};
    await Promise.all(tenants.map((tenant) => work(tenant, (tenantId) => (seen[tenant] ??= new Set()).add(tenantId))));
    expect(seen).toEqual({ acme: new Set(["acme"]), globex: new Set(["globex"]) });
  };
  const times = (count: number, work: (index: number) => Promise<void>): Promise<void[]> =>
    Promise.all(Array.from({ length: count }, (_, index) => work(index)));

  it("serves node-postgres: named statements, errors, rolled back transactions", async () => {
    const { through } = await start();
    await forBoth(async (tenant, seen) => {
      const pool = new Pool({ ...through(tenant), max: CLIENTS, application_name: `pg of ${tenant}` });
      await times(CLIENTS * TRANSACTIONS, async (index) => {
        const client = await pool.connect();
        try {
          if (index % 7 === 0) expect((await errorOf(client.query(`SELECT ${index} / 0`))).code).toBe("22012");
          await client.query("BEGIN");
          const inserted = {
            name: "insert",
            text: "INSERT INTO notes (tenant_id, body) VALUES ($1, $2) RETURNING tenant_id",
          };
          await client.query({ ...inserted, values: [tenant, `${index}`] });
          const { rows } = await client.query<{ tenant_id: string }>({
            name: `select${index % 5}`,
            text: `SELECT tenant_id, ${index % 5} FROM notes WHERE id > $1`,
            values: [index % 2],
          });
          for (const row of rows) seen(row.tenant_id);
          if (index % 5 === 0) {
            const foreign = client.query({ ...inserted, values: [tenant === "acme" ? "globex" : "acme", "foreign"] });
            expect((await errorOf(foreign)).code).toBe("42501");
          }
          await client.query("ROLLBACK");
        } finally {
          client.release();
        }
      });
      await pool.end();
    });
  });

  it.each([true, false])("serves postgres.js with prepare: %s", async (prepare) => {
    const { port } = await start();
    await forBoth(async (tenant, seen) => {
      const login = { host: "127.0.0.1", port, username: `app_user.${tenant}`, password: POOL_PASSWORD };
      const sql = postgres({ ...login, database: "postgres", max: CLIENTS, prepare, onnotice: () => {} });
      await times(CLIENTS * TRANSACTIONS, async (index) => {
        const rows = await sql`SELECT tenant_id, ${index}::int AS n FROM notes`;
        for (const row of rows) seen(row["tenant_id"] as string);
        if (index % 3 === 0) expect((await errorOf(sql`SELECT 1 / ${0}::int`)).code).toBe("22012");
        const failed = sql.begin(async (transaction) => {
          await transaction`INSERT INTO notes (tenant_id, body) VALUES (${tenant}, ${index})`;
          for (const row of await transaction`SELECT tenant_id FROM notes WHERE id > ${0}`)
            seen(row["tenant_id"] as string);
          throw new Error("rolled back");
        });
        expect((await errorOf(failed)).message).toBe("rolled back");
      });
      await sql.end();
    });
  });

  it("serves Drizzle on both of its drivers, with its prepared statements", async () => {
    const { port, through } = await start();
    await forBoth(async (tenant, seen) => {
      const pool = new Pool({ ...through(tenant), max: CLIENTS });
      const login = { host: "127.0.0.1", port, username: `app_user.${tenant}`, password: POOL_PASSWORD };
      const sql = postgres({ ...login, database: "postgres", max: CLIENTS });
      const onPg = drizzleOnPg({ client: pool });
      const onPostgresJs = drizzleOnPostgresJs({ client: sql });
      const all = onPg
        .select()
        .from(notes)
        .where(drizzleSql`${notes.id} > ${drizzleSql.placeholder("id")}`)
        .prepare("all");
      await times(TRANSACTIONS, async (index) => {
        for (const row of await all.execute({ id: index % 2 })) seen(row.tenantId);
        for (const row of await onPostgresJs.select().from(notes)) seen(row.tenantId);
        for (const database of [onPg, onPostgresJs]) {
          const failed = (database as typeof onPg).transaction(async (transaction) => {
            await transaction.insert(notes).values({ tenantId: tenant, body: "drizzle" });
            for (const row of await transaction.select().from(notes)) seen(row.tenantId);
            transaction.rollback();
          });
          expect((await errorOf(failed)).message).toBe("Rollback");
        }
      });
      await Promise.all([pool.end(), sql.end()]);
    });
  });

  describeWithTools(["psql"], "psql", (psql = "") => {
    it.each(libpqs)("serves psql with $name and its meta commands", async ({ env }) => {
      const { port } = await start();
      await forBoth(async (tenant, seen) => {
        await times(CLIENTS, async () => {
          const script = [
            "\\d notes",
            "\\dt",
            "\\df pgvpd_*",
            "\\du",
            "\\dn+",
            "\\conninfo",
            "\\encoding LATIN1",
            "\\timing on",
            "\\timing off",
            "\\set AUTOCOMMIT off",
            "INSERT INTO notes (tenant_id, body) VALUES (current_tenant_id(), 'psql');",
            "ROLLBACK;",
            "\\set AUTOCOMMIT on",
            "\\set ON_ERROR_ROLLBACK on",
            "BEGIN;",
            "SELECT 1 / 0;",
            "SELECT tenant_id FROM notes \\gdesc",
            "SELECT 'row:' || tenant_id FROM notes;",
            "COMMIT;",
            "\\set FETCH_COUNT 1",
            "SELECT 'row:' || tenant_id FROM notes;",
            "\\unset FETCH_COUNT",
            "SELECT tenant_id AS one FROM notes LIMIT 1 \\gset",
            "\\echo row: :one",
            "\\copy (SELECT 'row:' || tenant_id FROM notes) TO STDOUT",
          ];
          const connection = ["-h", "127.0.0.1", "-p", `${port}`, "-U", `app_user.${tenant}`, "-d", "postgres"];
          const child = spawn(psql, ["-X", "-A", "-t", ...connection], { env: { ...env, PGPASSWORD: POOL_PASSWORD } });
          const { stdout, stderr, code } = await collect(child, script.join("\n"));
          expect({ code, stderr }).toEqual({ code: 0, stderr: "ERROR:  division by zero\n" });
          const found = [...stdout.matchAll(/^row: ?(.*)$/gm)];
          expect(found).toHaveLength(tenant === "acme" ? 2 * 3 + 1 : 3 * 3 + 1);
          for (const [, tenantId = ""] of found) seen(tenantId);
        });
      });
    });
  });

  describeWithTools(["pgbench"], "pgbench", (pgbench = "") => {
    let folder: string;
    beforeAll(async () => {
      folder = await mkdtemp(path.join(tmpdir(), "pgvpd-pgbench-"));
    });
    afterAll(() => rm(folder, { recursive: true, force: true }));

    it.each(["simple", "extended", "prepared"])("serves pgbench -M %s", async (protocol) => {
      const { port } = await start();
      // A division by zero where the number of rows is not the tenant's own ends the run.
      const script = path.join(folder, "script.sql");
      const lines = [
        "\\set id random(1, 100)",
        "BEGIN;",
        "INSERT INTO notes (tenant_id, body) VALUES (current_tenant_id(), :id);",
        "SELECT 1 / (count(*) = :rows::int + 1)::int FROM notes;",
        "ROLLBACK;",
        "SELECT 1 / (count(*) = :rows::int)::int FROM notes;",
      ];
      await writeFile(script, lines.join("\n"));
      await forBoth(async (tenant, seen) => {
        const rows = tenant === "acme" ? 2 : 3;
        const connection = ["-h", "127.0.0.1", "-p", `${port}`, "-U", `app_user.${tenant}`];
        // A thread each: a thread of pgbench sleeps while one of its clients prepares, whatever its other clients hold.
        const run = [
          "-n",
          "-c",
          `${CLIENTS}`,
          "-j",
          `${CLIENTS}`,
          "-t",
          `${TRANSACTIONS}`,
          "-M",
          protocol,
          "-f",
          script,
        ];
        const variable = ["-D", `rows=${rows}`];
        const child = spawn(pgbench, [...run, ...variable, ...connection, "postgres"], {
          env: { PGPASSWORD: POOL_PASSWORD },
        });
        const { stdout, stderr, code } = await collect(child);
        expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
        expect(stdout).toContain(`${CLIENTS * TRANSACTIONS}/${CLIENTS * TRANSACTIONS}`);
        seen(tenant);
      });
    });
  });
});

async function collect(
  child: ReturnType<typeof spawn>,
  input = "",
): Promise<{ stdout: string; stderr: string; code: number | null }> {
  const output = { stdout: "", stderr: "" };
  child.stdout?.on("data", (chunk: Buffer) => (output.stdout += chunk.toString()));
  child.stderr?.on("data", (chunk: Buffer) => (output.stderr += chunk.toString()));
  child.stdin?.end(input);
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { ...output, code };
}
