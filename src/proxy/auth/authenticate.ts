/**
 * Proves who the client is and logs in upstream, in one of two orders: the upstream is opened first and its questions are
 * relayed, or pgvpd asks the client itself and opens the upstream for who has proved a credential.
 */
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Clock } from "../../lib/clock.ts";
import { pause } from "../../lib/deadline.ts";
import type { Semaphore } from "../../lib/semaphore.ts";
import { sqlstateOf } from "../../protocol/backend-messages.ts";
import type { MessageStream } from "../message-stream.ts";
import type { Identity, TenantIdentity } from "../tenant/identity.ts";
import { awaitReady, Greeting, UpstreamRefusal } from "../upstream/await-ready.ts";
import type { Dial } from "../upstream/dial.ts";
import { logIn, type LoginServices, type UpstreamSecrets } from "../upstream/log-in.ts";
import { openUpstream, type LoggedIn, type OpeningUpstream } from "../upstream/open-upstream.ts";
import type { RoleDefaults } from "../upstream/role-defaults.ts";
import { encodeTenantStartup } from "../upstream/tenant-startup.ts";
import type { Credentials } from "./credentials.ts";
import { endAuthentication } from "./end-authentication.ts";
import type { LoginThrottle } from "./login-throttle.ts";
import { relayAuthentication } from "./relay-authentication.ts";

const INVALID_PASSWORD = "28P01";

export interface Login {
  readonly client: MessageStream;
  readonly identity: Identity;
  /** The client's, without its port; undefined for a Unix-domain socket. */
  readonly address: string | undefined;
  readonly isEncrypted: boolean;
  /** True when nobody between client and proxy can read a password: TLS, loopback or a Unix-domain socket. */
  readonly isPrivate: boolean;
  /** What the client can bind its login to; undefined in plain text, and where the certificate has no digest. */
  endPoint(): Buffer | undefined;
  /** A tenant has proved its credential to pgvpd: it is let in, or not, and this is the identity that logs in upstream. */
  onProved(identity: TenantIdentity): Promise<TenantIdentity>;
}

export interface AuthServices extends LoginServices {
  readonly config: Config;
  readonly clock: Clock;
  readonly dial: Dial;
  readonly ownLogins: Semaphore;
  readonly throttle: LoginThrottle;
  readonly credentials: Credentials;
  readonly roleDefaults: RoleDefaults;
}

/** Who has proved a credential and takes its upstream sessions from a pool: none is open yet. */
export interface Proved extends Disposable {
  readonly identity: TenantIdentity;
  readonly secrets: UpstreamSecrets;
  readonly upstream?: undefined;
}

/** @throws ProxyError or UpstreamRefusal of relayAuthentication, endAuthentication, openUpstream, logIn and awaitReady. */
export async function authenticate(
  login: Login,
  services: AuthServices,
  signal: AbortSignal,
): Promise<LoggedIn | Proved> {
  const { clock, throttle, credentials } = services;
  const { identity, address } = login;
  await pause(clock, throttle.delayFor(address, identity.user), signal);
  const method = credentials.methodFor(identity);
  try {
    return await (method === undefined ? relay(login, services, signal) : end(login, method, services, signal));
  } catch (error) {
    if (isWrongPassword(error)) throttle.failed(address, identity.user);
    throw error;
  }
}

function isWrongPassword(error: unknown): boolean {
  if (error instanceof UpstreamRefusal) return sqlstateOf(error.response.body) === INVALID_PASSWORD;
  return error instanceof ProxyError && error.definition.sqlstate === INVALID_PASSWORD;
}

async function relay(login: Login, { config, dial }: AuthServices, signal: AbortSignal): Promise<LoggedIn> {
  const { identity } = login;
  const hasOwnCertificate = config.upstreamTlsCert !== undefined;
  return withUpstream(identity, dial, signal, async (upstream, greeting) => {
    upstream.stream.write(
      identity.kind === "tenant" ? encodeTenantStartup(identity, config, []) : identity.startup.packet,
    );
    return relayAuthentication({ ...login, upstream: upstream.stream, hasOwnCertificate }, greeting, signal);
  });
}

async function end(
  login: Login,
  method: "scram" | "cleartext",
  services: AuthServices,
  signal: AbortSignal,
): Promise<LoggedIn | Proved> {
  const { identity: claimed, isEncrypted } = login;
  if (method === "cleartext" && !isEncrypted) throw new ProxyError("cleartext_without_tls");
  const credential = await services.credentials.find(claimed, signal);
  const proof = await endAuthentication({ ...login, credential, endPoint: login.endPoint() }, method, signal);

  const identity = claimed.kind === "tenant" ? await login.onProved(claimed) : claimed;
  const { loginRole: role, database, minor } = identity;
  // What was proved opens the role that it was proved for, and no other.
  const secrets = role === claimed.loginRole ? proof : {};
  if (identity.kind === "tenant" && services.config.poolMode !== "none") {
    return { identity, secrets, [Symbol.dispose]: () => {} };
  }
  const packet =
    identity.kind === "tenant"
      ? encodeTenantStartup(identity, services.config, await services.roleDefaults.of(role, database, secrets, signal))
      : identity.startup.packet;
  using _place = await services.ownLogins.enter(signal);
  return await withUpstream(identity, services.dial, signal, async (upstream, greeting) => {
    upstream.stream.write(packet);
    return logIn(upstream, { role, minor, secrets }, services, greeting, signal);
  });
}

/** Opens a connection, logs in as `logInto` does, and waits for the session; on any failure the connection is destroyed. */
async function withUpstream(
  identity: Identity,
  dial: Dial,
  signal: AbortSignal,
  logInto: (upstream: OpeningUpstream, greeting: Greeting) => Promise<number>,
): Promise<LoggedIn> {
  const upstream = await openUpstream(dial, signal);
  try {
    const greeting = new Greeting();
    const minor = await logInto(upstream, greeting);
    await awaitReady(upstream.stream, greeting, minor, signal);
    return { identity, upstream, greeting, [Symbol.dispose]: () => upstream[Symbol.dispose]() };
  } catch (error) {
    upstream[Symbol.dispose]();
    throw error;
  }
}
