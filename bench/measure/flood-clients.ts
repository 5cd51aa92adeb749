/**
 * A program of its own: clients of one tenant that spare nobody. Some log in and leave, with a right password and with a
 * wrong one; the others each want to run one slow query after the other, and those that are refused try again. It says
 * "ready", begins at SIGUSR2, and after its time prints what it did as JSON and ends.
 */
import { once } from "node:events";
import { setPriority } from "node:os";
import { client as frontend } from "../../test/support/bytes.ts";
import { RawClient } from "../../test/support/raw-client.ts";
import type { FloodFigures, FloodPlan } from "./flood.ts";

const plan = JSON.parse(process.argv[2] ?? "") as FloodPlan;
const { target, seconds, slowClients, loginClients, slowQuery } = plan;

const counts = { logins: 0, refused: 0, slowQueries: 0 };
const over = new AbortController();
/** Names of tenants that nobody has: a wrong password is not throttled under a new name. */
let strangers = 0;

/** A login that is refused or lost is counted, and no more. */
async function logIn(user: string, password: string): Promise<RawClient | undefined> {
  const { database } = target;
  try {
    const client = await RawClient.logIn(target, { user, password, parameters: { database } });
    counts.logins += 1;
    return client;
  } catch {
    counts.refused += 1;
    return undefined;
  }
}

async function slowClient(): Promise<void> {
  while (!over.signal.aborted) {
    const client = await logIn(target.user, target.password);
    // A connection that was ended is followed by the next one.
    if (client !== undefined) await runSlowQueries(client).catch(() => undefined);
    client?.[Symbol.dispose]();
  }
}

async function runSlowQueries(client: RawClient): Promise<void> {
  while (!over.signal.aborted) {
    const answer = await client.query(slowQuery);
    if (answer.some(({ type }) => type === "D")) counts.slowQueries += 1;
  }
}

async function loginClient(number: number): Promise<void> {
  while (!over.signal.aborted) {
    const isRight = number % 2 === 0;
    const user = isRight || !target.user.includes(".") ? target.user : `${target.user}-${strangers++}`;
    const client = await logIn(user, isRight ? target.password : "a wrong password");
    client?.send(frontend.terminate);
    await client?.untilClosed().catch(() => undefined);
  }
}

// Where they belong, on machines of their own, they would take no time from what is measured.
setPriority(19);

const begin = once(process, "SIGUSR2");
const keepAlive = setInterval(() => undefined, 1000);
process.stdout.write("ready\n");
await begin;
clearInterval(keepAlive);

const beganAtMs = Date.now();
setTimeout(() => {
  over.abort();
  const figures: FloodFigures = { ...counts, beganAtMs, endedAtMs: Date.now() };
  process.stdout.write(`${JSON.stringify(figures)}\n`, () => process.exit(0));
}, seconds * 1000);
for (let number = 0; number < slowClients; number += 1) void slowClient();
for (let number = 0; number < loginClients; number += 1) void loginClient(number);
