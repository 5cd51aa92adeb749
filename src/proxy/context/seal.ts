/**
 * Seals a context: an HMAC over what it says, the session that it is for and a nonce of that session. PostgreSQL checks
 * it (sql/seal.sql), so that no SQL of a tenant can make or change a context.
 */
import { createHmac } from "node:crypto";
import { readSealKeys, type SealKey } from "../../config/seal-keys.ts";
import { ProxyError } from "../../errors/proxy-error.ts";
import type { ContextValue } from "../tenant/identity.ts";
import type { Row, Statement } from "../upstream/pipeline.ts";

/** Begins a context: clears the old one, and says what the HMAC has to cover. */
export const HELLO_QUESTION = {
  columns: "h.carrier, h.pid, h.nonce, h.now, pg_catalog.current_database()",
  from: "pgvpd.hello() AS h",
};

export const HELLO: Statement = {
  sql: `SELECT ${HELLO_QUESTION.columns} FROM ${HELLO_QUESTION.from}`,
  values: [],
};

/** SQLSTATEs of a database without sql/seal.sql: no such function, no such schema, no right to either. */
const NOT_INSTALLED = ["42883", "3F000", "42501"];

export function isNotInstalled(sqlstate: string): boolean {
  return NOT_INSTALLED.includes(sqlstate);
}

interface Hello {
  readonly carrier: "slot" | "signed";
  readonly pid: string;
  readonly nonce: string;
  /** Seconds since 1970, by the server's clock. */
  readonly now: number;
  readonly database: string;
}

export class Seal {
  readonly #file: string;
  readonly #ttlSeconds: number;
  #key: SealKey;

  /** @throws Error naming the file and what is wrong with it. */
  constructor({ contextKeyFile, contextSealTtlMs }: { contextKeyFile: string; contextSealTtlMs: number }) {
    this.#file = contextKeyFile;
    this.#ttlSeconds = Math.floor(contextSealTtlMs / 1000);
    this.#key = currentKey(contextKeyFile);
  }

  /** Reads the keys again. @returns what puts them to use. @throws Error naming the file and what is wrong with it. */
  prepareReload(): () => void {
    const key = currentKey(this.#file);
    return () => {
      this.#key = key;
    };
  }

  /**
   * The statement that puts the context into the session which gave `hello`. Names are in lower case, as PostgreSQL
   * compares them.
   *
   * @throws ProxyError context_failed when `hello` is not an answer of sql/seal.sql.
   */
  setContext(hello: readonly Row[] | undefined, context: readonly ContextValue[]): Statement {
    return signContext(this.#key, this.#ttlSeconds, hello, context);
  }
}

/** What `Seal.setContext` gives, with a key that the caller has. */
export function signContext(
  key: SealKey,
  ttlSeconds: number,
  hello: readonly Row[] | undefined,
  context: readonly ContextValue[],
): Statement {
  const { carrier, pid, nonce, now, database } = decodeHello(hello);
  const text = JSON.stringify(Object.fromEntries(context.map(({ name, value }) => [name.toLowerCase(), value])));
  const expires = String(now + ttlSeconds);
  const covered =
    carrier === "slot" ? ["pgvpd1", pid, nonce, database, text] : ["pgvpd1s", pid, nonce, expires, database, text];
  const mac = createHmac("sha256", key.bytes).update(covered.join("|")).digest("hex");
  return {
    sql: "SELECT pgvpd.set_context($1, $2, $3, $4)",
    values: [String(key.kid), text, expires, `\\x${mac}`],
  };
}

function currentKey(file: string): SealKey {
  return readSealKeys(file).at(-1) as SealKey;
}

/** What is signed is joined with `|`, so no part but the last two may hold one, whoever wrote the function. */
function decodeHello(rows: readonly Row[] | undefined): Hello {
  const [carrier, pid, nonce, now, database] = rows?.[0] ?? [];
  const isWhole =
    rows?.length === 1 &&
    /^\d{1,10}$/.test(pid ?? "") &&
    /^[0-9a-f-]{1,36}$/.test(nonce ?? "") &&
    /^\d{1,12}$/.test(now ?? "");
  if (!isWhole || !pid || !nonce || !database || (carrier !== "slot" && carrier !== "signed")) {
    throw new ProxyError("context_failed", { detail: "pgvpd.hello() is not the function of sql/seal.sql" });
  }
  return { carrier, pid, nonce, now: Number(now), database };
}
