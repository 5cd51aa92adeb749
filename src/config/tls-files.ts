/**
 * Certificates, keys and CAs of one side, read from the files that the settings name and made into what node:tls takes.
 */
import { readFileSync } from "node:fs";
import { createSecureContext, type SecureContext } from "node:tls";
import { explainFileError, readSecretFile } from "./secret-file.ts";

interface FileSetting {
  readonly setting: string;
  /** Undefined where it is not set. */
  readonly path: string | undefined;
}

/**
 * TLS 1.2 at least.
 *
 * @throws Error with a text for the operator: the setting, the file, and what is wrong with it.
 */
export function loadTlsFiles({ cert, key, ca }: Record<"cert" | "key" | "ca", FileSetting>): SecureContext {
  const options = {
    ...(cert.path === undefined ? {} : { cert: readPem(cert.setting, cert.path) }),
    ...(key.path === undefined ? {} : { key: explained(key, () => readSecretFile(key.path ?? "")) }),
    ...(ca.path === undefined ? {} : { ca: readPem(ca.setting, ca.path) }),
  };
  try {
    return createSecureContext({ ...options, minVersion: "TLSv1.2" });
  } catch (cause) {
    const names = [cert, key, ca].filter(({ path }) => path !== undefined).map(({ setting }) => setting);
    throw new Error(`${names.join(", ")}: cannot be used together: ${(cause as Error).message}`, { cause });
  }
}

function readPem(setting: string, path: string): Buffer {
  return explained({ setting, path }, () => {
    let bytes: Buffer;
    try {
      bytes = readFileSync(path);
    } catch (cause) {
      throw new Error(`${path}: ${explainFileError(cause as NodeJS.ErrnoException)}`, { cause });
    }
    if (!bytes.includes("-----BEGIN ")) throw new Error(`${path}: it holds no certificate in PEM form`);
    return bytes;
  });
}

function explained<T>({ setting }: FileSetting, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new Error(`${setting}: ${(cause as Error).message}`, { cause });
  }
}
