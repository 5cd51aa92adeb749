/**
 * What a client's proof is checked against, and what a right proof is worth upstream.
 */
import type { ScramVerifier } from "../../protocol/scram/verifier.ts";

/** PostgreSQL's older form of a stored password: `md5` and the hash of password and role name. Proved in clear text alone. */
export interface Md5Verifier {
  readonly md5: string;
}

export interface Credential {
  readonly verifier: ScramVerifier | Md5Verifier;
  /** True for one that is not the role's own: it proves a tenant, and opens nothing upstream. */
  readonly isForeign: boolean;
}

/** The credential of one login. */
export interface FoundCredential extends Credential {
  /** Why no password fits, for the log; undefined where one does. */
  readonly problem: string | undefined;
}

/** True for a verifier that a SCRAM exchange can be made with. */
export function isScram(verifier: ScramVerifier | Md5Verifier): verifier is ScramVerifier {
  return "storedKey" in verifier;
}
