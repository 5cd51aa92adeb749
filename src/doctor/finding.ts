/**
 * What doctor found, and what it could not look at. Both are returned, and printed by `pgvpd doctor` alone.
 */

/** `error`: a tenant can reach what is another's. `warning`: it can, if something else happens. `info`: worth knowing. */
export type Severity = "error" | "warning" | "info";

export const SEVERITIES: readonly Severity[] = ["error", "warning", "info"];

export interface Finding {
  /** Never changes from one version to the next: `table_rls_not_forced`. */
  readonly code: string;
  readonly severity: Severity;
  /** Written as in SQL: `public.orders`. */
  readonly object: string;
  /** One sentence. */
  readonly why: string;
  /** SQL that mends it, to be run by an administrator; a comment where SQL alone cannot. */
  readonly fix: string;
}

export interface NotChecked {
  readonly what: string;
  readonly reason: string;
  /** The role that looks may not see it: an administrator may. */
  readonly isDenied?: true;
  /** Another session held a lock on what was to be looked at: later it can be. */
  readonly isLocked?: true;
}

export interface Look {
  readonly findings: readonly Finding[];
  readonly notChecked: readonly NotChecked[];
}

/** Several looks as one. */
export function combine(looks: readonly Look[]): Look {
  return {
    findings: looks.flatMap(({ findings }) => findings),
    notChecked: looks.flatMap(({ notChecked }) => notChecked),
  };
}
