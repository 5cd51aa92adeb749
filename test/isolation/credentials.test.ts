/**
 * A credential proves its own tenant and no other: each way in is tried with each password, and only the right one sees
 * rows, its own. Whatever else is wrong - name, tenant, an expired credential - looks the same on the wire, to the byte.
 */
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SettingValues } from "../../src/index.ts";
import { createVerifier } from "../../src/protocol/scram/keys.ts";
import { RawClient } from "../support/raw-client.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../support/tenant-fixture.ts";

const PASSWORDS = { acme: "acme's own", globex: "globex's own" } as const;
const TENANTS = ["acme", "globex"] as const;
const SOURCES = ["credentials_file", "auth_query"] as const;

let folder: string;
let fixture: TenantFixture;
const ports = new Map<string, number>();

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "pgvpd-credentials-"));
  fixture = await startTenantFixture({ auth: "scram" });
  const verifiers = {
    acme: await createVerifier(PASSWORDS.acme, 4_096),
    globex: await createVerifier(PASSWORDS.globex, 4_096),
  };

  const file = path.join(folder, "credentials.txt");
  const lines = TENANTS.map((tenant) => `"app_user" "${verifiers[tenant]}" tenants=${tenant}\n`);
  await writeFile(file, lines.join(""), { mode: 0o600 });

  await fixture.asSuperuser(await readFile(new URL("../../sql/credentials.sql", import.meta.url), "utf8"));
  await fixture.asSuperuser(`
    CREATE ROLE pgvpd_auth LOGIN PASSWORD '${PASSWORD}';
    GRANT EXECUTE ON FUNCTION pgvpd.find_credential(text, text) TO pgvpd_auth;
    CREATE ROLE old_user LOGIN VALID UNTIL 'yesterday';
    CREATE ROLE off_user NOLOGIN;
    CREATE ROLE bad_user LOGIN;
    INSERT INTO pgvpd.tenant_credentials (login_name, tenant, verifier, valid_until) VALUES
      ('app_user', 'acme', '${verifiers.acme}', NULL),
      ('app_user', 'globex', '${verifiers.globex}', 'tomorrow'),
      ('app_user', 'lapsed', '${verifiers.globex}', 'yesterday'),
      ('old_user', 'globex', '${verifiers.globex}', NULL),
      ('off_user', 'globex', '${verifiers.globex}', NULL);
  `);

  const common = { client_auth: "scram", upstream_password: PASSWORD, login_throttle: 0 };
  const sources: Record<(typeof SOURCES)[number], SettingValues> = {
    credentials_file: { credentials_file: file },
    auth_query: { auth_user: "pgvpd_auth" },
  };
  for (const source of SOURCES) {
    ports.set(source, (await fixture.proxyWith({ ...common, ...sources[source] })).port);
  }
});
afterAll(async () => {
  await fixture?.[Symbol.asyncDispose]();
  await rm(folder, { recursive: true, force: true });
});

describe.each(SOURCES)("a credential of %s", (source) => {
  const attempt = async (user: string, password: string): Promise<RawClient> => {
    const client = await RawClient.open({ host: "127.0.0.1", port: ports.get(source) ?? 0 });
    await client.logIn({ user, password, parameters: { database: "postgres" } });
    return client;
  };

  it.each(TENANTS.flatMap((tenant) => TENANTS.map((owner) => ({ tenant, owner }))))(
    "of $owner, used as app_user.$tenant, gives its own rows or 28P01",
    async ({ tenant, owner }) => {
      using client = await attempt(`app_user.${tenant}`, PASSWORDS[owner]);
      if (tenant !== owner) {
        expect(client.error).toMatchObject({ S: "FATAL", C: "28P01" });
        expect(client.key).toBeUndefined();
        return;
      }
      const rows = (await client.query("SELECT DISTINCT tenant_id FROM notes")).filter(({ type }) => type === "D");
      expect(rows.map(({ body }) => body.subarray(6).toString())).toEqual([tenant]);
    },
  );

  it("is refused in the same bytes, whatever is wrong", async () => {
    // Names of one length, so that nothing has to be left out of the comparison but the name.
    const wrong = {
      "a password of nobody": await attempt("app_user.globex", "wrong"),
      "an empty password": await attempt("app_user.globex", ""),
      "another tenant's password": await attempt("app_user.globex", PASSWORDS.acme),
      "another tenant's password, again": await attempt("app_user.globex", PASSWORDS.acme),
      "an unknown tenant": await attempt("app_user.hoolix", PASSWORDS.globex),
      "an unknown role": await attempt("not_user.globex", PASSWORDS.globex),
      "an expired credential": await attempt("app_user.lapsed", PASSWORDS.globex),
      "an expired role": await attempt("old_user.globex", PASSWORDS.globex),
      "a role that may not log in": await attempt("off_user.globex", PASSWORDS.globex),
      "a role without a password": await attempt("bad_user.globex", PASSWORDS.globex),
    };
    const reference = comparable(wrong["a password of nobody"]);
    expect(reference).toContain('password authentication failed for user "<the user name>"');
    for (const [what, client] of Object.entries(wrong)) {
      expect(client.isClosed, what).toBe(true);
      expect(client.types, what).toBe("RRE");
      expect(comparable(client), what).toBe(reference);
    }
  });
});

/**
 * Everything that the server has sent, but what is random by its nature: its part of the nonce and the salt, of which
 * length and padding stay; and the user's name, which has 15 characters.
 */
function comparable({ received }: RawClient): string {
  const masked = (text: string): string => text.replaceAll(/[A-Za-z0-9+/]/g, "x");
  return received
    .toString("latin1")
    .replace(/(?<=r=client-nonce-0123456789)[^,]+/, masked)
    .replace(/(?<=,s=)[^,]+/, masked)
    .replace(/"[a-z]{3}_user\.[a-z]{6}"/, '"<the user name>"');
}
