/**
 * SCRAM and what is around it is total: any bytes of a peer end in an answer or in the one error that the catalogue has
 * for them, and a proof that was made with another password, or altered, is never taken for the right one.
 */
import { describe, expect, it } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import { decodeSaslMechanisms } from "../../src/protocol/backend-messages.ts";
import { decodeSaslInitialResponse } from "../../src/protocol/frontend-messages.ts";
import { endPointHash } from "../../src/protocol/scram/channel-binding.ts";
import { deriveVerifier } from "../../src/protocol/scram/keys.ts";
import { ScramClient } from "../../src/protocol/scram/scram-client.ts";
import { ScramServer } from "../../src/protocol/scram/scram-server.ts";
import { formatVerifier, parseVerifier, type ScramVerifier } from "../../src/protocol/scram/verifier.ts";
import { client as frontend } from "../support/bytes.ts";
import { ScramClient as TestClient, ScramServer as TestServer } from "../support/scram.ts";
import { FUZZ_RUNS, fuzz, type SeededRandom } from "../support/seeded-random.ts";

const RUNS = Math.ceil(FUZZ_RUNS * 0.02);
const PLUS = "SCRAM-SHA-256-PLUS";
const SCRAM = "SCRAM-SHA-256";
const END_POINT = Buffer.alloc(32, 7);
const verifier = await deriveVerifier("correct horse", Buffer.from("a fixed salt 16b"), 4_096);

/** What `work` gives; undefined where it throws a ProxyError of `codes`. */
function unlessRefused<T>(codes: readonly string[], work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof ProxyError && codes.includes(error.code)) return undefined;
    throw error;
  }
}

const CLIENT_FAULTS = ["scram_message", "scram_downgrade", "scram_binding"];

const PIECES = [
  "n,,",
  "y,,",
  "p=tls-server-end-point,,",
  "n=",
  "r=",
  "s=",
  "i=",
  "c=",
  "p=",
  "v=",
  "e=",
  "m=",
  ",",
  "=",
];
const MORE_PIECES = ["biws", "AAAA", "4096", "abc", "\0", "\u00ff", " ", "==", "+/", "1e9", "-1", "0x10", ",,,"];

function randomMessage(random: SeededRandom): string {
  const count = random.below(12);
  return Array.from({ length: count }, () => random.pick(random.oneIn(2) ? PIECES : MORE_PIECES)).join("");
}

/** `text` with small damages, as latin1: what a message is. */
function damaged(random: SeededRandom, text: string): string {
  return random.mutate(Buffer.from(text, "latin1")).toString("latin1");
}

/** Base64 has several ways to write the last bits of a proof. */
function withProofInHex(final: string): string {
  return final.replace(/(?<=,p=)[A-Za-z0-9+/]{43}=$/, (proof) => Buffer.from(proof, "base64").toString("hex"));
}

describe("the server's side", () => {
  it(`answers or refuses ${RUNS.toLocaleString("en")} exchanges, and takes none of them for a login`, () => {
    let answered = 0;
    let judged = 0;
    fuzz(RUNS, (random) => {
      const server = new ScramServer(verifier, random.oneIn(2) ? END_POINT : undefined);
      const client = new TestClient("correct horse");
      const first = random.oneIn(2) ? client.first() : randomMessage(random);
      const mechanism = random.oneIn(4) ? random.pick([PLUS, "", "SCRAM-SHA-1"]) : SCRAM;
      const sent = random.oneIn(3) ? damaged(random, first) : first;
      const answer = unlessRefused(CLIENT_FAULTS, () => server.first(mechanism, sent));
      if (answer === undefined) return;
      answered++;
      const right = client.final(answer);
      const final = random.oneIn(4) ? randomMessage(random) : damaged(random, right);
      const proof = unlessRefused(CLIENT_FAULTS, () => server.final(final));
      judged++;
      const isUntouched = sent === client.first() && withProofInHex(final) === withProofInHex(right);
      if ((proof !== undefined) !== isUntouched) throw new Error(JSON.stringify({ mechanism, sent, answer, final }));
    });
    if (RUNS >= 10_000) {
      expect(answered).toBeGreaterThan(RUNS / 10);
      expect(judged).toBeGreaterThan(RUNS / 10);
    }
  });

  it("reads any SASLInitialResponse, or refuses it", () => {
    fuzz(RUNS, (random) => {
      const whole = frontend.saslInitial(random.pick([SCRAM, PLUS, ""]), randomMessage(random)).subarray(5);
      const body = random.mutate(whole);
      const read = unlessRefused(["scram_message"], () => decodeSaslInitialResponse(body));
      if (read !== undefined && read.mechanism.length + 5 + read.data.length !== body.length)
        throw new Error("lost bytes");
    });
  });
});

describe("the client's side", () => {
  it(`believes none of ${Math.ceil(RUNS / 10).toLocaleString("en")} servers that do not know the password`, async () => {
    const seeds: SeededRandom[] = [];
    fuzz(Math.ceil(RUNS / 10), (random) => seeds.push(random));
    const keys = { clientKey: Buffer.alloc(32, 1), serverKey: Buffer.alloc(32, 2) };
    let answered = 0;
    for (const random of seeds) {
      let asked: number | undefined;
      const client = new ScramClient([SCRAM], undefined, (salt, iterations) => {
        asked = iterations;
        expect(salt.length).toBeGreaterThan(0);
        return Promise.resolve(keys);
      });
      const right = new TestServer("another password", 4_096);
      const serverFirst = right.first(client.first());
      const said = random.oneIn(4)
        ? randomMessage(random)
        : random.oneIn(2)
          ? damaged(random, serverFirst)
          : serverFirst;
      const final = await client.final(said).catch((error: unknown) => {
        if (error instanceof ProxyError && error.code === "upstream_login") return undefined;
        throw error;
      });
      if (final === undefined) continue;
      answered++;
      expect(asked).toBeGreaterThanOrEqual(4_096);
      expect(asked).toBeLessThanOrEqual(100_000);
      const last = random.oneIn(2) ? randomMessage(random) : `v=${random.bytes(32).toString("base64")}`;
      expect(unlessRefused(["upstream_login"], () => (client.verify(last), true))).toBeUndefined();
    }
    expect(answered).toBeGreaterThan(seeds.length / 5);
  });

  it("reads any list of mechanisms", () => {
    fuzz(RUNS, (random) => {
      const body = random.mutate(Buffer.from(`\0\0\0\n${SCRAM}\0${PLUS}\0\0`));
      const offered = decodeSaslMechanisms(body);
      unlessRefused(["upstream_login"], () => new ScramClient(offered, END_POINT, () => Promise.reject(new Error())));
    });
  });
});

it("a verifier is whole, or no verifier", () => {
  const whole = formatVerifier(verifier);
  let accepted = 0;
  fuzz(RUNS, (random) => {
    const read = parseVerifier(random.mutate(Buffer.from(whole)).toString());
    if (read === undefined) return;
    accepted++;
    const again = parseVerifier(formatVerifier(read)) as ScramVerifier;
    if (JSON.stringify(again) !== JSON.stringify(read)) throw new Error(JSON.stringify(read));
  });
  expect(accepted).toBeGreaterThan(0);
});

it("any bytes are a certificate that can be bound, or are none", () => {
  fuzz(RUNS, (random) => {
    const tags = [0x30, 0x06, 0x82, 0x80, 0x84, 0x00, 0x02, 0x05];
    const bytes = Buffer.from(Array.from({ length: random.below(40) }, () => random.pick(tags)));
    endPointHash(random.oneIn(2) ? random.mutate(bytes) : bytes);
  });
});

/** Messages that grow in their number of parts, where a rule that goes back would take the square of it. */
describe("takes a message of 64 kB without going back in it", () => {
  const KB_64 = 65_000;
  it.each([",", "n=", ",p=", ",r=", "=", "a=,", "A", "c=biws,", "p=tls-server-end-point,,"])(
    "%j, repeated",
    (piece) => {
      const text = piece.repeat(Math.floor(KB_64 / piece.length));
      const server = new ScramServer(verifier, undefined);
      unlessRefused(CLIENT_FAULTS, () => server.first(SCRAM, text));
      unlessRefused(CLIENT_FAULTS, () => server.first(SCRAM, `n,,n=,r=${text}`));
      unlessRefused(CLIENT_FAULTS, () => server.final(text));
      unlessRefused(CLIENT_FAULTS, () => server.final(`c=biws,r=${text},p=AAAA`));
      expect(parseVerifier(`SCRAM-SHA-256$1:${text}`)).toBeUndefined();
    },
  );
});
