/**
 * Certificates, keys and CAs of one side, read from the files that the settings name and made into what node:tls takes.
 * What node:tls itself would notice only in a handshake, or never, is refused here.
 */
import { constants, createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createSecureContext, type SecureContext, type SecureContextOptions } from "node:tls";
import { oneLine } from "./one-line.ts";
import type { Config } from "./settings.ts";
import { naming, readSecretFile } from "./secret-file.ts";

interface FileSetting {
  readonly setting: string;
  /** Undefined where it is not set. */
  readonly path: string | undefined;
}

/** As PostgreSQL has it: a session that is resumed would bring no certificate, and nobody needs to renegotiate. */
const SECURE_OPTIONS = constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION;

/**
 * TLS 1.2 at least, no session tickets, no renegotiation.
 *
 * @throws Error with a text for the operator: the setting, the file, and what is wrong with it.
 */
export function loadTlsFiles(files: Record<"cert" | "key" | "ca", FileSetting>): SecureContext {
  return load(files).context;
}

/**
 * Certificate and key of the HTTP API, for node:https, which makes the context itself; undefined where there is none.
 *
 * @throws Error as loadTlsFiles.
 */
export function loadAdminTls(config: Pick<Config, "adminTlsCert" | "adminTlsKey">): SecureContextOptions | undefined {
  if (config.adminTlsCert === undefined) return undefined;
  return load({
    cert: { setting: "admin_tls_cert", path: config.adminTlsCert },
    key: { setting: "admin_tls_key", path: config.adminTlsKey },
    ca: { setting: "", path: undefined },
  }).options;
}

interface Loaded {
  readonly options: SecureContextOptions;
  readonly context: SecureContext;
}

function load(files: Record<"cert" | "key" | "ca", FileSetting>): Loaded {
  const cert = readFile(files.cert, readCertificates);
  const key = readFile(files.key, readPrivateKey);
  const ca = readFile(files.ca, readCertificates);
  if (cert && key && !new X509Certificate(cert).checkPrivateKey(createPrivateKey(key))) {
    throw new Error(`${describe(files.key)}: it is not the key of ${describe(files.cert)}`);
  }
  try {
    const options = {
      ...(cert && { cert }),
      ...(key && { key }),
      ...(ca && { ca }),
      minVersion: "TLSv1.2",
      secureOptions: SECURE_OPTIONS,
    } as const;
    return { options, context: createSecureContext(options) };
  } catch (cause) {
    const given = Object.values(files).filter(({ path }) => path !== undefined);
    throw new Error(`${given.map(describe).join(", ")}: ${(cause as Error).message}`, { cause });
  }
}

/** Undefined where the setting is not set. */
function readFile({ setting, path }: FileSetting, read: (path: string) => Buffer): Buffer | undefined {
  if (path === undefined) return undefined;
  try {
    return read(path);
  } catch (cause) {
    throw new Error(`${setting}: ${(cause as Error).message}`, { cause });
  }
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^]*?-----END CERTIFICATE-----/g;

/** One or several, each of them whole: OpenSSL would leave out those that are not. */
function readCertificates(path: string): Buffer {
  return naming(path, () => {
    const pem = readFileSync(path);
    const certificates = pem.toString("latin1").match(CERTIFICATE) ?? [];
    if (certificates.length === 0) throw new Error("it holds no certificate in PEM form");
    for (const [index, certificate] of certificates.entries()) {
      if (!isCertificate(certificate)) throw new Error(`its certificate ${index + 1} is broken`);
    }
    return pem;
  });
}

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0;
  } catch {
    return false;
  }
}

function readPrivateKey(path: string): Buffer {
  const pem = readSecretFile(path);
  return naming(path, () => {
    try {
      createPrivateKey(pem);
    } catch (cause) {
      // -----BEGIN ENCRYPTED PRIVATE KEY-----, or Proc-Type: 4,ENCRYPTED
      const isEncrypted = pem.includes("ENCRYPTED");
      const problem = isEncrypted
        ? "it has a passphrase: pgvpd takes a key without one"
        : "it holds no private key in PEM form";
      throw new Error(problem, { cause });
    }
    return pem;
  });
}

function describe({ setting, path = "" }: FileSetting): string {
  return `${setting}: ${oneLine(path)}`;
}
