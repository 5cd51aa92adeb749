/**
 * What a StartupMessage asserts, and what the login is about to prove: who connects, as which role, with which context.
 */
import type { StartupMessage, StartupParameter } from "../../protocol/startup.ts";

/** A session variable and its value, as the user name gave it. */
export interface ContextValue {
  readonly name: string;
  readonly value: string;
}

/** What resolvers mean for a StartupMessage. */
export interface ResolverTraits {
  /** Variables that they set, which no client may. */
  readonly variables: readonly string[];
  /** They run in the client's own session, where nothing of the client's may be in force then. */
  readonly areInSession: boolean;
}

export interface TenantIdentity {
  readonly kind: "tenant";
  /** The user name as the client gave it. */
  readonly user: string;
  /** The role that logs in upstream. */
  readonly loginRole: string;
  /** The role whose rights the session has: `set_role`, or the login role. */
  readonly targetRole: string;
  /** The isolation unit: the value of tenant_variable, or of the first context variable. Never empty. */
  readonly tenant: string;
  readonly context: readonly ContextValue[];
  /** Variables that resolvers set. */
  readonly derived: readonly string[];
  readonly database: string;
  /** The minor version of protocol 3 that the client asked for. */
  readonly minor: number;
  /** `_pq_.` parameters, none of which pgvpd knows. */
  readonly unknownOptions: readonly string[];
  /** The client's own parameters that travel in the upstream's StartupMessage. */
  readonly forwarded: readonly StartupParameter[];
  /** Those that are applied after the context is confirmed, in this order. */
  readonly heldBack: readonly StartupParameter[];
}

/** A user of `superuser_bypass`: its StartupMessage goes upstream as it came. */
export interface BypassIdentity {
  readonly kind: "bypass";
  /** The user name, which is the login role's too. */
  readonly user: string;
  readonly loginRole: string;
  readonly database: string;
  readonly minor: number;
  readonly unknownOptions: readonly string[];
  readonly startup: StartupMessage;
}

export type Identity = TenantIdentity | BypassIdentity;
