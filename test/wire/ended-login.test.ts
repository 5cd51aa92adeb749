/** Logins that pgvpd ends itself (client_auth = scram, cleartext), and the ones of its own upstream that follow. */
import { describe, expect, it } from "vitest";
import { parseCredentialsFile } from "../../src/proxy/auth/credentials-file.ts";
import { createVerifier } from "../../src/protocol/scram/keys.ts";
import {
  bytes,
  cancelRequest,
  client as frontend,
  header,
  int32,
  message,
  server,
  startupMessage,
} from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import type { ScriptedUpstream } from "../support/scripted-upstream.ts";
import { byteByByte, openWire, type ConnectOptions, type Wire, type WireOptions } from "../support/wire-session.ts";

const verifier = await createVerifier("correct horse", 4_096);
const acmes = await createVerifier("acme's horse", 4_096);
const credentials = parseCredentialsFile(
  `"app_user" "${verifier}"\n"bound" "${acmes}" tenants=acme\n"postgres" "${verifier}"\n`,
  new Set(),
  "credentials",
);

function openScram({ config, ...options }: WireOptions = {}): Wire {
  return openWire({ credentials, ...options, config: { clientAuth: "scram", ...config } });
}

/** What a client sees that logs in like this: message types, or the SQLSTATE of the refusal. */
async function outcome(options: ConnectOptions, wireOptions: WireOptions = {}): Promise<string> {
  const wire = openScram(wireOptions);
  const { client } = await wire.logIn(options);
  return client.isReady ? client.types : client.sqlstate;
}

describe("a login that pgvpd ends with SCRAM", () => {
  it("reaches ReadyForQuery, and opens no upstream before the client has proved its credential", async () => {
    const wire = openScram();
    const { client } = await wire.logIn({ answers: false });
    expect(client.types).toBe("R");
    expect(wire.upstreams).toEqual([]);

    const { client: other, session } = await wire.logIn();
    expect(other.types).toBe("RRRRSSSSKZ");
    expect(session.state).toBe("forwarding");
    expect(wire.upstream.startupPairs).toMatchObject({ user: "app_user", "app.current_tenant_id": "acme" });
  });

  it("succeeds with every byte in a segment of its own", async () => {
    expect(await outcome({ segment: byteByByte }, { upstream: { segment: byteByByte } })).toBe("RRRRSSSSKZ");
  });

  it("is the same for a user of superuser_bypass that has a line of its own", async () => {
    const wire = openScram();
    const { client } = await wire.logIn({ user: "postgres" });
    expect(client.types).toBe("RRRRSSSSKZ");
  });

  it("is left to PostgreSQL for a bypass user without a line", async () => {
    const wire = openScram({ config: { superuserBypass: ["admin"] }, upstream: { auth: "cleartext" } });
    const { client } = await wire.logIn({ user: "admin" });
    expect(client.types).toBe("RRSSSSKZ");
  });

  it("tells a client that asks for more than protocol 3.2 what it gets, before it asks for the password", async () => {
    const wire = openScram();
    const { client } = wire.connect({ answers: false });
    client.send(startupMessage({ user: "app_user.acme", "_pq_.x": "1" }, 9));
    await quiescence();
    expect(client.types).toBe("vR");
    expect(client.messages[0]?.body).toEqual(bytes(int32(196_610), int32(1), "_pq_.x\0"));
  });

  it("costs the server nothing where the tenant may not connect, and says so to who has proved its credential", async () => {
    const wire = openScram({ config: { tenantDeny: ["acme"] } });
    const wrong = await wire.logIn({ password: "wrong" });
    expect(wrong.client.sqlstate).toBe("28P01");
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
    expect(wire.upstreams).toEqual([]);
  });

  it("waits where as many log in upstream as server_connect_limit says, in the order of the clients", async () => {
    let gate: Promise<void> | undefined;
    let letOneIn: () => void = () => {};
    const play = async (upstream: ScriptedUpstream): Promise<void> => {
      if (gate !== undefined) gate = new Promise((resolve) => (letOneIn = resolve));
      await gate;
      if (await upstream.logIn()) await upstream.serve();
    };
    const wire = openScram({ config: { serverConnectLimit: 1 }, upstream: { play } });
    await wire.logIn(); // What the role has as its defaults is known from here on.
    const before = wire.upstreams.length;
    gate = Promise.resolve();
    const clients = [(await wire.logIn()).client, (await wire.logIn()).client, (await wire.logIn()).client];
    for (const [index, client] of clients.entries()) {
      expect(wire.upstreams).toHaveLength(before + index + 1);
      letOneIn();
      await quiescence();
      expect(client.isReady).toBe(true);
    }
  });

  const refused = { user: "bound.acme", password: "correct horse" };
  it.each([
    ["a wrong password", { password: "wrong" }],
    ["a role that nobody knows", { user: "nobody.acme" }],
    ["a credential of another tenant", { user: "bound.globex", password: "acme's horse" }],
    ["a tenant that has no credential", { user: "bound.initech", password: "acme's horse" }],
    ["the role's password for a bound credential", refused],
    ["an empty password", { password: "" }],
  ])("is refused with 28P01 for %s", async (_what, options) => {
    expect(await outcome(options)).toBe("28P01");
  });

  it("looks the same, message by message, whatever is wrong with it", async () => {
    const seen = new Set<string>();
    for (const options of [
      { user: "bound.globex", password: "acme's horse" },
      { user: "bound.globex", password: "wrong" },
      { user: "nobody.globe", password: "wrong" },
      { user: "bound.unknwn", password: "acme's horse" },
    ]) {
      const wire = openScram();
      const { client } = await wire.logIn(options);
      expect(wire.upstreams).toEqual([]);
      const said = client.errorResponse["M"]?.replace(options.user, "USER");
      seen.add(`${client.messages.map(({ type, bytes: { length } }) => `${type}${length}`).join(" ")} ${said}`);
    }
    expect([...seen]).toEqual([
      expect.stringMatching(/^R\d+ R\d+ E\d+ password authentication failed for user "USER"$/),
    ]);
  });

  it("gives a name that nobody knows the same salt at each try", async () => {
    const wire = openScram();
    const salts = [];
    for (let tries = 0; tries < 2; tries++) {
      const { client } = await wire.logIn({ user: "nobody.acme", password: "x" });
      salts.push(/,s=([^,]+),/.exec(client.messages[1]?.body.toString() ?? "")?.[1]);
    }
    expect(salts[0]).toMatch(/^[A-Za-z0-9+/]{22}==$/);
    expect(salts[1]).toBe(salts[0]);
  });
});

describe("a client that ends its part of the exchange with something else", () => {
  const initial = frontend.saslInitial("SCRAM-SHA-256", "n,,n=,r=abcdefgh");
  it.each([
    ["a Query in place of the first answer", frontend.query("select 1")],
    ["a Query behind it", bytes(initial, frontend.query("select 1"))],
    ["Terminate", message("X")],
    ["a second StartupMessage", startupMessage({ user: "app_user.acme" })],
    ["a length of -1", header("p", -1)],
    ["a length of 0", header("p", 0)],
    ["a length of 2^31-1", header("p", 0x7fff_ffff)],
    ["an empty answer", message("p")],
    ["no first message", message("p", "SCRAM-SHA-256\0", int32(-1))],
    ["a first message that is shorter than it says", message("p", "SCRAM-SHA-256\0", int32(99), "n,,")],
    ["a mechanism that was not offered", frontend.saslInitial("SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,n=,r=a")],
    ["a password in clear text", frontend.password("correct horse")],
    ["junk", frontend.saslInitial("SCRAM-SHA-256", "\0\x01")],
  ])("%s is 08P01", async (_what, sent) => {
    const wire = openScram();
    const { client } = await wire.logIn({ answers: false });
    client.send(sent);
    await quiescence();
    expect(client.sqlstate).toBe("08P01");
    expect(wire.upstreams).toEqual([]);
  });

  it.each([0, 1])("a Query pipelined behind answer %i is never executed", async (behindAnswer) => {
    const wire = openScram();
    const { client } = await wire.logIn({ pipelined: { behindAnswer, bytes: frontend.query("drop table t") } });
    expect(client.sqlstate).toBe("08P01");
    expect(wire.upstreams.flatMap(({ queries }) => queries)).toEqual([]);
  });

  it("a client that goes in the middle leaves nothing", async () => {
    const { client: whole } = await openScram().logIn();
    for (let endAfter = 1; endAfter < whole.sentBytes; endAfter += 7) {
      const wire = openScram();
      const { session } = await wire.logIn({ endAfter });
      expect(session.state).toBe("closed");
    }
  });

  it("one that says nothing ends with handshake_timeout", async () => {
    const wire = openScram({ config: { handshakeTimeoutMs: 5_000 } });
    const { client } = await wire.logIn({ answers: false });
    wire.clock.advance(5_000);
    await quiescence();
    expect(client.sqlstate).toBe("57014");
  });
});

describe("client_auth = cleartext", () => {
  it("asks nobody for a password in plain text", async () => {
    expect(await outcome({}, { config: { clientAuth: "cleartext" } })).toBe("28000");
  });
});

describe("login_throttle", () => {
  const wrong = { password: "wrong", address: "192.0.2.1" };

  it("lets the sixth failure in a minute wait, and the right password too", async () => {
    const wire = openScram();
    for (let tries = 0; tries < 5; tries++) expect((await wire.logIn(wrong)).client.sqlstate).toBe("28P01");
    wire.clock.advance(3_000); // the last words of the five
    const { client } = await wire.logIn({ address: "192.0.2.1" });
    expect(client.types).toBe("");
    wire.clock.advance(1_000);
    await quiescence();
    expect(client.isReady).toBe(true);
  });

  it("lets nobody else wait: another user, another address, a cancel", async () => {
    const wire = openScram();
    for (let tries = 0; tries < 8; tries++) {
      await wire.logIn(wrong);
      wire.clock.advance(1_000);
      await quiescence();
    }
    expect((await wire.logIn({ ...wrong, password: "correct horse", user: "app_user.globex" })).client.isReady).toBe(
      true,
    );
    expect((await wire.logIn({ address: "192.0.2.2" })).client.isReady).toBe(true);
    const cancelling = wire.connect({ address: "192.0.2.1" });
    cancelling.client.send(cancelRequest(1, Buffer.from("abcd")));
    await quiescence();
    expect(cancelling.client.hasEnded).toBe(true);
  });

  it("counts what PostgreSQL refuses in a relayed login", async () => {
    const wire = openWire({ upstream: { auth: "cleartext" } });
    for (let tries = 0; tries < 5; tries++) expect((await wire.logIn(wrong)).client.sqlstate).toBe("28P01");
    wire.clock.advance(3_000);
    const { client } = await wire.logIn(wrong);
    expect(client.types).toBe("");
    expect(wire.upstreams).toHaveLength(5);
  });
});

describe("allow_from", () => {
  const config = { allowFrom: ["192.0.2.0/24", "postgres@127.0.0.1"] };

  it.each([
    ["a tenant from a network of the list", { address: "192.0.2.9" }, "RRRRSSSSKZ"],
    ["a tenant from elsewhere", { address: "198.51.100.1" }, "28000"],
    ["a bypass user from its own network", { address: "127.0.0.1", user: "postgres" }, "RRRRSSSSKZ"],
    ["a bypass user from the tenants' network", { address: "192.0.2.9", user: "postgres" }, "28000"],
    ["a Unix-domain socket", {}, "RRRRSSSSKZ"],
  ])("%s", async (_who, options, expected) => {
    expect(await outcome(options, { config })).toBe(expected);
  });
});

describe("an upstream that pgvpd logs in to itself", () => {
  const says =
    (...parts: Buffer[]) =>
    async (upstream: ScriptedUpstream): Promise<void> => {
      await upstream.readStartup();
      upstream.send(...parts);
    };

  it("may trust pgvpd where it has no password", async () => {
    expect(await outcome({}, { upstream: { auth: "trust" } })).toBe("RRRRSSSSKZ");
  });

  it.each([
    ["trusts, where scram-sha-256 is demanded", { upstreamRequireAuth: ["scram-sha-256"] }, server.authenticationOk],
    ["asks for a password in clear text", {}, server.cleartextPassword],
    ["asks for it without TLS, where that is allowed", { upstreamRequireAuth: ["password"] }, server.cleartextPassword],
    ["asks for MD5", {}, server.md5Password(Buffer.alloc(4))],
    ["asks for what nobody knows", {}, message("R", int32(7))],
    ["offers no mechanism that pgvpd speaks", {}, server.sasl("GSS-SPNEGO")],
    ["ends SASL before it has begun", {}, server.saslFinal("v=AAAA")],
    ["asks twice", { upstreamRequireAuth: ["none", "md5"] }, bytes(server.md5Password(Buffer.alloc(4)))],
  ])("that %s is 28000, and its connection is destroyed", async (_what, config, said) => {
    const wire = openScram({ config, upstream: { play: says(said) } });
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
    expect(client.errorResponse["M"]).toBe("pgvpd could not log in to the upstream server");
    expect(wire.upstream.hasEnded).toBe(true);
  });

  it.each([
    ["ReadyForQuery before AuthenticationOk", server.readyForQuery()],
    ["a DataRow", server.dataRow("1")],
    ["a length of 3", header("R", 3)],
    ["a length of 2^31-1", header("R", 0x7fff_ffff)],
  ])("%s is 08001", async (_what, said) => {
    expect(await outcome({}, { upstream: { play: says(said) } })).toBe("08001");
  });

  it("that has another verifier is 28000 without upstream_password, and the log says what to do", async () => {
    const wire = openScram({ upstream: { auth: "scram" } });
    const { client } = await wire.logIn();
    expect(client.sqlstate).toBe("28000");
    expect(JSON.stringify(wire.log)).toContain("upstream_login");
  });

  it("that refuses pgvpd's credential is not the client's failure, and does not throttle it", async () => {
    const refusal = server.error("28P01", 'password authentication failed for user "app_user"');
    const wire = openScram({ upstream: { play: says(refusal) } });
    for (let tries = 0; tries < 7; tries++) expect((await wire.logIn()).client.sqlstate).toBe("28000");
  });

  it("that refuses for another reason is heard in its own words", async () => {
    const refusal = server.error("3D000", 'database "shop" does not exist');
    const wire = openScram({ upstream: { play: says(refusal) } });
    const { client } = await wire.logIn();
    expect(client.messages.at(-1)?.bytes).toEqual(refusal);
  });

  it("that goes without a word is 08006", async () => {
    const play = async (upstream: ScriptedUpstream): Promise<void> => {
      await upstream.readStartup();
      upstream.socket.end();
    };
    expect(await outcome({}, { upstream: { play } })).toBe("08006");
  });

  it("that asks one client's login nothing does not hold up, or fail, another one's", async () => {
    let connections = 0;
    const play = async (upstream: ScriptedUpstream): Promise<void> => {
      connections += 1;
      if (connections > 1 && (await upstream.logIn())) return upstream.serve();
    };
    const wire = openScram({ upstream: { play } });
    const first = await wire.logIn();
    const second = await wire.logIn();
    first.client.socket.destroy();
    await quiescence();
    expect(second.client.isReady).toBe(true);
  });
});

describe("a relayed login where pgvpd shows PostgreSQL a certificate of its own", () => {
  const config = { upstreamTlsCert: "pgvpd.crt" };

  it.each(["app_user.acme", "postgres"])(
    "is refused for %s where the certificate is all that is asked for",
    async (user) => {
      const wire = openWire({ config, upstream: { auth: "trust" } });
      const { client } = await wire.logIn({ user });
      expect(client.sqlstate).toBe("28000");
      expect(client.errorResponse["M"]).toContain("the client has proved nothing");
    },
  );

  it("is relayed where the server asks for a password too", async () => {
    const wire = openWire({ config, upstream: { auth: "cleartext" } });
    const { client } = await wire.logIn();
    expect(client.isReady).toBe(true);
  });
});
