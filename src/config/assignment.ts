/**
 * A setting's text and who gave it: what file, environment and command line are turned into before they are parsed.
 */

/** Where a value comes from: `default`, `pgvpd.conf:12`, `PGVPD_PORT`, `--port`. */
export type Origin = string;

export interface Assignment {
  /** The setting's name as the file has it, or one of its aliases. */
  readonly name: string;
  readonly value: string;
  readonly origin: Origin;
  /** What a setting may be stated in only once, as the file; undefined where the last one counts, as on the command line. */
  readonly onceIn?: string;
}
