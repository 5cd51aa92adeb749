/**
 * Attacks that are carried out: in a transaction that is rolled back, on a table that is made for it, two tenants that
 * nobody has. Each attack starts as the proxy leaves a session: the context of the first tenant, the role of tenants. It
 * touches no table of the application and takes no lock that another session could wait for.
 */
import { randomBytes, randomInt } from "node:crypto";
import type { Client } from "pg";
import { padKey, readSealKeys, type SealKey } from "../config/seal-keys.ts";
import { HELLO, signContext } from "../proxy/context/seal.ts";
import { attacksOn, type Attack, type Ground } from "./attacks.ts";
import { shared, sharedValues } from "./catalog-check.ts";
import { combine, type Finding, type Look } from "./finding.ts";
import type { Scope } from "./scope.ts";

const LIMITS =
  "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '1s'; SET LOCAL idle_in_transaction_session_timeout = '30s'";

/** What pgvpd_protect() makes policies read. */
const USUAL_VARIABLE = "app.current_tenant_id";

/** Why nothing can be tried here. */
class NotPossible extends Error {}

/** @param onTables also asks every protected table for rows without a tenant, and for rows of one that nobody has. */
export async function probe(client: Client, scope: Scope, onTables: boolean): Promise<Look> {
  try {
    await requireRights(client, scope);
    await client.query("BEGIN READ WRITE");
    try {
      await client.query(LIMITS);
      return await tryAll(client, await prepare(client, scope), onTables);
    } finally {
      await client.query("ROLLBACK");
    }
  } catch (error) {
    return { findings: [], notChecked: [{ what: "probes", reason: (error as Error).message }] };
  }
}

interface Rights {
  readonly isRecovering: boolean;
  readonly mayCreate: boolean;
  readonly mayBecome: boolean;
  /** A function that would be called with our rights, and belongs to whom tenants can be. */
  readonly isHijacked: boolean;
}

const RIGHTS =
  shared(`SELECT pg_is_in_recovery() AS "isRecovering", has_database_privilege(current_database(), 'CREATE') AS "mayCreate",
    EXISTS (SELECT FROM scope s JOIN pg_roles r ON r.rolname = s.application_role WHERE pg_has_role(r.oid, 'MEMBER')) AS "mayBecome",
    EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('public', 'pgvpd') AND p.proname ~ '^(pgvpd_|current_tenant_id|hello|set_context)'
              AND (p.proowner IN (SELECT oid FROM reach) OR n.nspname = 'pgvpd' AND n.nspowner IN (SELECT oid FROM reach))) AS "isHijacked"`);

async function requireRights(client: Client, scope: Scope): Promise<void> {
  const { rows } = await client.query<Rights>(RIGHTS, sharedValues(scope));
  const { isRecovering, mayCreate, mayBecome, isHijacked } = rows[0] as Rights;
  if (!scope.tenantRoles.includes(scope.applicationRole))
    throw new NotPossible("there is no role of tenants to try as");
  if (isRecovering) throw new NotPossible("this is a standby: ask the primary");
  if (isHijacked) throw new NotPossible("functions of pgvpd belong to a role that tenants can become: mend that first");
  if (!mayCreate) throw new NotPossible(`role ${scope.role} may not create a schema: give the URL of an administrator`);
  if (!mayBecome) {
    throw new NotPossible(
      `role ${scope.role} may not SET ROLE ${scope.applicationRole}: give the URL of an administrator`,
    );
  }
}

/** Makes the table, and the key of this transaction. */
async function prepare(client: Client, scope: Scope): Promise<Ground> {
  const schema = `pgvpd_doctor_${randomBytes(6).toString("hex")}`;
  const table = `${schema}.notes`;
  const variables = [...new Set([scope.contextVariables[0] ?? USUAL_VARIABLE, USUAL_VARIABLE])];
  const tenants = ["own", "other"].map((name) => ({
    tenant: `doctor_${name}_${randomBytes(4).toString("hex")}`,
    body: `body_${randomBytes(8).toString("hex")}`,
  })) as [Ground["own"], Ground["other"]];
  const [own, other] = tenants;

  await actAsOwner(client, scope, "SELECT proowner AS oid FROM pg_proc WHERE oid = to_regproc('public.pgvpd_protect')");
  await client.query(`CREATE SCHEMA ${schema}`);
  await client.query(`CREATE TABLE ${table} (id int PRIMARY KEY, tenant_id text NOT NULL, body text NOT NULL)`);
  await client.query(`INSERT INTO ${table} VALUES (1, $1, $2), (2, $3, $4)`, [
    own.tenant,
    own.body,
    other.tenant,
    other.body,
  ]);
  await protect(client, scope, schema, table);
  const isSealed = scope.carrier === "slot" || scope.carrier === "signed";
  const key = isSealed ? await findKey(client, scope) : undefined;
  return { table, own, other, variables, scope, key };
}

/** What belongs to others is called and written with their rights, not with those of a superuser. */
async function actAsOwner(client: Client, { isSuperuser }: Scope, question: string): Promise<void> {
  if (!isSuperuser) return;
  await client.query(`SELECT set_config('role', r.rolname, true) FROM (${question}) AS o JOIN pg_roles r USING (oid)`);
}

/** As sql/setup.sql protects a table; without it, as policies by hand do. */
async function protect(client: Client, scope: Scope, schema: string, table: string): Promise<void> {
  const isSetUp = "SELECT to_regprocedure('public.pgvpd_protect(text,text,text,text)') IS NOT NULL AS found";
  const { rows } = await client.query<{ found: boolean }>(isSetUp);
  if (rows[0]?.found) {
    await client.query("SELECT public.pgvpd_protect($1, 'tenant_id', $2)", [table, scope.applicationRole]);
    return;
  }
  const { rows: statements } = await client.query<{ statement: string }>(
    `SELECT format('ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
       CREATE POLICY probe ON %1$s USING (tenant_id = (SELECT nullif(current_setting(%2$L, true), '''')));
       GRANT USAGE ON SCHEMA %3$s TO %4$I; GRANT SELECT, INSERT, UPDATE, DELETE ON %1$s TO %4$I', $1::text, $2::text, $3::text, $4::text) AS statement`,
    [table, scope.contextVariables[0] ?? USUAL_VARIABLE, schema, scope.applicationRole],
  );
  for (const { statement } of statements) await client.query(statement);
}

/** One that only this transaction knows; where we may not install it, the one that pgvpd signs with. */
async function findKey(client: Client, scope: Scope): Promise<SealKey> {
  const { config } = scope;
  await actAsOwner(client, scope, "SELECT relowner AS oid FROM pg_class WHERE oid = to_regclass('pgvpd.context_keys')");
  const { rows } = await client.query<{ may: boolean }>(
    "SELECT has_table_privilege('pgvpd.context_keys', 'INSERT') AS may",
  );
  if (rows[0]?.may) {
    const key = { kid: randomInt(100_000_000, 999_999_999), bytes: randomBytes(32) };
    const { inner, outer } = padKey(key);
    const insert = "INSERT INTO pgvpd.context_keys (kid, ipad, opad) VALUES ($1, decode($2, 'hex'), decode($3, 'hex'))";
    await client.query(insert, [key.kid, inner, outer]);
    return key;
  }
  const key = config.contextKeyFile === undefined ? undefined : readSealKeys(config.contextKeyFile).at(-1);
  if (key !== undefined) return key;
  throw new NotPossible("the context is sealed: give the URL of an administrator, or a --config with context_key_file");
}

async function tryAll(client: Client, ground: Ground, onTables: boolean): Promise<Look> {
  const ownRows = await within(client, async () => {
    await enter(client, ground, ground.own.tenant);
    return readBodies(client, ground.table);
  });
  if (ownRows instanceof Error || !ownRows.includes(ground.own.body)) {
    const reason =
      ownRows instanceof Error ? ownRows.message : "a tenant does not see its own row, so nothing can be said";
    return { findings: [], notChecked: [{ what: "probes", reason }] };
  }
  const findings: Finding[] = [];
  for (const attack of attacksOn(ground)) {
    const isOpen = await within(client, async () => {
      await enter(client, ground, attack.isWithoutTenant ? undefined : ground.own.tenant);
      return succeeds(client, ground, attack);
    });
    if (isOpen === true) findings.push(attack.finding);
  }
  const look = { findings, notChecked: [] };
  return onTables ? combine([look, await tryTables(client, ground)]) : look;
}

/**
 * As the proxy leaves a session; without a tenant, one that has no context at all. A superuser logs in anew, as it were:
 * RESET ROLE leads to where it leads a tenant, and no function of the database runs with his rights.
 */
async function enter(client: Client, ground: Ground, tenant: string | undefined): Promise<void> {
  const { variables, scope, key } = ground;
  const login = scope.loginRoles[0];
  if (scope.isSuperuser && login !== undefined) {
    await client.query("SELECT set_config('session_authorization', $1, true)", [login]);
  }
  await client.query("SELECT set_config('role', $1, true)", [scope.applicationRole]);
  if (tenant === undefined) return;
  if (key === undefined) {
    for (const name of variables) await client.query("SELECT set_config($1, $2, false)", [name, tenant]);
    return;
  }
  const hello = await client.query<unknown[]>({ text: HELLO.sql, rowMode: "array" });
  const answer = hello.rows.map((row) => row.map(String));
  const ttlSeconds = Math.floor(scope.config.contextSealTtlMs / 1000);
  const values = variables.map((name) => ({ name, value: tenant }));
  const { sql, values: bound } = signContext(key, ttlSeconds, answer, values);
  await client.query(sql, [...bound]);
}

async function succeeds(client: Client, { table, other }: Ground, attack: Attack): Promise<boolean> {
  let changed = 0;
  try {
    for (const statement of attack.sql) changed = (await client.query(statement)).rowCount ?? 0;
  } catch (error) {
    return attack.success === "message" && (error as Error).message.includes(other.body);
  }
  if (attack.success === "no error") return true;
  if (attack.success === "change") return changed > 0;
  return attack.success === "rows" && (await readBodies(client, table)).includes(other.body);
}

async function readBodies(client: Client, table: string): Promise<string[]> {
  const { rows } = await client.query<{ body: string }>(`SELECT body FROM ${table}`);
  return rows.map(({ body }) => body);
}

/** Nothing of it stays: not its rows, not its settings, not its role. @returns what it threw. */
async function within<T>(client: Client, work: () => Promise<T>): Promise<T | Error> {
  await client.query("SAVEPOINT probe");
  try {
    return await work();
  } catch (error) {
    return error as Error;
  } finally {
    await client.query("ROLLBACK TO SAVEPOINT probe");
  }
}

const TABLES =
  shared(`SELECT DISTINCT r.name FROM relations r JOIN grants g ON g.relid = r.oid AND g.privilege = 'SELECT'
  WHERE r.relkind IN ('r', 'p') AND r.relrowsecurity ORDER BY 1 LIMIT 1000`);

/** Reads at most one row of each, which no policy should show. */
async function tryTables(client: Client, ground: Ground): Promise<Look> {
  const { rows } = await client.query<{ name: string }>(TABLES, sharedValues(ground.scope));
  const findings: Finding[] = [];
  for (const { name } of rows.filter((row) => row.name !== ground.table)) {
    for (const tenant of [undefined, ground.own.tenant]) {
      const isOpen = await within(client, async () => {
        await enter(client, ground, tenant);
        return (await client.query(`SELECT FROM ${name} LIMIT 1`)).rowCount === 1;
      });
      if (isOpen !== true) continue;
      const who = tenant === undefined ? "a session without a tenant" : "a tenant that nobody has";
      const why = `${who} reads rows of it`;
      const fix = "-- look at its policies: SELECT * FROM pg_policies; the findings above name what widens them";
      findings.push({ code: "probe_table_open", severity: "error", object: name, why, fix });
      break;
    }
  }
  return { findings, notChecked: [] };
}
