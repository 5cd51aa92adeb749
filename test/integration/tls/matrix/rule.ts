/**
 * What must come of each login: it works, or it fails with one of six errors. The rest of the matrix is held against
 * `expectedOutcome`, which says why in as few sentences as there are reasons.
 */
import type { ErrorCode } from "../../../../src/errors/catalogue.ts";
import { ProxyError } from "../../../../src/errors/proxy-error.ts";
import type { Client, Login } from "./cells.ts";

interface Refusal {
  /** Of an error that pgvpd sends; a client's own has none. */
  readonly code?: ErrorCode;
  /** As docs/authentication.md has it; `{user}` is the user name. */
  readonly text: string;
  /** Why, and what to do, for docs/authentication.md. */
  readonly meaning: string;
}

export const REFUSALS = {
  "pgvpd: cannot be relayed": {
    code: "channel_binding",
    text: new ProxyError("channel_binding").message,
    meaning:
      "pgvpd, 28000. The client binds the login to its TLS connection, or says that it could, and PostgreSQL sees another one: [two ways out](#tls-on-both-legs).",
  },
  "pgvpd: wrong password": {
    code: "password_failed",
    text: new ProxyError("password_failed").message,
    meaning:
      "pgvpd, 28P01. SCRAM cannot be checked against an MD5 hash; the log says so. Set the role's password again, with `password_encryption = 'scram-sha-256'`.",
  },
  "client: TLS is missing": {
    text: "channel binding required, but SSL not in use",
    meaning: "the client. There is no channel to bind to without TLS.",
  },
  "client: PLUS is missing": {
    text: "channel binding is required, but server did not offer an authentication method that supports channel binding",
    meaning:
      "the client. What binds the channel is never offered in relay, because it could not work: use `client_auth = scram`.",
  },
  "client: asked for the password itself": {
    text: "channel binding required but not supported by server's authentication request",
    meaning: "the client. An MD5 role is asked for its password as it stands, which binds nothing.",
  },
  "client: asked for nothing": {
    text: "channel binding required, but server authenticated client without channel binding",
    meaning: "the client. PostgreSQL trusts this role, so nothing was proved.",
  },
} as const satisfies Record<string, Refusal>;

export type Outcome = "works" | keyof typeof REFUSALS;

export function expectedOutcome(client: Client, login: Login): Outcome {
  const { clientAuth, role, clientLeg, upstreamLeg, binding } = login;
  const isEncrypted = clientLeg !== "plain";
  const asksForScram = clientAuth === "scram" || role === "scram";

  // Clients that must bind see first whether they can.
  if (binding === "require") {
    if (asksForScram && !isEncrypted) return "client: TLS is missing";
    if (clientAuth === "relay") {
      if (role === "scram") return "client: PLUS is missing";
      return role === "md5" ? "client: asked for the password itself" : "client: asked for nothing";
    }
  }
  // Ended at pgvpd, all that counts is a SCRAM verifier. A client that must bind and is in has used SCRAM-SHA-256-PLUS.
  if (clientAuth === "scram") return role === "md5" ? "pgvpd: wrong password" : "works";

  // Relayed, SCRAM fails where PostgreSQL offers to bind its own TLS, and the client says that it could bind another one.
  const couldBind = binding === "prefer" && (isEncrypted || client === "pg"); // pg says so in plain text too
  if (role === "scram" && upstreamLeg === "TLS" && couldBind) return "pgvpd: cannot be relayed";
  return "works";
}

/** What a client has got: rows as text, or the text of an error with its SQLSTATE, which psql does not show at login. */
export interface Answer {
  readonly text: string;
  readonly sqlstate?: string | undefined;
}

/** The answer as an Outcome; as it is, where the rule has no word for it. */
export function outcomeOf(answer: Answer, login: Login): string {
  if (answer.sqlstate === undefined && answer.text === rowOf(login)) return "works";
  for (const [outcome, refusal] of Object.entries<Refusal>(REFUSALS)) {
    if (!answer.text.includes(refusal.text.replace("{user}", userOf(login)))) continue;
    const expected = refusal.code && new ProxyError(refusal.code).definition.sqlstate;
    if (answer.sqlstate === undefined || answer.sqlstate === expected) return outcome;
  }
  return `${answer.sqlstate}: ${answer.text}`;
}

/** The user name that the client gives. */
export function userOf({ role }: Login): string {
  return `${role}_user.acme`;
}

/** What the session must see: the login role, the tenant, and whether PostgreSQL's connection is encrypted. */
function rowOf({ role, upstreamLeg }: Login): string {
  return `${role}_user acme ${upstreamLeg === "TLS" ? "t" : "f"}`;
}

/** Asks for that row. */
export const WHO = `SELECT concat_ws(' ', current_user, current_setting('app.current_tenant_id'), ssl) AS who
  FROM pg_stat_ssl WHERE pid = pg_backend_pid()`;
