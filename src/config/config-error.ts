/**
 * Everything that is wrong with a configuration, at once: one line for each problem, with where it stands and what is
 * allowed. Thrown before anything starts.
 */
export class ConfigError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join("\n"));
    this.name = "ConfigError";
    this.problems = problems;
  }
}
