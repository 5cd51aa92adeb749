/** What pgvpd says of TLS when it starts: warnings of what a configuration costs, and why one cannot start. */
import { chmodSync, copyFileSync } from "node:fs";
import path from "node:path";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { createProxy, type SettingValues } from "../../../src/index.ts";
import {
  certificateFolder,
  makeAuthority,
  makeServerCertificate,
  type CertificateFiles,
} from "../../support/certificates.ts";
import { errorOf } from "../../support/tenant-fixture.ts";

const certificates = certificateFolder();
let own: CertificateFiles;
beforeAll(() => {
  own = makeServerCertificate(makeAuthority(certificates.folder));
});
afterAll(() => certificates[Symbol.dispose]());

/** What a proxy that starts with these settings logs as warnings. */
async function warningsOf(settings: SettingValues): Promise<string[]> {
  const lines: string[] = [];
  const logger = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
  const proxy = createProxy({ port: 0, upstream_host: "127.0.0.1", upstream_port: 1, ...settings }, { logger });
  onTestFinished(() => proxy.stop());
  await proxy.start();
  return lines.map((line) => (JSON.parse(line) as { msg: string }).msg);
}

describe("a start", () => {
  const clientTls = (): SettingValues => ({ tls_cert: own.certFile, tls_key: own.keyFile });

  it("without TLS, or with TLS on one leg, warns of nothing", async () => {
    expect(await warningsOf({})).toEqual([]);
    expect(await warningsOf(clientTls())).toEqual([]);
    expect(await warningsOf({ upstream_tls: true })).toEqual([]);
  });

  it("warns where the upstream server is not verified", async () => {
    expect(await warningsOf({ upstream_tls: true, upstream_tls_verify: false })).toEqual([
      expect.stringMatching(/^upstream_tls_verify is off/),
    ]);
  });

  it("warns of relayed logins between two legs with TLS, and not where pgvpd ends them", async () => {
    const both = { ...clientTls(), upstream_tls: true };
    expect(await warningsOf(both)).toEqual([expect.stringMatching(/^TLS on both legs with client_auth = relay/)]);
    const ended = { client_auth: "scram", pool_password: "x", upstream_password: "y", login_roles: "app_user" };
    expect((await warningsOf({ ...both, ...ended })).filter((text) => text.includes("relay"))).toEqual([]);
  });

  it("fails where a file cannot be used, and names the setting", async () => {
    const open = path.join(certificates.folder, "open.key");
    copyFileSync(own.keyFile, open);
    chmodSync(open, 0o644);
    expect((await errorOf(warningsOf({ ...clientTls(), tls_key: open }))).message).toBe(
      `tls_key: ${open}: others can read it: chmod 600 ${open}`,
    );
    expect((await errorOf(warningsOf({ upstream_tls: true, upstream_tls_ca: "/nowhere" }))).message).toBe(
      "upstream_tls_ca: /nowhere: there is no such file",
    );
  });
});
