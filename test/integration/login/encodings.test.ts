/**
 * A tenant's name that is not ASCII is the same tenant whatever the database is encoded in, whatever the client's own
 * encoding is, and however the context gets there; and the client gets the encoding that it would get without a proxy.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { RawClient } from "../../support/raw-client.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const versions = availableVersions().filter((version) => ["15", "18"].includes(version));
const databases = ["UTF8", "LATIN1", "LATIN9", "SQL_ASCII", "EUC_JP"] as const;
const clientEncodings = [undefined, "UTF8", "LATIN1", "SQL_ASCII"] as const;
const variants = [
  { context_injection: "startup" },
  { context_injection: "query" },
  { context_injection: "startup", upstream_startup_parameters: "-client_encoding" },
  { context_injection: "startup", upstream_startup_parameters: "-role" },
  { context_injection: "query", upstream_startup_parameters: "none" },
];

/** The text of the first row's first column, as bytes. */
async function ask(client: RawClient, sql: string): Promise<Buffer> {
  const row = (await client.query(sql)).find(({ type }) => type === "D");
  if (row === undefined) throw new Error(JSON.stringify(client.error));
  return row.body.subarray(6);
}

describe.each(versions)("PostgreSQL %s", (version) => {
  let fixture: TenantFixture;
  const ports = new Map<object, number>();
  beforeAll(async () => {
    fixture = await startTenantFixture({ version });
    for (const variant of variants) ports.set(variant, (await fixture.proxyWith(variant)).port);
    for (const encoding of databases) {
      const database = `in_${encoding.toLowerCase()}`;
      await fixture.asSuperuser(`CREATE DATABASE ${database} ENCODING '${encoding}' LOCALE 'C' TEMPLATE template0`);
      await fixture.asSuperuser(
        `CREATE TABLE kept (tenant_id text, body text);
         INSERT INTO kept VALUES ('ascii', 'plain'), ('globex', 'foreign');
         ALTER TABLE kept ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON kept USING (tenant_id = current_setting('app.current_tenant_id', true));
         GRANT SELECT ON kept TO app_user`,
        database,
      );
      // EUC_JP has no é in its first two planes that PostgreSQL converts to, but it has ω.
      const tenant = encoding === "EUC_JP" ? "tenantω" : "tenanté";
      await fixture.asSuperuser(`SET client_encoding = 'UTF8'; INSERT INTO kept VALUES ('${tenant}', 'own')`, database);
    }
  });
  afterAll(() => fixture?.[Symbol.asyncDispose]());

  /** Pairs between which PostgreSQL converts. */
  const cases = databases.flatMap((encoding) =>
    clientEncodings
      .filter((client) => client !== "LATIN1" || ["UTF8", "LATIN1", "SQL_ASCII"].includes(encoding))
      .map((client_encoding) => ({ encoding, client_encoding })),
  );

  describe.each(variants)(
    "with $context_injection, upstream_startup_parameters $upstream_startup_parameters",
    (variant) => {
      it.each(cases)(
        "a tenant of a database in $encoding sees its rows with client_encoding $client_encoding",
        async ({ encoding, client_encoding }) => {
          const database = `in_${encoding.toLowerCase()}`;
          const parameters = { database, ...(client_encoding === undefined ? {} : { client_encoding }) };
          const tenant = encoding === "EUC_JP" ? "tenantω" : "tenanté";
          const login = { user: `app_user.${tenant}`, password: PASSWORD, parameters };
          using client = await RawClient.logIn({ host: "127.0.0.1", port: ports.get(variant) ?? 0 }, login);
          expect(String(await ask(client, "SELECT string_agg(body, ',') FROM kept"))).toBe("own");

          using direct = await RawClient.logIn(fixture.server, { ...login, user: "app_user" });
          const inForce = "SHOW client_encoding";
          const expected = String(await ask(direct, inForce));
          expect(String(await ask(client, inForce))).toBe(expected);
          expect(reported(client)).toBe(expected);
          if (encoding !== "SQL_ASCII" && client_encoding === "LATIN1") {
            expect(await ask(client, "SELECT chr(233)")).toEqual(Buffer.of(0xe9));
          }
        },
      );
    },
  );

  it.each(["LATIN1", "LATIN9", "EUC_JP"])(
    "a name that a database in %s cannot hold gets no session",
    async (encoding) => {
      for (const port of ports.values()) {
        const client = await RawClient.open({ host: "127.0.0.1", port });
        const parameters = { database: `in_${encoding.toLowerCase()}` };
        await client.logIn({ user: "app_user.tenant😀", password: PASSWORD, parameters });
        expect(client.error).toMatchObject({ S: "FATAL", C: "28000", M: "the session context could not be set" });
      }
    },
  );
});

/** The client_encoding that the login's last ParameterStatus told. */
function reported(client: RawClient): string | undefined {
  const values = client.messages
    .filter(({ type }) => type === "S")
    .map(({ body }) => body.toString("latin1").split("\0"));
  return values.findLast(([name]) => name === "client_encoding")?.[1];
}
