/** An upstream that breaks the protocol during login: the client gets the documented error, and the process lives. */
import { describe, expect, it } from "vitest";
import { bytes, cstring, header, int16, int32, message, server } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import type { ScriptedUpstream } from "../support/scripted-upstream.ts";
import { openWire, type ConnectOptions, type WireOptions } from "../support/wire-session.ts";

const LONGEST = 65_536;
const key = (length: number): Buffer => server.backendKeyData(1, Buffer.alloc(length, 7));
const repeated = (count: number, piece: Buffer): Buffer => Buffer.concat(Array.from({ length: count }, () => piece));

/** The upstream sends this as soon as it has the StartupMessage, and then nothing. */
const says =
  (...parts: Buffer[]) =>
  async (upstream: ScriptedUpstream): Promise<void> => {
    await upstream.readStartup();
    upstream.send(...parts);
  };

async function sqlstateAfter(options: WireOptions, client: ConnectOptions = {}): Promise<string> {
  const wire = openWire(options);
  const connection = await wire.logIn(client);
  expect(connection.client.isReady).toBe(false);
  expect(connection.client.hasEnded).toBe(true);
  expect(connection.client.errorResponse["S"]).toBe("FATAL");
  expect(connection.session.state).toBe("closing");
  expect(wire.upstream.hasEnded).toBe(true);
  return connection.client.sqlstate;
}

describe("before AuthenticationOk", () => {
  it.each([
    ["ReadyForQuery", server.readyForQuery()],
    ["BackendKeyData", key(4)],
    ["ParameterStatus", server.parameterStatus("a", "b")],
    ["a message of an unknown type", message("?", "x")],
    ["a message of type 0", message("\0")],
    ["a DataRow", server.dataRow("1")],
    ["an answer to SSLRequest", Buffer.from("NNNNNNNN")],
    ["an Authentication message without a kind", message("R", 0, 0)],
    ["a length of 3", header("R", 3)],
    ["a length of -1", header("R", -1)],
    ["a length of 2^31-1", header("E", 0x7fff_ffff)],
    ["a message that is too long", header("R", LONGEST + 1)],
    ["a NegotiateProtocolVersion cut off", message("v", int32(196_608))],
    ["a NegotiateProtocolVersion of protocol 4", server.negotiateProtocolVersion(4 << 16)],
    ["two NegotiateProtocolVersions", repeated(2, server.negotiateProtocolVersion(196_608))],
    [
      "a NegotiateProtocolVersion behind the request",
      bytes(server.saslFinal("v="), server.negotiateProtocolVersion(196_608)),
    ],
    ["endless notices", repeated(4_000, server.notice("x".repeat(300)))],
  ])("%s is 08001", async (_name, said) => {
    expect(await sqlstateAfter({ upstream: { play: says(said) } })).toBe("08001");
  });

  it.each([1, 2, 6, 7, 8, 9, 13, 99, -1])("a request for authentication method %i is 28000", async (method) => {
    expect(await sqlstateAfter({ upstream: { play: says(message("R", int32(method))) } })).toBe("28000");
  });

  it("endless requests for a password are 28000 after a few", async () => {
    const wire = openWire({
      upstream: {
        play: async (upstream) => {
          await upstream.readStartup();
          do upstream.send(server.cleartextPassword);
          while ((await upstream.readMessage()) !== undefined);
        },
      },
    });
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
    expect(client.answersSent).toBeLessThanOrEqual(8);
  });

  it("endless SASL final messages are refused, and do not pile up for a client that does not read", async () => {
    const wire = openWire({
      pair: { capacity: 4 * 1024 * 1024 },
      upstream: { play: says(repeated(200_000, server.saslFinal("v="))) },
    });
    const { client } = await wire.logIn();
    expect(["28000", "08001"]).toContain(client.sqlstate);
    expect(client.received.length).toBeLessThan(4_096);
  });

  it("an MD5 salt of 3 bytes is 08001", async () => {
    expect(await sqlstateAfter({ upstream: { play: says(server.md5Password(Buffer.alloc(3))) } })).toBe("08001");
  });

  it("AuthenticationOk ahead of the password that was asked for is 08001", async () => {
    const said = bytes(server.cleartextPassword, server.authenticationOk, server.readyForQuery());
    expect(await sqlstateAfter({ upstream: { play: says(said) } }, { answers: false })).toBe("08001");
  });
});

describe("behind AuthenticationOk", () => {
  const afterOk = (...parts: Buffer[]): WireOptions => ({
    upstream: { play: says(server.authenticationOk, ...parts) },
  });

  it.each([
    ["a ReadyForQuery in a transaction", server.readyForQuery("T")],
    ["a ReadyForQuery in a failed transaction", server.readyForQuery("E")],
    ["a ReadyForQuery without a status", message("Z")],
    ["a second AuthenticationOk", server.authenticationOk],
    ["a request for a password", server.cleartextPassword],
    ["a NegotiateProtocolVersion", server.negotiateProtocolVersion(196_608)],
    ["a CopyInResponse", message("G", 0, int16(0))],
    ["a message of an unknown type", message("?")],
    ["a malformed ParameterStatus", message("S", cstring("a"))],
    ["a message that is too long", header("S", LONGEST + 1)],
    ["endless notices", repeated(4_000, server.notice("x".repeat(300)))],
    ["endless ParameterStatus", repeated(4_000, server.parameterStatus("a", "x".repeat(300)))],
    ["endless BackendKeyData", repeated(100_000, key(4))],
    ["a key of 3 bytes", key(3)],
    ["a key of 5 bytes for a client of protocol 3.0", key(5)],
    ["a BackendKeyData without a key", message("K")],
  ])("%s is 08001", async (_name, said) => {
    expect(await sqlstateAfter(afterOk(said))).toBe("08001");
  });

  it("an ErrorResponse without a code passes byte for byte", async () => {
    const said = message("E", cstring("SFATAL"), cstring("Mnobody knows"), 0);
    const wire = openWire(afterOk(said));
    const { client } = await wire.logIn();
    expect(client.received).toEqual(said);
    expect(client.hasEnded).toBe(true);
  });

  it("an ErrorResponse that is no list of fields passes byte for byte", async () => {
    const said = message("E", Buffer.of(0xff, 0xfe));
    const wire = openWire(afterOk(said));
    const { client } = await wire.logIn();
    expect(client.received).toEqual(said);
  });
});

describe("in answer to our own statements", () => {
  /** The upstream logs in as it should, and answers our pipeline with this. */
  const answersWith = (...parts: Buffer[]): WireOptions => ({
    upstream: {
      play: async (upstream) => {
        await upstream.logIn();
        for (let next = await upstream.readMessage(); next !== undefined; next = await upstream.readMessage()) {
          if (next.type === "S") upstream.send(...parts);
        }
      },
    },
  });
  const done = [server.commandComplete("SELECT 1"), server.closeComplete, server.readyForQuery()];
  const begun = [server.parseComplete, server.bindComplete];

  it.each([
    ["a ReadyForQuery in a transaction", server.readyForQuery("T")],
    ["a truncated DataRow", message("D", int16(5), int32(1), "f")],
    ["an empty DataRow message", message("D")],
    ["a RowDescription that nobody asked for", message("T", int16(0))],
    ["a CopyOutResponse", message("H", 0, int16(0))],
    ["an AuthenticationOk", server.authenticationOk],
    ["a message that is too long", header("D", 1024 * 1024 + 1)],
    ["a length of 3", header("D", 3)],
    ["endless rows", repeated(200_000, server.dataRow("app_user", "f", "f", "f", "f"))],
    ["endless ParseComplete", repeated(400_000, server.parseComplete)],
    ["endless empty results", repeated(100_000, server.commandComplete("SELECT 0"))],
  ])("%s is 08001", async (_name, said) => {
    expect(await sqlstateAfter({ ...answersWith(said), pair: { capacity: 16 * 1024 * 1024 } })).toBe("08001");
  });

  it.each<[string, Buffer[]]>([
    ["no row", []],
    ["a row of another role", [server.dataRow("postgres", "f", "f", "f", "f")]],
    [
      "a second row of another role",
      [server.dataRow("app_user", "f", "f", "f", "f"), server.dataRow("x", "f", "f", "f", "f")],
    ],
    ["a row of NULLs", [server.dataRow(null, null, null, null, null)]],
    ["a row without columns", [server.dataRow()]],
    ["the same row twice", Array.from({ length: 2 }, () => server.dataRow("app_user", "f", "f", "f", "f"))],
    ["a row without attributes", [server.dataRow("app_user")]],
    ["an attribute that is neither t nor f", [server.dataRow("app_user", "f", "f", "f", "?")]],
  ])("%s in place of the roles' attributes is 28000", async (_name, rows) => {
    expect(await sqlstateAfter(answersWith(...begun, ...rows, ...done))).toBe("28000");
  });

  it("an error is 28000, and its text is for the log alone", async () => {
    const wire = openWire(
      answersWith(server.error("42501", "permission denied for secret_thing", "ERROR"), server.readyForQuery()),
    );
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
    expect(client.received.includes("secret_thing")).toBe(false);
    expect(JSON.stringify(wire.log)).toContain("secret_thing");
  });

  it("a FATAL error and the end is 08006 or 28000, at once", async () => {
    const wire = openWire({
      upstream: {
        play: async (upstream) => {
          await upstream.logIn();
          await upstream.readMessage();
          upstream.send(server.error("57P01", "terminating connection due to administrator command"));
          upstream.socket.end();
        },
      },
    });
    const { client } = await wire.logIn();
    expect(["08006", "28000"]).toContain(client.sqlstate);
  });
});

describe("a bug or failure while dialling", () => {
  it("a TypeError ends that session with XX000, says nothing of it to the client, and ends no other session", async () => {
    let isBroken = false;
    const inner = openWire();
    const wire = openWire({
      dial: (signal) => {
        if (isBroken) throw new TypeError("secret is not a function");
        return inner.services.dial(signal);
      },
    });
    const good = await wire.logIn();
    isBroken = true;
    const bad = await wire.logIn();
    expect(bad.client.sqlstate).toBe("XX000");
    expect(bad.client.received.includes("secret")).toBe(false);
    expect(await wire.metric("pgvpd_errors_total", { code: "internal", blame: "proxy" })).toBe(1);
    expect(wire.log).toContainEqual(expect.objectContaining({ level: "error", code: "internal", conn: 2 }));
    expect(good.session.state).toBe("forwarding");
    good.client.send(message("Q", cstring("select 1")));
    await quiescence();
    expect(good.client.types).toMatch(/ZCZ$/);
    // Clients go first, as everywhere.
    await wire.assertNothingLeft();
  });

  it("a value that is no Error ends that session with XX000", async () => {
    const wire = openWire({
      dial: () => {
        // oxlint-disable-next-line no-throw-literal -- that is the bug
        throw "secret";
      },
    });
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("XX000");
  });
});
