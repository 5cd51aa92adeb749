/**
 * Channel binding of the type `tls-server-end-point`: what ties a SCRAM login to the certificate of its own TLS
 * connection. [RFC 5929 section 4], [PG sasl-authentication]
 */
import { createHash } from "node:crypto";

/** The digest that each signature algorithm is bound with: MD5 and SHA-1 give way to SHA-256. By the OID's bytes, in hex. */
const DIGESTS: Readonly<Record<string, string>> = {
  "2a864886f70d010104": "sha256", // md5WithRSAEncryption
  "2a864886f70d010105": "sha256", // sha1WithRSAEncryption
  "2a864886f70d01010e": "sha224",
  "2a864886f70d01010b": "sha256",
  "2a864886f70d01010c": "sha384",
  "2a864886f70d01010d": "sha512",
  "2a8648ce3d0401": "sha256", // ecdsa-with-SHA1
  "2a8648ce3d040301": "sha224",
  "2a8648ce3d040302": "sha256",
  "2a8648ce3d040303": "sha384",
  "2a8648ce3d040304": "sha512",
};

const SEQUENCE = 0x30;
const OBJECT_IDENTIFIER = 0x06;

/**
 * The hash of a certificate (DER) that both sides bind to; undefined where its signature has no digest of its own
 * (Ed25519) or leaves it to parameters (RSASSA-PSS): libpq fails there, so that PLUS must not be offered.
 */
export function endPointHash(certificate: Buffer): Buffer | undefined {
  const digest = DIGESTS[signatureAlgorithm(certificate)?.toString("hex") ?? ""];
  return digest === undefined ? undefined : createHash(digest).update(certificate).digest();
}

/** `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { OBJECT IDENTIFIER ... } ... }` */
function signatureAlgorithm(certificate: Buffer): Buffer | undefined {
  const outer = readElement(certificate, 0, SEQUENCE);
  const signed = outer && readElement(certificate, outer.start, SEQUENCE);
  const algorithm = signed && readElement(certificate, signed.end, SEQUENCE);
  const oid = algorithm && readElement(certificate, algorithm.start, OBJECT_IDENTIFIER);
  return oid && certificate.subarray(oid.start, oid.end);
}

/** Where the content of the DER element at `at` begins and ends; undefined unless it is whole and has this tag. */
function readElement(der: Buffer, at: number, tag: number): { start: number; end: number } | undefined {
  if (at + 2 > der.length || der[at] !== tag) return undefined;
  const first = der[at + 1] as number;
  const lengthBytes = first < 0x80 ? 0 : first & 0x7f;
  const start = at + 2 + lengthBytes;
  if (lengthBytes > 4 || start > der.length) return undefined;
  const length = lengthBytes === 0 ? first : der.readUIntBE(at + 2, lengthBytes);
  return start + length > der.length ? undefined : { start, end: start + length };
}
