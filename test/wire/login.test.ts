/** Logins that succeed, by every way of authentication and however the bytes arrive. */
import { describe, expect, it } from "vitest";
import {
  bytes,
  client as frontend,
  GSSENC_REQUEST,
  message,
  server,
  SSL_REQUEST,
  startupMessage,
} from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { byteByByte, openWire, Wire } from "../support/wire-session.ts";

const REQUESTS = { trust: "", cleartext: "R", scram: "RRR" } as const;
const AUTHENTICATIONS = Object.keys(REQUESTS) as (keyof typeof REQUESTS)[];

/** Cut once, behind the byte with this number. */
const cutAt =
  (offset: number) =>
  (whole: Buffer): Buffer[] =>
    [whole.subarray(0, offset), whole.subarray(offset)].filter(({ length }) => length > 0);

describe.each(AUTHENTICATIONS)("a login with %s", (auth) => {
  it("gives the client what the upstream said, up to one ReadyForQuery", async () => {
    const wire = openWire({ upstream: { auth } });
    const { client, session } = await wire.logIn();
    expect(client.types).toBe(`${REQUESTS[auth]}RSSSSKZ`);
    expect(session.state).toBe("forwarding");
    expect(wire.clock.openTimers).toEqual([]);
    expect(await wire.metric("pgvpd_errors_total")).toBe(0);
  });

  it("succeeds with every byte of both sides in a segment of its own", async () => {
    const wire = openWire({ upstream: { auth, segment: byteByByte } });
    const { client, session } = await wire.logIn({ segment: byteByByte });
    expect(client.types).toBe(`${REQUESTS[auth]}RSSSSKZ`);
    expect(session.state).toBe("forwarding");
  });

  it("succeeds when the writes of both sides are cut behind any byte", async () => {
    for (let offset = 1; offset < 200; offset++) {
      const wire = new Wire({ upstream: { auth, segment: cutAt(offset) } });
      const { client } = await wire.logIn({ segment: cutAt(offset) });
      expect(client.types, `cut behind byte ${offset}`).toBe(`${REQUESTS[auth]}RSSSSKZ`);
      await wire.assertNothingLeft();
    }
  });

  it("forwards a query and its answer afterwards", async () => {
    const wire = openWire({ upstream: { auth } });
    const { client } = await wire.logIn();
    client.send(frontend.query("select 1"));
    await quiescence();
    expect(wire.upstream.queries).toEqual(["select 1"]);
    expect(client.types).toMatch(/ZCZ$/);
  });
});

describe("a login", () => {
  it("with a wrong password ends with the upstream's own words, byte for byte", async () => {
    const wire = openWire({ upstream: { auth: "scram" } });
    const { client } = await wire.logIn({ password: "wrong" });
    const said = server.error("28P01", 'password authentication failed for user "app_user"');
    expect(client.received.subarray(-said.length)).toEqual(said);
    expect(client.hasEnded).toBe(true);
    expect(client.isReady).toBe(false);
  });

  it.each([
    ["SSLRequest", [SSL_REQUEST]],
    ["GSSENCRequest", [GSSENC_REQUEST]],
    ["SSLRequest and GSSENCRequest", [SSL_REQUEST, GSSENC_REQUEST]],
    ["GSSENCRequest and SSLRequest", [GSSENC_REQUEST, SSL_REQUEST]],
  ])("after %s, each answered N, succeeds", async (_name, requests) => {
    const wire = openWire();
    const { client, session } = wire.connect({ answers: false, segment: byteByByte });
    for (const request of requests) {
      const before = client.received.length;
      client.send(request);
      await quiescence();
      expect(client.received.subarray(before).toString()).toBe("N");
    }
    client.send(startupMessage({ user: "app_user.acme" }));
    await quiescence();
    expect(session.state).toBe("forwarding");
  });

  it("has one deadline, which ends with the ReadyForQuery that the client sees", async () => {
    const wire = openWire({ upstream: { auth: "cleartext" } });
    const { client } = wire.connect({ answers: false });
    expect(wire.clock.openTimers).toEqual([30_000]);
    wire.clock.advance(10_000);
    client.send(startupMessage({ user: "app_user.acme" }));
    await quiescence();
    expect(wire.clock.openTimers).toEqual([20_000]);
    client.send(frontend.password("correct horse"));
    await quiescence();
    expect(client.isReady).toBe(true);
    expect(wire.clock.openTimers).toEqual([]);
  });

  it("passes on what the upstream says behind its ReadyForQuery", async () => {
    const wire = openWire({ upstream: { afterReady: server.notice("behind") } });
    const { client } = await wire.logIn();
    expect(client.types).toMatch(/N/);
    expect(client.isReady).toBe(true);
  });

  it("tells the log who connects, and not how", async () => {
    const wire = openWire({ upstream: { auth: "scram" } });
    await wire.logIn();
    expect(wire.log).toContainEqual(
      expect.objectContaining({ msg: "connected", conn: 1, tenant: "acme", role: "app_user", database: "shop" }),
    );
  });
});

describe("a bypass user", () => {
  const startup = startupMessage({ user: "postgres", options: "-c role=x -e", replication: "true" }, 2);

  it("passes untouched: its StartupMessage and answers upstream, all of the upstream's bytes back", async () => {
    const wire = openWire({ upstream: { auth: "cleartext", parameters: { is_superuser: "on" } } });
    const { client, session } = wire.connect();
    client.send(startup);
    await quiescence();
    expect(session.state).toBe("forwarding");
    expect(wire.upstream.received).toEqual(bytes(startup, frontend.password("correct horse")));
    expect(client.received).toEqual(
      bytes(
        server.cleartextPassword,
        server.authenticationOk,
        server.parameterStatus("server_version", "18.1"),
        server.parameterStatus("server_encoding", "UTF8"),
        server.parameterStatus("client_encoding", "UTF8"),
        server.parameterStatus("is_superuser", "on"),
        server.backendKeyData(4711, Buffer.from("key!")),
        server.readyForQuery(),
      ),
    );
  });

  it("may authenticate with MD5, which is relayed", async () => {
    const wire = openWire({ upstream: { auth: "md5" } });
    const { client } = wire.connect({ user: "postgres", isLocal: false });
    client.send(startupMessage({ user: "postgres" }));
    await quiescence();
    expect(client.isReady).toBe(true);
  });

  it("gets the upstream's NegotiateProtocolVersion byte for byte", async () => {
    const negotiation = server.negotiateProtocolVersion(196_608, "_pq_.x");
    const wire = openWire({ upstream: { beforeAuthentication: negotiation } });
    const { client } = wire.connect();
    client.send(startupMessage({ user: "postgres", "_pq_.x": "1" }, 2));
    await quiescence();
    expect(client.received.subarray(0, negotiation.length)).toEqual(negotiation);
    expect(client.isReady).toBe(true);
  });

  it("may not send more than it was asked for either", async () => {
    const wire = openWire({ upstream: { auth: "cleartext" } });
    const { client } = wire.connect({ pipelined: { behindAnswer: 0, bytes: message("Q", "evil\0") } });
    client.send(startup);
    await quiescence();
    expect(client.sqlstate).toBe("08P01");
    expect(wire.upstream.received.includes("evil")).toBe(false);
  });
});
