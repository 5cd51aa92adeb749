/**
 * Whole sessions over sockets in memory, with a scripted server behind them and a clock that stands still. `openWire` is
 * the first line of a test: when the test is over it closes what the test left open, and checks that nothing else is:
 * no session, no timer, no socket, no rejection that nobody handled, no password in the log.
 */
import type { Socket } from "node:net";
import { pino } from "pino";
import { expect, onTestFinished } from "vitest";
import { AllowedNetworks } from "../../src/config/networks.ts";
import type { Config } from "../../src/config/settings.ts";
import { TenantPolicy } from "../../src/config/tenant-policy.ts";
import { TimerWheel } from "../../src/lib/timer-wheel.ts";
import { Semaphore } from "../../src/lib/semaphore.ts";
import { TokenBucket } from "../../src/lib/token-bucket.ts";
import { Metrics } from "../../src/observe/metrics.ts";
import { Admissions } from "../../src/proxy/admit/admissions.ts";
import { ClientPlaces } from "../../src/proxy/admit/client-places.ts";
import { Credentials } from "../../src/proxy/auth/credentials.ts";
import type { CredentialsFile } from "../../src/proxy/auth/credentials-file.ts";
import { LoginThrottle } from "../../src/proxy/auth/login-throttle.ts";
import type { ClientTls } from "../../src/proxy/client/client-tls.ts";
import { createUnsealed } from "../../src/proxy/context/inject-context.ts";
import type { Seal } from "../../src/proxy/context/seal.ts";
import { Resolvers } from "../../src/proxy/context/resolvers.ts";
import { SafeRoles } from "../../src/proxy/context/role-safety.ts";
import type { ProxyServices } from "../../src/proxy/services.ts";
import { Session } from "../../src/proxy/session.ts";
import { createCancelKeys } from "../../src/proxy/upstream/cancel-keys.ts";
import type { Dial, UpstreamAddress } from "../../src/proxy/upstream/dial.ts";
import { KeyCache } from "../../src/proxy/upstream/key-cache.ts";
import { RoleDefaults } from "../../src/proxy/upstream/role-defaults.ts";
import { startupMessage } from "./bytes.ts";
import { duplexPair, quiescence, type MemorySocket, type PairOptions } from "./duplex-pair.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedClient, type ClientScript } from "./scripted-client.ts";
import { ScriptedUpstream, type UpstreamScript } from "./scripted-upstream.ts";
import { testConfig } from "./test-config.ts";

export interface WireOptions {
  readonly config?: Partial<Config>;
  readonly upstream?: UpstreamScript;
  /** In place of a scripted server. */
  readonly dial?: Dial;
  /** Where dialled servers say that they are. */
  readonly address?: UpstreamAddress;
  readonly pair?: PairOptions;
  /** Not given: no certificate is configured. */
  readonly clientTls?: ClientTls;
  /** What `credentials_file` holds. */
  readonly credentials?: CredentialsFile;
  /** What context_key_file holds; not given: nothing is sealed. */
  readonly seal?: Seal;
  /** CancelRequests a second, and at once. */
  readonly cancelRate?: readonly [number, number];
}

export interface ConnectOptions extends ClientScript {
  /** False: the client is on a network, where others can read a password. */
  readonly isLocal?: boolean;
  /** Where it comes from; not given: a Unix-domain socket. */
  readonly address?: string;
  /** True: it came to `tls_port`. */
  readonly isTlsPort?: boolean;
}

/** One client and its session. */
export interface WireConnection {
  readonly client: ScriptedClient;
  readonly session: Session;
}

interface LogLine {
  readonly level: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

export class Wire {
  readonly clock = new FakeClock();
  readonly config: Config;
  readonly services: ProxyServices;
  readonly log: LogLine[] = [];
  readonly upstreams: ScriptedUpstream[] = [];
  readonly connections: WireConnection[] = [];
  readonly #options: WireOptions;
  readonly #sockets: MemorySocket[] = [];
  readonly #rejections: unknown[] = [];
  #openSessions = 0;

  constructor(options: WireOptions) {
    this.#options = options;
    this.config = testConfig(options.config);
    const [perSecond, burst] = options.cancelRate ?? [500, 2_000];
    const write = (line: string): void => void this.log.push(JSON.parse(line) as LogLine);
    const login = {
      config: this.config,
      clock: this.clock,
      dial: options.dial ?? this.#dial,
      keyCache: new KeyCache(),
      log: pino({ level: "trace", formatters: { level: (level) => ({ level }) } }, { write }),
    };
    const metrics = new Metrics();
    this.services = {
      ...login,
      servicesOf: () => this.services,
      wheel: new TimerWheel(this.clock),
      places: new ClientPlaces(this.config),
      admissions: new Admissions(new TenantPolicy(this.config), {
        clock: this.clock,
        countRejected: (reason) => metrics.tenantRejected.inc({ reason }),
      }),
      clientTls: options.clientTls,
      upstreamTls: undefined,
      networks: new AllowedNetworks(this.config.allowFrom),
      throttle: new LoginThrottle(this.clock, this.config.loginThrottleMs),
      credentials: new Credentials(this.config, { file: options.credentials, authQuery: undefined }),
      roleDefaults: new RoleDefaults(login),
      cancelKeys: createCancelKeys(),
      cancelRate: new TokenBucket(this.clock, perSecond, burst),
      safeRoles: new SafeRoles(this.clock),
      resolvers: new Resolvers(this.config, [], { ...login, metrics: new Metrics() }),
      ownLogins: new Semaphore(this.config.serverConnectLimit),
      pool: undefined,
      seal: options.seal,
      metrics,
      unsealed: createUnsealed(this.clock),
      directRead: false,
    };
    process.on("unhandledRejection", this.#onRejection);
  }

  /** The server that was dialled last. */
  get upstream(): ScriptedUpstream {
    const last = this.upstreams.at(-1);
    if (last === undefined) throw new Error("nobody has dialled");
    return last;
  }

  /** A new client whose session has begun; it has sent nothing. */
  connect(options: ConnectOptions = {}): WireConnection {
    const [near, far] = this.#pair();
    const client = new ScriptedClient(far, options);
    const session = new Session(
      this.connections.length + 1,
      {
        socket: near,
        peer: "test",
        address: options.address,
        isLocal: options.isLocal ?? true,
        isTlsPort: options.isTlsPort ?? false,
      },
      this.services,
    );
    const connection = { client, session };
    this.connections.push(connection);
    this.#openSessions++;
    void session.serve().finally(() => this.#openSessions--);
    return connection;
  }

  /** A client that sends the StartupMessage of `app_user.acme` with these parameters; resolves when nothing moves. */
  async logIn(
    options: ConnectOptions = {},
    parameters: Readonly<Record<string, string>> = {},
  ): Promise<WireConnection> {
    const connection = this.connect(options);
    connection.client.send(startupMessage({ user: options.user ?? "app_user.acme", database: "shop", ...parameters }));
    await quiescence();
    return connection;
  }

  /** The value of a counter or gauge, over all its labels. */
  async metric(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const found = (await this.services.metrics.registry.getMetricsAsJSON()).find((metric) => metric.name === name);
    return (found?.values ?? [])
      .filter((value) => Object.entries(labels).every(([label, wanted]) => value.labels[label] === wanted))
      .reduce((sum, { value }) => sum + value, 0);
  }

  /** Closes all clients, then all servers, and checks that nothing is left. */
  async assertNothingLeft(): Promise<void> {
    for (const { client } of this.connections) client.socket.destroy();
    await quiescence();
    for (const { socket } of this.upstreams) socket.destroy();
    await quiescence();
    process.off("unhandledRejection", this.#onRejection);

    expect(this.connections.map(({ session }) => session.state).filter((state) => state !== "closed")).toEqual([]);
    expect(this.#openSessions, "sessions that are still served").toBe(0);
    expect(this.clock.openTimers, "timers that are still open").toEqual([]);
    expect(this.#sockets.filter(({ destroyed }) => !destroyed).length, "sockets that are still open").toBe(0);
    expect(this.#rejections, "rejections that nobody handled").toEqual([]);
    expect(await this.metric("pgvpd_connections_active")).toBe(0);
    this.clock.advance(1_000);
    expect(this.services.admissions.size, "tenants that are still counted").toBe(0);
    expect(this.services.places.size, "connections that are still counted").toBe(0);
    expect(JSON.stringify(this.log)).not.toMatch(/correct horse|client-nonce|server-nonce|md5[0-9a-f]{32}/);
  }

  readonly #dial: Dial = async () => {
    const [near, far] = this.#pair();
    const upstream = new ScriptedUpstream(far, this.#options.upstream ?? {});
    this.upstreams.push(upstream);
    void upstream.run();
    return {
      socket: near as unknown as Socket,
      address: this.#options.address ?? { host: "upstream", port: this.upstreams.length },
    };
  };

  #pair(): [MemorySocket, MemorySocket] {
    const pair = duplexPair(this.#options.pair);
    this.#sockets.push(...pair);
    return pair;
  }

  readonly #onRejection = (reason: unknown): void => void this.#rejections.push(reason);
}

/** The first line of a test: what it opens is checked when the test is over. */
export function openWire(options: WireOptions = {}): Wire {
  const wire = new Wire(options);
  onTestFinished(() => wire.assertNothingLeft());
  return wire;
}

/** Every byte a write of its own. */
export const byteByByte = (bytes: Buffer): Buffer[] => [...bytes].map((byte) => Buffer.of(byte));
