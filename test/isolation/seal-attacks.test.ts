/**
 * Everything of seal-attack-table.ts, by node-postgres through the proxy, in each database of the fixture: no row of the
 * other tenant is read or written where the context is sealed, and in the database without the seal exactly those
 * attacks succeed that the table says do.
 */
import { isDeepStrictEqual } from "node:util";
import type { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bytes, client as frontend, cstring, int16, int32, message as packet } from "../support/bytes.ts";
import { outerVersions } from "../support/postgres.ts";
import { RawClient } from "../support/raw-client.ts";
import { PASSWORD } from "../support/tenant-fixture.ts";
import { ATTACK_SCHEMA, attacksFor, isForeign, leftBy, LOOK, OWN, type Attack } from "./seal-attack-table.ts";
import { kindsOf, startSealFixture, type Kind, type SealFixture } from "./seal-fixture.ts";

const GLOBEX =
  "SELECT body FROM notes WHERE tenant_id <> 'acme' UNION ALL SELECT body FROM cases WHERE owner_id <> 'acme' ORDER BY 1";
/** All that an attack can leave: rows, things in the tenants' own schema, settings. Most leave nothing, and restoring takes longest. */
const LEFT = `SELECT (SELECT string_agg(concat(tenant_id, ':', body), ' ' ORDER BY tenant_id, body) FROM notes) AS notes,
  (SELECT count(*)::int FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace('evil')) AS things,
  (SELECT count(*)::int FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole WHERE r.rolname = 'app_user') AS settings`;
const NOTHING_LEFT = { notes: "acme:a1 acme:a2 globex:g1 globex:g2 globex:g3", things: 0, settings: 0 };

const RESTORE = `
  TRUNCATE notes RESTART IDENTITY;
  INSERT INTO notes (tenant_id, body) VALUES ('acme', 'a1'), ('acme', 'a2'), ('globex', 'g1'), ('globex', 'g2'), ('globex', 'g3');
  DROP SCHEMA evil CASCADE;
  CREATE SCHEMA evil AUTHORIZATION app_user;
  GRANT ALL ON SCHEMA evil TO PUBLIC;
  ALTER ROLE app_user RESET ALL;
`;

describe.each(outerVersions())("PostgreSQL %s", (version) => {
  let fixture: SealFixture;
  const ports: { injection: "startup" | "query"; isSealed: boolean; port: number }[] = [];
  const admins = new Map<Kind, Client>();
  beforeAll(async () => {
    fixture = await startSealFixture({ version, auth: "trust", schema: ATTACK_SCHEMA });
    for (const [injection, role] of [
      ["startup", undefined],
      ["query", "worker"],
    ] as const) {
      const settings = { context_injection: injection, ...(role === undefined ? {} : { set_role: role }) };
      const sealed = { ...settings, context_seal: "require", context_key_file: fixture.keyFile };
      ports.push({ injection, isSealed: false, port: (await fixture.proxyWith(settings)).port });
      ports.push({ injection, isSealed: true, port: (await fixture.proxyWith(sealed)).port });
    }
    const { superuser, password } = fixture.server;
    for (const kind of kindsOf(version)) admins.set(kind, await fixture.direct(kind, superuser, password));
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  describe.each(kindsOf(version))("%s", (kind) => {
    it.each(attacksFor(version))("$name", async (attack) => {
      for (const { injection, isSealed, port } of ports) {
        if (isSealed !== (kind !== "plain")) continue;
        const expected = leftBy(attack, kind, injection);
        const outcome = await play(attack, port, kind);
        const changed = await putBack(kind);

        expect(outcome.hasSeenForeign).toBe(expected === "foreign");
        if (expected !== "foreign") expect(outcome.left).toEqual(expected === "own" ? OWN : []);
        expect(changed).toBe(kind === "plain" && attack.writesPlain === true && expected === "foreign");
        if (kind === "plain") continue;
        if (attack.refusedWith !== undefined) expect(outcome.lastCode).toBe(attack.refusedWith);
        expect(outcome.seen).not.toMatch(keyMaterial(fixture.key.bytes));
      }
    });
  });

  it.each(kindsOf(version))("%s: a function call of the protocol, and a pipeline that does not wait", async (kind) => {
    const [row] = await fixture.asSuperuser("SELECT 'pg_catalog.set_config'::regproc::oid::int AS oid");
    const call = ["app.current_tenant_id", "globex", "f"].flatMap((value) => [int32(value.length), Buffer.from(value)]);
    const messages = [
      packet("F", int32(Number(row?.["oid"])), int16(0), int16(3), ...call, int16(0)),
      bytes(extended("SET app.current_tenant_id = 'globex'"), extended("SELECT body FROM notes"), frontend.sync),
    ];
    for (const { isSealed, port } of ports) {
      if (isSealed !== (kind !== "plain")) continue;
      for (const sent of messages) {
        const login = { user: "app_user.acme", password: PASSWORD, parameters: { database: kind } };
        using client = await RawClient.logIn({ host: "127.0.0.1", port }, login);
        client.send(sent);
        await client.readUntil("Z");
        client.send(frontend.query("SELECT body FROM notes ORDER BY 1"));
        const rows = (await client.readUntil("Z")).filter(({ type }) => type === "D").map(({ body }) => String(body));
        expect(rows.map((text) => text.slice(-2))).toEqual(kind === "plain" ? ["g1", "g2", "g3"] : ["a1", "a2"]);
        client.send(frontend.terminate);
        await client.untilClosed();
      }
    }
  });

  /** Plays it in a session of its own. */
  async function play(attack: Attack, port: number, database: Kind) {
    const client = await fixture.connect("app_user.acme", { port, database });
    const seen: string[] = [];
    client.on("notice", ({ message, detail }) => seen.push(message ?? "", detail ?? ""));
    let lastCode: string | undefined;
    for (const statement of attack.sql) lastCode = await attempt(client, statement, seen);
    const look = await client.query<{ body: string }>(LOOK).catch(() => ({ rows: [] }));
    const left = look.rows.map(({ body }) => body);
    await client.end();
    const all = [...seen, ...left].join("\n");
    return { seen: all, hasSeenForeign: isForeign(all), left: left.filter((body) => OWN.includes(body)), lastCode };
  }

  /** True when the other tenant's rows are not what they were. */
  async function putBack(kind: Kind): Promise<boolean> {
    const admin = admins.get(kind) as Client;
    const { rows } = await admin.query<{ body: string }>(GLOBEX);
    const { rows: left } = await admin.query(LEFT);
    if (!isDeepStrictEqual(left, [NOTHING_LEFT])) await admin.query(RESTORE);
    return rows.map(({ body }) => body).join() !== "g1,g2,g3,g4";
  }
});

/** Parse, Bind and Execute of one statement, without a Sync. */
const extended = (sql: string): Buffer =>
  bytes(
    packet("P", cstring(""), cstring(sql), int16(0)),
    packet("B", cstring(""), cstring(""), int16(0), int16(0), int16(0)),
    packet("E", cstring(""), int32(0)),
  );

/** Runs statements, and notes all that they show; the SQLSTATE where they fail. */
async function attempt(client: Client, sql: string, seen: string[]): Promise<string | undefined> {
  try {
    const answers: unknown = await client.query({ text: sql, rowMode: "array" });
    for (const { rows } of [answers].flat() as { rows: unknown[] }[]) seen.push(JSON.stringify(rows));
    return undefined;
  } catch (error) {
    const { code, message, detail, hint, where } = error as Record<string, string>;
    seen.push([message, detail, hint, where].join("\n"));
    return code;
  }
}

/** Any four bytes in a row of the key, or of what is stored of it, in hex. */
function keyMaterial(key: Buffer): RegExp {
  const block = Buffer.concat([key, Buffer.alloc(32)]);
  const texts = [0, 0x36, 0x5c].map((pad) => Buffer.from(block.map((byte) => byte ^ pad)).toString("hex"));
  return new RegExp(texts.map((text) => text.slice(0, 16)).join("|"), "i");
}
