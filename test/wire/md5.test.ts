/**
 * MD5 covers the user name, and the client hashes `app_user.acme`: relayed, every right password would fail. A client
 * whose bytes nobody else sees is asked for the password itself.
 */
import { describe, expect, it } from "vitest";
import { client as frontend, cstring, message, server, startupMessage } from "../support/bytes.ts";
import { quiescence } from "../support/duplex-pair.ts";
import { MD5_SALT, md5Answer } from "../support/scripted-upstream.ts";
import { openWire } from "../support/wire-session.ts";

describe("a tenant's client on this machine", () => {
  it("is asked for its password, which reaches the upstream only as the MD5 of the login role", async () => {
    const wire = openWire({ upstream: { auth: "md5" } });
    const { client } = await wire.logIn();
    expect(client.messages[0]?.bytes).toEqual(server.cleartextPassword);
    expect(client.isReady).toBe(true);
    expect(wire.upstream.messages[0]?.bytes).toEqual(
      frontend.password(md5Answer("correct horse", "app_user", MD5_SALT)),
    );
    expect(wire.upstream.received.includes("correct horse")).toBe(false);
  });

  it("with a wrong password gets the upstream's own refusal", async () => {
    const wire = openWire({ upstream: { auth: "md5" } });
    const { client } = await wire.logIn({ password: "wrong" });
    expect(client.sqlstate).toBe("28P01");
  });

  it.each([
    ["without a terminator", message("p", "correct horse")],
    ["of two strings", message("p", cstring("a"), cstring("b"))],
    ["that is empty", message("p")],
  ])("whose answer is a password %s is refused with 08P01", async (_name, answer) => {
    const wire = openWire({ upstream: { auth: "md5" } });
    const { client } = await wire.logIn({ answers: false });
    client.send(answer);
    await quiescence();
    expect(client.sqlstate).toBe("08P01");
    expect(wire.upstream.messages).toEqual([]);
  });

  it("that sends a Query behind the password is refused with 08P01", async () => {
    const wire = openWire({ upstream: { auth: "md5" } });
    const { client } = await wire.logIn({ pipelined: { behindAnswer: 0, bytes: frontend.query("evil") } });
    expect(client.sqlstate).toBe("08P01");
    expect(wire.upstream.messages).toEqual([]);
  });
});

describe("a tenant's client on a network", () => {
  it("is refused with 28000 that names the ways out, and never asked for a password", async () => {
    const wire = openWire({ upstream: { auth: "md5" } });
    const { client } = await wire.logIn({ isLocal: false });
    expect(client.sqlstate).toBe("28000");
    expect(client.errorResponse["H"]).toMatch(/SCRAM.*TLS/);
    expect(client.types).toBe("E");
  });

  it("may use SCRAM and a clear-text password, which are relayed", async () => {
    for (const auth of ["scram", "cleartext"] as const) {
      const wire = openWire({ upstream: { auth } });
      const { client } = await wire.logIn({ isLocal: false });
      expect(client.isReady).toBe(true);
    }
  });
});

describe("a bypass user", () => {
  it("is relayed, on a network too", async () => {
    const wire = openWire({ upstream: { auth: "md5" } });
    const { client } = wire.connect({ user: "postgres", isLocal: false });
    client.send(startupMessage({ user: "postgres" }));
    await quiescence();
    expect(client.messages[0]?.bytes).toEqual(server.md5Password(MD5_SALT));
    expect(client.isReady).toBe(true);
  });
});
