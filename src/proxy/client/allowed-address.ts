/**
 * `allow_from`: who may come from where. It is asked once the user is known, since a bypass user may have networks of its own.
 */
import type { AllowedNetworks } from "../../config/networks.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { Identity } from "../tenant/identity.ts";

/** @throws ProxyError address_not_allowed (28000). */
export function assertAddressAllowed(address: string | undefined, identity: Identity, networks: AllowedNetworks): void {
  const bypassUser = identity.kind === "bypass" ? identity.user : undefined;
  if (!networks.allows(address, bypassUser)) {
    throw new ProxyError("address_not_allowed", { params: { user: identity.user, host: address ?? "" } });
  }
}
