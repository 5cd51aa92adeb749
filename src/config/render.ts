/**
 * The table of settings as text: for `pgvpd --help`, for pgvpd.conf.example and for docs/configuration.md. The two files
 * are written by `npm run generate`, and a test fails when they are not what this makes.
 */
import { settingList, type Setting } from "./settings.ts";

type AnySetting = Setting<unknown>;

const all: readonly AnySetting[] = settingList.map(([, setting]) => setting);

/** Where the explanation of a flag begins, in `--help`. */
const HELP_COLUMN = 28;

/** The settings for a terminal of `width` columns: group by group the flags, what they mean, and their defaults. */
export function renderSettingsHelp(width: number): string {
  const lines: string[] = [];
  for (const [group, members] of groupsOf()) {
    lines.push("", `${group}:`);
    for (const setting of members) {
      const short = setting.shortFlag === undefined ? "    " : `-${setting.shortFlag}, `;
      // A secret has no flag; its variable is what one can write instead.
      const flag = setting.flag === undefined ? `      ${setting.env}` : `  ${short}--${setting.flag}`;
      const kept = setting.default === "" ? "" : ` (default ${setting.default})`;
      lines.push(...besides(flag, `${setting.doc}${kept}`, width));
    }
  }
  return `${lines.join("\n").trimStart()}\n`;
}

/** `flag` with its text in a column of its own; a long flag has a line to itself. */
function besides(flag: string, text: string, width: number): string[] {
  const [first = "", ...rest] = wrap(text, width - HELP_COLUMN);
  const indent = " ".repeat(HELP_COLUMN);
  const hasRoom = flag.length + 2 <= HELP_COLUMN;
  return [
    ...(hasRoom ? [flag.padEnd(HELP_COLUMN) + first] : [flag, indent + first]),
    ...rest.map((line) => indent + line),
  ];
}

/** Lines of at most `width` characters, broken at spaces; a longer word stays whole. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === "" ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

const README_BEGIN = "<!-- settings:begin -->";
const README_END = "<!-- settings:end -->";

/** README.md with its table of all settings made anew, between its two marks. */
export function renderIntoReadme(readme: string): string {
  const row = ({ name, default: value, doc }: AnySetting): string =>
    `| \`${name}\` | ${value && `\`${value}\``} | ${doc} |`;
  const table = ["| Setting | Default | Meaning |", "|---|---|---|", ...all.map(row)];
  const text = table.join("\n");
  const [begin, end] = [readme.indexOf(README_BEGIN) + README_BEGIN.length, readme.indexOf(README_END)];
  return `${readme.slice(0, begin)}\n${text}\n${readme.slice(end)}`;
}

/** pgvpd.conf.example: every setting, commented out, with its default. */
export function renderExampleFile(): string {
  const lines = [
    "# pgvpd.conf: key = value. A # at the start of a line begins a comment; elsewhere it is part of the value.",
    "# Every setting stands here with its default: remove the # in front of the ones you change.",
    "# PGVPD_* variables and flags win over this file. A file with a password in it: chmod 600.",
    "# Try it: pgvpd check --config pgvpd.conf. All of it at length: docs/configuration.md.",
    ...exampleGroups(),
  ];
  return `${lines.join("\n")}\n`;
}

function exampleGroups(): string[] {
  return [...groupsOf()].flatMap(([group, members]) => [
    "",
    `# --- ${group} ---`,
    ...members.flatMap((setting) => ["", `# ${setting.doc}`, `#${setting.name} = ${setting.default}`.trimEnd()]),
  ]);
}

/** docs/configuration.md. */
export function renderDocumentation(): string {
  return `${[PREFACE, ...documentedGroups(), ALIASES, aliasTable()].join("\n\n")}\n`;
}

const PREFACE = `# Configuration

<!-- Written by \`npm run generate\` from src/config/settings.ts. -->

## Where settings come from

Later ones win: defaults, the file, environment variables, flags.

- **The file** is the one that \`--config FILE\` names. Without the flag it is \`pgvpd.conf\` in the current folder, if there
  is one.
- **Variables** are named \`PGVPD_\` and the setting in capitals, except that \`listen_host\` has \`PGVPD_HOST\`. An unknown
  \`PGVPD_*\` variable is a warning.
- **Flags** are the setting with hyphens, as \`--upstream-host db.internal\` or \`--upstream-host=db.internal\`; some are
  shorter, see the tables. A boolean may stand bare: \`--log-connections\` is \`--log-connections=true\`. Where a flag comes
  twice the last one counts; \`--config\` may come only once.

\`pgvpd check --config FILE\` lists everything that is wrong, shows which settings were given and where, and tries the
upstream server. Whatever it calls an error stops the start too: an unknown name, a value that does not parse, even one
that another source overrides.

## Syntax of the file

    # a comment: the # stands at the start of the line
    port = 6432
    context_variables = app.current_tenant_id, app.current_user_id
    tenant_separator = "."

One setting on a line. Spaces around names and values do not count, and one pair of quotes around a value, double or
single, is dropped. A \`#\` further right belongs to the value. The text is UTF-8. A setting comes once, under its name or
under an alias. An empty value means "not set" where the tables have no default, and "none" for a list.

Booleans are \`true\`, \`yes\`, \`on\`, \`1\` and \`false\`, \`no\`, \`off\`, \`0\`, in any case. Times are seconds; fractions down to a
millisecond are allowed.

## Secrets

Passwords have no flag, because a command line is visible to every user of a machine: they stand in a file of their own,
in pgvpd.conf or in the environment. \`pool_password_file\` and \`upstream_password_file\` name files that hold the password
and nothing else; a line ending behind it does not count. Giving the password and its file is an error.

Files of secrets - passwords, private keys, \`context_key_file\`, \`credentials_file\`, \`admin_tokens_file\` - have mode 600, or 640 where they are
root's, as PostgreSQL demands it of its own keys; with any other mode pgvpd does not start. A pgvpd.conf that holds a
password and that others can read is a warning. No message, log line, answer of the HTTP API or \`pgvpd check\` shows a
secret.

## Kubernetes

For a Service named \`pgvpd\`, Kubernetes gives every pod of the namespace variables such as
\`PGVPD_PORT=tcp://10.0.0.1:6432\`. pgvpd ignores them, with a warning. Put \`enableServiceLinks: false\` into the pod's
specification and they are gone.

## Changing settings

SIGHUP reads the file and the variables again, and everything that they name: \`tenants\`, the lists, limits and timeouts of tenants,
\`max_client_conn\` and its like, \`log_level\`, passwords that were set before, \`credentials_file\`, \`context_key_file\`, \`admin_tokens_file\`, the file of
\`resolvers\` and the files of certificates, keys and CAs; it opens a new \`audit_log\` where the old one was moved. Where one of them
cannot be used nothing changes, and the log says why ([tenants.md](tenants.md) has what becomes of open sessions). Other settings that have
changed are named in the log and take effect with a restart: on SIGTERM the connections that are open may go on for
\`drain_timeout\` seconds, while a new process already takes the port.

## Settings`;

const ALIASES = `## Aliases

Names that the file takes besides. Giving both is an error.`;

function documentedGroups(): string[] {
  return [...groupsOf()].map(([group, members]) =>
    [
      `### ${group}`,
      "",
      "| Setting | Default | Allowed | Variable | Flag | Meaning |",
      "|---|---|---|---|---|---|",
      ...members.map((setting) => {
        const short = setting.shortFlag === undefined ? "" : `\`-${setting.shortFlag}\`, `;
        const cells = [
          `\`${setting.name}\``,
          setting.default === "" ? "not set" : `\`${setting.default}\``,
          inTable(setting.type.allowed),
          `\`${setting.env}\``,
          setting.flag === undefined ? "none: a secret" : `${short}\`--${setting.flag}\``,
          inTable(setting.doc),
        ];
        return `| ${cells.join(" | ")} |`;
      }),
    ].join("\n"),
  );
}

function aliasTable(): string {
  const rows = all.flatMap(({ name, aliases }) => aliases.map((alias) => `| \`${alias}\` | \`${name}\` |`));
  return ["| Alias | Setting |", "|---|---|", ...rows].join("\n");
}

/** Plain text inside a cell of a Markdown table. */
function inTable(text: string): string {
  return text.replace(/[\\|*<]/g, (character) => `\\${character}`);
}

function groupsOf(): Map<string, AnySetting[]> {
  const groups = new Map<string, AnySetting[]>();
  for (const setting of all) groups.set(setting.group, [...(groups.get(setting.group) ?? []), setting]);
  return groups;
}
