/**
 * Whether the files that the configuration names can be used: certificates, keys and CAs of both legs, the
 * credentials of clients, and tenants. They are read as at a start, and kept nowhere.
 */
import { loadAdminTokens } from "../config/admin-tokens.ts";
import { ConfigError } from "../config/config-error.ts";
import type { Config } from "../config/settings.ts";
import { loadAdminTls } from "../config/tls-files.ts";
import { loadTenants } from "../config/tenants-file.ts";
import { loadCredentialsFile } from "../proxy/auth/credentials-file.ts";
import { ClientTls } from "../proxy/client/client-tls.ts";
import { UpstreamTls } from "../proxy/upstream/upstream-tls.ts";
import type { Finding } from "./finding.ts";

/** Nothing for what is not configured. */
export function checkFiles(config: Config): Finding[] {
  const { tlsCert, clientTlsSslmode, upstreamTls, upstreamTlsCa, upstreamTlsCert, credentialsFile } = config;
  const { adminTlsCert, adminTokensFile } = config;
  const hasUpstreamFiles = upstreamTlsCa !== undefined || upstreamTlsCert !== undefined;
  return [
    ...(tlsCert !== undefined && clientTlsSslmode !== "disable"
      ? tryOut("client TLS", () => new ClientTls(config))
      : []),
    ...(upstreamTls && hasUpstreamFiles ? tryOut("upstream TLS", () => new UpstreamTls(config)) : []),
    ...(adminTlsCert === undefined ? [] : tryOut("HTTP API TLS", () => loadAdminTls(config))),
    ...(adminTokensFile === undefined ? [] : tryOut("tokens", () => loadAdminTokens(adminTokensFile))),
    ...(config.tenants === undefined ? [] : tryOut("tenants", () => loadTenants(config))),
    ...(credentialsFile === undefined ? [] : tryOut("credentials", () => loadCredentialsFile(config))),
  ];
}

function tryOut(what: string, load: () => unknown): Finding[] {
  try {
    load();
    return [{ verdict: "ok", text: `${what}: the files can be used` }];
  } catch (error) {
    const problems = error instanceof ConfigError ? error.problems : [(error as Error).message];
    return problems.map((problem) => ({ verdict: "error", text: `${what}: ${problem}` }));
  }
}
