/** What goes upstream between the StartupMessage and the client's ReadyForQuery, to the byte, and when it is refused. */
import { describe, expect, it } from "vitest";
import { ROLE_QUESTION } from "../../src/proxy/context/role-safety.ts";
import { bytes, client as frontend, cstring, int16, int32, message, server } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { openWire } from "../support/wire-session.ts";

/** `String statement  String query  Int16 0` */
const parse = (sql: string): Buffer => message("P", cstring(""), cstring(sql), int16(0));
/** `String portal  String statement  Int16 n { Int16 format }  Int16 n { Int32 length  value }  Int16 1  Int16 text` */
const bind = (...values: (string | Buffer)[]): Buffer =>
  message(
    "B",
    cstring(""),
    cstring(""),
    int16(values.length),
    ...values.map((value) => int16(typeof value === "string" ? 0 : 1)),
    int16(values.length),
    ...values.flatMap((value) => [int32(Buffer.byteLength(value)), value]),
    int16(1),
    int16(0),
  );
/** `String portal  Int32 no limit of rows` */
const execute = message("E", cstring(""), int32(0));
const statement = (sql: string, ...values: (string | Buffer)[]): Buffer => bytes(parse(sql), bind(...values), execute);
const end = bytes(message("C", "S", cstring("")), message("S")); // Close of the unnamed statement, Sync
const setConfig = (...settings: (string | Buffer)[]): Buffer => {
  const calls = settings.flatMap((_, at) =>
    at % 2 === 0 ? [`pg_catalog.set_config($${at + 1}, $${at + 2}, false)`] : [],
  );
  return statement(`SELECT ${calls.join(", ")}`, ...settings);
};
const roleQuestion = statement(ROLE_QUESTION);

describe("context_injection = startup", () => {
  it("asks for the roles' attributes once a minute for each pair of roles, and else nothing", async () => {
    const wire = openWire();
    const sent = async (): Promise<Buffer> => {
      const { client } = await wire.logIn();
      expect(client.isReady).toBe(true);
      return wire.upstream.received.subarray(wire.upstream.startup?.packet.length);
    };
    expect(await sent()).toEqual(bytes(roleQuestion, end));
    wire.clock.advance(59_999);
    expect(await sent()).toHaveLength(0);
    wire.clock.advance(1);
    expect(await sent()).toEqual(bytes(roleQuestion, end));
  });

  it("asks again for another target role, and for another login role", async () => {
    const wire = openWire();
    await wire.logIn();
    await wire.logIn({ user: "other.acme" });
    expect(wire.upstream.statements).toEqual([ROLE_QUESTION]);
  });

  it("carries role and context in the StartupMessage", async () => {
    const wire = openWire({ config: { setRole: "app" } });
    const { client } = await wire.logIn();
    expect(client.isReady).toBe(true);
    expect(wire.upstream.startupPairs).toMatchObject({
      user: "app_user",
      role: "app",
      "app.current_tenant_id": "acme",
    });
  });

  it("sends nothing where unsafe roles are allowed", async () => {
    const wire = openWire({ config: { allowUnsafeRoles: true }, upstream: { parameters: { is_superuser: "on" } } });
    const { client } = await wire.logIn();
    expect(client.isReady).toBe(true);
    expect(wire.upstream.messages).toEqual([]);
  });

  it("sets the role by query where the StartupMessage may not carry it", async () => {
    const wire = openWire({ config: { upstreamStartupParameters: ["*", "-role"], setRole: "app" } });
    await wire.logIn();
    expect(wire.upstream.startupPairs["role"]).toBeUndefined();
    expect(wire.upstream.received.subarray(wire.upstream.startup?.packet.length)).toEqual(
      bytes(setConfig("role", "app"), roleQuestion, end),
    );
  });

  it("sets a value that is not ASCII again, under UTF8, in a database of another encoding", async () => {
    const wire = openWire({ upstream: { parameters: { server_encoding: "LATIN1" } } });
    const { client } = await wire.logIn({ user: "app_user.acmé" }, { client_encoding: "UTF8" });
    expect(client.isReady).toBe(true);
    expect(wire.upstream.received.subarray(wire.upstream.startup?.packet.length)).toEqual(
      bytes(setConfig("app.current_tenant_id", "acmé"), roleQuestion, end),
    );
  });
});

describe("context_injection = query", () => {
  const config = { contextInjection: "query", contextVariables: ["app.tenant", "app.user"] } as const;

  it("sets context and role in one statement, values bound", async () => {
    const wire = openWire({ config });
    const { client } = await wire.logIn({ user: "app_user.a'b\"c\\:$1;--" });
    expect(client.isReady).toBe(true);
    expect(Object.keys(wire.upstream.startupPairs)).not.toContain("app.tenant");
    expect(Object.keys(wire.upstream.startupPairs)).not.toContain("role");
    expect(wire.upstream.received.subarray(wire.upstream.startup?.packet.length)).toEqual(
      bytes(setConfig("app.tenant", "a'b\"c\\", "app.user", "$1;--", "role", "app_user"), roleQuestion, end),
    );
  });

  it("sets it at every login, also when the roles are known", async () => {
    const wire = openWire({ config });
    await wire.logIn({ user: "app_user.acme:1" });
    await wire.logIn({ user: "app_user.globex:2" });
    expect(wire.upstream.received.subarray(wire.upstream.startup?.packet.length)).toEqual(
      bytes(setConfig("app.tenant", "globex", "app.user", "2", "role", "app_user"), end),
    );
  });

  it("says UTF8 before a value that is not ASCII, where the connection speaks something else", async () => {
    const wire = openWire({
      config: { ...config, upstreamStartupParameters: ["none"] },
      upstream: { parameters: { client_encoding: "LATIN1" } },
    });
    const { client } = await wire.logIn({ user: "app_user.acmé:1" });
    expect(client.isReady).toBe(true);
    const [first] = wire.upstream.messages.filter(({ type }) => type === "B");
    expect(first?.bytes).toEqual(bind("client_encoding", "UTF8"));
    // The client asked for none: it gets back what the server had told.
    expect(wire.upstream.received.includes(setConfig("client_encoding", Buffer.from("LATIN1")))).toBe(true);
  });

  it.each<[string, (string | null)[][]]>([
    ["another tenant", [["globex", "1", "app_user"]]],
    ["the users changed round", [["1", "acme", "app_user"]]],
    ["NULL", [[null, "1", "app_user"]]],
    ["no column", [[]]],
    ["no row", []],
    ["a value with a space", [["acme ", "1", "app_user"]]],
  ])("refuses %s in answer with 28000", async (_name, rows) => {
    const wire = openWire({
      config,
      upstream: { answer: (sql) => (sql.includes("set_config") ? rows : undefined) },
    });
    const { client } = await wire.logIn({ user: "app_user.acme:1" });
    expect(client.sqlstate).toBe("28000");
    expect(client.isReady).toBe(false);
    expect(wire.upstream.hasEnded).toBe(true);
  });
});

describe("the client's own parameters", () => {
  it("client_encoding and search_path are set behind the context, bytes as they came", async () => {
    const wire = openWire();
    const { client } = await wire.logIn({}, { search_path: "a, ß", client_encoding: "LATIN1" });
    expect(client.isReady).toBe(true);
    expect(wire.upstream.received.subarray(wire.upstream.startup?.packet.length)).toEqual(
      bytes(
        roleQuestion,
        end,
        setConfig("client_encoding", Buffer.from("LATIN1")),
        setConfig("search_path", Buffer.from("a, ß")),
        end,
      ),
    );
  });

  it("that the server refuses end the login in the server's own words, as FATAL", async () => {
    const text = 'invalid value for parameter "client_encoding": "nope"';
    const said = server.error("22023", text, "ERROR");
    const wire = openWire({ upstream: { answer: (_sql, values) => (values[1] === "nope" ? said : undefined) } });
    const { client } = await wire.logIn({}, { client_encoding: "nope" });
    expect(client.received).toEqual(server.error("22023", text, "FATAL"));
    expect(client.hasEnded).toBe(true);
    expect(wire.upstream.hasEnded).toBe(true);
  });

  it.each(["UTF8", "utf-8", "Unicode", "UTF_8"])(
    "client_encoding %s is in force already, and not set again",
    async (name) => {
      const wire = openWire({ config: { allowUnsafeRoles: true } });
      await wire.logIn({}, { client_encoding: name });
      expect(wire.upstream.statements).toEqual([]);
    },
  );

  it("without a client_encoding it gets the database's, as without pgvpd", async () => {
    const wire = openWire({
      config: { allowUnsafeRoles: true },
      upstream: { parameters: { server_encoding: "LATIN1" } },
    });
    await wire.logIn();
    expect(wire.upstream.received.subarray(wire.upstream.startup?.packet.length)).toEqual(
      bytes(setConfig("client_encoding", Buffer.from("LATIN1")), end),
    );
  });

  it("never include what the client wrote in options or names as SQL", async () => {
    const wire = openWire();
    await wire.logIn({}, { options: "-c search_path=x');drop\\ table\\ y;--" });
    for (const sql of wire.upstream.statements) expect(sql).not.toContain("drop");
    expect(wire.upstream.received.includes("x');drop table y;--")).toBe(true);
  });
});

describe("a role that row-level security does not hold", () => {
  it.each([
    ["SUPERUSER", ["t", "f", "f", "f"]],
    ["BYPASSRLS", ["f", "t", "f", "f"]],
    ["REPLICATION", ["f", "f", "t", "f"]],
    ["CREATEROLE", ["f", "f", "f", "t"]],
  ] as const)(
    "with %s is refused with 28000 that names it, as login role and as target role",
    async (name, attributes) => {
      const asLogin = openWire({ upstream: { roles: { app_user: attributes } } });
      const login = await asLogin.logIn();
      expect(login.client.sqlstate).toBe("28000");
      expect(login.client.errorResponse["M"]).toBe(`role "app_user" is not safe for a tenant: it has ${name}`);
      expect(asLogin.upstream.hasEnded).toBe(true);

      const asTarget = openWire({ config: { setRole: "app" }, upstream: { roles: { app: attributes } } });
      const target = await asTarget.logIn();
      expect(target.client.sqlstate).toBe("28000");
      expect(target.client.errorResponse["M"]).toContain('role "app"');
      expect(target.client.isReady).toBe(false);
    },
  );

  it("is asked for again at each login until it is safe", async () => {
    const roles: Record<string, readonly [string, string, string, string]> = { app_user: ["f", "t", "f", "f"] };
    const wire = openWire({ upstream: { roles } });
    expect((await wire.logIn()).client.sqlstate).toBe("28000");
    roles["app_user"] = ["f", "f", "f", "f"];
    expect((await wire.logIn()).client.isReady).toBe(true);
  });

  it("is refused when the server reports is_superuser, even where it was found safe before", async () => {
    const parameters: Record<string, string> = { is_superuser: "off" };
    const wire = openWire({ upstream: { parameters } });
    expect((await wire.logIn()).client.isReady).toBe(true);
    parameters["is_superuser"] = "on";
    expect((await wire.logIn()).client.sqlstate).toBe("28000");
  });

  it("is refused when the server reports is_superuser only after the role was set", async () => {
    const wire = openWire({
      config: { contextInjection: "query", setRole: "app" },
      upstream: {
        answer: (sql) =>
          sql.includes("set_config")
            ? bytes(
                server.dataRow("acme", "app"),
                server.parameterStatus("is_superuser", "on"),
                server.commandComplete("SELECT 1"),
              )
            : undefined,
      },
    });
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
  });

  it("is let in with allow_unsafe_roles", async () => {
    const wire = openWire({
      config: { allowUnsafeRoles: true },
      upstream: { roles: { app_user: ["t", "t", "t", "t"] } },
    });
    expect((await wire.logIn()).client.isReady).toBe(true);
  });

  it("is refused when the session runs as another role than pgvpd asked for", async () => {
    const wire = openWire({
      config: { setRole: "app" },
      upstream: { answer: (sql) => (sql.includes("pg_roles") ? [["app_user", "f", "f", "f", "f"]] : undefined) },
    });
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
    expect(client.errorResponse["M"]).toBe("the session context could not be set");
  });
});

describe("before the client's ReadyForQuery", () => {
  it("nothing of the greeting reaches the client while the context is not confirmed", async () => {
    let release: () => void = () => {};
    const confirmed = new Promise<void>((resolve) => {
      release = resolve;
    });
    const wire = openWire({
      config: { contextInjection: "query" },
      upstream: {
        play: async (upstream) => {
          await upstream.logIn();
          await confirmed;
          await upstream.serve();
        },
      },
    });
    const { client, session } = await wire.logIn();
    expect(session.state).toBe("injecting");
    expect(client.received).toHaveLength(0);
    release();
    await quiescence();
    expect(client.types).toBe("RSSSSKZ");
    client.send(frontend.query("select 1"));
    await quiescence();
    expect(wire.upstream.messages.map(({ type }) => type).join("")).toBe("PBEPBECSQ");
  });
});
