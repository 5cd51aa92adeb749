/**
 * One client connection, from its first byte to its last. `#logIn` reads like a table of contents: each stage takes what
 * the one before it returns. Every error of a stage is caught here, once: counted, logged and, where the client can
 * still hear it, sent. A session never touches another one.
 */
import type { Duplex } from "node:stream";
import type { TenantTerms } from "../config/tenant-policy.ts";
import { ProxyError } from "../errors/proxy-error.ts";
import { Deadline } from "../lib/deadline.ts";
import type { AuditedLogin, SessionAbout } from "../observe/audit-log.ts";
import type { Logger } from "../observe/logger.ts";
import type { StartupMessage } from "../protocol/startup.ts";
import type { Admission, Admitted } from "./admit/admissions.ts";
import { canonicalTenant } from "../config/tenant-name.ts";
import type { LoginPhase, Traffic } from "../observe/metrics.ts";
import { describeErrorResponse, encodeErrorResponse, sqlstateOf } from "../protocol/backend-messages.ts";
import { authenticate, type Proved } from "./auth/authenticate.ts";
import type { ClientPlace } from "./admit/client-places.ts";
import type { ClientConnection } from "./client-connection.ts";
import { assertAddressAllowed } from "./client/allowed-address.ts";
import { endPointOf } from "./client/end-point.ts";
import { sendLastWord } from "./client/last-word.ts";
import { assertCertificateNames } from "./client/certificate-names.ts";
import { negotiate } from "./client/negotiate.ts";
import { injectContext } from "./context/inject-context.ts";
import type { ResolvedContext } from "./context/resolvers.ts";
import { Forwarding, type ForwardEvents } from "./forward/forward.ts";
import { SessionTimers, type TimedSession } from "./forward/timers.ts";
import { PooledForwarding, type PoolState } from "./forward/pooled-forwarding.ts";
import { MessageStream, PeerGone } from "./message-stream.ts";
import { Borrower } from "./pool/borrower.ts";
import type { Pool } from "./pool/pool.ts";
import type { PinReason } from "./pool/sql-effects.ts";
import type { ProxyServices } from "./services.ts";
import { transition, type SessionState } from "./session-state.ts";
import { assertDatabaseAllowed, identify, withLoginRole } from "./tenant/identify.ts";
import type { Identity } from "./tenant/identity.ts";
import { Greeting, UpstreamRefusal } from "./upstream/await-ready.ts";
import { alwaysTo, createCancelKey, withOwnTls, type CancelSubject } from "./upstream/cancel-keys.ts";
import { forwardCancel, sendCancel } from "./upstream/forward-cancel.ts";

const CANCEL_LIMIT_MS = 5_000;

const LOGIN_PHASES: readonly SessionState[] = ["negotiating", "authenticating", "resolving", "injecting"];

/** A session as an operator sees it. */
export interface SessionInfo extends SessionAbout {
  readonly state: SessionState;
  readonly seconds: number;
  readonly bytes: Traffic;
  /** Of a client that takes its upstream sessions from a pool. */
  readonly pooling?: { readonly state: PoolState; readonly pinReason: PinReason | undefined };
}

export class Session implements Admitted {
  readonly id: number;
  #state: SessionState = "negotiating";
  #stateSince: number;
  readonly #isLocal: boolean;
  readonly #isTlsPort: boolean;
  readonly #address: string | undefined;
  /** The client's socket; forwarding may have moved it into another object, and this one must not keep the old. */
  #socket: Duplex;
  /** Those of its tenant's server, once the tenant is known. */
  #proxy: ProxyServices;
  readonly #log: Logger;
  /** What each line of the log says of the session. */
  #about: SessionAbout;
  /** What the audit log says of the login beyond that. */
  #login: Pick<AuditedLogin, "user" | "credential" | "hasCertificate" | "context"> = {
    user: undefined,
    credential: undefined,
    hasCertificate: false,
    context: undefined,
  };
  readonly #startedAt: number;
  /** How the stage that runs now is ended from outside. */
  #terminate: (error: ProxyError) => void = () => {};
  /** Undefined before the session forwards, and when its bytes have been counted. */
  #forwarding: Forwarding | PooledForwarding | undefined;
  /** The client during login. */
  #client: MessageStream | undefined;
  #cancelKey: Disposable | undefined;
  /** Its place among those of its tenant. */
  #admission: Admission | undefined;
  #timers: SessionTimers | undefined;
  /** `tenants` names its database, and not the client. */
  #hasOwnDatabase = false;
  /** Of what its context was derived from. */
  #watch: Disposable | undefined;

  constructor(id: number, connection: ClientConnection, proxy: ProxyServices) {
    this.id = id;
    this.#isLocal = connection.isLocal;
    this.#isTlsPort = connection.isTlsPort;
    this.#address = connection.address;
    this.#socket = connection.socket;
    this.#proxy = proxy;
    this.#log = proxy.log;
    this.#about = { conn: id, client: connection.peer };
    this.#startedAt = proxy.clock.now();
    this.#stateSince = this.#startedAt;
    // Each stage hears of the socket's end; between two of them an error must not be nobody's.
    connection.socket.on("error", () => {});
  }

  get state(): SessionState {
    return this.#state;
  }

  /** For `transition` alone. */
  set state(next: SessionState) {
    const now = this.#proxy.clock.now();
    if (isLoginPhase(this.#state)) this.#proxy.metrics.observePhase(this.#state, now - this.#stateSince);
    this.#state = next;
    this.#stateSince = now;
  }

  /** Bytes read from either side since the session forwards; none when it has ended. */
  get bytes(): Traffic {
    const { fromClient = 0, fromUpstream = 0 } = this.#forwarding?.bytes ?? {};
    return { fromClient, fromUpstream };
  }

  get info(): SessionInfo {
    const seconds = Math.round(this.#proxy.clock.now() - this.#startedAt) / 1000;
    const { pooling } = this;
    return { ...this.#about, state: this.#state, seconds, bytes: this.bytes, ...(pooling && { pooling }) };
  }

  get pooling(): SessionInfo["pooling"] {
    const forwarding = this.#forwarding;
    if (!(forwarding instanceof PooledForwarding)) return undefined;
    return { state: forwarding.poolState, pinReason: forwarding.pinReason };
  }

  /** Serves the client until its connection is closed. Never rejects: a bug of ours ends this session alone. */
  async serve(): Promise<void> {
    const { metrics, places } = this.#proxy;
    metrics.connectionsTotal.inc();
    metrics.connectionsActive.inc();
    using place = places.take(this.#address);
    try {
      if (!place.isHeard) return this.#turnAway(place);
      const forwarding = await this.#logIn(place);
      if (forwarding !== undefined) await this.#follow(forwarding);
    } catch (failure) {
      await this.#fail(failure);
    } finally {
      this.#cancelKey?.[Symbol.dispose]();
      this.#watch?.[Symbol.dispose]();
      this.#timers?.[Symbol.dispose]();
      this.#admission?.[Symbol.dispose]();
      this.#socket.destroy();
      metrics.connectionsActive.dec();
      if (this.state !== "closing") transition(this, "closing");
      transition(this, "closed");
    }
  }

  /** Ends the session with `error`, in whatever stage it is; the client hears of it where it can. */
  terminate(error: ProxyError): void {
    this.#terminate(error);
  }

  /** What holds for its tenant has changed. */
  onTerms({ timeouts }: TenantTerms): void {
    this.#timers?.use(timeouts);
  }

  async #logIn({ refusal }: ClientPlace): Promise<Forwarding | PooledForwarding | undefined> {
    const { admissions, networks } = this.#proxy;
    using deadline = this.#limitLogin();
    const { signal } = deadline;
    const read = (socket: Duplex): MessageStream => this.#readClient(socket, deadline);

    const { opening, client, tls, certificate } = await negotiate(
      read(this.#socket),
      { isTlsPort: this.#isTlsPort, isUnixSocket: this.#address === undefined },
      { ...this.#proxy, read },
      signal,
    );
    if (opening.kind === "cancel") {
      transition(this, "cancelling");
      this.#proxy.metrics.countCancel(await forwardCancel(opening, this.#proxy, signal));
      return undefined;
    }
    if (refusal !== undefined) throw refusal;
    const claimed = this.#identify(opening);
    const { config, cancelKeys, resolvers } = this.#proxy;
    this.#describe(claimed, tls);
    assertAddressAllowed(this.#address, claimed, networks);
    if (certificate !== undefined) assertCertificateNames(certificate, claimed, config);

    transition(this, "authenticating");
    const credential = this.#proxy.credentials.methodFor(claimed) ?? "relayed";
    this.#login = { ...this.#login, credential, hasCertificate: certificate !== undefined };
    let resolved: ResolvedContext | undefined;
    const letIn = (identity: Identity): void => {
      if (!this.#hasOwnDatabase) assertDatabaseAllowed(identity, config);
      if (identity.kind === "tenant") this.#admission ??= admissions.admit(identity.tenant, this);
    };
    using login = await authenticate(
      {
        client,
        identity: claimed,
        address: this.#address,
        isEncrypted: tls !== undefined,
        isPrivate: this.#isLocal || tls !== undefined,
        endPoint: () => endPointOf(client.socket),
        onProved: async (tenant) => {
          letIn(tenant); // before it costs the server anything
          if (!resolvers.chooseRole) return tenant;
          resolved = await resolvers.resolve(tenant, undefined, signal);
          return withLoginRole(tenant, resolved.loginRole, config);
        },
      },
      this.#proxy,
      signal,
    );
    letIn(login.identity);
    if (login.upstream === undefined) return this.#borrow(login, resolved, client, signal);
    const { identity, upstream, greeting } = login;

    if (identity.kind === "tenant") {
      transition(this, "resolving");
      resolved ??= await resolvers.resolve(identity, { stream: upstream.stream, greeting }, signal);
      this.#watch = resolved.watch((error) => this.terminate(error));
      this.#login = { ...this.#login, context: [...identity.context, ...resolved.context] };
      transition(this, "injecting");
      await injectContext(upstream.stream, identity, resolved.context, greeting, this.#proxy, signal);
    }
    signal.throwIfAborted();
    let subject: CancelSubject | undefined;
    if (greeting.key !== undefined) {
      subject = this.#onOwnServer(alwaysTo({ address: upstream.address, key: greeting.key }));
      this.#cancelKey = cancelKeys.register(greeting.key, subject);
    }
    this.#releaseClient(client);
    const { socket, unread } = upstream.handOver();
    const forwarding = new Forwarding(this.#socket, socket, this.#proxy, this.#events);
    this.#forward(forwarding, subject);
    forwarding.start(greeting.encode(), unread);
    return forwarding;
  }

  /** Who the client says it is; its tenant may have a server or a database of its own. */
  #identify(opening: StartupMessage): Identity {
    const { admissions, config, resolvers } = this.#proxy;
    const identity = identify(opening, config, resolvers.traits);
    if (identity.kind === "bypass") return identity;
    const { upstream, database } = admissions.termsOf(identity.tenant);
    if (upstream !== undefined) this.#proxy = this.#proxy.servicesOf(upstream);
    this.#hasOwnDatabase = database !== undefined;
    return database === undefined ? identity : { ...identity, database };
  }

  /** The same for a client whose upstream sessions are lent: it logs in with the first. */
  async #borrow(
    { identity, secrets }: Proved,
    known: ResolvedContext | undefined,
    client: MessageStream,
    signal: AbortSignal,
  ): Promise<PooledForwarding> {
    const { cancelKeys, metrics, resolvers } = this.#proxy;
    const pool = this.#proxy.pool as Pool;
    transition(this, "resolving");
    const resolved = known ?? (await resolvers.resolve(identity, undefined, signal));
    this.#watch = resolved.watch((error) => this.terminate(error));
    this.#login = { ...this.#login, context: [...identity.context, ...resolved.context] };
    transition(this, "injecting");
    // All spellings of a tenant share what it may hold.
    const counted = { ...identity, tenant: canonicalTenant(identity.tenant) };
    const borrower = new Borrower(counted, resolved.context, secrets);
    const session = await pool.acquire(borrower, this, signal);
    if (signal.aborted) pool.destroy(session); // ended just when its turn came
    signal.throwIfAborted();
    const greeting = Greeting.of(session.parameters);
    const key = createCancelKey(identity.minor);
    greeting.addKey(key);
    this.#releaseClient(client);
    const services = { ...this.#proxy, pool, countPin: (reason: PinReason) => metrics.poolPins.inc({ reason }) };
    const forwarding = new PooledForwarding(this.#socket, session, borrower, services, this.#events);
    const subject = this.#onOwnServer(forwarding.cancelSubject);
    this.#cancelKey = cancelKeys.register(key, subject);
    this.#forward(forwarding, subject);
    forwarding.start(greeting.encode());
    return forwarding;
  }

  #onOwnServer(subject: CancelSubject): CancelSubject {
    const { isOwnServer, upstreamTls } = this.#proxy;
    return isOwnServer ? withOwnTls(subject, upstreamTls) : subject;
  }

  /** The client's socket is read by forwarding from now on. */
  #releaseClient(client: MessageStream): void {
    client.detach();
    this.#client = undefined;
  }

  readonly #events: ForwardEvents = {
    onHalfClosed: () => transition(this, "half_closed"),
    onClosing: (error) => {
      transition(this, "closing");
      if (error !== undefined) this.#report(error);
    },
  };

  #forward(forwarding: Forwarding | PooledForwarding, subject: CancelSubject | undefined): void {
    transition(this, "forwarding");
    this.#socket = forwarding.client;
    this.#forwarding = forwarding;
    this.#terminate = (error) => {
      // A statement that runs would go on, and be committed, long after the client was told that it has ended.
      const mayRun = ["busy", "unclear"].includes(forwarding.activity.state);
      if (this.#state !== "closing" && mayRun) void this.#cancelQuery(subject);
      forwarding.terminate(error);
    };
    this.#startTimers(forwarding);
  }

  /** Those of its tenant; who is in superuser_bypass has none. */
  #startTimers(forwarding: Forwarding | PooledForwarding): void {
    if (this.#admission === undefined) return;
    const session: TimedSession = {
      get activity() {
        return forwarding.activity;
      },
      expire: (error) => {
        if (error.code === "silence_timeout") this.#proxy.metrics.tenantTimeouts.inc();
        this.terminate(error);
      },
    };
    this.#timers = new SessionTimers(session, this.#proxy);
    this.#timers.use(this.#admission.terms.timeouts);
  }

  /** The server is told to stop what it does for the session, which it would end first, and commit, otherwise. */
  async #cancelQuery(subject: CancelSubject | undefined): Promise<void> {
    using held = subject?.hold();
    if (held !== undefined)
      await sendCancel(held.target, this.#proxy, AbortSignal.timeout(CANCEL_LIMIT_MS)).catch(() => {});
  }

  /** Waits for the end of a session that forwards, and tells of its beginning and its end. */
  async #follow(forwarding: Forwarding | PooledForwarding): Promise<void> {
    const { clock, metrics, config, audit } = this.#proxy;
    const loginMs = clock.now() - this.#startedAt;
    metrics.loginSeconds.observe(loginMs / 1000);
    metrics.countLogin("accepted");
    audit?.login(this.#about, { ...this.#login, outcome: "accepted", ms: loginMs });
    if (config.logConnections) this.#log.info({ ...this.#about, ms: Math.round(loginMs) }, "connected");

    const error = await forwarding.ended;
    const seconds = Math.round(clock.now() - this.#startedAt) / 1000;
    metrics.countBytes(this.bytes);
    this.#forwarding = undefined;
    audit?.end(this.#about, {
      user: this.#login.user,
      seconds,
      ...forwarding.bytes,
      reason: error?.code ?? "closed",
    });
    if (config.logDisconnections) {
      const code = error === undefined ? {} : { code: error.code };
      this.#log.info({ ...this.#about, seconds, ...forwarding.bytes, ...code }, "disconnected");
    }
  }

  /** One deadline from the accepted connection to the ReadyForQuery that the client sees. */
  #limitLogin(): Deadline {
    const { clock, config } = this.#proxy;
    const deadline: Deadline = new Deadline(clock, config.handshakeTimeoutMs, () =>
      this.state === "resolving" ||
      this.state === "injecting" ||
      (this.state === "authenticating" && this.#client?.isReading !== true)
        ? new ProxyError("upstream_timeout")
        : new ProxyError("handshake_timeout"),
    );
    this.#terminate = (error) => deadline.abort(error);
    return deadline;
  }

  /**
   * During login a byte that nobody has asked for ends the session, and so does the client's end. A CancelRequest is
   * carried out all the same: some drivers close as soon as they have written it.
   */
  #readClient(socket: Duplex, deadline: Deadline): MessageStream {
    this.#socket = socket;
    this.#client = new MessageStream(socket, {
      onUnexpectedBytes: () => deadline.abort(new ProxyError("login_message")),
      onLost: (error) => {
        if (this.state !== "cancelling") deadline.abort(error);
      },
    });
    return this.#client;
  }

  /** From here on each line of the log says who it is about. */
  #describe(identity: Identity, tls: string | undefined): void {
    const { loginRole: role, database } = identity;
    const tenant = identity.kind === "tenant" ? { tenant: identity.tenant } : {};
    this.#about = { ...this.#about, role, database, ...tenant, ...(tls !== undefined && { tls }) };
    this.#login = { ...this.#login, user: identity.user };
  }

  /** There are so many connections beyond a limit that not even a CancelRequest is read. */
  #turnAway({ refusal }: ClientPlace): void {
    if (refusal !== undefined) this.#report(refusal);
  }

  /**
   * The login has failed: the log learns why, the client what it may know, in the upstream's words or in ours. Who sent
   * a CancelRequest is never answered.
   */
  async #fail(failure: unknown): Promise<void> {
    const isAnswered = this.state !== "cancelling";
    if (this.state !== "closing") transition(this, "closing");
    this.#client?.detach();
    let lastWord: Buffer | undefined;
    if (failure instanceof PeerGone) {
      // OpenSSL's errors have a library: a client that does not take our certificate is worth a line.
      const isTls = failure.cause instanceof Error && "library" in failure.cause;
      this.#log[isTls ? "info" : "debug"]({ ...this.#about, err: failure.cause }, "client left during login");
    } else if (failure instanceof UpstreamRefusal) {
      this.#log.warn(
        { ...this.#about, upstream: describeErrorResponse(failure.response.body) },
        "login refused by the upstream server",
      );
      lastWord = failure.response.bytes;
    } else {
      const error = failure instanceof ProxyError ? failure : new ProxyError("internal", { cause: failure });
      this.#report(error);
      lastWord = encodeErrorResponse(error);
    }
    if (isAnswered) this.#countFailure(failure);
    await sendLastWord(this.#socket, isAnswered ? lastWord : undefined, this.#proxy.clock);
  }

  /** A client that goes before it has said who it is may be a check of the port: it is no login. */
  #countFailure(failure: unknown): void {
    const { metrics, audit, clock } = this.#proxy;
    const hasLeft = failure instanceof PeerGone;
    if (hasLeft && this.#login.user === undefined) return;
    const outcome = hasLeft ? "left" : "refused";
    metrics.countLogin(outcome);
    audit?.login(this.#about, { ...this.#login, outcome, ...reasonOf(failure), ms: clock.now() - this.#startedAt });
  }

  /** Counts an error and logs it, as loudly as its blame deserves. */
  #report(error: ProxyError): void {
    const { blame, sqlstate } = error.definition;
    this.#proxy.metrics.countError(error.code);
    const level = blame === "client" ? "info" : blame === "tenant" ? "warn" : "error";
    const cause = error.cause instanceof Error ? { err: error.cause } : {};
    this.#log[level](
      { ...this.#about, code: error.code, sqlstate, blame, detail: error.detail, ...cause },
      error.message,
    );
  }
}

function isLoginPhase(state: SessionState): state is LoginPhase {
  return LOGIN_PHASES.includes(state);
}

function reasonOf(failure: unknown): { reason?: string; sqlstate?: string } {
  if (failure instanceof PeerGone) return {};
  if (failure instanceof UpstreamRefusal) {
    const sqlstate = sqlstateOf(failure.response.body);
    return { reason: "upstream", ...(sqlstate !== undefined && { sqlstate }) };
  }
  if (failure instanceof ProxyError) return { reason: failure.code, sqlstate: failure.definition.sqlstate };
  return { reason: "internal" };
}
