/**
 * Attacks that are carried out: in a transaction that is rolled back, on a table that is made for it, two tenants that
 * nobody has. Each attack starts as the proxy leaves a session: the context of the first tenant, the role of tenants. It
 * touches no table of the application and takes no lock that another session could wait for.
 */
import { randomBytes, randomInt } from "node:crypto";
import { DatabaseError, type Client } from "pg";
import { padKey, readSealKeys, type SealKey } from "../config/seal-keys.ts";
import { HELLO, signContext } from "../proxy/context/seal.ts";
import { attacksOn, type Attack, type Ground } from "./attacks.ts";
import { LOCKED, shared, sharedValues } from "./catalog-check.ts";
import { combine, type Finding, type Look, type NotChecked } from "./finding.ts";
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
  /** Who could take over our rights by what is called here, and what that is. */
  readonly stranger: string | null;
  readonly strangers: string | null;
}

/**
 * What runs here that is not PostgreSQL's own: the functions of pgvpd, by their exact signature where others may create
 * in the schema, and those of event triggers. Whoever owns one decides what it does with the rights of the session, and
 * SET ROLE before it is no barrier: the function takes it back.
 */
const CALLED = `called AS (
    SELECT p.oid::regprocedure::text AS name, p.proowner AS owner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'pgvpd' OR p.oid IN (to_regprocedure('public.pgvpd_protect(text,text,text,text)'), to_regprocedure('public.current_tenant_id()'))
    UNION ALL SELECT 'schema pgvpd', n.nspowner FROM pg_namespace n WHERE n.nspname = 'pgvpd'
    UNION ALL SELECT p.oid::regprocedure::text, p.proowner FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid WHERE e.evtenabled <> 'D'),
  strangers AS ( -- sql/seal.sql makes pgvpd_owner, as whom nobody logs in
    SELECT c.name, r.rolname FROM called c JOIN pg_roles r ON r.oid = c.owner
    WHERE NOT r.rolsuper AND r.rolname <> current_user
      AND NOT (r.rolname = 'pgvpd_owner' AND NOT r.rolcanlogin AND NOT EXISTS (
        SELECT FROM pg_auth_members m JOIN pg_roles b ON b.oid = m.member WHERE m.roleid = r.oid AND NOT b.rolsuper AND b.rolname <> current_user)))`;

const RIGHTS = shared(`, ${CALLED}
  SELECT pg_is_in_recovery() AS "isRecovering", has_database_privilege(current_database(), 'CREATE') AS "mayCreate",
    EXISTS (SELECT FROM scope s JOIN pg_roles r ON r.rolname = s.application_role WHERE pg_has_role(r.oid, 'MEMBER')) AS "mayBecome",
    EXISTS (SELECT FROM called WHERE owner IN (SELECT oid FROM reach)) AS "isHijacked",
    (SELECT min(rolname::text) FROM strangers) AS stranger,
    (SELECT string_agg(name, ', ' ORDER BY name) FROM (SELECT * FROM strangers WHERE rolname = (SELECT min(rolname::text) FROM strangers) LIMIT 3) AS first) AS strangers`);

async function requireRights(client: Client, scope: Scope): Promise<void> {
  const { rows } = await client.query<Rights>(RIGHTS, sharedValues(scope));
  const { isRecovering, mayCreate, mayBecome, isHijacked, stranger, strangers } = rows[0] as Rights;
  if (!scope.tenantRoles.includes(scope.applicationRole))
    throw new NotPossible("there is no role of tenants to try as");
  if (isRecovering) throw new NotPossible("this is a standby: ask the primary");
  if (isHijacked) throw new NotPossible("functions of pgvpd belong to a role that tenants can become: mend that first");
  if (stranger !== null) {
    throw new NotPossible(
      `what would be called belongs to role ${stranger} (${strangers}), which could take over the rights of ${scope.role}: run the doctor as ${stranger}, or install the SQL of pgvpd again as a superuser`,
    );
  }
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

  await actAsOwner(
    client,
    scope,
    "SELECT proowner AS oid FROM pg_proc WHERE oid = to_regprocedure('public.pgvpd_protect(text,text,text,text)')",
  );
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

/** What is made and written belongs to whom it would belong to; what is called, see `CALLED`. */
async function actAsOwner(client: Client, { isSuperuser }: Scope, question: string): Promise<void> {
  if (!isSuperuser) return;
  await client.query(`SELECT set_config('role', r.rolname, true) FROM (${question}) AS o JOIN pg_roles r USING (oid)`);
}

/** As sql/setup.sql protects a table; without it, as policies by hand do. */
async function protect(client: Client, scope: Scope, schema: string, table: string): Promise<void> {
  const isSetUp = "SELECT to_regprocedure('public.pgvpd_protect(text,text,text,text)') IS NOT NULL AS found";
  const { rows } = await client.query<{ found: boolean }>(isSetUp);
  if (rows[0]?.found) {
    // All arguments, typed: another function of the name must not make the call ambiguous.
    const call = "SELECT public.pgvpd_protect($1::text, 'tenant_id'::text, $2::text, 'pg_catalog, pg_temp'::text)";
    await client.query(call, [table, scope.applicationRole]);
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
  const notChecked: NotChecked[] = [];
  for (const attack of attacksOn(ground)) {
    const isOpen = await within(client, async () => {
      await enter(client, ground, attack.isWithoutTenant ? undefined : ground.own.tenant);
      return succeeds(client, ground, attack);
    });
    if (isOpen === true) findings.push(attack.finding);
    if (isOpen instanceof Error) notChecked.push({ what: attack.finding.code, reason: isOpen.message });
  }
  const look = { findings, notChecked };
  return onTables ? combine([look, await tryTables(client, ground)]) : look;
}

/**
 * As the proxy leaves a session; without a tenant, one that has no context at all. A superuser logs in anew, as it were:
 * RESET ROLE leads to where it leads a tenant. That is no barrier to code that is not ours: SET SESSION AUTHORIZATION
 * asks who logged in, and takes a superuser back. So only functions that are trusted run here (`CALLED`), and others in
 * the reader of `createReader`.
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
    if (attack.success === "no error") return true;
    if (attack.success === "change") return changed > 0;
    return attack.success === "rows" && (await readBodies(client, table)).includes(other.body);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return attack.success === "message" && error.message.includes(other.body);
  }
}

/** The server said no, as it should; not a lock, a time limit, a lack of memory or a lost session, which say nothing. */
function isRefusal(error: unknown): error is DatabaseError {
  return error instanceof DatabaseError && !/^(25|40|53|55P03|57|58|XX)/.test(error.code ?? "XX");
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

/**
 * Policies call functions that may be anybody's. Below a SECURITY DEFINER function PostgreSQL refuses SET ROLE and SET
 * SESSION AUTHORIZATION, so they have the rights of the application role and no way to those of the session.
 */
async function createReader(client: Client, { table, scope }: Ground): Promise<string> {
  const schema = table.slice(0, table.indexOf("."));
  const reader = `${schema}.has_row`;
  if (scope.isSuperuser) await client.query("SELECT set_config('role', 'none', true)"); // it may be the owner of the keys
  await client.query(`CREATE FUNCTION ${reader}(name text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ DECLARE found boolean; BEGIN EXECUTE 'SELECT EXISTS (SELECT FROM ' || name || ' LIMIT 1)' INTO found; RETURN found; END $$`);
  const { rows } = await client.query<{ statement: string }>(
    `SELECT format('GRANT CREATE ON SCHEMA %1$s TO %2$I; ALTER FUNCTION %1$s.has_row(text) OWNER TO %2$I; REVOKE CREATE ON SCHEMA %1$s FROM %2$I', $1::text, $2::text) AS statement`,
    [schema, scope.applicationRole],
  );
  for (const { statement } of rows) await client.query(statement);
  return reader;
}

/** Asks each for a row, which no policy should show. */
async function tryTables(client: Client, ground: Ground): Promise<Look> {
  const { rows } = await client.query<{ name: string }>(TABLES, sharedValues(ground.scope));
  const reader = await createReader(client, ground);
  const findings: Finding[] = [];
  const notChecked: NotChecked[] = [];
  for (const { name } of rows.filter((row) => row.name !== ground.table)) {
    for (const tenant of [undefined, ground.own.tenant]) {
      const ask = (): Promise<boolean | Error> =>
        within(client, async () => {
          await enter(client, ground, tenant);
          return hasRow(client, reader, name);
        });
      let isOpen = await ask();
      if (isOpen instanceof DatabaseError && isOpen.code === LOCKED) isOpen = await ask();
      if (isOpen instanceof Error) {
        notChecked.push({ what: `probe_table_open ${name}`, reason: isOpen.message });
        break;
      }
      if (!isOpen) continue;
      const who = tenant === undefined ? "a session without a tenant" : "a tenant that nobody has";
      const why = `${who} reads rows of it`;
      const fix = "-- look at its policies: SELECT * FROM pg_policies; the findings above name what widens them";
      findings.push({ code: "probe_table_open", severity: "error", object: name, why, fix });
      break;
    }
  }
  return { findings, notChecked };
}

/** A refusal is as good as no row. */
async function hasRow(client: Client, reader: string, name: string): Promise<boolean> {
  try {
    const { rows } = await client.query<{ found: boolean }>(`SELECT ${reader}($1) AS found`, [name]);
    return rows[0]?.found === true;
  } catch (error) {
    if (isRefusal(error)) return false;
    throw error;
  }
}
