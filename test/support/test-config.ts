/** A configuration for tests of single sessions: the defaults, as the properties that a session reads. */
import type { Config } from "../../src/config/settings.ts";

const defaults: Partial<Config> = {
  tenantSeparator: ".",
  valueSeparator: ":",
  contextVariables: ["app.current_tenant_id"],
  contextInjection: "startup",
  superuserBypass: ["postgres"],
  loginRoles: [],
  allowUnsafeRoles: false,
  clientParameters: ["*"],
  ignoreStartupParameters: [],
  upstreamStartupParameters: ["*"],
  poolMode: "none",
  allowDatabases: [],
  serverConnectLimit: 50,
  upstreamRequireAuth: [],
  scramIterations: 4_096,
  allowFrom: [],
  loginThrottleMs: 1_000,
  clientTlsSslmode: "allow",
  clientCertMap: "tenant",
  handshakeTimeoutMs: 30_000,
  tenantAllow: [],
  tenantDeny: [],
  halfCloseTimeoutMs: 30_000,
  tcpKeepalive: false,
  tcpKeepidleMs: 60_000,
  logConnections: true,
  logDisconnections: true,
};

export const testConfig = (overrides: Partial<Config> = {}): Config => ({ ...defaults, ...overrides }) as Config;
