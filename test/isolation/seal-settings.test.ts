/**
 * context_seal against databases as they are found: without the seal, without a key, with another key, with a seal that
 * has lost its rights, with functions of somebody else's; and what a later login of the same role gets when a tenant has
 * changed the role's settings. Where the context cannot be sealed, no session sees a row that it should not.
 */
import { randomBytes } from "node:crypto";
import { execFile } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { promisify } from "node:util";
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { renderKeyInstallation, type SealKey } from "../../src/config/seal-keys.ts";
import { describeWithTools } from "../support/describe-with-tools.ts";
import { availableVersions } from "../support/postgres.ts";
import { startProxyProcess } from "../support/proxy-process.ts";
import { message } from "../support/bytes.ts";
import { RawClient } from "../support/raw-client.ts";
import { errorOf, PASSWORD } from "../support/tenant-fixture.ts";
import { carriersOf, contextOf, sealDatabase, startSealFixture, type SealFixture } from "./seal-fixture.ts";

const versions = availableVersions().filter((version) => ["14", "15", "18"].includes(version));

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: SealFixture;
  const ports: Record<string, number> = {};
  let wrongKey: string;
  beforeAll(async () => {
    fixture = await startSealFixture({ version });
    wrongKey = `${fixture.keyFile}.wrong`;
    writeFileSync(wrongKey, `1 ${randomBytes(32).toString("base64")}\n`, { mode: 0o600 });
    for (const context_seal of ["on", "require"]) {
      for (const context_injection of ["startup", "query"]) {
        const settings = { context_seal, context_injection, context_key_file: fixture.keyFile };
        ports[`${context_seal} ${context_injection}`] = (await fixture.proxyWith(settings)).port;
      }
      ports[`${context_seal} wrong`] = (await fixture.proxyWith({ context_seal, context_key_file: wrongKey })).port;
    }
    ports["off"] = (await fixture.proxyWith({})).port;
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  const connect = (which: string, database: string, tenant = "acme"): Promise<Client> =>
    fixture.connect(`app_user.${tenant}`, { port: ports[which] ?? 0, database });
  const rowsOf = async (client: Client): Promise<string[]> => {
    const { rows } = await client.query<{ body: string }>("SELECT body FROM notes ORDER BY body");
    await client.end();
    return rows.map(({ body }) => body);
  };
  const SEALED = ["on startup", "on query", "require startup", "require query"];

  /** A database like that of the carrier, which a test may spoil. */
  async function spoiled(name: string, carrier: string): Promise<string> {
    const database = `${name}_${carrier}`;
    await fixture.asSuperuser(`CREATE DATABASE ${database} TEMPLATE ${carrier}`);
    return database;
  }

  describe("in a database without the seal", () => {
    it.each(["on startup", "on query"])("%s: the tenant's rows", async (which) => {
      expect(await rowsOf(await connect(which, "plain"))).toEqual(["a1", "a2"]);
    });

    it.each(["require startup", "require query", "require wrong"])("%s: 28000", async (which) => {
      expect(await errorOf(connect(which, "plain"))).toMatchObject({ code: "28000", severity: "FATAL" });
    });

    it("on says so in the log, and the client hears nothing of it", async () => {
      await using proxy = await startProxyProcess({
        settings: {
          upstream_host: fixture.server.host,
          upstream_port: fixture.server.port,
          context_seal: "on",
          context_key_file: fixture.keyFile,
        },
      });
      const client = await RawClient.logIn(proxy, {
        user: "app_user.acme",
        password: PASSWORD,
        parameters: { database: "plain" },
      });
      const line = await proxy.waitForLog(({ msg }) => String(msg).startsWith("the context is not sealed"));
      expect(line).toMatchObject({ level: "warn", database: "plain" });
      expect(String(line["cause"])).toContain("pgvpd.hello() does not exist");
      expect(client.types).not.toMatch(/[NE]/);
      client.socket.destroy();
    });
  });

  describe.each(carriersOf(version))("%s", (carrier) => {
    it.each(SEALED)("%s: the tenant's rows, after SET too", async (which) => {
      const client = await connect(which, carrier);
      await client.query("SET app.current_tenant_id = 'globex'");
      expect(await rowsOf(client)).toEqual(["a1", "a2"]);
    });

    it("off: no rows, because nobody sealed the context", async () => {
      expect(await rowsOf(await connect("off", carrier))).toEqual([]);
    });

    it.each(["on wrong", "require wrong"])("%s: another key than the database's is 28000", async (which) => {
      expect(await errorOf(connect(which, carrier))).toMatchObject({ code: "28000", severity: "FATAL" });
    });

    it.each(SEALED)("%s: a database in which no key is installed is 28000", async (which) => {
      const database = await spoiled(`nokey_${SEALED.indexOf(which)}`, carrier);
      await fixture.asSuperuser("DELETE FROM pgvpd.context_keys", database);
      expect(await errorOf(connect(which, database))).toMatchObject({ code: "28000" });
    });

    it("a seal that has lost its rights gives no rows with on, and no session with require", async () => {
      const database = await spoiled("norights", carrier);
      await fixture.asSuperuser("REVOKE EXECUTE ON FUNCTION pgvpd.hello() FROM PUBLIC", database);
      expect(await rowsOf(await connect("on startup", database))).toEqual([]);
      expect(await errorOf(connect("require startup", database))).toMatchObject({ code: "28000" });
    });

    it.each(["-c ", "--"])("the slot in a StartupMessage, as %sname=value or by itself, is 42501", async (how) => {
      const forged = `pgvpd1:00000000-0000-0000-0000-000000000000:${contextOf("globex")}`;
      const value = forged.replaceAll(/[\\ ]/g, "\\$&");
      for (const parameters of [
        { options: `${how}session_preload_libraries=${value}` },
        { options: `${how}Session-Preload_Libraries=${value}` },
        { session_preload_libraries: forged },
      ]) {
        const client = await RawClient.open({ host: "127.0.0.1", port: ports["require startup"] ?? 0 });
        const more = { database: carrier, ...parameters };
        await client.logIn({ user: "app_user.acme", password: PASSWORD, parameters: more });
        expect(client.error["C"]).toBe("42501");
      }
    });

    it("a signed context in a StartupMessage is none, not even after RESET ALL", async () => {
      const forged = `1|9999999999|${"0".repeat(64)}|${contextOf("globex")}`;
      const port = ports["require startup"] ?? 0;
      for (const [statement, left] of [
        ["SELECT 1", 2],
        ["RESET pgvpd.sealed", carrier === "slot" ? 2 : 0],
        ["RESET ALL", 0],
      ] as const) {
        const client = await fixture.connect("app_user.acme", {
          port,
          database: carrier,
          options: `-c pgvpd.sealed=${forged}`,
        });
        await client.query(statement);
        expect(await rowsOf(client)).toHaveLength(left);
      }
    });

    it("nothing of the login is left that a client could run again", async () => {
      using client = await RawClient.logIn(
        { host: "127.0.0.1", port: ports["require startup"] ?? 0 },
        { user: "app_user.acme", password: PASSWORD, parameters: { database: carrier } },
      );
      const unnamed = Buffer.from("\0\0\0\0\0\0\0\0", "latin1"); // Bind: portal, statement, no formats, values, formats
      client.send(message("B", unnamed), message("S"));
      await client.readUntil("Z");
      expect(client.error["C"]).toBe("26000");
      client.send(message("E", unnamed.subarray(0, 5)), message("S"));
      await client.readUntil("Z");
      expect(client.error["C"]).toBe("34000");
    });

    it("a context that is sealed for bypass users is not: the superuser comes through as he is", async () => {
      const client = await fixture.connect("postgres", { port: ports["require startup"] ?? 0, database: carrier });
      expect(await rowsOf(client)).toEqual(["a1", "a2", "g1", "g2", "g3"]);
    });

    it("a role whose settings a tenant has changed gives later logins their own rows, or none at all", async () => {
      const attacker = await connect("require startup", carrier, "globex");
      const refused: (string | undefined)[] = [];
      for (const setting of [
        `session_preload_libraries = 'pgvpd1:00000000-0000-0000-0000-000000000000:${contextOf("globex")}'`,
        `"pgvpd.sealed" = '1|9999999999|${"0".repeat(64)}|${contextOf("globex")}'`,
        "app.current_tenant_id = 'globex'",
      ]) {
        refused.push(
          await attacker.query(`ALTER ROLE app_user SET ${setting}`).then(
            () => undefined,
            ({ code }: { code: string }) => code,
          ),
        );
      }
      expect(refused[0]).toBe("42501");
      for (const setting of [
        "standard_conforming_strings = off",
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "plan_cache_mode = force_generic_plan",
        "search_path = pg_temp, public, pg_catalog",
        "client_encoding = 'LATIN1'",
        "bytea_output = 'escape'",
        "DateStyle = 'German'",
        "TimeZone = 'Pacific/Kiritimati'",
        "extra_float_digits = -15",
        "transform_null_equals = on",
        "jit_above_cost = 0",
        "log_parameter_max_length_on_error = -1",
        "client_min_messages = debug5",
      ]) {
        await attacker.query(`ALTER ROLE app_user SET ${setting}`);
      }
      try {
        for (const which of SEALED) {
          expect(await rowsOf(await connect(which, carrier))).toEqual(["a1", "a2"]);
          expect(await rowsOf(await connect(which, carrier, "acmé"))).toEqual([]);
        }
      } finally {
        await fixture.asSuperuser("ALTER ROLE app_user RESET ALL");
        await attacker.end();
      }
    });
  });

  it("functions of a tenant's own in the seal's place get a signature of their tenant's context alone", async () => {
    // A tenant that may create schemas, in a database that nobody has sealed, asks pgvpd to sign for another session.
    const carrier = carriersOf(version)[0] ?? "signed";
    await fixture.asSuperuser("CREATE DATABASE fake TEMPLATE template0");
    await fixture.asSuperuser("GRANT CREATE ON DATABASE fake TO app_user");
    const victim = await fixture.direct(carrier);
    const { rows } = await victim.query<Record<string, string>>("SELECT * FROM pgvpd.hello()");
    const { pid, nonce, now } = rows[0] ?? {};
    const answers = [
      `'${carrier}', ${pid}, '${nonce}', ${now}`,
      `'${carrier}', ${pid}, '${nonce}|${carrier}|${contextOf("globex").slice(0, -1)},"x":"', ${now}`,
    ];
    const planter = await fixture.direct("fake");
    await planter.query(`CREATE SCHEMA pgvpd; CREATE TABLE pgvpd.caught (kid int, context text, expires bigint, mac bytea);
      CREATE FUNCTION pgvpd.set_context(kid int, context text, expires bigint, mac bytea) RETURNS text LANGUAGE sql
        AS 'INSERT INTO pgvpd.caught VALUES ($1, $2, $3, $4); SELECT ''''::text'`);
    for (const answer of answers) {
      await planter.query(`CREATE OR REPLACE FUNCTION pgvpd.hello(OUT carrier text, OUT pid int, OUT nonce text, OUT now bigint)
        LANGUAGE sql AS $$ SELECT ${answer.replace(/^'(\w+)', (\d+), ('.*'), (\d+)$/s, "'$1'::text, $2, $3::text, $4::bigint")} $$`);
      await connect("require startup", "fake").then(
        (client) => client.end(),
        () => undefined,
      );
    }
    const caught = (await planter.query<Record<string, unknown>>("SELECT * FROM pgvpd.caught")).rows;
    expect(caught).toHaveLength(1); // the second answer was refused
    // current_database() is PostgreSQL's own, and it is part of what was signed.
    const seal = [caught[0]?.["kid"], caught[0]?.["context"], caught[0]?.["expires"], caught[0]?.["mac"]];
    expect(caught[0]?.["context"]).toBe(contextOf("acme"));
    const error = await errorOf(victim.query("SELECT pgvpd.set_context($1, $2, $3, $4)", seal));
    expect(error).toMatchObject({ code: "28000" });
  });

  it("the same key in two databases: a context is good in the one that it was signed for", async () => {
    const carrier = carriersOf(version)[0] ?? "signed";
    await fixture.asSuperuser("CREATE DATABASE twin TEMPLATE plain");
    await sealDatabase(fixture, "twin", carrier, [fixture.key]);
    for (const which of SEALED) {
      expect(await rowsOf(await connect(which, "twin"))).toEqual(["a1", "a2"]);
      expect(await rowsOf(await connect(which, carrier))).toEqual(["a1", "a2"]);
    }
  });
});

describeWithTools(["psql"], "pgvpd key install | psql", (psql = "") => {
  it("leaves no key in the log of a server that logs every statement, not even when it fails", async () => {
    const settings = {
      log_statement: "all",
      log_min_duration_statement: "0",
      log_min_error_statement: "debug5",
      log_duration: "on",
      shared_preload_libraries: "auto_explain",
      "auto_explain.log_min_duration": "0",
    };
    await using fixture = await startSealFixture({ version: "18", settings });
    const key: SealKey = { kid: 5, bytes: randomBytes(32) };
    for (const database of ["slot", "plain"]) {
      const installing = promisify(execFile)(psql, ["-X", "-q", fixture.server.url(database)]);
      installing.child.stdin?.end(renderKeyInstallation([fixture.key, key]));
      const { stdout, stderr } = await installing;
      expect(stdout).toBe("");
      if (database === "plain") expect(stderr).toContain('relation "pgvpd.context_keys" does not exist');
    }
    expect(
      await fixture.asSuperuser("SELECT kid FROM pgvpd.context_keys WHERE active ORDER BY 1", "slot"),
    ).toHaveLength(2);
    const log = readFileSync(fixture.server.logFile, "utf8");
    expect(log).toContain("DO $$ BEGIN"); // it does log statements
    expect(log).toContain("Query Text: "); // and plans
    const secret = Buffer.from(key.bytes.map((byte) => byte ^ 0x36)).toString("hex");
    expect(log).not.toContain(secret.slice(0, 16));
  });
});
