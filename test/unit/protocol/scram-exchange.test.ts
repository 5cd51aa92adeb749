/** Both sides of SCRAM, message by message: what is right, and everything that a peer can do wrong. */
import { createHash, createHmac, pbkdf2Sync } from "node:crypto";
import { describe, expect, it } from "vitest";
import { deriveVerifier, createVerifier, deriveKeys } from "../../../src/protocol/scram/keys.ts";
import { ScramClient } from "../../../src/protocol/scram/scram-client.ts";
import { ScramServer } from "../../../src/protocol/scram/scram-server.ts";
import { formatVerifier, parseVerifier, type ScramVerifier } from "../../../src/protocol/scram/verifier.ts";
import { proxyErrorOf } from "../../support/proxy-error-of.ts";

/** The code of the error that ends a login. */
const codeOf = (work: () => unknown): string => proxyErrorOf(work).code;

const SALT = Buffer.from("0123456789abcdef");
const ITERATIONS = 4_096;
const verifier = await deriveVerifier("correct horse", SALT, ITERATIONS);
const keys = { salt: SALT, iterations: ITERATIONS, ...(await deriveKeys("correct horse", SALT, ITERATIONS)) };
const END_POINT = createHash("sha256").update("a certificate").digest();

const SCRAM = "SCRAM-SHA-256";
const PLUS = "SCRAM-SHA-256-PLUS";
const NONCE = "rOprNGfwEbeRWgbNEkqO";

const hmac = (key: Buffer, text: string): Buffer => createHmac("sha256", key).update(text, "latin1").digest();
const attribute = (text: string, name: string): string => new RegExp(`(?:^|,)${name}=([^,]*)`).exec(text)?.[1] ?? "";

/** The client-final-message of RFC 5802, written once more, with what is to be wrong about it. */
function finalMessage(
  first: string,
  serverFirst: string,
  password: string,
  wrong: { binding?: string; nonce?: string; proof?: string; extension?: string } = {},
): string {
  const salted = pbkdf2Sync(password, Buffer.from(attribute(serverFirst, "s"), "base64"), ITERATIONS, 32, "sha256");
  const clientKey = hmac(salted, "Client Key");
  const gs2 = /^[^,]*,,/.exec(first)?.[0] ?? "";
  const endPoint = gs2.startsWith("p") ? END_POINT : Buffer.alloc(0);
  const binding = wrong.binding ?? Buffer.concat([Buffer.from(gs2), endPoint]).toString("base64");
  const nonce = wrong.nonce ?? attribute(serverFirst, "r");
  const withoutProof = `c=${binding},r=${nonce}${wrong.extension ?? ""}`;
  const authMessage = `${first.slice(gs2.length)},${serverFirst},${withoutProof}`;
  const signature = hmac(createHash("sha256").update(clientKey).digest(), authMessage);
  const proof = Buffer.from(clientKey.map((byte, index) => byte ^ (signature[index] ?? 0))).toString("base64");
  return `${withoutProof},p=${wrong.proof ?? proof}`;
}

/** The exchange up to the proof. */
function exchange(
  {
    mechanism = SCRAM,
    first = `n,,n=,r=${NONCE}`,
    endPoint,
    password = "correct horse",
    ...wrong
  }: {
    mechanism?: string;
    first?: string;
    endPoint?: Buffer;
    password?: string;
    binding?: string;
    nonce?: string;
    proof?: string;
    extension?: string;
  } = {},
  stored: ScramVerifier = verifier,
) {
  const server = new ScramServer(stored, endPoint);
  const serverFirst = server.first(mechanism, first);
  return server.final(finalMessage(first, serverFirst, password, wrong));
}

describe("a verifier", () => {
  it("reads as it is written", async () => {
    const text = await createVerifier("correct horse", ITERATIONS);
    expect(text).toMatch(/^SCRAM-SHA-256\$4096:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$/);
    expect(formatVerifier(parseVerifier(text) as ScramVerifier)).toBe(text);
  });

  const whole = formatVerifier(verifier);
  it.each([
    ["nothing", ""],
    ["md5", "md5d41d8cd98f00b204e9800998ecf8427e"],
    ["another mechanism", whole.replace("256", "1")],
    ["no iterations", whole.replace("$4096:", "$0:")],
    ["too many iterations", whole.replace("$4096:", "$2147483648:")],
    ["a short key", whole.slice(0, -4)],
    ["something behind it", `${whole} `],
    ["something before it", ` ${whole}`],
    ["a line break", whole.replace(":", "\n")],
    ["no salt", whole.replace(/:[^$]*\$/, ":$")],
  ])("is not %s", (_what, text) => {
    expect(parseVerifier(text)).toBeUndefined();
  });
});

describe("the server's side", () => {
  it("accepts the right password, gives the client's key and proves itself", () => {
    const proof = exchange();
    expect(proof?.clientKey).toEqual(keys.clientKey);
    expect(proof?.serverFinal).toMatch(/^v=[A-Za-z0-9+/]{43}=$/);
  });

  it.each([
    ["another password", { password: "wrong" }],
    ["a proof of zeros", { proof: Buffer.alloc(32).toString("base64") }],
  ])("refuses %s without an error of its own", (_what, wrong) => {
    expect(exchange(wrong)).toBeUndefined();
  });

  it("binds the channel where the client does", () => {
    const bound = { mechanism: PLUS, first: `p=tls-server-end-point,,n=,r=${NONCE}`, endPoint: END_POINT };
    expect(exchange(bound)).toBeDefined();
    const other = createHash("sha256").update("another certificate").digest();
    expect(codeOf(() => exchange({ ...bound, endPoint: other }))).toBe("scram_binding");
  });

  it("accepts a client that cannot bind, where binding is offered", () => {
    expect(exchange({ endPoint: END_POINT })).toBeDefined();
  });

  it("accepts a client that could bind and was not offered it", () => {
    expect(exchange({ first: `y,,n=,r=${NONCE}` })).toBeDefined();
  });

  it("refuses a client that could bind, was offered it, and believes that it was not", () => {
    expect(codeOf(() => exchange({ first: `y,,n=,r=${NONCE}`, endPoint: END_POINT }))).toBe("scram_downgrade");
  });

  it.each([
    ["an unknown mechanism", { mechanism: "SCRAM-SHA-1" }],
    ["PLUS where it is not offered", { mechanism: PLUS, first: `p=tls-server-end-point,,n=,r=${NONCE}` }],
    ["PLUS without binding", { mechanism: PLUS, endPoint: END_POINT }],
    ["binding without PLUS", { first: `p=tls-server-end-point,,n=,r=${NONCE}`, endPoint: END_POINT }],
    ["another kind of binding", { mechanism: PLUS, first: `p=tls-unique,,n=,r=${NONCE}`, endPoint: END_POINT }],
    ["an authorization identity", { first: `n,a=admin,n=,r=${NONCE}` }],
    ["a mandatory extension", { first: `n,,m=1,n=,r=${NONCE}` }],
    ["no nonce", { first: "n,,n=" }],
    ["an empty nonce", { first: "n,,n=,r=" }],
    ["a nonce with a space", { first: "n,,n=,r=a b" }],
    ["a nonce that is not ASCII", { first: "n,,n=,r=\u00e9" }],
    ["an empty message", { first: "" }],
    ["a header alone", { first: "n,," }],
    ["junk", { first: "\0\0\0" }],
    ["a line break", { first: `n,,n=\n,r=${NONCE}\n` }],
    ["another nonce in the end", { nonce: `${NONCE}x` }],
    ["the client's nonce alone", { nonce: NONCE }],
    ["a proof that is too short", { proof: "AAAA" }],
    ["a proof that is no base64", { proof: "!".repeat(44) }],
    ["no proof", { proof: "" }],
  ])("ends the login for %s", (_what, wrong) => {
    expect(codeOf(() => exchange(wrong))).toBe("scram_message");
  });

  it.each([
    ["another header", Buffer.from("y,,").toString("base64")],
    ["nothing", ""],
    ["no base64", "%%%%"],
  ])("refuses a final message that binds %s", (_what, binding) => {
    expect(["scram_binding", "scram_message"]).toContain(codeOf(() => exchange({ binding })));
  });

  it("passes over extensions that nobody has to know", () => {
    expect(exchange({ first: `n,,n=,r=${NONCE},x=1`, extension: ",y=2" })).toBeDefined();
  });

  // Messages are bytes, and come as latin1: the proof was computed over the UTF-8 of the name, not over that of its bytes.
  it("does not look at the user's name, whatever its bytes are", () => {
    const name = Buffer.from("m\u00fcller=2C").toString("latin1");
    expect(exchange({ first: `n,,n=${name},r=${NONCE}` })).toBeDefined();
  });

  it("takes a message as long as a login's may be", () => {
    const first = `n,,n=,r=${NONCE.repeat(3_000)}`;
    expect(exchange({ first, extension: `,x=${"y".repeat(60_000)}` })).toBeDefined();
    expect(codeOf(() => exchange({ proof: "A".repeat(65_000) }))).toBe("scram_message");
  });

  it("gives another nonce each time, and does not accept a recorded proof", () => {
    const first = `n,,n=,r=${NONCE}`;
    const one = new ScramServer(verifier, undefined);
    const recorded = finalMessage(first, one.first(SCRAM, first), "correct horse");
    const other = new ScramServer(verifier, undefined);
    other.first(SCRAM, first);
    expect(codeOf(() => other.final(recorded))).toBe("scram_message");
    expect(one.final(recorded)).toBeDefined();
  });
});

describe("the client's side", () => {
  const client = (offered = [SCRAM], endPoint?: Buffer): ScramClient =>
    new ScramClient(offered, endPoint, () => Promise.resolve(keys));

  async function against(stored: ScramVerifier, offered: string[], endPoint?: Buffer): Promise<void> {
    const one = client(offered, endPoint);
    const server = new ScramServer(stored, endPoint);
    const proof = server.final(await one.final(server.first(one.mechanism, one.first())));
    one.verify(proof?.serverFinal ?? "");
  }

  it.each([
    ["plain text", [SCRAM], undefined],
    ["TLS", [PLUS, SCRAM], END_POINT],
  ])("logs in over %s, with the best that is offered", async (_what, offered, endPoint) => {
    await expect(against(verifier, offered, endPoint)).resolves.toBeUndefined();
    expect(client(offered, endPoint).mechanism).toBe(offered[0]);
  });

  it("tells the server that it could bind, where that is not offered over TLS", () => {
    expect(client([SCRAM], END_POINT).first()).toMatch(/^y,,n=,r=/);
    expect(client([SCRAM, PLUS]).first()).toMatch(/^n,,n=,r=/);
  });

  it.each([[[]], [["GSSAPI"]], [[PLUS]]])("speaks none of %j in plain text", (offered) => {
    expect(codeOf(() => client(offered))).toBe("upstream_login");
  });

  it.each([
    ["no nonce of ours", (nonce: string) => `r=x${nonce}y,s=AAAA,i=4096`],
    ["our nonce alone", (nonce: string) => `r=${nonce},s=AAAA,i=4096`],
    ["a nonce above 1 KiB", (nonce: string) => `r=${nonce}${"x".repeat(1_024)},s=AAAA,i=4096`],
    ["no salt", (nonce: string) => `r=${nonce}x,s=,i=4096`],
    ["a salt that is no base64", (nonce: string) => `r=${nonce}x,s=*,i=4096`],
    ["a salt above 1 KiB", (nonce: string) => `r=${nonce}x,s=${"AAAA".repeat(400)},i=4096`],
    ["few iterations", (nonce: string) => `r=${nonce}x,s=AAAA,i=4095`],
    ["many iterations", (nonce: string) => `r=${nonce}x,s=AAAA,i=100001`],
    ["a billion iterations", (nonce: string) => `r=${nonce}x,s=AAAA,i=1000000000`],
    ["negative iterations", (nonce: string) => `r=${nonce}x,s=AAAA,i=-1`],
    ["no iterations", (nonce: string) => `r=${nonce}x,s=AAAA`],
    ["another order", (nonce: string) => `s=AAAA,r=${nonce}x,i=4096`],
    ["a mandatory extension", (nonce: string) => `m=1,r=${nonce}x,s=AAAA,i=4096`],
    ["nothing", () => ""],
  ])("refuses a server-first-message with %s, and computes nothing", async (_what, answer) => {
    let computed = 0;
    const one = new ScramClient([SCRAM], undefined, () => {
      computed += 1;
      return Promise.resolve(keys);
    });
    const nonce = attribute(one.first(), "r");
    await expect(one.final(answer(nonce))).rejects.toMatchObject({ code: "upstream_login" });
    expect(computed).toBe(0);
  });

  it.each(["", "v=", "v=AAAA", `v=${Buffer.alloc(32).toString("base64")}`, "e=other-error", "x=1"])(
    "does not believe a server that ends with %j",
    async (final) => {
      const one = client();
      await one.final(`r=${attribute(one.first(), "r")}x,s=${SALT.toString("base64")},i=4096`);
      expect(codeOf(() => one.verify(final))).toBe("upstream_login");
    },
  );

  it("does not believe a server before it has answered itself", () => {
    expect(codeOf(() => client().verify(`v=${Buffer.alloc(32).toString("base64")}`))).toBe("upstream_login");
  });
});
