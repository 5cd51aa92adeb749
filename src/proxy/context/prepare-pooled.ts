/**
 * Makes a pooled session a client's: discards what the last one has left, sets context and role, then the client's own
 * settings, in one round trip, or two where the context is sealed and the session has not said its nonce yet. Nothing of
 * the client's is sent before all of it is confirmed.
 */
import { randomBytes, randomInt } from "node:crypto";
import { serialize } from "pg-protocol";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { RecentKeys } from "../../lib/recent-keys.ts";
import type { Logger } from "../../observe/logger.ts";
import { decodeParameterStatus, withFatalSeverity } from "../../protocol/backend-messages.ts";
import { backend, IDLE } from "../../protocol/message-types.ts";
import { foldName } from "../../protocol/startup.ts";
import type { MessageStream } from "../message-stream.ts";
import type { ContextValue, TenantIdentity } from "../tenant/identity.ts";
import { Greeting, readUpstream, takeUpstream, UpstreamRefusal } from "../upstream/await-ready.ts";
import {
  encodePipeline,
  runPipeline,
  setConfig,
  type PipelineOutcome,
  type Row,
  type Statement,
} from "../upstream/pipeline.ts";
import { assertContextIs, assertMayBeUnsealed, emptied } from "./inject-context.ts";
import { assertRolesAreSafe, ROLE_QUESTION, type SafeRoles } from "./role-safety.ts";
import { HELLO, type Seal } from "./seal.ts";

const MARKER_BYTES = 16;
const DISCARD_ALL = "DISCARD ALL";

export interface PreparePooledServices {
  readonly config: Pick<Config, "contextSeal" | "allowUnsafeRoles">;
  readonly safeRoles: SafeRoles;
  /** Undefined with `context_seal = off`. */
  readonly seal: Seal | undefined;
  readonly unsealed: RecentKeys;
  readonly log: Logger;
}

/** What is prepared. */
export interface PooledTarget {
  readonly stream: MessageStream;
  /** Latest values that the server has reported. */
  readonly parameters: ReadonlyMap<string, string>;
  report(name: string, value: string): void;
  readonly baseline: ReadonlyMap<string, string>;
  /** Settings of clients that are in force; kept up to date. */
  readonly applied: Map<string, string>;
  /** What pgvpd.hello() has said, where the session was cleaned before. */
  readonly hello: readonly Row[] | undefined;
  isSealed: boolean;
}

/** Whose it becomes. */
export interface PooledClient {
  readonly identity: TenantIdentity;
  readonly resolved: readonly ContextValue[];
  readonly settings: ReadonlyMap<string, string>;
}

/** How much of it has to be done. */
export interface Extent {
  /** Somebody else's state is in the session. */
  readonly discards: boolean;
  readonly setsContext: boolean;
  /** A transaction of the client's is open. */
  readonly isInTransaction?: boolean;
}

/**
 * @throws ProxyError context_failed, unsafe_role (28000), barrier_failed, upstream_*: the session is to be destroyed;
 *   UpstreamRefusal with the server's own words where a setting of the client's fails (22023).
 */
export async function preparePooled(
  target: PooledTarget,
  client: PooledClient,
  { discards, setsContext, isInTransaction = false }: Extent,
  { config, safeRoles, seal, unsealed, log }: PreparePooledServices,
  signal: AbortSignal,
): Promise<void> {
  const { stream } = target;
  const { identity, resolved } = client;
  /** ParameterStatus of our own part: the client hears of what differs in the end. */
  const heard = new Greeting();
  const writes: Buffer[] = [];
  let mustDiscard = discards;
  if (mustDiscard) {
    writes.push(serialize.query(DISCARD_ALL));
    target.applied.clear();
  }

  let hello: readonly Row[] | undefined;
  if (setsContext && seal !== undefined) {
    hello = mustDiscard ? undefined : target.hello;
    if (hello === undefined) {
      const marker = newMarker();
      stream.write(Buffer.concat([...writes.splice(0), encodePipeline([mark(marker), HELLO])]));
      if (mustDiscard) await expectDiscarded(stream, target, signal);
      mustDiscard = false;
      const { results, error } = await runPipeline(stream, heard, signal, { mayBeInTransaction: isInTransaction });
      assertMarked(results[0], marker, error);
      if (error === undefined) {
        hello = results[1];
        target.isSealed = true;
      } else assertMayBeUnsealed(error, identity.database, { config, unsealed, log });
    }
  }

  const role = { name: "role", value: identity.targetRole };
  const context = [...identity.context, role, ...resolved];
  const asksRoles = setsContext && !config.allowUnsafeRoles && !safeRoles.has(identity);
  const marker = newMarker();
  let contextAt = 0;
  if (setsContext) {
    const ours: Statement[] = [mark(marker)];
    if (!discards && target.parameters.get("client_encoding") !== "UTF8") {
      ours.push(setConfig([{ name: "client_encoding", value: "UTF8" }]));
      target.applied.set("client_encoding", "UTF8");
    }
    contextAt = ours.length;
    ours.push(setConfig(context), ...emptied(identity, resolved));
    if (hello !== undefined) ours.push((seal as Seal).setContext(hello, [...identity.context, ...resolved]));
    if (asksRoles) ours.push({ sql: ROLE_QUESTION, values: [] });
    writes.push(encodePipeline(ours));
  }
  const changed = settingsToChange(target, client, discards);
  if (changed.length > 0) writes.push(encodePipeline(changed.map((setting) => setConfig([setting]))));
  if (writes.length === 0) {
    for (const [name, value] of client.settings) target.applied.set(name, value);
    return;
  }

  stream.write(Buffer.concat(writes));
  if (mustDiscard) await expectDiscarded(stream, target, signal);
  if (setsContext) {
    const { results, error } = await runPipeline(stream, heard, signal, { mayBeInTransaction: isInTransaction });
    assertMarked(results[0], marker, error);
    if (error !== undefined) throw new ProxyError("context_failed", { detail: error.text });
    assertContextIs(context, results[contextAt]);
    if (asksRoles) {
      assertRolesAreSafe(identity, results.at(-1) ?? []);
      safeRoles.add(identity);
    }
  }
  if (changed.length > 0) {
    const { error } = await runPipeline(stream, heard, signal, { mayBeInTransaction: isInTransaction });
    if (error !== undefined) throw new UpstreamRefusal(withFatalSeverity(error.response));
  }
  for (const [name, value] of client.settings) target.applied.set(name, value);
  for (const [name, value] of heard.parameters) target.report(name, value);
  if (!config.allowUnsafeRoles && target.parameters.get("is_superuser") === "on") {
    throw new ProxyError("unsafe_role", { params: { role: identity.targetRole, reason: "it is a superuser" } });
  }
}

/** client_encoding comes first: the values behind it are in that encoding. */
function settingsToChange(
  { baseline, applied }: PooledTarget,
  { settings }: PooledClient,
  isDiscarded: boolean,
): { name: string; value: Buffer }[] {
  const inForce = new Map([...baseline].map(([name, value]) => [foldName(name), value]));
  if (!isDiscarded) for (const [name, value] of applied) inForce.set(name, value);
  const changed = [...settings].filter(([name, value]) => inForce.get(name) !== value);
  changed.sort(([a], [b]) => Number(b === "client_encoding") - Number(a === "client_encoding"));
  return changed.map(([name, value]) => ({ name, value: Buffer.from(value, "latin1") }));
}

/** `CommandComplete` and `ReadyForQuery`; the session was at rest, so nothing else may come. */
async function expectDiscarded(stream: MessageStream, target: PooledTarget, signal: AbortSignal): Promise<void> {
  let isDiscarded = false;
  for (;;) {
    const { type, body } = takeUpstream(stream, signal) ?? (await readUpstream(stream, signal));
    if (type === backend.noticeResponse) continue;
    if (type === backend.parameterStatus) {
      const { name, value } = decodeParameterStatus(body);
      target.report(name, value);
    } else if (!isDiscarded && type === backend.commandComplete && body.toString("latin1") === `${DISCARD_ALL}\0`) {
      isDiscarded = true;
    } else if (isDiscarded && type === backend.readyForQuery && body.length === 1 && body[0] === IDLE) {
      return;
    } else {
      throw new ProxyError("barrier_failed", { detail: `'${String.fromCharCode(type)}' in answer to ${DISCARD_ALL}` });
    }
  }
}

function newMarker(): string {
  return randomBytes(MARKER_BYTES).toString("hex");
}

/** What nobody can know: that it comes back where it must shows that the answers are the ones to our own statements. */
function mark(marker: string): Statement {
  const seed = randomInt(2 ** 32) / 2 ** 32;
  return {
    sql: "SELECT $1::pg_catalog.text, pg_catalog.setseed($2::pg_catalog.float8)",
    values: [marker, String(seed)],
  };
}

function assertMarked(rows: readonly Row[] | undefined, marker: string, error: PipelineOutcome["error"]): void {
  if (rows?.length === 1 && rows[0]?.[0] === marker) return;
  throw new ProxyError("barrier_failed", { detail: error?.text ?? "an answer to something else" });
}
