/**
 * Logs in as a cell of the matrix says, in the client's own words, and tells what came of it.
 */
import { execFileSync } from "node:child_process";
import { Client as PgClient } from "pg";
import postgres from "postgres";
import { requireTool } from "../../../support/postgres.ts";
import { libpqs, runPsql, type Libpq } from "../../../support/psql.ts";
import type { Client, Login } from "./cells.ts";
import { userOf, WHO, type Answer } from "./rule.ts";
import { MATRIX_PASSWORD, type Stage } from "./stage.ts";

export type LogIn = (stage: Stage, login: Login) => Promise<Answer>;

const FINDERS: Readonly<Record<Client, () => LogIn | undefined>> = {
  "libpq 15": () => withLibpq((libpq, psql) => libpq.major === undefined && majorOf(psql) < 17),
  "libpq 18": () => withLibpq(({ major }) => major === 18),
  pg: () => logInWithPg,
  "postgres.js": () => logInWithPostgresJs,
};

/** Undefined for a client that is not on this machine. */
export function findClient(client: Client): LogIn | undefined {
  return FINDERS[client]();
}

function withLibpq(isRight: (libpq: Libpq, psql: string) => boolean): LogIn | undefined {
  const psql = requireTool("psql").path;
  if (psql === undefined) return undefined;
  const libpq = libpqs.find((candidate) => isRight(candidate, psql));
  return libpq && ((stage, login) => logInWithPsql(psql, libpq, stage, login));
}

function majorOf(psql: string): number {
  return Number(/\d+/.exec(execFileSync(psql, ["--version"], { encoding: "utf8" }))?.[0]);
}

async function logInWithPsql(psql: string, libpq: Libpq, stage: Stage, login: Login): Promise<Answer> {
  const { database: dbname, ...connection } = connectionOf(stage, login);
  const encrypted = { sslmode: "verify-full", sslrootcert: stage.fixture.authority.certFile };
  const words = {
    ...connection,
    dbname,
    channel_binding: login.binding,
    ...(login.clientLeg === "plain" ? { sslmode: "disable" } : encrypted),
    ...(login.clientLeg === "direct TLS" ? { sslnegotiation: "direct" } : {}),
  };
  return { text: await runPsql(psql, libpq, words, WHO) };
}

async function logInWithPg(stage: Stage, login: Login): Promise<Answer> {
  const client = new PgClient({
    ...connectionOf(stage, login),
    ssl: login.clientLeg === "plain" ? false : { ca: stage.fixture.ca },
    sslnegotiation: login.clientLeg === "direct TLS" ? "direct" : "postgres",
    enableChannelBinding: login.binding === "prefer",
  });
  client.on("error", () => {});
  try {
    await client.connect();
    const { rows } = await client.query<{ who: string }>(WHO);
    return { text: String(rows[0]?.who) };
  } catch (error) {
    return answerOf(error as Error);
  } finally {
    await client.end();
  }
}

async function logInWithPostgresJs(stage: Stage, login: Login): Promise<Answer> {
  const sql = postgres({
    ...connectionOf(stage, login),
    max: 1,
    ssl: login.clientLeg === "plain" ? false : { ca: stage.fixture.ca },
    ...(login.clientLeg === "direct TLS" ? { sslnegotiation: "direct" } : {}),
  });
  try {
    const rows = await sql.unsafe<{ who: string }[]>(WHO);
    return { text: String(rows[0]?.who) };
  } catch (error) {
    return answerOf(error as Error);
  } finally {
    await sql.end();
  }
}

function connectionOf(stage: Stage, login: Login) {
  return {
    host: "localhost",
    port: stage.portFor(login),
    user: userOf(login),
    password: MATRIX_PASSWORD,
    database: "postgres",
  };
}

function answerOf({ code, message }: Error & { code?: string }): Answer {
  return { text: message, sqlstate: code ?? "no SQLSTATE" };
}
