/**
 * A real server that speaks TLS as well as plain text, with tenants in it, and all certificates that TLS on both legs
 * takes. Tests put proxies in front of it with the settings that are ready here.
 */
import { readFileSync } from "node:fs";
import type { SettingValues } from "../../src/index.ts";
import {
  certificateFolder,
  makeAuthority,
  makeServerCertificate,
  serverTls,
  type Authority,
  type CertificateFiles,
} from "./certificates.ts";
import type { StartOptions } from "./postgres.ts";
import { startTenantFixture, type TenantFixture } from "./tenant-fixture.ts";

export interface TlsFixture extends TenantFixture {
  readonly folder: string;
  /** Signs everything here: pgvpd's certificate, the server's, and those of clients. */
  readonly authority: Authority;
  /** Its certificate, as Node's clients take it. */
  readonly ca: string;
  /** pgvpd's own, for localhost and 127.0.0.1. */
  readonly own: CertificateFiles;
  /** Settings of a proxy whose clients may use TLS. */
  readonly clientTls: SettingValues;
  /** Settings of a proxy that uses TLS to the server, and verifies it. */
  readonly upstreamTls: SettingValues;
}

export async function startTlsFixture(options: StartOptions = {}): Promise<TlsFixture> {
  const certificates = certificateFolder();
  const { folder } = certificates;
  const authority = makeAuthority(folder);
  const own = makeServerCertificate(authority, { file: "pgvpd" });
  const settings = await serverTls(makeServerCertificate(authority, { file: "postgres" }), authority);
  const fixture = await startTenantFixture({ ...options, settings: { ...settings, ...options.settings } });
  return {
    ...fixture,
    folder,
    authority,
    ca: readFileSync(authority.certFile, "utf8"),
    own,
    clientTls: { tls_cert: own.certFile, tls_key: own.keyFile },
    upstreamTls: { upstream_tls: true, upstream_tls_ca: authority.certFile },
    [Symbol.asyncDispose]: async () => {
      await fixture[Symbol.asyncDispose]();
      certificates[Symbol.dispose]();
    },
  };
}
