#!/usr/bin/env node
/**
 * The program: argv -> command -> exit code. The only place that calls process.exit. What is wrong before a command runs
 * is said on stderr, a problem a line.
 */
import { ConfigError } from "./config/config-error.ts";
import { quoted } from "./config/one-line.ts";

type Command = (args: string[]) => Promise<number>;

/** Commands are loaded when they are called: `serve` does not wait for the code of `demo`. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import("./cli/serve.ts")).serve,
  check: async () => (await import("./cli/check.ts")).check,
  doctor: async () => (await import("./cli/doctor.ts")).doctor,
  explain: async () => (await import("./cli/explain.ts")).explain,
  key: async () => (await import("./cli/key.ts")).key,
  demo: async () => (await import("./cli/demo.ts")).demo,
  sql: async () => (await import("./cli/sql.ts")).sql,
  credential: async () => (await import("./cli/credential.ts")).credential,
  token: async () => (await import("./cli/token.ts")).token,
  help: async () => (await import("./cli/help.ts")).help,
  version: async () => (await import("./cli/version.ts")).version,
};

async function main(argv: readonly string[]): Promise<number> {
  const [first, ...rest] = argv;
  if (first === "--version" || first === "-V") return run("version", rest);
  if (first === "--help" || first === "-h") return run("help", rest);
  if (first !== undefined && !first.startsWith("-")) return run(first, rest);
  // Flags alone are those of serve; help is then asked for the whole program.
  return asksForHelp(argv) ? run("help", []) : run("serve", [...argv]);
}

async function run(name: string, args: string[]): Promise<number> {
  const load = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (load === undefined) {
    const names = Object.keys(commands).join(", ");
    throw new ConfigError([`there is no command ${quoted(name)}: the commands are ${names}`]);
  }
  if (asksForHelp(args)) return (await import("./cli/help.ts")).help(name === "help" ? [] : [name]);
  return (await load())(args);
}

/** What stands behind `--` is no flag. */
function asksForHelp(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  const flags = end === -1 ? args : args.slice(0, end);
  return flags.includes("--help") || flags.includes("-h");
}

/** Errors of several addresses at once have a code, and no message. */
function describe({ message, code }: NodeJS.ErrnoException): string {
  return message || code || "failed without saying why";
}

try {
  process.exit(await main(process.argv.slice(2)));
} catch (error) {
  const problems = error instanceof ConfigError ? error.problems : describe(error as NodeJS.ErrnoException).split("\n");
  process.stderr.write(problems.map((problem) => `pgvpd: ${problem}\n`).join(""));
  process.exit(1);
}
