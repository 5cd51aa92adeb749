/**
 * Files that hold secrets: passwords, private keys, verifiers. As PostgreSQL has it for its own keys, a file of root's
 * may be read by its group (0640), anybody else's by its owner alone (0600); any other is refused.
 */
import { readFileSync, statSync, type Stats } from "node:fs";
import { oneLine } from "./one-line.ts";
import { Secret } from "./secret.ts";

const MAX_SECRET_FILE_BYTES = 16 * 1024 * 1024;

/** True when others than its owner, or than root's group, may do anything with the file, or its group may write it. */
export function isOpen({ mode, uid }: Pick<Stats, "mode" | "uid">): boolean {
  return (mode & (uid === 0 ? 0o037 : 0o077)) !== 0;
}

/** @throws Error with a text for the operator, which names the file and what to do. */
export function readSecretFile(path: string): Buffer {
  return naming(path, () => {
    const status = statSync(path);
    if (isOpen(status)) throw new Error(`others can read it: chmod 600 ${oneLine(path)}`);
    if (status.size > MAX_SECRET_FILE_BYTES) throw new Error("it is larger than 16 MiB");
    return readFileSync(path);
  });
}

/** The same for a secret that is text: bytes that are not UTF-8 would be read as another secret. @throws Error as above. */
export function readSecretText(path: string): string {
  const bytes = readSecretFile(path);
  return naming(path, () => new TextDecoder("utf-8", { fatal: true }).decode(bytes));
}

/** The password of a file that holds nothing else; one line ending behind it is dropped. @throws Error as above. */
export function readPasswordFile(path: string): Secret {
  const password = readSecretText(path).replace(/\r?\n$/, "");
  const isOneLine = password !== "" && !/[\r\n\0]/.test(password);
  if (!isOneLine) throw new Error(`${oneLine(path)}: expected one line, the password`);
  return new Secret(password);
}

/** What `read` returns; its error gets the file's name, and words for the operator. */
export function naming<T>(path: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    throw new Error(`${oneLine(path)}: ${explainFileError(cause as NodeJS.ErrnoException)}`, { cause });
  }
}

/** Why a file cannot be read, in words. */
export function explainFileError(error: NodeJS.ErrnoException): string {
  const known: Record<string, string> = {
    ENOENT: "there is no such file",
    EISDIR: "it is a folder, not a file",
    EACCES: "permission denied",
    ERR_ENCODING_INVALID_ENCODED_DATA: "it is not UTF-8 text",
  };
  return known[error.code ?? ""] ?? error.message;
}
