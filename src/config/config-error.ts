/**
 * Everything that is wrong with a configuration, at once: one line for each problem, with where it stands and what is
 * allowed. Thrown before anything starts.
 */
import { oneLine } from "./one-line.ts";

export class ConfigError extends Error {
  /** Each is one line, whatever stood in the text that it is about. */
  readonly problems: readonly string[];
  /** What the loader noticed beside them. */
  readonly warnings: readonly string[];

  constructor(problems: readonly string[], warnings: readonly string[] = []) {
    const lines = problems.map(oneLine);
    super(lines.join("\n"));
    this.name = "ConfigError";
    this.problems = lines;
    this.warnings = warnings;
  }
}
