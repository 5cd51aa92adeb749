/**
 * Who may ask what, decided before a request is looked at any further. In this order: the host name (a page of another site
 * can have a name of its own point at this machine), the origin of a change, where the listener is, the token, its scope.
 */
import { isIP } from "node:net";
import type { IncomingHttpHeaders } from "node:http";
import type { AdminToken, AdminTokens, Scope } from "../config/admin-tokens.ts";

/** Where requests come in. socket: a file of pgvpd's own user. exposed: over a network, in plain text. */
export type Exposure = "socket" | "loopback" | "encrypted" | "exposed";

/**
 * What a route asks for. open: nothing. A scope: a token that has it. With `legacy` it is open where the program before ours
 * had it open: on this machine, as long as no token is configured.
 */
export type Access = { readonly open: true } | ScopedAccess;

interface ScopedAccess {
  readonly scope: Scope;
  readonly legacy?: true;
}

export interface Asked {
  readonly method: string;
  readonly headers: IncomingHttpHeaders;
  /** A path that there is not asks for what everything else asks for. */
  readonly access: Access;
}

export type Verdict =
  | { readonly token: AdminToken | undefined }
  | { readonly status: 401 | 403 | 421; readonly error: string; readonly token?: AdminToken };

export interface GateOptions {
  readonly exposure: Exposure;
  /** Names beside localhost and addresses. */
  readonly serverNames: readonly string[];
  /** Those of this moment: they can be replaced. */
  readonly tokens: () => AdminTokens;
}

export function judge({ method, headers, access }: Asked, options: GateOptions): Verdict {
  const { exposure, serverNames } = options;
  if (exposure !== "socket" && !isOwnHost(headers.host, serverNames)) {
    return { status: 421, error: "this host name is not one of admin_server_names" };
  }
  if (method !== "GET" && method !== "HEAD" && isFromElsewhere(headers)) {
    return { status: 403, error: "a page of another origin may change nothing" };
  }
  if ("open" in access) return { token: undefined };
  if (exposure === "exposed" && access.scope !== "metrics") {
    return {
      status: 403,
      error: "this listener is open to a network without TLS: set admin_tls_cert and admin_tls_key",
    };
  }
  return judgeToken(headers.authorization, access, options);
}

function judgeToken(header: string | undefined, access: ScopedAccess, options: GateOptions): Verdict {
  const tokens = options.tokens();
  const isHere = options.exposure === "socket" || options.exposure === "loopback";
  if (tokens.isEmpty) {
    return isHere && access.legacy
      ? { token: undefined }
      : { status: 401, error: "this needs a token: set admin_tokens_file, which pgvpd token makes" };
  }
  const secret = /^Bearer +(\S+) *$/i.exec(header ?? "")?.[1];
  const token = secret === undefined ? undefined : tokens.find(secret);
  if (token === undefined) return { status: 401, error: "this needs a token: Authorization: Bearer TOKEN" };
  return token.scopes.has(access.scope)
    ? { token }
    : { status: 403, error: `this needs a token with the scope ${access.scope}`, token };
}

/** An address cannot be made to point elsewhere. */
function isOwnHost(header: string | undefined, serverNames: readonly string[]): boolean {
  const name = /^(\[[^\]]*\]|[^:]*)(?::\d+)?$/.exec(header ?? "")?.[1]?.toLowerCase();
  if (name === undefined || name === "") return false;
  const address = name.startsWith("[") ? name.slice(1, -1) : name;
  return isIP(address) !== 0 || name === "localhost" || serverNames.some((own) => own.toLowerCase() === name);
}

/** Browsers say where a request comes from; programs do not. */
function isFromElsewhere({ origin, host, "sec-fetch-site": site }: IncomingHttpHeaders): boolean {
  if (site !== undefined && site !== "same-origin" && site !== "none") return true;
  if (origin === undefined) return false;
  return !URL.canParse(origin) || new URL(origin).host !== host?.toLowerCase();
}
