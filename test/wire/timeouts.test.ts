/** handshake_timeout is one deadline over the whole login: in each phase it ends the session with its own error. */
import { describe, expect, it } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import { int32, startupMessage } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { openWire, type ConnectOptions, type WireOptions } from "../support/wire-session.ts";

const STARTUP = startupMessage({ user: "app_user.acme" });

const silentDial: WireOptions["dial"] = (signal) =>
  new Promise((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason as Error));
  });

interface Phase {
  readonly name: string;
  readonly state: string;
  readonly sqlstate: string;
  readonly options?: WireOptions;
  readonly client?: ConnectOptions;
  readonly sends: Buffer;
}

const phases: Phase[] = [
  { name: "a client that says nothing", state: "negotiating", sqlstate: "57014", sends: Buffer.alloc(0) },
  { name: "a client that sends one byte", state: "negotiating", sqlstate: "57014", sends: Buffer.of(0) },
  {
    name: "a client that sends a length and nothing behind it",
    state: "negotiating",
    sqlstate: "57014",
    sends: int32(9_999),
  },
  {
    name: "a dial that does not end",
    state: "authenticating",
    sqlstate: "08001",
    options: { dial: silentDial },
    sends: STARTUP,
  },
  {
    name: "an upstream that says nothing to the StartupMessage",
    state: "authenticating",
    sqlstate: "08001",
    options: { upstream: { play: async () => {} } },
    sends: STARTUP,
  },
  {
    name: "a client that does not answer",
    state: "authenticating",
    sqlstate: "57014",
    options: { upstream: { auth: "scram" } },
    client: { answers: false },
    sends: STARTUP,
  },
  {
    name: "an upstream that does not check the password",
    state: "authenticating",
    sqlstate: "08001",
    options: {
      upstream: {
        auth: "cleartext",
        play: async (upstream) => {
          await upstream.readStartup();
          await upstream.authenticate();
        },
      },
    },
    sends: STARTUP,
  },
  {
    name: "an upstream that does not answer our statements",
    state: "injecting",
    sqlstate: "08001",
    options: { upstream: { play: async (upstream) => void (await upstream.logIn()) } },
    sends: STARTUP,
  },
];

describe("handshake_timeout ends", () => {
  it.each(phases)(
    "$name with $sqlstate",
    async ({ state, sqlstate, options = {}, client: clientOptions = {}, sends }) => {
      const wire = openWire({ ...options, config: { handshakeTimeoutMs: 5_000 } });
      const { client, session } = wire.connect(clientOptions);
      client.send(sends);
      await quiescence();
      expect(session.state).toBe(state);

      wire.clock.advance(4_999);
      await quiescence();
      expect(session.state).toBe(state);
      wire.clock.advance(1);
      await quiescence();
      expect(client.sqlstate).toBe(sqlstate);
      expect(client.errorResponse["S"]).toBe("FATAL");
      expect(client.hasEnded).toBe(true);
      for (const upstream of wire.upstreams) expect(upstream.hasEnded).toBe(true);
      expect(wire.clock.openTimers).toEqual([2_000]);
    },
  );

  it("a client that sends byte after byte, just in time for each, all the same", async () => {
    const wire = openWire({ config: { handshakeTimeoutMs: 1_000 } });
    const { client } = wire.connect();
    for (const byte of STARTUP.subarray(0, 11)) {
      client.send(Buffer.of(byte));
      await quiescence();
      wire.clock.advance(100);
      await quiescence();
    }
    expect(client.sqlstate).toBe("57014");
    expect(wire.upstreams).toEqual([]);
  });

  it("nobody whose login is over", async () => {
    const wire = openWire({ config: { handshakeTimeoutMs: 1_000 } });
    const { session } = await wire.logIn();
    wire.clock.advance(3_600_000);
    await quiescence();
    expect(session.state).toBe("forwarding");
  });
});

describe("terminate", () => {
  it.each(phases)("ends $name at once with 57P01", async ({ options = {}, client: clientOptions = {}, sends }) => {
    const wire = openWire(options);
    const { client, session } = wire.connect(clientOptions);
    client.send(sends);
    await quiescence();
    session.terminate(new ProxyError("shutdown"));
    await quiescence();
    expect(client.sqlstate).toBe("57P01");
    expect(client.hasEnded).toBe(true);
    for (const upstream of wire.upstreams) expect(upstream.hasEnded).toBe(true);
  });
});
