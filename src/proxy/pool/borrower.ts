/**
 * A client of a pool, for as long as it is connected: which context its sessions must have, and which settings of its own.
 */
import { foldName } from "../../protocol/startup.ts";
import type { UpstreamSecrets } from "../upstream/log-in.ts";
import type { ContextValue, TenantIdentity } from "../tenant/identity.ts";

/** Reported by the server, and not set by a client as such. */
const NOT_SETTABLE = new Set([
  "in_hot_standby",
  "integer_datetimes",
  "is_superuser",
  "role",
  "server_encoding",
  "server_version",
  "session_authorization",
]);

export class Borrower {
  readonly identity: TenantIdentity;
  /** What resolvers have added to the identity's own context. */
  readonly resolved: readonly ContextValue[];
  /** Equal for two clients exactly where their sessions have the same context, role and rights. */
  readonly key: string;
  /** What the client has set, by folded name; values as bytes in its encoding, kept as Latin 1. */
  readonly settings = new Map<string, string>();
  readonly #atStart: Map<string, string>;

  /** What opens the upstream for it, where nothing else does. */
  readonly secrets: UpstreamSecrets;

  constructor(identity: TenantIdentity, resolved: readonly ContextValue[], secrets: UpstreamSecrets) {
    const { database, loginRole, targetRole, context } = identity;
    this.identity = identity;
    this.resolved = resolved;
    this.key = JSON.stringify([
      database,
      loginRole,
      targetRole,
      ...[...context, ...resolved].map(({ name, value }) => [name, value]),
    ]);
    this.secrets = secrets;
    for (const { name, value } of [...identity.forwarded, ...identity.heldBack])
      this.settings.set(foldName(name), value.toString("latin1"));
    this.#atStart = new Map(this.settings);
  }

  /** Who has no wish gets PostgreSQL's default, the database's own encoding, and not the one that pgvpd logs in with. */
  assumeEncoding(serverEncoding = "UTF8"): void {
    if (this.settings.has("client_encoding")) return;
    this.settings.set("client_encoding", serverEncoding);
    this.#atStart.set("client_encoding", serverEncoding);
  }

  /** The server reports a value that the client has brought about. @returns whether that is the client's own. */
  learn(name: string, value: string): boolean {
    const folded = foldName(name);
    if (NOT_SETTABLE.has(folded)) return false;
    this.settings.set(folded, value);
    return true;
  }

  /** RESET, as PostgreSQL does it: what it has connected with is back. @param name of a setting, or `*`. */
  resetSetting(name: string): void {
    if (name === "*") {
      this.settings.clear();
      for (const [key, value] of this.#atStart) this.settings.set(key, value);
      return;
    }
    const value = this.#atStart.get(name);
    if (value === undefined) this.settings.delete(name);
    else this.settings.set(name, value);
  }
}
