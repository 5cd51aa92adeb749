/**
 * `npm run build && npx tsx bench/login-timing.ts [tries]`: whether the time that a refused login takes tells why it was
 * refused. Each kind of failure is tried as often (1,000 times), in turn, against the built program in front of a real
 * server: with credentials_file, and with auth_query, whose answers are kept or are not. It prints; nothing is judged.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { createVerifier } from "../src/protocol/scram/keys.ts";
import { client as frontend, startupMessage } from "../test/support/bytes.ts";
import { startPostgres, type PostgresServer } from "../test/support/postgres.ts";
import { RawClient } from "../test/support/raw-client.ts";
import { SCRAM_SHA_256, ScramClient } from "../test/support/scram.ts";
import { freePort, untilListening, Workbench } from "./measure/workbench.ts";
import { columns, formatNumber } from "./table.ts";

const program = fileURLToPath(new URL("../dist/main.js", import.meta.url));
const ownPassword = "what pgvpd logs in with";
const acme = "what acme logs in with";
const iterations = 4_096;

/** The first is what the others are compared with; the second is the same, and shows what chance does. */
const failures = {
  "wrong password": { user: "app_user.globex", password: "wrong" },
  "wrong password, again": { user: "app_user.globex", password: "wrong" },
  "another tenant's password": { user: "app_user.globex", password: acme },
  "unknown tenant": { user: "app_user.hoolix", password: acme },
  "unknown role": { user: "not_user.globex", password: acme },
  "expired credential": { user: "app_user.lapsed", password: acme },
  "expired role": { user: "old_user.globex", password: acme },
} as const;

type Failure = keyof typeof failures;
const names = Object.keys(failures) as Failure[];
const [reference] = names as [Failure];

async function main(tries: number, workbench: Workbench): Promise<void> {
  const server = await startPostgres({ auth: "scram" });
  workbench.onClose(() => server.stop());
  const verifiers = await prepare(server);
  const file = workbench.writeSecretFile(
    "credentials.txt",
    verifiers.map(({ tenant, verifier }) => `"app_user" "${verifier}" tenants=${tenant}\n`).join(""),
  );
  const setups = {
    credentials_file: [`credentials_file = ${file}`],
    "auth_query, answers kept for 5 s": ["auth_user = pgvpd_auth"],
    "auth_query, answers not kept": ["auth_user = pgvpd_auth", "auth_cache_ttl = 0"],
  };
  for (const [title, settings] of Object.entries(setups)) {
    const port = await startProxy(server, settings, workbench);
    await measure(port, Math.ceil(tries / 5)); // a program that is compiled while it runs has to have run
    process.stdout.write(`${title}, ${tries} tries each\n${table(await measure(port, tries))}\n\n`);
  }
}

/** Roles and credentials; returns those that are valid. */
async function prepare(server: PostgresServer): Promise<readonly { tenant: string; verifier: string }[]> {
  const verifiers = [
    { tenant: "acme", verifier: await createVerifier(acme, iterations) },
    { tenant: "globex", verifier: await createVerifier("what globex logs in with", iterations) },
  ];
  const superuser = new Client({ connectionString: server.url() });
  await superuser.connect();
  try {
    await superuser.query(`
      CREATE ROLE app_user LOGIN PASSWORD '${ownPassword}';
      CREATE ROLE old_user LOGIN VALID UNTIL 'yesterday';
      CREATE ROLE pgvpd_auth LOGIN PASSWORD '${ownPassword}'`);
    await superuser.query(readFileSync(new URL("../sql/credentials.sql", import.meta.url), "utf8"));
    await superuser.query("GRANT EXECUTE ON FUNCTION pgvpd.find_credential(text, text) TO pgvpd_auth");
    const insert =
      "INSERT INTO pgvpd.tenant_credentials (login_name, tenant, verifier, valid_until) VALUES ($1, $2, $3, $4)";
    for (const { tenant, verifier } of verifiers) await superuser.query(insert, ["app_user", tenant, verifier, null]);
    await superuser.query(insert, ["app_user", "lapsed", verifiers[0]?.verifier, "yesterday"]);
    await superuser.query(insert, ["old_user", "globex", verifiers[0]?.verifier, null]);
  } finally {
    await superuser.end();
  }
  return verifiers;
}

async function startProxy(server: PostgresServer, settings: readonly string[], workbench: Workbench): Promise<number> {
  const port = await freePort();
  const lines = [
    "listen_host = 127.0.0.1",
    `port = ${port}`,
    `upstream_host = ${server.host}`,
    `upstream_port = ${server.port}`,
    `upstream_password = ${ownPassword}`,
    "client_auth = scram",
    "login_throttle = 0",
    "log_level = off",
    ...settings,
  ];
  const config = workbench.writeSecretFile("pgvpd.conf", `${lines.join("\n")}\n`);
  const child = await workbench.spawn(process.execPath, [program, "serve", "--config", config]);
  await untilListening(child, port);
  return port;
}

/** Microseconds of each try, by kind of failure. Another kind goes first in each round. */
async function measure(port: number, tries: number): Promise<ReadonlyMap<Failure, readonly number[]>> {
  const took = new Map<Failure, number[]>(names.map((name) => [name, []]));
  for (let round = 0; round < tries; round++) {
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[(round + turn) % names.length] ?? reference;
      took.get(name)?.push(await refusedLogin(port, failures[name]));
    }
  }
  return took;
}

/** What the server takes for its answers to the StartupMessage, to the first and to the final message of SCRAM. */
async function refusedLogin(port: number, { user, password }: { user: string; password: string }): Promise<number> {
  using client = await RawClient.open({ host: "127.0.0.1", port });
  const scram = new ScramClient(password);
  let us = 0;
  const ask = async (request: Buffer): Promise<string> => {
    const startedAt = performance.now();
    client.send(request);
    const { type, body } = await client.readMessage();
    us += (performance.now() - startedAt) * 1000;
    return type === "R" ? body.toString("latin1", 4) : type;
  };
  await ask(startupMessage({ user, database: "postgres" }));
  const serverFirst = await ask(frontend.saslInitial(SCRAM_SHA_256, scram.first()));
  const end = await ask(frontend.saslResponse(scram.final(serverFirst)));
  if (end !== "E" || client.error["C"] !== "28P01") throw new Error(`${user}: not refused, but ${client.types}`);
  return us;
}

function table(took: ReadonlyMap<Failure, readonly number[]>): string {
  const standard = took.get(reference) ?? [];
  const head = [
    "",
    "p25 us",
    "median us",
    "p75 us",
    "p95 us",
    "median - first",
    "of its quartiles",
    "slower than first",
    "z",
  ];
  const rows = [...took].map(([name, values]) => {
    const [low, median, high, most] = [0.25, 0.5, 0.75, 0.95].map((share) => quantile(values, share)) as [
      number,
      number,
      number,
      number,
    ];
    const difference = median - quantile(standard, 0.5);
    const share = shareAbove(values, standard);
    const cells = [low, median, high, most, difference].map((value) => formatNumber(value, 0));
    const relative = `${formatNumber((difference / (high - low)) * 100, 0)} %`;
    return [name, ...cells, relative, formatNumber(share, 3), formatNumber(zScore(share, values.length), 1)];
  });
  return columns([head, ...rows]);
}

/** How often one of `values` is larger than one of `others`, of all pairs: 0.5 where they cannot be told apart. */
function shareAbove(values: readonly number[], others: readonly number[]): number {
  const sorted = others.toSorted((a, b) => a - b);
  let above = 0;
  for (const value of values) above += (countBelow(sorted, value, false) + countBelow(sorted, value, true)) / 2;
  return above / (values.length * others.length);
}

/** How many of `sorted` are smaller than `value`, or are at most as large. */
function countBelow(sorted: readonly number[], value: number, countsEqual: boolean): number {
  let from = 0;
  let to = sorted.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    const item = sorted[middle] ?? 0;
    if (item < value || (countsEqual && item === value)) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Mann and Whitney: of two samples of `count` each that are the same, 95 in 100 are within 2 of 0. */
function zScore(share: number, count: number): number {
  return (share - 0.5) / Math.sqrt((2 * count + 1) / (12 * count * count));
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length * share)] ?? Number.NaN;
}

const workbench = new Workbench();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => void workbench.cleanUp());
try {
  await main(Number(process.argv[2] ?? "1000"), workbench);
} finally {
  await workbench.cleanUp();
}
