/** The command line: how flags become settings, and what is said of the ones that do not. */
import { describe, expect, it } from "vitest";
import { parseArguments } from "../../../src/cli/args.ts";
import { settingList } from "../../../src/config/settings.ts";
import { problemsOf } from "../config/load-text.ts";

const settingsOf = (...args: string[]): Record<string, string> =>
  Object.fromEntries(parseArguments(args).settings.map(({ name, value }) => [name, value]));
const refuses = (...args: string[]): readonly string[] => problemsOf(() => parseArguments(args));

describe("a flag", () => {
  it("takes its value behind a space, behind =, or at once behind its letter", () => {
    for (const args of [["-p", "7000"], ["-p7000"], ["--port", "7000"], ["--port=7000"]]) {
      expect(settingsOf(...args)).toEqual({ port: "7000" });
    }
  });

  it("is the setting's name with hyphens, except for three", () => {
    expect(settingsOf("--separator", "-", "--context", "a.b,c.d", "--superuser=admin", "--set-role", "r")).toEqual({
      tenant_separator: "-",
      context_variables: "a.b,c.d",
      superuser_bypass: "admin",
      set_role: "r",
    });
    const special = settingList.filter(
      ([, { name, flag }]) => flag !== undefined && flag !== name.replaceAll("_", "-"),
    );
    expect(special.map(([, { flag }]) => flag)).toEqual(["separator", "context", "superuser"]);
  });

  it("of a boolean may stand bare, and means true", () => {
    expect(settingsOf("--log-connections", "--upstream-tls")).toEqual({
      log_connections: "true",
      upstream_tls: "true",
    });
    expect(settingsOf("--log-connections=false")).toEqual({ log_connections: "false" });
  });

  it("may be empty behind =, which unsets", () => {
    expect(settingsOf("--login-roles=")).toEqual({ login_roles: "" });
  });

  it("that comes twice counts as it comes last", () => {
    expect(settingsOf("--port", "1", "-p2", "--port=3")).toEqual({ port: "3" });
  });

  it("keeps the way it was written for messages", () => {
    expect(parseArguments(["-p7000"]).settings).toEqual([{ name: "port", value: "7000", origin: "-p" }]);
  });

  it("may have a value that begins with a hyphen, behind =", () => {
    expect(settingsOf("--upstream-startup-parameters=-role", "--separator", "-", "--value-separator=--")).toEqual({
      upstream_startup_parameters: "-role",
      tenant_separator: "-",
      value_separator: "--",
    });
  });
});

describe("a flag without its value", () => {
  it("is refused at the end", () => {
    expect(refuses("--port")[0]).toMatch(/^--port: expected a value/);
    expect(refuses("-p")[0]).toMatch(/^-p: expected a value/);
  });

  it("does not swallow the next flag, nor repeat it: a password may stand there", () => {
    expect(refuses("--set-role", "--pool-password=hunter2", "--port", "1")).toEqual([
      "--set-role: expected a value (one that begins with a hyphen is written --set-role=-VALUE)",
    ]);
    expect(refuses("--port", "--")[0]).toMatch(/^--port: expected a value/);
  });

  it("is refused for --config= and for a command's own flags, which have nothing to unset", () => {
    expect(refuses("--config=")[0]).toMatch(/^--config: expected a value/);
    const own = { "database-url": { type: "string" } } as const;
    expect(problemsOf(() => parseArguments(["--database-url="], own))[0]).toMatch(/^--database-url: expected a value/);
  });
});

describe("an unknown flag", () => {
  it("is told the nearest one", () => {
    expect(refuses("--prot", "7000")).toEqual(["--prot: there is no such flag: did you mean --port?"]);
    expect(refuses("--conifg", "x")).toEqual(["--conifg: there is no such flag: did you mean --config?"]);
    expect(refuses("-x")).toEqual(["-x: there is no such flag"]);
  });

  it("is told the flag where it is the setting's name, an alias, or PgBouncer's", () => {
    expect(refuses("--tenant-separator", ".")[0]).toContain("did you mean --separator?");
    expect(refuses("--context_variables=a.b")[0]).toContain("did you mean --context?");
    expect(refuses("--host", "x")[0]).toContain("did you mean --listen-host?");
    expect(refuses("--listen-addr", "x")[0]).toContain("PgBouncer's listen_addr is --listen-host here");
  });

  it("is told how to turn a boolean off", () => {
    expect(refuses("--no-log-connections")).toEqual([
      "--no-log-connections: there is no such flag: write --log-connections=false",
    ]);
  });

  it("is refused with all others, and before what looks like its value", () => {
    expect(refuses("--one", "1", "--two", "2")).toEqual([
      "--one: there is no such flag",
      "--two: there is no such flag",
    ]);
  });

  it("may be called like a property that every object has", () => {
    for (const name of ["--constructor", "--toString", "--__proto__=1", "--hasOwnProperty"]) {
      expect(refuses(name)[0]).toContain("there is no such flag");
    }
  });
});

describe("a password", () => {
  it("has no flag, and is not repeated", () => {
    for (const args of [["--pool-password", "hunter2"], ["--pool-password=hunter2"], ["--pool_password", "hunter2"]]) {
      const problems = refuses(...args);
      expect(problems).toHaveLength(1);
      expect(problems[0]).toMatch(
        /: a password on the command line is visible to everybody: set pool_password in the file, or PGVPD_POOL_PASSWORD$/,
      );
      expect(problems[0]).not.toContain("hunter2");
    }
  });
});

describe("--config", () => {
  it("names the file", () => {
    expect(parseArguments(["--config", "a.conf"]).file).toBe("a.conf");
    expect(parseArguments(["--config=a.conf"]).file).toBe("a.conf");
    expect(parseArguments([]).file).toBeUndefined();
  });

  it("is refused twice: whoever gives two files expects both to count", () => {
    expect(refuses("--config", "a", "--config", "b")).toEqual(["--config: given twice: one file is read"]);
  });
});

describe("an argument that belongs to no flag", () => {
  it("is refused", () => {
    expect(refuses("serve")).toEqual(['unexpected argument "serve": pgvpd --help lists the commands']);
    expect(refuses("--port", "1", "-")).toEqual(['unexpected argument "-": pgvpd --help lists the commands']);
  });

  it("is refused behind -- too, flags included", () => {
    expect(refuses("--", "--port")).toEqual(['unexpected argument "--port": pgvpd --help lists the commands']);
    expect(parseArguments(["--"]).settings).toEqual([]);
  });

  it("is explained behind a boolean flag, whose value needs a =", () => {
    expect(refuses("--log-connections", "false")).toEqual([
      'unexpected argument "false": write --log-connections=false',
    ]);
  });
});
