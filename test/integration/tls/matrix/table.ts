/**
 * The matrix as docs/authentication.md shows it: rows and columns that say the same are one, and an outcome that not all
 * clients and servers have names those that have it.
 */
import {
  BINDINGS,
  canSay,
  CLIENT_AUTHS,
  CLIENT_LEGS,
  CLIENTS,
  ROLES,
  UPSTREAM_LEGS,
  WORDS,
  type Client,
  type Login,
} from "./cells.ts";
import { REFUSALS } from "./rule.ts";

/** What came of a login with a client on a version of PostgreSQL, in the words of the rule. */
export type OutcomeAt = (client: Client, version: string, login: Login) => string;

export function renderMatrix(versions: readonly string[], outcomeAt: OutcomeAt): string {
  const cellOf = (login: Login): string => renderCell(versions, outcomeAt, login);
  const head = ["`client_auth`", "role", "client's leg", "PostgreSQL's leg"];
  const rows = CLIENT_AUTHS.flatMap((clientAuth) =>
    ROLES.flatMap((role) => rowsOf({ clientAuth, role }, cellOf).map((row) => [`\`${clientAuth}\``, role, ...row])),
  );
  return [
    renderRows([...head, ...BINDINGS.map((binding) => `\`${binding}\``)], rows),
    Object.values(REFUSALS)
      .map(({ text, meaning }, at) => `- **${letterOf(at)}** \`${text}\`: ${meaning}`)
      .join("\n"),
    renderWords(),
  ].join("\n\n");
}

/** Both legs, and a cell for each channel_binding; first the client's legs that are alike are put together, then PostgreSQL's. */
function rowsOf(start: Pick<Login, "clientAuth" | "role">, cellOf: (login: Login) => string): string[][] {
  const cells = (clientLeg: Login["clientLeg"], upstreamLeg: Login["upstreamLeg"]): string[] =>
    BINDINGS.map((binding) => cellOf({ ...start, clientLeg, upstreamLeg, binding }));
  const byClient = groupAlike(CLIENT_LEGS, (clientLeg) =>
    groupAlike(UPSTREAM_LEGS, (upstreamLeg) => cells(clientLeg, upstreamLeg)),
  );
  return byClient.flatMap(({ keys: clientLegs, value: byUpstream }) =>
    byUpstream.map(({ keys: upstreamLegs, value }) => [
      nameLegs(clientLegs, CLIENT_LEGS),
      nameLegs(upstreamLegs, UPSTREAM_LEGS),
      ...value,
    ]),
  );
}

/** One outcome where all agree; otherwise the first, and the others with whom they happen to. */
function renderCell(versions: readonly string[], outcomeAt: OutcomeAt, login: Login): string {
  const places = CLIENTS.filter((client) => canSay(client, login)).flatMap((client) =>
    versions.map((version) => ({ client, version, outcome: renderOutcome(outcomeAt(client, version, login)) })),
  );
  const groups = groupAlike(places, ({ outcome }) => outcome);
  return groups.map(({ keys, value }, at) => (at === 0 ? value : `${namePlaces(keys, versions)}: ${value}`)).join("; ");
}

function namePlaces(
  places: readonly { readonly client: Client; readonly version: string }[],
  versions: readonly string[],
): string {
  const clients = groupAlike(places, ({ client }) => client);
  return clients
    .map(({ keys, value }) =>
      keys.length === versions.length ? value : `${value} on ${keys.map(({ version }) => version).join(", ")}`,
    )
    .join(", ");
}

function renderOutcome(outcome: string): string {
  if (outcome === "works") return outcome;
  const at = Object.keys(REFUSALS).indexOf(outcome);
  if (at === -1) throw new Error(`the rule has no word for ${outcome}`);
  return `**${letterOf(at)}**`;
}

function letterOf(index: number): string {
  return String.fromCodePoint(0x61 + index);
}

function nameLegs(legs: readonly string[], all: readonly string[]): string {
  return legs.length === all.length ? "any" : legs.join(", ");
}

function renderWords(): string {
  const columns = [...CLIENT_LEGS, ...BINDINGS] as const;
  const rows = CLIENTS.map((client) => [client, ...columns.map((column) => WORDS[client][column] ?? "n/a")]);
  return renderRows(["client", ...columns], rows);
}

function renderRows(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** Keys that have equal values, in the order of the first of each. */
function groupAlike<K, V>(
  keys: readonly K[],
  valueOf: (key: K) => V,
): { readonly keys: readonly K[]; readonly value: V }[] {
  const groups = new Map<string, { keys: K[]; value: V }>();
  for (const key of keys) {
    const value = valueOf(key);
    const name = JSON.stringify(value);
    const group = groups.get(name) ?? { keys: [], value };
    group.keys.push(key);
    groups.set(name, group);
  }
  return [...groups.values()];
}
