/**
 * Files that hold secrets: passwords, private keys, verifiers. As PostgreSQL has it for its own keys, a file of root's
 * may be read by its group (0640), anybody else's by its owner alone (0600); any other is refused.
 */
import { readFileSync, statSync, type Stats } from "node:fs";
import { oneLine } from "./one-line.ts";
import { Secret } from "./secret.ts";

const MAX_SECRET_FILE_BYTES = 16 * 1024 * 1024;

/** True when others than its owner, or than root's group, may read or write the file. */
export function isOpen({ mode, uid }: Stats): boolean {
  return (mode & (uid === 0 ? 0o037 : 0o077)) !== 0;
}

/** @throws Error with a text for the operator, which names the file and what to do. */
export function readSecretFile(path: string): Buffer {
  const name = oneLine(path);
  let bytes: Buffer;
  try {
    const status = statSync(path);
    if (isOpen(status)) throw new Error(`others can read it: chmod 600 ${name}`);
    if (status.size > MAX_SECRET_FILE_BYTES) throw new Error("it is larger than 16 MiB");
    bytes = readFileSync(path);
  } catch (cause) {
    throw new Error(`${name}: ${explainFileError(cause as NodeJS.ErrnoException)}`, { cause });
  }
  return bytes;
}

/** The password of a file that holds nothing else; one line ending behind it is dropped. @throws Error as above. */
export function readPasswordFile(path: string): Secret {
  const password = readSecretFile(path)
    .toString()
    .replace(/\r?\n$/, "");
  const isOneLine = password !== "" && !/[\n\0]/.test(password);
  if (!isOneLine) throw new Error(`${oneLine(path)}: expected one line, the password`);
  return new Secret(password);
}

/** Why a file cannot be read, in words. */
export function explainFileError(error: NodeJS.ErrnoException): string {
  const known: Record<string, string> = {
    ENOENT: "there is no such file",
    EISDIR: "it is a folder, not a file",
    EACCES: "permission denied",
  };
  return known[error.code ?? ""] ?? error.message;
}
