/**
 * The cells of the matrix: every way in which a client may log in through pgvpd, and which of them each client has words
 * for.
 */

/** `libpq 15` is Debian's, which may be any version that does not know direct TLS. */
export const CLIENTS = ["libpq 15", "libpq 18", "pg", "postgres.js"] as const;
export const CLIENT_AUTHS = ["relay", "scram"] as const;
export const ROLES = ["trust", "md5", "scram"] as const;
export const UPSTREAM_LEGS = ["plain", "TLS"] as const;
export const CLIENT_LEGS = ["plain", "TLS", "direct TLS"] as const;
export const BINDINGS = ["disable", "prefer", "require"] as const;

export type Client = (typeof CLIENTS)[number];
type ClientLeg = (typeof CLIENT_LEGS)[number];
type UpstreamLeg = (typeof UPSTREAM_LEGS)[number];
type Binding = (typeof BINDINGS)[number];

/** One login: how pgvpd is configured, which role it is, and what the client wants. */
export interface Login {
  /** The setting `client_auth`. */
  readonly clientAuth: (typeof CLIENT_AUTHS)[number];
  /** How pg_hba.conf asks for this role's password, and how PostgreSQL stores it. */
  readonly role: (typeof ROLES)[number];
  readonly clientLeg: ClientLeg;
  readonly upstreamLeg: UpstreamLeg;
  /** The client's `channel_binding`. */
  readonly binding: Binding;
}

/** All of them, without clients and versions of PostgreSQL. */
export const logins: readonly Login[] = CLIENT_AUTHS.flatMap((clientAuth) =>
  ROLES.flatMap((role) =>
    CLIENT_LEGS.flatMap((clientLeg) =>
      UPSTREAM_LEGS.flatMap((upstreamLeg) =>
        BINDINGS.map((binding) => ({ clientAuth, role, clientLeg, upstreamLeg, binding })),
      ),
    ),
  ),
);

type Words = Readonly<Partial<Record<ClientLeg | Binding, string>>>;

const libpq: Words = {
  plain: "`sslmode=disable`",
  TLS: "`sslmode=verify-full`",
  disable: "`channel_binding=disable`",
  prefer: "`channel_binding=prefer`",
  require: "`channel_binding=require`",
};

const ofNode: Words = {
  plain: "`ssl: false`",
  TLS: "`ssl: { ca }`",
  "direct TLS": '`sslnegotiation: "direct"`',
};

/** How a client says what it wants, for the documentation; what it has no words for is not applicable. */
export const WORDS: Readonly<Record<Client, Words>> = {
  "libpq 15": libpq,
  "libpq 18": { ...libpq, "direct TLS": "`sslnegotiation=direct`" },
  pg: { ...ofNode, disable: "unless told otherwise", prefer: "`enableChannelBinding: true`" },
  "postgres.js": { ...ofNode, disable: "always" },
};

/** False for a cell that is not applicable. */
export function canSay(client: Client, { clientLeg, binding }: Login): boolean {
  return WORDS[client][clientLeg] !== undefined && WORDS[client][binding] !== undefined;
}

/** Names a login in a test's output. */
export function describeLogin({ clientAuth, role, clientLeg, upstreamLeg, binding }: Login): string {
  return `${clientAuth}, ${role} role, ${clientLeg} client, ${upstreamLeg} upstream, channel_binding=${binding}`;
}
