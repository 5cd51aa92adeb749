/**
 * Certificates for tests of TLS, made with node:crypto alone: an authority, and what it signs for servers and clients.
 * Everything a test may want to be wrong can be asked for: names, kinds of key, digests, dates.
 * `serverTls` gives a PostgreSQL server of test/support/postgres.ts its part.
 */
import { constants, generateKeyPairSync, randomBytes, sign, type KeyObject } from "node:crypto";
import { chmodSync, chownSync, copyFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { isIP, isIPv4 } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { serverAccount } from "../../src/demo/server-account.ts";

/** `rsa-512` is too weak for anybody; `rsa-pss` is an ordinary RSA key whose signatures are RSASSA-PSS: they have no digest that SCRAM could bind to. */
export type KeyKind = "ecdsa" | "rsa" | "rsa-512" | "rsa-pss" | "ed25519";
export type Digest = "sha1" | "sha256" | "sha384" | "sha512";

export interface CertificateOptions {
  /** The subject's common name. */
  readonly commonName?: string;
  /** Alternative names: host names, and addresses of IPv4 or IPv6. */
  readonly names?: readonly string[];
  /** Of the certificate's own key; `ecdsa` unless told. What signs it is the authority's. */
  readonly key?: KeyKind;
  /** Days from now; 2 unless told, negative for a certificate that has expired. */
  readonly days?: number;
  /** Name of the files, without ending; each call needs one of its own, or replaces what is there. */
  readonly file?: string;
}

export interface AuthorityOptions extends CertificateOptions {
  /** What it signs with: `sha256` unless told. */
  readonly digest?: Digest;
}

/** Paths of PEM files; the key's has mode 0600. */
export interface CertificateFiles {
  readonly certFile: string;
  readonly keyFile: string;
}

/** An authority: what it signs is believed by whoever trusts `certFile`. */
export interface Authority extends CertificateFiles, Signer {}

/** A folder of its own under the system's, removed by `using`; every account may pass through it. */
export function certificateFolder(): { readonly folder: string } & Disposable {
  const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-certificates-"));
  chmodSync(folder, 0o711);
  return { folder, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}

/** A certificate that signs itself and others, by default `ca.crt`. A server may show it as its own: self-signed. */
export function makeAuthority(folder: string, options: AuthorityOptions = {}): Authority {
  const { commonName = "authority of the tests", key: keyKind = "ecdsa", digest = "sha256", file = "ca" } = options;
  const { publicKey, privateKey } = generateKey(keyKind);
  const name = distinguishedName(commonName);
  const signer: Signer = { folder, name, key: privateKey, keyKind, digest };
  const extensions = [
    extension(OID.basicConstraints, sequence(der(BOOLEAN, Buffer.of(0xff))), true),
    extension(OID.keyUsage, der(BIT_STRING, Buffer.of(1, 0x86)), true), // digitalSignature, keyCertSign, cRLSign
    ...alternativeNames(options.names ?? []),
  ];
  return {
    ...signer,
    ...writeCertificate(signer, file, name, { publicKey, privateKey }, extensions, options.days ?? 2),
  };
}

/** For a server, by default `server.crt` of localhost and 127.0.0.1. */
export function makeServerCertificate(authority: Authority, options: CertificateOptions = {}): CertificateFiles {
  const { commonName = "localhost", names = ["localhost", "127.0.0.1"], file = "server" } = options;
  return issue(authority, OID.serverAuth, { ...options, commonName, names, file });
}

/** For a client, by default `client.crt` of the common name that is given and no alternative name. */
export function makeClientCertificate(authority: Authority, options: CertificateOptions = {}): CertificateFiles {
  const { commonName = "client", names = [], file = "client" } = options;
  return issue(authority, OID.clientAuth, { ...options, commonName, names, file });
}

/**
 * The settings of a PostgreSQL server that speaks TLS, and asks for certificates of `clients` where that is given. The
 * files are copied for the account that the server runs as: it takes no key that is somebody else's.
 */
export async function serverTls(own: CertificateFiles, clients?: Authority): Promise<Record<string, string>> {
  const { uid, gid } = await serverAccount();
  const keyFile = own.keyFile.replace(/\.key$/, ".postgres.key");
  copyFileSync(own.keyFile, keyFile);
  chmodSync(keyFile, 0o600);
  if (uid !== undefined) chownSync(keyFile, uid, gid ?? uid);
  return {
    ssl: "on",
    ssl_cert_file: own.certFile,
    ssl_key_file: keyFile,
    ...(clients && { ssl_ca_file: clients.certFile }),
  };
}

interface Signer {
  readonly folder: string;
  readonly name: Buffer;
  readonly key: KeyObject;
  readonly keyKind: KeyKind;
  readonly digest: Digest;
}

interface KeyPair {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}

function generateKey(kind: KeyKind): KeyPair {
  if (kind === "ecdsa") return generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  if (kind === "ed25519") return generateKeyPairSync("ed25519");
  return generateKeyPairSync("rsa", { modulusLength: kind === "rsa-512" ? 512 : 2048 });
}

function issue(
  authority: Authority,
  usage: string,
  options: CertificateOptions & Required<Pick<CertificateOptions, "commonName" | "names" | "file">>,
): CertificateFiles {
  const { commonName, names, file, key: keyKind = "ecdsa", days = 2 } = options;
  const extensions = [extension(OID.extendedKeyUsage, sequence(oid(usage))), ...alternativeNames(names)];
  const subject = commonName === "" ? sequence() : distinguishedName(commonName);
  return writeCertificate(authority, file, subject, generateKey(keyKind), extensions, days);
}

/**
 *     Certificate    ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signature BIT STRING }
 *     TBSCertificate ::= SEQUENCE { version [0], serialNumber, signature, issuer, validity, subject,
 *                                   subjectPublicKeyInfo, extensions [3] }             [RFC 5280 section 4.1]
 */
function writeCertificate(
  signer: Signer,
  file: string,
  subject: Buffer,
  { publicKey, privateKey }: KeyPair,
  extensions: Buffer[],
  days: number,
): CertificateFiles {
  const algorithm = signatureAlgorithm(signer);
  const end = Date.now() + days * DAY_MS;
  const start = Math.min(Date.now(), end) - DAY_MS;
  const signed = sequence(
    der(0xa0, integer(Buffer.of(2))),
    integer(Buffer.concat([Buffer.of(1), randomBytes(15)])),
    algorithm,
    signer.name,
    sequence(time(start), time(end)),
    subject,
    publicKey.export({ type: "spki", format: "der" }),
    der(0xa3, sequence(...extensions)),
  );
  const certificate = sequence(signed, algorithm, bitString(signatureOf(signed, signer)));
  const certFile = path.join(signer.folder, `${file}.crt`);
  const keyFile = path.join(signer.folder, `${file}.key`);
  // OpenSSL takes no empty line.
  const lines = certificate.toString("base64").match(/.{1,64}/g) ?? [];
  writeFileSync(certFile, ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n"));
  writeFileSync(keyFile, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
  return { certFile, keyFile };
}

function signatureOf(bytes: Buffer, { key, keyKind, digest }: Signer): Buffer {
  if (keyKind === "ed25519") return sign(null, bytes, key);
  const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: PSS_SALT_LENGTH };
  return sign(digest, bytes, { key, ...(keyKind === "rsa-pss" && pss) });
}

function signatureAlgorithm({ keyKind, digest }: Signer): Buffer {
  if (keyKind === "ed25519") return sequence(oid(OID.ed25519));
  if (keyKind === "ecdsa") return sequence(oid(ECDSA_WITH[digest]));
  if (keyKind !== "rsa-pss") return sequence(oid(RSA_WITH[digest]), NULL);
  const hash = sequence(oid(DIGEST[digest]), NULL);
  const parameters = [hash, sequence(oid(OID.mgf1), hash), integer(Buffer.of(PSS_SALT_LENGTH))];
  return sequence(oid(OID.rsaPss), sequence(...parameters.map((parameter, at) => der(0xa0 + at, parameter))));
}

const DAY_MS = 86_400_000;
const PSS_SALT_LENGTH = 32;

const OID = {
  commonName: "2.5.4.3",
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  extendedKeyUsage: "2.5.29.37",
  serverAuth: "1.3.6.1.5.5.7.3.1",
  clientAuth: "1.3.6.1.5.5.7.3.2",
  ed25519: "1.3.101.112",
  rsaPss: "1.2.840.113549.1.1.10",
  mgf1: "1.2.840.113549.1.1.8",
} as const;

const RSA_WITH: Record<Digest, string> = {
  sha1: "1.2.840.113549.1.1.5",
  sha256: "1.2.840.113549.1.1.11",
  sha384: "1.2.840.113549.1.1.12",
  sha512: "1.2.840.113549.1.1.13",
};

const ECDSA_WITH: Record<Digest, string> = {
  sha1: "1.2.840.10045.4.1",
  sha256: "1.2.840.10045.4.3.2",
  sha384: "1.2.840.10045.4.3.3",
  sha512: "1.2.840.10045.4.3.4",
};

const DIGEST: Record<Digest, string> = {
  sha1: "1.3.14.3.2.26",
  sha256: "2.16.840.1.101.3.4.2.1",
  sha384: "2.16.840.1.101.3.4.2.2",
  sha512: "2.16.840.1.101.3.4.2.3",
};

const BOOLEAN = 0x01;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const OCTET_STRING = 0x04;
const NULL = Buffer.of(0x05, 0);
const OBJECT_IDENTIFIER = 0x06;
const UTF8_STRING = 0x0c;
const UTC_TIME = 0x17;
const SEQUENCE = 0x30;
const SET = 0x31;
const DNS_NAME = 0x82;
const IP_ADDRESS = 0x87;

/** Tag, length, content. */
function der(tag: number, ...content: Buffer[]): Buffer {
  const body = Buffer.concat(content);
  if (body.length < 0x80) return Buffer.concat([Buffer.of(tag, body.length), body]);
  return Buffer.concat([Buffer.of(tag, 0x82, body.length >> 8, body.length & 0xff), body]);
}

function sequence(...content: Buffer[]): Buffer {
  return der(SEQUENCE, ...content);
}

function integer(value: Buffer): Buffer {
  return der(INTEGER, value);
}

function bitString(bytes: Buffer): Buffer {
  return der(BIT_STRING, Buffer.of(0), bytes);
}

/** The first two numbers share a byte; each other has seven bits a byte, with the high bit on all but its last. */
function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes = rest.flatMap((number) => {
    const digits = [number & 0x7f];
    for (let left = number >> 7; left > 0; left >>= 7) digits.unshift((left & 0x7f) | 0x80);
    return digits;
  });
  return der(OBJECT_IDENTIFIER, Buffer.from([first * 40 + second, ...bytes]));
}

function distinguishedName(commonName: string): Buffer {
  return sequence(der(SET, sequence(oid(OID.commonName), der(UTF8_STRING, Buffer.from(commonName)))));
}

/** `YYMMDDhhmmssZ` */
function time(milliseconds: number): Buffer {
  const digits = new Date(milliseconds).toISOString().replace(/\.\d+|[-:T]/g, "");
  return der(UTC_TIME, Buffer.from(digits.slice(2)));
}

function extension(identifier: string, value: Buffer, isCritical = false): Buffer {
  const critical = isCritical ? [der(BOOLEAN, Buffer.of(0xff))] : [];
  return sequence(oid(identifier), ...critical, der(OCTET_STRING, value));
}

function alternativeNames(names: readonly string[]): Buffer[] {
  return names.length === 0 ? [] : [extension(OID.subjectAltName, sequence(...names.map(alternativeName)))];
}

function alternativeName(name: string): Buffer {
  return isIP(name) === 0 ? der(DNS_NAME, Buffer.from(name)) : der(IP_ADDRESS, addressBytes(name));
}

function addressBytes(address: string): Buffer {
  if (isIPv4(address)) return Buffer.from(address.split(".").map(Number));
  const groups = new URL(`http://[${address}]`).hostname.slice(1, -1);
  const [head = "", tail] = groups.split("::");
  const [before, after] = [head, tail ?? ""].map((part) => part.split(":").filter(Boolean));
  const missing = 8 - (before?.length ?? 0) - (after?.length ?? 0);
  const all = [...(before ?? []), ...Array<string>(missing).fill("0"), ...(after ?? [])];
  return Buffer.from(all.map((group) => group.padStart(4, "0")).join(""), "hex");
}
