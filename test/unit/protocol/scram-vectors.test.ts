/** SCRAM-SHA-256 against the exchange that RFC 7677 prints, and SASLprep against the examples of RFC 4013. */
import { describe, expect, it, vi } from "vitest";
import { deriveKeys, deriveVerifier, hmac, sha256, xor } from "../../../src/protocol/scram/keys.ts";
import { ScramServer } from "../../../src/protocol/scram/scram-server.ts";

/** [RFC 7677 section 3]: user `user`, password `pencil`. */
const CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT = Buffer.from("W22ZaJ0SNY7soEsUEjb6gQ==", "base64");
const CLIENT_FIRST_BARE = `n=user,r=${CLIENT_NONCE}`;
const SERVER_FIRST = `r=${CLIENT_NONCE}${SERVER_NONCE},s=${SALT.toString("base64")},i=4096`;
const WITHOUT_PROOF = `c=biws,r=${CLIENT_NONCE}${SERVER_NONCE}`;
const PROOF = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

// The server's part of the nonce is the one thing of the exchange that nobody can hand in.
vi.mock("node:crypto", async (importOriginal) => ({
  ...(await importOriginal<typeof import("node:crypto")>()),
  randomBytes: () => ({ toString: () => SERVER_NONCE }),
}));

describe("the exchange of RFC 7677", () => {
  it("is the server's side, word by word", async () => {
    const server = new ScramServer(await deriveVerifier("pencil", SALT, 4_096), undefined);
    expect(server.first("SCRAM-SHA-256", `n,,${CLIENT_FIRST_BARE}`)).toBe(SERVER_FIRST);
    expect(server.final(`${WITHOUT_PROOF},p=${PROOF}`)?.serverFinal).toBe(SERVER_FINAL);
  });

  it("has the proof and the signature that the keys give", async () => {
    const { clientKey, serverKey } = await deriveKeys("pencil", SALT, 4_096);
    const authMessage = `${CLIENT_FIRST_BARE},${SERVER_FIRST},${WITHOUT_PROOF}`;
    expect(xor(clientKey, hmac(sha256(clientKey), authMessage)).toString("base64")).toBe(PROOF);
    expect(`v=${hmac(serverKey, authMessage).toString("base64")}`).toBe(SERVER_FINAL);
  });
});

describe("two passwords are one", () => {
  const keyOf = async (password: string | Buffer): Promise<string> =>
    (await deriveKeys(password, SALT, 1)).clientKey.toString("hex");

  it.each([
    ["a soft hyphen is nothing", "I\u00adX", "IX"],
    ["case counts, and stays", "user", "user"],
    ["compatibility characters become plain ones", "\u00aa", "a"],
    ["and so do Roman numbers", "\u2168", "IX"],
    ["composed and decomposed letters", "u\u0308ber", "\u00fcber"],
    ["a space of another width", "a\u00a0b", "a b"],
    ["bytes and text", Buffer.from("\u2168"), "IX"],
  ])("where %s", async (_what, one, other) => {
    expect(await keyOf(one)).toBe(await keyOf(other));
  });

  // "As it is": then it equals what PBKDF2 makes of the very bytes, which no preparation can change.
  it.each([
    ["a control character", "a\u0007b"],
    ["a character that Unicode 3.2 does not have", "a\u{1f600}\u2168"],
    ["both directions of writing", "\u0627\u2168a"],
    ["right-to-left text that ends with a digit", "\u06271\u2168"],
    ["nothing but what maps to nothing", "\u00ad"],
    ["bytes that are no UTF-8", Buffer.of(0xff, 0xe2, 0x85, 0xa8)],
  ])("but not where SASLprep has no answer: %s is taken as it is", async (_what, password) => {
    const { pbkdf2Sync } = await vi.importActual<typeof import("node:crypto")>("node:crypto");
    const salted = pbkdf2Sync(password, SALT, 1, 32, "sha256");
    expect(await keyOf(password)).toBe(hmac(salted, "Client Key").toString("hex"));
  });
});
