/**
 * What the suites of the sealed context start from: one server with the same tables in a database without the seal
 * (`plain`) and in one for each carrier that its version has, one key, and whoever needs it the means to sign as pgvpd
 * does. The signature is computed here once more, from its description, and not with the proxy's own code.
 */
import { createHmac } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { Client } from "pg";
import { createKeyFile, readSealKeys, renderKeyInstallation, type SealKey } from "../../src/config/seal-keys.ts";
import type { StartOptions } from "../support/postgres.ts";
import { PASSWORD, startTenantFixture, type TenantFixture } from "../support/tenant-fixture.ts";

export type Carrier = "slot" | "signed";

/** Databases of the fixture: `plain` has no seal. */
export type Kind = Carrier | "plain";

const sealSql = readFileSync(new URL("../../sql/seal.sql", import.meta.url), "utf8");

/** PostgreSQL 14 has no rights on parameters, and so no slot. */
export const carriersOf = (version: string): Carrier[] => (Number(version) >= 15 ? ["slot", "signed"] : ["signed"]);

export const kindsOf = (version: string): Kind[] => [...carriersOf(version), "plain"];

export interface SealFixture extends TenantFixture {
  readonly keyFile: string;
  readonly key: SealKey;
  /** A session of `app_user` that does not come through pgvpd. The fixture ends it. */
  direct(database: string, user?: string, password?: string): Promise<Client>;
}

export interface SealFixtureOptions extends StartOptions {
  /** Run in `plain` before the others are made from it. */
  readonly schema?: string;
}

export async function startSealFixture({ schema, ...options }: SealFixtureOptions): Promise<SealFixture> {
  const fixture = await startTenantFixture(options);
  const folder = mkdtempSync(path.join(tmpdir(), "pgvpd-seal-"));
  const open: Client[] = [];
  const stop = async (): Promise<void> => {
    await Promise.all(open.map((client) => client.end().catch(() => {})));
    await fixture[Symbol.asyncDispose]();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const keyFile = path.join(folder, "context.key");
    createKeyFile(keyFile);
    const keys = readSealKeys(keyFile);
    if (schema !== undefined) await fixture.asSuperuser(schema);
    for (const kind of kindsOf(fixture.server.version)) {
      await fixture.asSuperuser(`CREATE DATABASE ${kind} TEMPLATE postgres`);
      if (kind !== "plain") await sealDatabase(fixture, kind, kind, keys);
    }
    const direct: SealFixture["direct"] = async (database, user = "app_user", password = PASSWORD) => {
      const client = new Client({ connectionString: fixture.server.url(database, user, password) });
      client.on("error", () => {});
      await client.connect();
      open.push(client);
      return client;
    };
    return { ...fixture, keyFile, key: keys[0] as SealKey, direct, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Runs sql/seal.sql in a database, and installs the keys. */
export async function sealDatabase(
  fixture: TenantFixture,
  database: string,
  carrier: Carrier,
  keys: readonly SealKey[],
): Promise<void> {
  await fixture.asSuperuser(`SET pgvpd.carrier = '${carrier}'; ${sealSql}`, database);
  await fixture.asSuperuser(renderKeyInstallation(keys), database);
}

/** What pgvpd.hello() answers. */
export interface Hello {
  readonly carrier: Carrier;
  readonly pid: number;
  readonly nonce: string;
  readonly now: string;
}

export async function hello(client: Client): Promise<Hello> {
  const { rows } = await client.query<Hello>("SELECT * FROM pgvpd.hello()");
  return rows[0] as Hello;
}

export interface Seal {
  readonly kid: number;
  readonly context: string;
  readonly expires: string;
  readonly mac: Buffer;
}

/** What a signature covers, where it is not to be what `hello` said and pgvpd would sign. */
export interface Covered {
  readonly version?: string;
  readonly pid?: number | string;
  readonly nonce?: string;
  readonly expires?: string | number;
  readonly database?: string;
  readonly context?: string;
}

export const contextOf = (tenant: string): string => JSON.stringify({ "app.current_tenant_id": tenant });

/** A signed context for the session that said `hello`, in the database of its carrier. */
export function sealFor(said: Hello, key: SealKey, tenant: string, covered: Covered = {}): Seal {
  const context = contextOf(tenant);
  const expires = String(BigInt(said.now) + 3600n);
  const full = { pid: said.pid, nonce: said.nonce, expires, database: said.carrier, context, ...covered };
  const parts =
    said.carrier === "slot"
      ? [covered.version ?? "pgvpd1", full.pid, full.nonce, full.database, full.context]
      : [covered.version ?? "pgvpd1s", full.pid, full.nonce, full.expires, full.database, full.context];
  return { kid: key.kid, context, expires, mac: createHmac("sha256", key.bytes).update(parts.join("|")).digest() };
}

export async function setContext(client: Client, { kid, context, expires, mac }: Seal): Promise<void> {
  await client.query("SELECT pgvpd.set_context($1, $2, $3, $4)", [kid, context, expires, mac]);
}

/** Does what pgvpd does at a login, on a session of the test's own. */
export async function enter(client: Client, key: SealKey, tenant: string, covered: Covered = {}): Promise<void> {
  await setContext(client, sealFor(await hello(client), key, tenant, covered));
}
