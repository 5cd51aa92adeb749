/**
 * What the matrix is played on: a PostgreSQL server that takes plain text and TLS, with a role for each way of asking for
 * a password, and the four proxies of client_auth x upstream_tls, to which clients may come as they like.
 */
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { createVerifier } from "../../../../src/protocol/scram/keys.ts";
import { startTlsFixture, type TlsFixture } from "../../../support/tls-fixture.ts";
import { CLIENT_AUTHS, UPSTREAM_LEGS, type Login } from "./cells.ts";

/** Of every role of the matrix. */
export const MATRIX_PASSWORD = "the password of the matrix";
const AUTH_PASSWORD = "the password of pgvpd_auth";
const ITERATIONS = 4_096;

const CREDENTIALS_SQL = new URL("../../../../sql/credentials.sql", import.meta.url);

const HBA = `
  host all postgres,pgvpd_auth,scram_user 127.0.0.1/32 scram-sha-256
  host all md5_user 127.0.0.1/32 md5
  host all trust_user 127.0.0.1/32 trust
`;

const ROLES = `
  CREATE ROLE trust_user LOGIN;
  SET password_encryption = 'md5';
  CREATE ROLE md5_user LOGIN PASSWORD '${MATRIX_PASSWORD}';
  SET password_encryption = 'scram-sha-256';
  CREATE ROLE scram_user LOGIN PASSWORD '${MATRIX_PASSWORD}';
  CREATE ROLE pgvpd_auth LOGIN PASSWORD '${AUTH_PASSWORD}';
  GRANT EXECUTE ON FUNCTION pgvpd.find_credential(text, text) TO pgvpd_auth;
`;

export interface Stage extends AsyncDisposable {
  readonly fixture: TlsFixture;
  /** Of the proxy that is configured as a login needs it. */
  portFor(login: Login): number;
}

export async function startStage(version: string): Promise<Stage> {
  const fixture = await startTlsFixture({ version, auth: HBA });
  try {
    await fixture.asSuperuser(await readFile(CREDENTIALS_SQL, "utf8"));
    await fixture.asSuperuser(ROLES);
    const verifiers = { credentials_file: await writeCredentials(fixture.folder), auth_user: "pgvpd_auth" };
    const ports = new Map<string, number>();
    for (const clientAuth of CLIENT_AUTHS) {
      for (const upstreamLeg of UPSTREAM_LEGS) {
        const { port } = await fixture.proxyWith({
          ...fixture.clientTls,
          ...(upstreamLeg === "TLS" ? fixture.upstreamTls : {}),
          ...(clientAuth === "scram" ? verifiers : {}),
          client_auth: clientAuth,
          login_throttle: 0,
        });
        ports.set(`${clientAuth} ${upstreamLeg}`, port);
      }
    }
    return {
      fixture,
      portFor: ({ clientAuth, upstreamLeg }) => ports.get(`${clientAuth} ${upstreamLeg}`) ?? 0,
      [Symbol.asyncDispose]: () => fixture[Symbol.asyncDispose](),
    };
  } catch (error) {
    await fixture[Symbol.asyncDispose]();
    throw error;
  }
}

/** A role that PostgreSQL trusts has no verifier there, so the file has one; the others' are found by auth_query. */
async function writeCredentials(folder: string): Promise<string> {
  const file = path.join(folder, "credentials");
  const verifier = await createVerifier(MATRIX_PASSWORD, ITERATIONS);
  await writeFile(file, `"pgvpd_auth" "${AUTH_PASSWORD}"\n"trust_user" "${verifier}"\n`, { mode: 0o600 });
  return file;
}
