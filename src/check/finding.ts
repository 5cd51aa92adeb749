/**
 * What a check found: it is returned, and printed by `pgvpd check` alone.
 */
import { oneLine } from "../config/one-line.ts";

/** `not checked` is what could not be looked at, with what is needed for it. */
export type Verdict = "ok" | "warning" | "error" | "not checked";

export interface Finding {
  readonly verdict: Verdict;
  /** One sentence; what it is about comes first: `upstream: ...`. */
  readonly text: string;
}

const VERDICT_COLUMNS = "not checked".length + 2;

/** A finding as a line of its own, whatever names of a database stand in it. */
export function formatFinding({ verdict, text }: Finding): string {
  return `${verdict.padEnd(VERDICT_COLUMNS)}${oneLine(text)}\n`;
}
