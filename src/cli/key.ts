/**
 * `pgvpd key`: the keys that the context is sealed with. `create` and `rotate` write the file that pgvpd reads,
 * `install` prints the SQL that makes the database accept exactly the keys of that file.
 */
import { existsSync } from "node:fs";
import { parseArgs } from "node:util";
import { ConfigError } from "../config/config-error.ts";
import { addKey, createKeyFile, keepLastKey, readSealKeys, renderKeyInstallation } from "../config/seal-keys.ts";

export const keyUsage = `Usage: pgvpd key create|rotate|install|retire --file FILE

Keys that the context is sealed with (context_seal, context_key_file).

  create    writes FILE with a new key; FILE must not exist
  install   prints SQL: the database accepts the keys of FILE, and no others
  rotate    adds a new key to FILE, which pgvpd uses after the next reload
  retire    removes all keys of FILE but the last

A key is changed without an interruption in this order:

  pgvpd key rotate --file context.key
  pgvpd key install --file context.key | psql -v ON_ERROR_STOP=1 -d mydb
  kill -HUP ...                                # every instance of pgvpd
  pgvpd key retire --file context.key
  pgvpd key install --file context.key | psql -v ON_ERROR_STOP=1 -d mydb

With the signed carrier retire a key only when context_seal_ttl has passed since the
reload: a session that it sealed is refused its rows from then on. The slot does not mind.

A key that others may have is not gone with its retirement: a session keeps the context
that it has, and an open transaction may still see the key. Then end them all:

  SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app_user';

The SQL holds the keys: let nobody read it, and write it to no log.

Options:
      --file FILE           context_key_file; it gets the mode 0600
  -h, --help                this text
`;

const actions: Readonly<Record<string, (file: string) => void>> = {
  create(file) {
    if (existsSync(file)) throw new ConfigError([`${file} exists already: pgvpd key rotate adds a key to it`]);
    createKeyFile(file);
    say(`wrote ${file} with key 1: now pgvpd key install --file ${file} | psql -v ON_ERROR_STOP=1 -d your_database`);
  },
  rotate(file) {
    say(`added key ${addKey(file)}: install it before pgvpd is reloaded`);
  },
  retire(file) {
    say(`${file} holds key ${keepLastKey(file)} alone: install it, and the database refuses the others`);
  },
  install(file) {
    process.stdout.write(renderKeyInstallation(readSealKeys(file)));
  },
};

/** @returns the exit code. Throws an Error whose message is for the user. */
export async function key(args: readonly string[]): Promise<number> {
  const { values, positionals } = readFlags(args);
  const [name = ""] = positionals;
  const action = Object.hasOwn(actions, name) ? actions[name] : undefined;
  if (action === undefined || positionals.length > 1) {
    throw new ConfigError([`expected one of ${Object.keys(actions).join(", ")}: pgvpd help key`]);
  }
  if (values.file === undefined) throw new ConfigError(["--file: expected the path of context_key_file"]);
  action(values.file);
  return 0;
}

function readFlags(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: { file: { type: "string" } }, allowPositionals: true });
  } catch (error) {
    throw new ConfigError([(error as Error).message]);
  }
}

/** What is not the output: standard output may go to psql. */
function say(text: string): void {
  process.stderr.write(`${text}\n`);
}
