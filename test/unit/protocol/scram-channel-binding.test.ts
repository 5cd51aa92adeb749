/** tls-server-end-point: the hash of a certificate, by the digest of its signature, as libpq and the server take it. */
import { createHash, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { endPointHash } from "../../../src/protocol/scram/channel-binding.ts";
import { certificateFolder, makeAuthority, type AuthorityOptions } from "../../support/certificates.ts";

/** A certificate that signs itself with this key and digest, as DER. */
function certificateWith(options: AuthorityOptions): Buffer {
  using folder = certificateFolder();
  return new X509Certificate(readFileSync(makeAuthority(folder.folder, options).certFile)).raw;
}

describe("a certificate is bound by", () => {
  it.each<[string, string, AuthorityOptions]>([
    ["SHA-256, where its signature has SHA-1 (RSA)", "sha256", { key: "rsa", digest: "sha1" }],
    ["SHA-256 (RSA)", "sha256", { key: "rsa", digest: "sha256" }],
    ["SHA-384 (RSA)", "sha384", { key: "rsa", digest: "sha384" }],
    ["SHA-512 (RSA)", "sha512", { key: "rsa", digest: "sha512" }],
    ["SHA-256, where its signature has SHA-1 (ECDSA)", "sha256", { key: "ecdsa", digest: "sha1" }],
    ["SHA-256 (ECDSA)", "sha256", { key: "ecdsa", digest: "sha256" }],
    ["SHA-384 (ECDSA)", "sha384", { key: "ecdsa", digest: "sha384" }],
    ["SHA-512 (ECDSA)", "sha512", { key: "ecdsa", digest: "sha512" }],
  ])("its %s", (_what, digest, options) => {
    const certificate = certificateWith(options);
    expect(endPointHash(certificate)).toEqual(createHash(digest).update(certificate).digest());
  });

  it.each<[string, AuthorityOptions]>([
    ["Ed25519", { key: "ed25519" }],
    ["RSASSA-PSS", { key: "rsa-pss" }],
  ])("nothing, where its signature is %s", (_what, options) => {
    expect(endPointHash(certificateWith(options))).toBeUndefined();
  });
});

describe("bytes that are no certificate", () => {
  const whole = certificateWith({ key: "ecdsa" });

  it("cut off anywhere bind nothing", () => {
    for (let length = 0; length < whole.length; length++) {
      expect(endPointHash(whole.subarray(0, length)), `${length} bytes`).toBeUndefined();
    }
  });

  it.each([
    ["an empty sequence", Buffer.from("3000", "hex")],
    ["a sequence of nothing but sequences", Buffer.from("3006300030003000", "hex")],
    ["a length of five bytes", Buffer.from("308500000000013000", "hex")],
    ["a length of 2^32-1", Buffer.from("3084ffffffff3000", "hex")],
    ["a length of 127 bytes", Buffer.concat([Buffer.from("30ff", "hex"), Buffer.alloc(200)])],
    ["an object identifier of no bytes", Buffer.from("3008300030020600", "hex")],
    ["a name that every object has in place of an algorithm", Buffer.from("300f3000300b0609636f6e7374727563", "hex")],
    ["zeros", Buffer.alloc(2_000)],
    ["sequences in sequences", Buffer.from("30800000".repeat(500), "hex")],
  ])("as %s bind nothing", (_what, bytes) => {
    expect(endPointHash(bytes)).toBeUndefined();
  });

  it("damaged in any byte bind what they were signed with, or nothing", () => {
    for (let at = 0; at < whole.length; at++) {
      for (const byte of [0, 1, 0x30, 0x7f, 0x80, 0x84, 0xff]) {
        const damaged = Buffer.from(whole);
        damaged[at] = byte;
        const lengths = [undefined, 28, 32, 48, 64];
        expect(lengths).toContain(endPointHash(damaged)?.length);
      }
    }
  });
});
