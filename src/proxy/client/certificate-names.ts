/**
 * `client_tls_sslmode = verify-full`: the client's certificate must name the tenant, or the role, that it connects as.
 */
import type { PeerCertificate } from "node:tls";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Identity } from "../tenant/identity.ts";

/**
 * A bypass user has no tenant: its certificate must name the user.
 *
 * @throws ProxyError client_certificate (28000).
 */
export function assertCertificateNames(
  certificate: PeerCertificate,
  identity: Identity,
  config: Pick<Config, "clientTlsSslmode" | "clientCertMap">,
): void {
  if (config.clientTlsSslmode !== "verify-full") return;
  const isTenant = config.clientCertMap === "tenant" && identity.kind === "tenant";
  const wanted = isTenant ? identity.tenant : identity.loginRole;
  if (!namesOf(certificate).includes(wanted)) {
    throw new ProxyError("client_certificate", { detail: `the certificate does not name ${wanted}` });
  }
}

/**
 * The subject's common names and the alternative names of every kind, without their kind's prefix. Node puts an
 * alternative name in quotes when it holds a comma or a quote: such a list is not taken apart, and counts for nothing.
 */
function namesOf({ subject, subjectaltname = "" }: PeerCertificate): string[] {
  const common: unknown = subject?.CN;
  const list = subjectaltname.includes('"') ? [] : subjectaltname.split(", ");
  const alternative = list.map((name) => name.slice(name.indexOf(":") + 1));
  return [...(Array.isArray(common) ? (common as string[]) : [String(common ?? "")]), ...alternative].filter(Boolean);
}
