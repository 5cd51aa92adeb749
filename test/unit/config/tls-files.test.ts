/** Certificates, keys and CAs: what is refused at start, before a client waits in a handshake. */
import { createPrivateKey } from "node:crypto";
import { chmodSync, copyFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadTlsFiles } from "../../../src/config/tls-files.ts";
import { certificateFolder, makeAuthority } from "../../support/certificates.ts";

describe("the files of TLS", () => {
  const certificates = certificateFolder();
  const { folder } = certificates;
  const at = (name: string): string => path.join(folder, name);

  beforeAll(() => {
    makeAuthority(folder, { file: "ec" });
    makeAuthority(folder, { file: "other" });
    makeAuthority(folder, { file: "ed", key: "ed25519" });
    makeAuthority(folder, { file: "weak", key: "rsa-512" });
    const key = createPrivateKey(readFileSync(at("ec.key")));
    const locked = { format: "pem", cipher: "aes-128-cbc", passphrase: "x" } as const;
    writeFileSync(at("locked.key"), key.export({ type: "sec1", ...locked }), { mode: 0o600 });
    writeFileSync(at("locked8.key"), key.export({ type: "pkcs8", ...locked }), { mode: 0o600 });
    writeFileSync(at("text"), "not a certificate\n", { mode: 0o600 });
    writeFileSync(at("broken.crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    const [ec, broken] = [readFileSync(at("ec.crt"), "utf8"), readFileSync(at("broken.crt"), "utf8")];
    writeFileSync(at("half.crt"), `a comment\n${ec}${broken}`);
    writeFileSync(at("chain.crt"), `a comment\n${ec}${readFileSync(at("other.crt"), "utf8")}`);
    copyFileSync(at("ec.key"), at("open.key"));
    chmodSync(at("open.key"), 0o644);
  });

  afterAll(() => certificates[Symbol.dispose]());

  const load = ({ cert, key, ca }: { cert?: string; key?: string; ca?: string }): unknown =>
    loadTlsFiles({
      cert: { setting: "tls_cert", path: cert && at(cert) },
      key: { setting: "tls_key", path: key && at(key) },
      ca: { setting: "client_tls_ca_file", path: ca && at(ca) },
    });
  const problemOf = (files: { cert?: string; key?: string; ca?: string }): string => {
    try {
      load(files);
    } catch (error) {
      return (error as Error).message.replaceAll(`${folder}/`, "");
    }
    return "none";
  };

  it("may be a certificate with its key, a chain, a CA, all of them or none", () => {
    for (const files of [
      {},
      { cert: "ec.crt", key: "ec.key" },
      { cert: "ed.crt", key: "ed.key" },
      { cert: "chain.crt", key: "ec.key", ca: "other.crt" },
      { ca: "chain.crt" },
    ]) {
      expect(load(files)).toBeTypeOf("object");
    }
  });

  it("must be there", () => {
    expect(problemOf({ cert: "none.crt", key: "ec.key" })).toBe("tls_cert: none.crt: there is no such file");
    expect(problemOf({ cert: "ec.crt", key: "none.key" })).toBe("tls_key: none.key: there is no such file");
    expect(problemOf({ ca: "." })).toMatch(/^client_tls_ca_file: .*: it is a folder, not a file$/);
  });

  it("must be PEM", () => {
    expect(problemOf({ cert: "text", key: "ec.key" })).toBe("tls_cert: text: it holds no certificate in PEM form");
    expect(problemOf({ cert: "ec.crt", key: "text" })).toBe("tls_key: text: it holds no private key in PEM form");
    expect(problemOf({ ca: "ec.key" })).toBe("client_tls_ca_file: ec.key: it holds no certificate in PEM form");
    expect(problemOf({ cert: "ec.crt", key: "ec.crt" })).toMatch(/^tls_key: ec\.crt: /);
  });

  it("must be whole: of a broken CA OpenSSL says nothing, and trusts nobody", () => {
    expect(problemOf({ ca: "broken.crt" })).toBe("client_tls_ca_file: broken.crt: its certificate 1 is broken");
    expect(problemOf({ cert: "half.crt", key: "ec.key" })).toBe("tls_cert: half.crt: its certificate 2 is broken");
  });

  it("must belong together, whether or not the keys are of one kind", () => {
    expect(problemOf({ cert: "ec.crt", key: "other.key" })).toBe(
      "tls_key: other.key: it is not the key of tls_cert: ec.crt",
    );
    expect(problemOf({ cert: "ec.crt", key: "ed.key" })).toBe("tls_key: ed.key: it is not the key of tls_cert: ec.crt");
  });

  it("keep their key from others", () => {
    expect(problemOf({ cert: "ec.crt", key: "open.key" })).toBe(
      "tls_key: open.key: others can read it: chmod 600 open.key",
    );
  });

  it("have a key without a passphrase, as nobody is there to type it", () => {
    for (const key of ["locked.key", "locked8.key"]) {
      expect(problemOf({ cert: "ec.crt", key })).toBe(
        `tls_key: ${key}: it has a passphrase: pgvpd takes a key without one`,
      );
    }
  });

  it("that OpenSSL finds too weak are refused with its words", () => {
    expect(problemOf({ cert: "weak.crt", key: "weak.key" })).toMatch(
      /^tls_cert: weak\.crt, tls_key: weak\.key: .*key too small$/,
    );
  });
});
