/** Either side leaves at any byte of a login: the session is torn down at once, and nothing of it is left. */
import { describe, expect, it } from "vitest";
import { bytes, client as frontend, server, startupMessage } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { openWire, Wire } from "../support/wire-session.ts";

const AUTHENTICATIONS = ["trust", "cleartext", "scram"] as const;
const STARTUP = startupMessage({ user: "app_user.acme", database: "shop" });

async function bytesOfALogin(auth: (typeof AUTHENTICATIONS)[number]): Promise<{ client: number; upstream: number }> {
  const wire = new Wire({ upstream: { auth } });
  const { client } = await wire.logIn();
  const sent = { client: client.sentBytes, upstream: wire.upstream.sentBytes };
  await wire.assertNothingLeft();
  return sent;
}

describe.each(AUTHENTICATIONS)("in a login with %s", (auth) => {
  it("a client that ends at any byte ends the session at once", async () => {
    const { client: total } = await bytesOfALogin(auth);
    for (let count = 0; count < total; count++) {
      const wire = new Wire({ upstream: { auth, ignoresEnd: true } });
      const { session, client } = wire.connect({ endAfter: count });
      client.send(STARTUP);
      if (count === 0) client.socket.end();
      await quiescence();
      expect(session.state, `end after byte ${count}`).toBe("closed");
      expect(wire.clock.openTimers).toEqual([]);
      expect(client.isReady).toBe(false);
      for (const upstream of wire.upstreams) expect(upstream.hasEnded).toBe(true);
      await wire.assertNothingLeft();
    }
  });

  it("a client that is reset at any byte ends the session at once", async () => {
    const { client: total } = await bytesOfALogin(auth);
    for (let count = 1; count < total; count += 7) {
      const wire = new Wire({ upstream: { auth } });
      const { session, client } = wire.connect({ endAfter: count });
      client.socket.once("finish", () => client.socket.destroy());
      client.send(STARTUP);
      await quiescence();
      expect(session.state, `reset after byte ${count}`).toBe("closed");
      await wire.assertNothingLeft();
    }
  });

  it("an upstream that ends at any byte gives the client FATAL 08006, never silence", async () => {
    const { upstream: total } = await bytesOfALogin(auth);
    for (let count = 0; count <= total; count++) {
      const wire = new Wire({ upstream: { auth, endAfter: count } });
      const { session, client } = await wire.logIn();
      expect(client.sqlstate, `end after byte ${count}`).toBe("08006");
      expect(client.errorResponse["S"]).toBe("FATAL");
      expect(client.hasEnded).toBe(true);
      expect(wire.upstream.hasEnded).toBe(true);
      client.socket.end();
      await quiescence();
      expect(session.state).toBe("closed");
      await wire.assertNothingLeft();
    }
  });
});

describe("a client that leaves", () => {
  it("while the upstream is dialled ends the dial", async () => {
    let reason: unknown;
    const wire = openWire({
      dial: (signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener("abort", () => {
            reason = signal.reason;
            reject(signal.reason as Error);
          });
        }),
    });
    const { client, session } = await wire.logIn();
    expect(session.state).toBe("authenticating");
    client.socket.end();
    await quiescence();
    expect(reason).toBeInstanceOf(Error);
    expect(session.state).toBe("closed");
  });

  it("while the context is injected ends the session", async () => {
    const wire = openWire({
      upstream: {
        play: async (upstream) => {
          await upstream.logIn();
        },
      },
    });
    const { client, session } = await wire.logIn();
    expect(session.state).toBe("injecting");
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("closed");
    expect(wire.upstream.hasEnded).toBe(true);
  });

  it("without a byte is no error of anybody", async () => {
    const wire = openWire();
    const { client, session } = wire.connect();
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("closed");
    expect(client.received).toHaveLength(0);
    expect(await wire.metric("pgvpd_errors_total")).toBe(0);
  });

  it("a thousand times leaves nothing behind", async () => {
    const wire = openWire();
    for (let i = 0; i < 1_000; i++) wire.connect().client.socket.end();
    await quiescence();
    expect(wire.connections.filter(({ session }) => session.state !== "closed")).toEqual([]);
    expect(await wire.metric("pgvpd_connections_active")).toBe(0);
    expect(await wire.metric("pgvpd_connections_total")).toBe(1_000);
  });
});

describe("an upstream that leaves", () => {
  it("with an ErrorResponse leaves the client its words", async () => {
    const said = server.error("53300", "sorry, too many clients already");
    const wire = openWire({
      upstream: {
        play: async (upstream) => {
          await upstream.readStartup();
          upstream.send(said);
          upstream.socket.end();
        },
      },
    });
    const { client } = await wire.logIn();
    expect(client.received).toEqual(said);
    expect(client.hasEnded).toBe(true);
  });

  it("while the client is asked for its password ends the session at once", async () => {
    const wire = openWire({ upstream: { auth: "cleartext", endAfter: server.cleartextPassword.length } });
    const { client } = await wire.logIn({ answers: false });
    expect(client.sqlstate).toBe("08006");
  });

  it("while the client is asked for its password, with an ErrorResponse, leaves it these words", async () => {
    const said = server.error("57P01", "terminating connection due to administrator command");
    const wire = openWire({
      upstream: {
        play: async (upstream) => {
          await upstream.readStartup();
          upstream.send(server.cleartextPassword);
          await quiescence();
          upstream.send(said);
          upstream.socket.end();
        },
      },
    });
    const { client } = await wire.logIn({ answers: false });
    expect(client.received.subarray(server.cleartextPassword.length)).toEqual(said);
  });

  // Its end can be noticed before its ReadyForQuery is acted on, when the login was so long that reading had stopped.
  it("right behind a long login gives the client FATAL 08006", async () => {
    const notices = Array.from({ length: 1_000 }, (_, index) => server.notice(`${index} ${"x".repeat(300)}`));
    const wire = openWire({
      config: { allowUnsafeRoles: true },
      pair: { capacity: 1024 * 1024 },
      upstream: {
        play: async (upstream) => {
          await upstream.readStartup();
          upstream.send(bytes(server.authenticationOk, ...notices, server.readyForQuery()));
          upstream.socket.end();
        },
      },
    });
    const { client, session } = await wire.logIn();
    expect(client.sqlstate).toBe("08006");
    client.socket.end();
    await quiescence();
    expect(session.state).toBe("closed");
  });

  it("when a query was sent behind the login's ReadyForQuery never loses the session", async () => {
    const wire = openWire({ upstream: { auth: "scram" } });
    const { client } = await wire.logIn();
    client.send(frontend.query("select 1"));
    wire.upstream.socket.destroy();
    await quiescence();
    expect(client.hasEnded).toBe(true);
  });
});
