/** The two round trips that seal a context: what goes upstream in each, and every answer that ends the session. */
import { createHmac } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createKeyFile, readSealKeys } from "../../src/config/seal-keys.ts";
import type { Config } from "../../src/config/settings.ts";
import { ROLE_QUESTION } from "../../src/proxy/context/role-safety.ts";
import { HELLO, Seal } from "../../src/proxy/context/seal.ts";
import { client as frontend, int16, int32, message, server } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import type { UpstreamScript } from "../support/scripted-upstream.ts";
import { openWire, type Wire } from "../support/wire-session.ts";

const SET_CONTEXT = "SELECT pgvpd.set_context($1, $2, $3, $4)";
const NONCE = "0f8fad5b-d9cb-469f-a165-70867728950e";
const SLOT = ["slot", "4711", NONCE, "1700000000", "shop"];
const SIGNED = ["signed", "4711", "1699999999123456", "1700000000", "shop"];
type Answer = ReturnType<NonNullable<UpstreamScript["answer"]>>;

let folder: string;
let seal: Seal;
let key: Buffer;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "pgvpd-seal-"));
  const contextKeyFile = path.join(folder, "context.key");
  createKeyFile(contextKeyFile);
  key = readSealKeys(contextKeyFile)[0]?.bytes ?? Buffer.alloc(0);
  seal = new Seal({ contextKeyFile, contextSealTtlMs: 3_600_000 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A server that answers hello so, and takes every context, or answers it so. */
function openSealed(hello: Answer, config: Partial<Config> = {}, taken: Answer = [["next"]]): Wire {
  return openWire({
    seal,
    config: { contextSeal: "require", ...config },
    upstream: { answer: (sql) => (sql === HELLO.sql ? hello : sql === SET_CONTEXT ? taken : undefined) },
  });
}

const hmac = (...parts: string[]): string => `\\x${createHmac("sha256", key).update(parts.join("|")).digest("hex")}`;

/** The values that were bound to the statement. */
function boundTo(wire: Wire, sql: string): string[] {
  const { messages } = wire.upstream;
  const at = messages.findIndex(({ type, body }) => type === "P" && body.includes(sql));
  const body = messages[at + 1]?.body ?? Buffer.alloc(0);
  const values: string[] = [];
  let position = 2 + 2 + 2 * body.readInt16BE(2) + 2;
  while (position < body.length - 4) {
    const length = body.readInt32BE(position);
    values.push(body.toString("utf8", position + 4, position + 4 + length));
    position += 4 + length;
  }
  return values;
}

async function refusalOf(wire: Wire, options = {}): Promise<string> {
  const { client } = await wire.logIn(options);
  expect(client.isReady).toBe(false);
  expect(client.hasEnded).toBe(true);
  expect(client.errorResponse["S"]).toBe("FATAL");
  expect(client.errorResponse["M"]).not.toMatch(/hello|nonce|key/);
  expect(wire.upstream.hasEnded).toBe(true);
  return client.sqlstate;
}

describe("a sealed login", () => {
  it("asks for a nonce, alone; then brings the context, and asks for the roles", async () => {
    const wire = openSealed([SLOT]);
    const { client } = await wire.logIn();
    expect(client.isReady).toBe(true);
    expect(wire.upstream.statements).toEqual([HELLO.sql, SET_CONTEXT, ROLE_QUESTION]);
    expect(wire.upstream.messages.map(({ type }) => type).join("")).toBe("PBECSPBEPBECS");
  });

  it("signs process, nonce, database and context for the slot", async () => {
    const wire = openSealed([SLOT]);
    await wire.logIn();
    const context = '{"app.current_tenant_id":"acme"}';
    const [kid, text, , mac] = boundTo(wire, SET_CONTEXT);
    expect([kid, text]).toEqual(["1", context]);
    expect(mac).toBe(hmac("pgvpd1", "4711", NONCE, "shop", context));
  });

  it("signs the end as well, by the server's clock, for the signed carrier", async () => {
    const wire = openSealed([SIGNED]);
    await wire.logIn();
    const [, context = "", expires, mac] = boundTo(wire, SET_CONTEXT);
    expect(expires).toBe("1700003600");
    expect(mac).toBe(hmac("pgvpd1s", "4711", "1699999999123456", "1700003600", "shop", context));
  });

  it("binds what the tenant's name is made of, and writes names in small letters", async () => {
    const wire = openSealed([SLOT], { contextVariables: ["App.Tenant", "app.user"] });
    const name = `a'b"c\\|{"app.user":"2"}`;
    await wire.logIn({ user: `app_user.${name.replace(":", "")}:7` });
    const [, text = ""] = boundTo(wire, SET_CONTEXT);
    expect(JSON.parse(text)).toEqual({ "app.tenant": name.replace(":", ""), "app.user": "7" });
    for (const sql of wire.upstream.statements) expect(sql).not.toContain("a'b");
  });

  it("seals whatever context_injection says, and leaves the variables as they would be", async () => {
    const wire = openSealed([SLOT], { contextInjection: "query" });
    await wire.logIn();
    const [hello, variables = "", sealed] = wire.upstream.statements;
    expect([hello, sealed]).toEqual([HELLO.sql, SET_CONTEXT]);
    expect(variables).toContain("set_config");
    const other = openSealed([SLOT]);
    await other.logIn();
    expect(other.upstream.startupPairs["app.current_tenant_id"]).toBe("acme");
  });

  it("says UTF8 first for a tenant that is not ASCII, where the connection speaks something else", async () => {
    const wire = openWire({
      seal,
      config: { contextSeal: "require", upstreamStartupParameters: ["*", "-client_encoding"] },
      upstream: {
        parameters: { client_encoding: "LATIN1" },
        answer: (sql) => (sql === HELLO.sql ? [SLOT] : sql === SET_CONTEXT ? [["next"]] : undefined),
      },
    });
    const { client } = await wire.logIn({ user: "app_user.acmé" });
    expect(client.isReady).toBe(true);
    const [, second = "", third] = wire.upstream.statements;
    expect(second).toContain("set_config");
    expect(boundTo(wire, second)).toEqual(["client_encoding", "UTF8"]);
    expect(third).toBe(SET_CONTEXT);
    expect(boundTo(wire, SET_CONTEXT)[1]).toBe('{"app.current_tenant_id":"acmé"}');
  });

  it("sends the client's own parameters behind the sealed context", async () => {
    const wire = openSealed([SLOT]);
    await wire.logIn({}, { search_path: "x" });
    const { statements } = wire.upstream;
    expect(statements.indexOf(SET_CONTEXT)).toBe(1);
    expect(statements.at(-1)).toContain("set_config");
  });

  it("lets nothing of the client through between the two", async () => {
    let release: () => void = () => {};
    const asked = new Promise<void>((resolve) => (release = resolve));
    const wire = openWire({
      seal,
      config: { contextSeal: "require" },
      upstream: {
        play: async (upstream) => {
          await upstream.logIn();
          await asked;
          await upstream.serve();
        },
        answer: (sql) => (sql === HELLO.sql ? [SLOT] : undefined),
      },
    });
    const { client, session } = await wire.logIn();
    expect(session.state).toBe("injecting");
    expect(client.types).not.toContain("Z");
    client.send(frontend.query("SELECT 'stolen'"));
    await quiescence();
    release();
    await quiescence();
    expect(client.isReady).toBe(false);
    expect(client.sqlstate).toBe("08P01");
    expect(wire.upstream.queries).toEqual([]);
  });
});

describe("an answer to hello that is none", () => {
  it.each<[string, (string | null)[][]]>([
    ["no row", []],
    ["two rows", [SLOT, SLOT]],
    ["no column", [[]]],
    ["NULL", [[null, null, null, null, null]]],
    ["an unknown carrier", [["none", ...SLOT.slice(1)]]],
    ["no pid", [["slot", null, NONCE, "1", "shop"]]],
    ["a pid that is no number", [["slot", "4711|x", NONCE, "1", "shop"]]],
    ["an empty nonce", [["slot", "4711", "", "1", "shop"]]],
    ["a nonce that holds what is signed behind it", [["slot", "4711", `${NONCE}|shop|{}`, "1", "shop"]]],
    ["a nonce without end", [["slot", "4711", "0".repeat(1000), "1", "shop"]]],
    ["a time that is none", [["signed", "4711", "1", "soon", "shop"]]],
    ["a time beyond all", [["signed", "4711", "1", "9".repeat(30), "shop"]]],
    ["no database", [["slot", "4711", NONCE, "1", ""]]],
    ["fewer columns", [["slot", "4711", NONCE]]],
  ])("%s: 28000, and nothing is signed", async (_name, rows) => {
    for (const contextSeal of ["on", "require"] as const) {
      const wire = openSealed(rows, { contextSeal });
      expect(await refusalOf(wire)).toBe("28000");
      expect(wire.upstream.statements).toEqual([HELLO.sql]);
    }
  });

  it("endless rows: 08001", async () => {
    const wire = openSealed(Buffer.concat(Array.from({ length: 20_000 }, () => server.dataRow(...SLOT))));
    expect(await refusalOf(wire)).toBe("08001");
  });

  it.each([
    ["a row cut off", message("D", int16(5), int32(100), "slot")],
    ["a question for a password", server.cleartextPassword],
    ["COPY", Buffer.from("G\0\0\0\u0007\0\0\0")],
  ])("%s: the connection is destroyed", async (_name, answer) => {
    expect(await refusalOf(openSealed(answer))).toMatch(/^(08001|28000)$/);
  });

  it("the end of the connection: no session", async () => {
    const wire = openWire({
      seal,
      config: { contextSeal: "require" },
      upstream: {
        play: async (upstream) => {
          await upstream.logIn();
          await upstream.readMessage();
          upstream.socket.end();
        },
      },
    });
    expect(await refusalOf(wire)).toMatch(/^08/);
  });

  it("silence: handshake_timeout ends it", async () => {
    const wire = openWire({
      seal,
      config: { contextSeal: "require" },
      upstream: { play: async (upstream) => void (await upstream.logIn()) },
    });
    const { client } = await wire.logIn();
    expect(client.hasEnded).toBe(false);
    wire.clock.advance(30_000);
    await quiescence();
    expect(client.isReady).toBe(false);
    expect(client.hasEnded).toBe(true);
    expect(wire.upstream.hasEnded).toBe(true);
  });
});

describe("a database without the seal", () => {
  const without = [
    ["42883", "function pgvpd.hello() does not exist"],
    ["3F000", 'schema "pgvpd" does not exist'],
    ["42501", "permission denied for schema pgvpd"],
  ] as const;

  it.each(without)("is refused with 28000 by require: %s", async (sqlstate, text) => {
    const wire = openSealed(server.error(sqlstate, text, "ERROR"));
    expect(await refusalOf(wire)).toBe("28000");
    expect(String(wire.log.at(-1)?.["detail"])).toContain(text);
  });

  it.each(without)("is used without one by on, and the log warns: %s", async (sqlstate, text) => {
    const wire = openSealed(server.error(sqlstate, text, "ERROR"), { contextSeal: "on" });
    const { client } = await wire.logIn();
    expect(client.isReady).toBe(true);
    expect(wire.upstream.statements).toEqual([HELLO.sql, ROLE_QUESTION]);
    const warnings = wire.log.filter(({ level }) => level === "warn");
    expect(warnings.map(({ msg }) => msg)).toEqual([
      "the context is not sealed: install sql/seal.sql in this database",
    ]);
  });

  it("is warned of once a minute, however many log in", async () => {
    const wire = openSealed(server.error("3F000", 'schema "pgvpd" does not exist', "ERROR"), { contextSeal: "on" });
    const warnings = (): number => wire.log.filter(({ level }) => level === "warn").length;
    for (let logins = 0; logins < 3; logins++) expect((await wire.logIn()).client.isReady).toBe(true);
    wire.clock.advance(59_999);
    await wire.logIn();
    expect(warnings()).toBe(1);
    wire.clock.advance(1);
    await wire.logIn();
    expect(warnings()).toBe(2);
    await wire.logIn({}, { database: "another" });
    expect(warnings()).toBe(3);
  });

  it.each(["57014", "53300", "28000", "XX000", "40001", "P0001"])(
    "is not one that answers with another error: 28000 by on too: %s",
    async (sqlstate) => {
      const wire = openSealed(server.error(sqlstate, "no", "ERROR"), { contextSeal: "on" });
      expect(await refusalOf(wire)).toBe("28000");
    },
  );
});

describe("a context that the database does not take", () => {
  it.each(["on", "require"] as const)("is 28000 with context_seal = %s, whatever the SQLSTATE", async (contextSeal) => {
    for (const sqlstate of ["28000", "42883", "42501", "22P02"]) {
      const refusal = server.error(sqlstate, "pgvpd: context rejected", "ERROR");
      const wire = openSealed([SLOT], { contextSeal }, refusal);
      expect(await refusalOf(wire)).toBe("28000");
    }
  });
});

it("context_seal = off asks for nothing", async () => {
  const wire = openWire();
  await wire.logIn();
  expect(wire.upstream.statements).toEqual([ROLE_QUESTION]);
});
