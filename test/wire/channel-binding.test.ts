/**
 * A SCRAM login that is relayed, where client and upstream server have TLS connections of their own: what would tie the
 * login to one of them is left out, and a client that would notice hears why, and what to do.
 */
import { describe, expect, it } from "vitest";
import { bytes, client as frontend, cstring, int32, message, server } from "../support/bytes.ts";
import { SCRAM_SHA_256 } from "../support/scram.ts";
import { quiescence } from "../support/duplex-pair.ts";
import type { ScriptedUpstream } from "../support/scripted-upstream.ts";
import { openWire, type Wire, type WireConnection } from "../support/wire-session.ts";

const PLUS = "SCRAM-SHA-256-PLUS";

/** A client that has been asked for SASL by an upstream with these mechanisms. */
async function ask(...mechanisms: string[]): Promise<WireConnection & { wire: Wire }> {
  const play = async (upstream: ScriptedUpstream): Promise<void> => {
    await upstream.readStartup();
    upstream.send(server.sasl(...mechanisms));
    await upstream.readMessage();
  };
  const wire = openWire({ upstream: { play } });
  return { wire, ...(await wire.logIn({ answers: false })) };
}

describe("an upstream that offers channel binding", () => {
  it.each([[[PLUS, SCRAM_SHA_256]], [[SCRAM_SHA_256, PLUS]]])(
    "as %j: the client is offered the other alone",
    async (offered) => {
      const { client } = await ask(...offered);
      expect(client.received).toEqual(server.sasl(SCRAM_SHA_256));
    },
  );

  it("gets the answer of a client that does not bind, byte for byte", async () => {
    const { client, wire } = await ask(PLUS, SCRAM_SHA_256);
    const answer = frontend.saslInitial(SCRAM_SHA_256, "n,,n=,r=abc");
    client.send(answer);
    await quiescence();
    expect(wire.upstream.messages.map(({ bytes: sent }) => sent)).toEqual([answer]);
  });

  it.each<[string, Buffer]>([
    ["could have bound (y)", frontend.saslInitial(SCRAM_SHA_256, "y,,n=,r=abc")],
    ["binds (p)", frontend.saslInitial(SCRAM_SHA_256, "p=tls-server-end-point,,n=,r=abc")],
    ["takes the mechanism that it was not offered", frontend.saslInitial(PLUS, "p=tls-server-end-point,,n=,r=abc")],
    ["takes that mechanism and does not bind", frontend.saslInitial(PLUS, "n,,n=,r=abc")],
    ["sends no response", message("p", cstring(SCRAM_SHA_256), int32(-1))],
    ["sends an empty response", frontend.saslInitial(SCRAM_SHA_256, "")],
    ["sends no mechanism", message("p", "n")],
    ["sends nothing", message("p")],
  ])("never hears of a client that %s: 28000, with both ways out", async (_name, answer) => {
    const { client, wire } = await ask(PLUS, SCRAM_SHA_256);
    client.send(answer);
    await quiescence();
    expect(client.errorResponse).toMatchObject({
      S: "FATAL",
      C: "28000",
      M: "channel binding cannot be relayed: client and upstream server have different TLS connections",
      H: "Connect with channel_binding=disable, or have pgvpd end the authentication (client_auth = scram).",
    });
    expect(wire.upstream.messages).toEqual([]);
  });
});

describe("an upstream that does not offer channel binding", () => {
  it.each(["n", "y"])("gets the answer of a client over TLS, whose flag is %s, byte for byte", async (flag) => {
    const { client, wire } = await ask(SCRAM_SHA_256);
    expect(client.received).toEqual(server.sasl(SCRAM_SHA_256));
    const answer = frontend.saslInitial(SCRAM_SHA_256, `${flag},,n=,r=abc`);
    client.send(answer);
    await quiescence();
    expect(wire.upstream.messages.map(({ bytes: sent }) => sent)).toEqual([answer]);
  });

  it("may offer mechanisms that nobody knows: they pass", async () => {
    const { client } = await ask("OAUTHBEARER", PLUS, SCRAM_SHA_256);
    expect(client.received).toEqual(bytes(server.sasl("OAUTHBEARER", SCRAM_SHA_256)));
  });
});
