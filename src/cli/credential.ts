/**
 * `pgvpd credential`: makes the SCRAM verifier of a password, as a line for credentials_file, as SQL for
 * pgvpd.tenant_credentials, or bare. The password comes from the terminal, a file or standard input: never from the
 * command line, which everybody on the machine can read.
 */
import { createInterface } from "node:readline";
import { Writable } from "node:stream";
import { parseArgs } from "node:util";
import { escapeLiteral } from "pg";
import { ConfigError } from "../config/config-error.ts";
import { oneLine, quoted } from "../config/one-line.ts";
import { naming, readPasswordFile } from "../config/secret-file.ts";
import { Secret } from "../config/secret.ts";
import { MAX_NAME_BYTES } from "../protocol/limits.ts";
import { createVerifier } from "../protocol/scram/keys.ts";

/** As the setting scram_iterations. */
const MIN_ITERATIONS = 4_096;
const MAX_ITERATIONS = 100_000;

const MAX_INPUT_BYTES = 4_096;

export const credentialUsage = `Usage: pgvpd credential --user ROLE [--tenants LIST] [options]

Makes the SCRAM verifier of a password and prints it: for credentials_file, or
for the table of sql/credentials.sql. With --tenants the password is good for
these tenants only. It is asked for twice on the terminal; elsewhere it is read
from standard input, one line, or from a file. It is never an argument.

Options:
  -U, --user ROLE           the role that clients log in as
      --tenants LIST        as acme,globex*; * stands for any text
      --format FORMAT       file (default): a line for credentials_file
                            sql: statements for psql, one for each tenant
                            verifier: the verifier alone, which PostgreSQL takes
                            too: ALTER ROLE ... PASSWORD 'SCRAM-SHA-256$...'
      --valid-until TIME    for sql: 2027-01-31 (from 0:00 UTC on it is not
                            valid) or 2027-01-31T18:00+01:00
      --iterations NUMBER   of the hash, ${MIN_ITERATIONS} (default) to ${MAX_ITERATIONS}
      --password-file FILE  one line, the password; nobody else may read FILE
  -h, --help                this text

  pgvpd credential --user app_user --tenants acme >> credentials.txt
  pgvpd credential --user app_user --tenants acme --format sql | psql
`;

interface Request {
  readonly user: string;
  readonly tenants: readonly string[];
  /** In ISO 8601, UTC. */
  readonly validUntil: string | undefined;
}

interface Format {
  readonly needs: readonly Flag[];
  readonly takes: readonly Flag[];
  readonly print: (verifier: string, request: Request) => string;
}

type Flag = "user" | "tenants" | "valid-until";

const formats: Readonly<Record<string, Format>> = {
  file: {
    needs: ["user"],
    takes: ["user", "tenants"],
    print: (verifier, { user, tenants }) => {
      const binding = tenants.length === 0 ? "" : ` tenants=${tenants.map(quoteTenant).join(",")}`;
      return `"${user.replaceAll('"', '""')}" "${verifier}"${binding}\n`;
    },
  },
  sql: {
    needs: ["user", "tenants"],
    takes: ["user", "tenants", "valid-until"],
    print: (verifier, { user, tenants, validUntil }) =>
      tenants.map((tenant) => renderInsert([user, tenant, verifier, validUntil])).join(""),
  },
  verifier: { needs: [], takes: [], print: (verifier) => `${verifier}\n` },
};

/** As credentials_file reads it: quotes around what is not plain, and `*` outside of them. */
function quoteTenant(tenant: string): string {
  if (/^[^\s",;#]+$/.test(tenant)) return tenant;
  const parts = tenant.split("*").map((part) => (part === "" ? "" : `"${part.replaceAll('"', '""')}"`));
  return parts.join("*");
}

/** @returns the exit code. Throws an Error whose message is for the user. */
export async function credential(args: readonly string[]): Promise<number> {
  const { format, request, iterations, passwordFile } = parseFlags(args);
  const password = passwordFile === undefined ? await readPassword() : readPasswordFile(passwordFile);
  process.stdout.write(format.print(await createVerifier(password.reveal(), iterations), request));
  return 0;
}

function parseFlags(args: readonly string[]) {
  const { values, positionals } = readFlags(args);
  const problems: string[] = [];
  // Not repeated: it may be a password.
  if (positionals.length > 0) problems.push("unexpected argument: everything is a flag, and a password never is");

  const name = values.format ?? "file";
  const format = Object.hasOwn(formats, name) ? formats[name] : undefined;
  if (format === undefined) throw new ConfigError([...problems, `--format: expected ${listed(Object.keys(formats))}`]);
  for (const flag of ["user", "tenants", "valid-until"] as const) {
    if (values[flag] === undefined && format.needs.includes(flag))
      problems.push(`--${flag}: --format ${name} needs it`);
    if (values[flag] !== undefined && !format.takes.includes(flag)) {
      problems.push(`--${flag}: --format ${name} has no place for it`);
    }
  }

  const { user = "", tenants: list } = values;
  if (values.user !== undefined && !isName(user)) {
    problems.push(`--user: expected the name of a role, at most ${MAX_NAME_BYTES} bytes`);
  }
  const tenants = list === undefined ? [] : [...new Set(list.split(",").map((tenant) => tenant.trim()))];
  for (const tenant of tenants) {
    if (tenant === "" || oneLine(tenant) !== tenant)
      problems.push(`--tenants: ${quoted(tenant)}: expected acme,globex*`);
  }
  const iterations = Number(values.iterations ?? MIN_ITERATIONS);
  if (!Number.isInteger(iterations) || iterations < MIN_ITERATIONS || iterations > MAX_ITERATIONS) {
    problems.push(`--iterations: expected a number from ${MIN_ITERATIONS} to ${MAX_ITERATIONS}`);
  }
  const until = values["valid-until"];
  const validUntil = until === undefined ? undefined : parseTime(until);
  if (until !== undefined && validUntil === undefined) {
    problems.push(`--valid-until: expected 2027-01-31 or 2027-01-31T18:00+01:00, not ${quoted(until)}`);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return { format, request: { user, tenants, validUntil }, iterations, passwordFile: values["password-file"] };
}

function readFlags(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        user: { type: "string", short: "U" },
        tenants: { type: "string" },
        format: { type: "string" },
        "valid-until": { type: "string" },
        iterations: { type: "string" },
        "password-file": { type: "string" },
      },
    });
  } catch (error) {
    // Its further sentences advise how to write arguments, of which there are none.
    const [problem = ""] = (error as Error).message.split(/\. |\n/);
    throw new ConfigError([`${problem}: pgvpd help credential lists the flags; a password is none of them`]);
  }
}

function isName(name: string): boolean {
  return name !== "" && Buffer.byteLength(name) <= MAX_NAME_BYTES && oneLine(name) === name;
}

/** `2027-01-31` or with a time and its zone, in UTC; undefined for anything else, such as the 30th of February. */
function parseTime(text: string): string | undefined {
  const [, day] = /^(\d{4}-\d{2}-\d{2})(?:T\d{2}:\d{2}(?::\d{2})?(?:Z|[+-]\d{2}:\d{2}))?$/.exec(text) ?? [];
  if (day === undefined) return undefined;
  const [midnight, time] = [new Date(day), new Date(text)];
  const isDate = !Number.isNaN(time.valueOf()) && midnight.toISOString().startsWith(day);
  return isDate ? time.toISOString() : undefined;
}

function listed(names: readonly string[]): string {
  return `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;
}

/** Quoted so that any setting of standard_conforming_strings reads the same. */
function renderInsert(values: readonly (string | undefined)[]): string {
  const literals = values.map((value) => (value === undefined ? "NULL" : escapeLiteral(value).trimStart()));
  return `INSERT INTO pgvpd.tenant_credentials (login_name, tenant, verifier, valid_until)
  VALUES (${literals.join(", ")})
  ON CONFLICT (login_name, tenant) DO UPDATE
  SET verifier = excluded.verifier, valid_until = excluded.valid_until, created_at = excluded.created_at;
`;
}

async function readPassword(): Promise<Secret> {
  const password = process.stdin.isTTY ? await askTwice() : await readInput();
  if (password === "") throw new Error("the password is empty");
  return new Secret(password);
}

/** The questions go to stderr: stdout may be a file. */
async function askTwice(): Promise<string> {
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const terminal = createInterface({ input: process.stdin, output: silent, terminal: true, historySize: 0 });
  const lines = terminal[Symbol.asyncIterator]();
  const ask = async (question: string): Promise<string> => {
    process.stderr.write(question);
    const line = await lines.next();
    process.stderr.write("\n");
    if (line.done === true) throw new Error("no password was given");
    return line.value;
  };
  try {
    const password = await ask("Password: ");
    if (password !== "" && password !== (await ask("Again: "))) throw new Error("the two passwords differ");
    return password;
  } finally {
    terminal.close();
  }
}

/** Standard input to its end: one line, with or without a line ending. */
async function readInput(): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_INPUT_BYTES) throw new Error(`standard input: expected at most ${MAX_INPUT_BYTES} bytes`);
    chunks.push(chunk);
  }
  return naming("standard input", () => {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
    const password = text.replace(/\r?\n$/, "");
    if (/[\r\n\0]/.test(password)) throw new Error("expected one line, the password");
    return password;
  });
}
