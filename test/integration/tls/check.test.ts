/** `pgvpd check` where upstream_tls is on: it makes the handshake that a session would, and says what is wrong with it. */
import { afterAll, beforeAll, expect, it } from "vitest";
import { readFileSync } from "node:fs";
import { checkUpstream } from "../../../src/check/check-upstream.ts";
import { configFromSettings } from "../../../src/config/load.ts";
import type { SettingValues } from "../../../src/index.ts";
import {
  makeAuthority,
  makeClientCertificate,
  makeServerCertificate,
  serverTls,
  type CertificateFiles,
} from "../../support/certificates.ts";
import { startPostgres } from "../../support/postgres.ts";
import { startTlsFixture, type TlsFixture } from "../../support/tls-fixture.ts";

let fixture: TlsFixture;
beforeAll(async () => {
  fixture = await startTlsFixture({ version: "18" });
});
afterAll(() => fixture?.[Symbol.asyncDispose]());

/** What it says of the fixture's server, or of the one at that port. */
async function check(settings: SettingValues, port = fixture.server.port): Promise<string> {
  const config = configFromSettings({
    upstream_host: "127.0.0.1",
    upstream_port: port,
    upstream_tls: true,
    upstream_tls_ca: fixture.authority.certFile,
    ...settings,
  });
  const [finding] = await checkUpstream(config);
  return `${finding?.verdict}: ${finding?.text}`.replace(`upstream: 127.0.0.1:${port}: `, "");
}

const refused = "error: could not connect to the upstream server over TLS: ";

it("a server that can be trusted is ok", async () => {
  expect(await check({})).toBe("ok: PostgreSQL answers over TLS, its certificate is verified");
});

it("a server that is not verified is ok, and that is said", async () => {
  expect(await check({ upstream_tls_ca: "", upstream_tls_verify: false })).toBe(
    "ok: PostgreSQL answers over TLS, its certificate is not verified",
  );
});

it("an authority that is not known is an error that names the setting", async () => {
  expect(await check({ upstream_tls_ca: "" })).toBe(
    `${refused}its certificate is signed by an authority that is not known here: set upstream_tls_ca ` +
      "(self-signed certificate in certificate chain)",
  );
});

it("a certificate of another name is an error that tells its names", async () => {
  const files = makeServerCertificate(fixture.authority, { names: ["db.example"], file: "elsewhere" });
  await using elsewhere = await startPostgres({ version: "18", settings: await serverTls(files) });
  expect(await check({}, elsewhere.port)).toMatch(
    /^error: .*its certificate is for another name than upstream_host \(.*IP: 127\.0\.0\.1 is not in the cert's list/,
  );
});

it("a server without TLS, or without direct TLS, is an error that says what to set", async () => {
  await using plain = await startPostgres({ version: "18" });
  expect(await check({}, plain.port)).toBe(`${refused}it does not accept TLS: set ssl = on in its postgresql.conf`);
  expect(await check({ upstream_tls_negotiation: "direct" }, plain.port)).toMatch(
    /upstream_tls_negotiation = direct needs PostgreSQL 17/,
  );
});

it("files that cannot be used are not this check's to report", async () => {
  expect(await check({ upstream_tls_ca: "/nowhere" })).toBe(
    "not checked: upstream: the files of its TLS have to be right first",
  );
});

it("a certificate of pgvpd's that the server does not take is an error", async () => {
  const stranger = makeAuthority(fixture.folder, { file: "stranger", commonName: "stranger" });
  const shown = (files: CertificateFiles): SettingValues => ({
    upstream_tls_cert: files.certFile,
    upstream_tls_key: files.keyFile,
  });
  expect(await check(shown(makeClientCertificate(stranger)))).toBe(
    "error: it refuses upstream_tls_cert (tlsv1 alert unknown ca): does its ssl_ca_file hold the authority?",
  );
  expect(await check(shown(makeClientCertificate(fixture.authority)))).toMatch(/^ok: /);
});

it("leaves nothing in the server's log", async () => {
  const before = readFileSync(fixture.server.logFile, "utf8").length;
  await check({});
  expect(readFileSync(fixture.server.logFile, "utf8").slice(before)).toBe("");
});
