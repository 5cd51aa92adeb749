/**
 * Shows on a running proxy what it does, the part that it does not stop included: every step is a real connection and a
 * real statement, printed with the answer that came. A step whose answer is not what the text says fails the demo.
 */
import { Client, DatabaseError } from "pg";
import type { RunningDemo } from "./demo-folder.ts";
import { formatError, formatResult, queryText, textValues, type TextResult } from "./result-table.ts";
import { bold, dim, green, red, say, yellow } from "./terminal.ts";

type Door = Omit<RunningDemo, "pid">;

/** What a statement led to: its results, or the error that ended it. */
type Outcome = { readonly results: readonly TextResult[] } | { readonly error: unknown };

interface Step {
  readonly title: string;
  readonly user: string;
  readonly statement: string;
  /** Is the outcome what the step is there to show? */
  readonly shows: (outcome: Outcome) => boolean;
  readonly remark: string;
  readonly isWarning?: boolean;
}

/** Runs all steps. Throws when one has not shown what it should have. */
export async function showcase(door: Door, isSealed: boolean): Promise<void> {
  for (const [index, step] of steps(door.role, isSealed).entries()) {
    say();
    say(bold(`${index + 1}. ${step.title}`));
    say(dim(`   ${step.user}@127.0.0.1:${door.port}/${door.database}`));
    for (const line of step.statement.split("\n")) say(`   ${green(line)}`);
    say();
    const outcome = await run(door, step);
    print(outcome);
    if (isEmpty(outcome)) throw new Error("that tenant has no contacts left; start the demo over with --fresh");
    if (!step.shows(outcome)) throw new Error(`step ${index + 1} should have ended otherwise: this is a bug of pgvpd`);
    for (const line of step.remark.split("\n")) say(`   ${step.isWarning === true ? yellow(line) : line}`);
  }
}

function steps(role: string, isSealed: boolean): readonly Step[] {
  const everything = "SELECT * FROM contacts ORDER BY id;";
  return [
    {
      title: "acme asks for everything",
      user: `${role}.acme`,
      statement: everything,
      shows: (outcome) => seesOnly(outcome, "acme"),
      remark: "No WHERE clause: the tenant came with the user name, and row-level security filtered.",
    },
    {
      title: "globex sends the same statement",
      user: `${role}.globex`,
      statement: everything,
      shows: (outcome) => seesOnly(outcome, "globex"),
      remark: "Same table, same role, same password: other rows.",
    },
    {
      title: "No tenant in the user name",
      user: role,
      statement: everything,
      shows: (outcome) => failsWith(outcome, "28000"),
      remark: "No tenant, no session: the statement was never sent.",
    },
    {
      title: "acme writes a row for globex",
      user: `${role}.acme`,
      statement: "INSERT INTO contacts (tenant_id, name, email)\nVALUES ('globex', 'Mallory', 'mallory@acme.example');",
      shows: (outcome) => failsWith(outcome, "42501"),
      remark: "The policy checks what is written, too.",
    },
    isSealed ? sealedStep(role) : cooperativeStep(role),
  ];
}

const injection = "SET app.current_tenant_id = 'globex';\nSELECT * FROM contacts ORDER BY id;";

function sealedStep(role: string): Step {
  return {
    title: "acme sets the session variable itself, as injected SQL would",
    user: `${role}.acme`,
    statement: injection,
    shows: (outcome) => seesOnly(outcome, "acme"),
    remark:
      "Still acme's rows: the context is sealed. PostgreSQL takes it from pgvpd alone, with a signature\n" +
      "for this session, and no SQL can change it.",
  };
}

/** Where the context could not be sealed: only a superuser can install that. */
function cooperativeStep(role: string): Step {
  return {
    title: "acme sets the session variable itself",
    user: `${role}.acme`,
    statement: injection,
    shows: (outcome) => seesOnly(outcome, "globex"),
    remark:
      "Those are globex's rows: without sql/seal.sql, which takes a superuser to install here, session\n" +
      "variables are a cooperative boundary. They stop forgotten WHERE clauses, wrong joins and mixed-up\n" +
      "connections, but not somebody who can send SQL of their own as a tenant.",
    isWarning: true,
  };
}

async function run(door: Door, step: Step): Promise<Outcome> {
  const client = new Client({
    host: "127.0.0.1",
    port: door.port,
    database: door.database,
    user: step.user,
    password: door.password,
    ssl: false,
    application_name: "pgvpd demo",
    ...textValues,
  });
  client.on("error", () => {}); // the query under way rejects with it
  try {
    await client.connect();
    return { results: await queryText(client, step.statement) };
  } catch (error) {
    return { error };
  } finally {
    await client.end().catch(() => {});
  }
}

function print(outcome: Outcome): void {
  const text =
    "error" in outcome
      ? red(formatError(outcome.error))
      : outcome.results.map((result) => formatResult(result)).join("\n");
  for (const line of text.split("\n")) say(`   ${line}`);
  say();
}

/** A query that found nothing shows nothing: in a kept database somebody may have deleted the rows. */
function isEmpty(outcome: Outcome): boolean {
  return "results" in outcome && outcome.results.at(-1)?.command === "SELECT" && outcome.results.at(-1)?.rowCount === 0;
}

/** Rows there are, and all of one tenant. */
function seesOnly(outcome: Outcome, tenant: string): boolean {
  const last = "results" in outcome ? outcome.results.at(-1) : undefined;
  const column = last?.fields.findIndex((field) => field.name === "tenant_id") ?? -1;
  return last !== undefined && last.rows.length > 0 && last.rows.every((row) => row[column] === tenant);
}

function failsWith(outcome: Outcome, sqlstate: string): boolean {
  return "error" in outcome && outcome.error instanceof DatabaseError && outcome.error.code === sqlstate;
}
