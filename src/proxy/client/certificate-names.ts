/**
 * `client_tls_sslmode = verify-full`: the client's certificate must name the tenant, or the role, that it connects as.
 */
import type { PeerCertificate } from "node:tls";
import type { Config } from "../../config/settings.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Identity } from "../tenant/identity.ts";

/** Kinds of alternative names that hold a name as such; others, as an otherName, are shown by Node in words of its own. */
const KINDS = ["DNS:", "email:", "URI:", "IP Address:"];

/**
 * A bypass user has no tenant: its certificate must name the user.
 *
 * @throws ProxyError certificate_name (28000).
 */
export function assertCertificateNames(
  certificate: PeerCertificate,
  identity: Identity,
  config: Pick<Config, "clientTlsSslmode" | "clientCertMap">,
): void {
  if (config.clientTlsSslmode !== "verify-full") return;
  const isTenant = config.clientCertMap === "tenant" && identity.kind === "tenant";
  const wanted = isTenant ? identity.tenant : identity.loginRole;
  const names = namesOf(certificate);
  if (!names.includes(wanted)) {
    const what = identity.kind === "bypass" ? "user" : isTenant ? "tenant" : "role";
    throw new ProxyError("certificate_name", {
      params: { user: identity.user, what },
      detail: `the ${what} is ${wanted}; the certificate names ${names.join(", ") || "nobody"}`,
    });
  }
}

/**
 * The subject's common names, and the alternative names. Node puts an alternative name in quotes when it holds a comma or
 * a quote: such a list is not taken apart, and counts for nothing.
 */
function namesOf({ subject, subjectaltname = "" }: PeerCertificate): string[] {
  const alternative = subjectaltname.includes('"') ? [] : subjectaltname.split(", ");
  const names = alternative.flatMap((name) => {
    const kind = KINDS.find((prefix) => name.startsWith(prefix));
    return kind === undefined ? [] : [name.slice(kind.length)];
  });
  return [subject?.CN ?? [], names].flat(2);
}
