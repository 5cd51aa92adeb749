/**
 * A server that `--database-url` names, and what the URL's `sslmode` means: for a client of our own, and for the settings
 * of a pgvpd in front of that server. As libpq has it, but for the modes that would fall back to plain text: pgvpd never does.
 */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";
import type { ConnectionOptions } from "node:tls";
import type { SettingValues } from "./load.ts";
import { naming } from "./secret-file.ts";

const MODES = ["disable", "require", "verify-ca", "verify-full"];

export interface DatabaseUrl {
  /** The URL without its parameters of TLS. */
  readonly connectionString: string;
  /** How a client of our own encrypts; undefined where the URL does not say. */
  readonly ssl: false | ConnectionOptions | undefined;
  /** The settings of TLS to that server. */
  readonly settings: SettingValues;
}

/**
 * `require` verifies where there is a CA, as libpq has it; `verify-ca` checks the
 * host's name too, as pgvpd does.
 *
 * @param home where libpq looks for a CA by itself, in `.postgresql/root.crt`.
 * @throws Error with a text for the user, without the URL: it may hold a password.
 */
export function readDatabaseUrl(text: string, home = homedir()): DatabaseUrl {
  const url = /^postgres(ql)?:\/\//.test(text) && URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined) throw new Error("expected postgres://USER@HOST:PORT/DATABASE");
  const take = (name: string): string | undefined => {
    const value = url.searchParams.get(name) ?? undefined;
    url.searchParams.delete(name);
    return value === "" ? undefined : value;
  };
  const isDemanded = ["true", "1"].includes(take("ssl") ?? "");
  const mode = take("sslmode") ?? (isDemanded ? "verify-full" : undefined);
  const [rootCert, cert, key] = [take("sslrootcert"), take("sslcert"), take("sslkey")];
  const host = decodeURIComponent(url.searchParams.get("host") ?? url.hostname).replace(/^\[|\]$/g, "");
  const connectionString = url.href;
  if (mode === undefined) return { connectionString, ssl: undefined, settings: {} };
  if (!MODES.includes(mode)) throw new Error(`sslmode is one of ${MODES.join(", ")}, not ${JSON.stringify(mode)}`);
  // A Unix-domain socket is never encrypted.
  const isLocal = host === "" || host.startsWith("/");
  if (mode === "disable" || isLocal) return { connectionString, ssl: false, settings: {} };

  const defaultRootCert = path.join(home, ".postgresql/root.crt");
  const ca = rootCert ?? (existsSync(defaultRootCert) ? defaultRootCert : undefined);
  const isVerified = mode !== "require" || ca !== undefined;
  const files = { ca: ca === "system" ? undefined : ca, cert, key };
  const found = Object.entries(files).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return {
    connectionString,
    // The host is what the certificate is checked against: pg itself names it only where it is no address.
    ssl: {
      host,
      rejectUnauthorized: isVerified,
      ...Object.fromEntries(found.map(([name, file]) => [name, naming(file, () => readFileSync(file))])),
    },
    settings: {
      upstream_tls: true,
      upstream_tls_verify: isVerified,
      ...Object.fromEntries(found.map(([name, file]) => [`upstream_tls_${name}`, path.resolve(file)])),
    },
  };
}
