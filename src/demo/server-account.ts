/**
 * Who the embedded PostgreSQL server runs as, and which folders that account and we share. PostgreSQL refuses to run as
 * root, so root lends it `nobody`; everyone else runs it as themselves.
 * Used by the launcher, the demo's folder and the tests. Never changes the account of this process.
 */
import { chmod, chown, lstat, mkdir, readFile } from "node:fs/promises";

/** What `spawn` takes to run a child as somebody else; empty where the child runs as this process does. */
export interface ServerAccount {
  readonly uid?: number;
  readonly gid?: number;
}

/** The account for initdb and postgres. Throws where we are root and no `nobody` exists. */
export async function serverAccount(): Promise<ServerAccount> {
  if (process.getuid?.() !== 0) return {};
  const passwd = await readFile("/etc/passwd", "utf8");
  const entry = passwd
    .split("\n")
    .map((line) => line.split(":"))
    .find((fields) => fields[0] === "nobody");
  if (entry === undefined) {
    throw new Error("PostgreSQL does not run as root, and /etc/passwd has no user `nobody` to run it as");
  }
  return { uid: Number(entry[2]) >>> 0, gid: Number(entry[3]) >>> 0 };
}

/** Creates `folder` for the server's account alone (mode 0700); one that is there already is left as it is. */
export async function createServerFolder(folder: string, account: ServerAccount): Promise<void> {
  const created = await mkdir(folder, { recursive: true, mode: 0o700 });
  if (created !== undefined && account.uid !== undefined) await chown(folder, account.uid, account.gid ?? account.uid);
}

/**
 * Creates `folder` as ours, writable by nobody else; as root others may pass through it, so that the server's account
 * reaches what lies below. Throws where the folder is somebody else's or a link: a folder of /tmp can be planted.
 */
export async function createOwnFolder(folder: string): Promise<void> {
  const mode = process.getuid?.() === 0 ? 0o711 : 0o700;
  const created = await mkdir(folder, { recursive: true, mode });
  if (created !== undefined) await chmod(folder, mode); // whatever the umask
  const found = await lstat(folder);
  const isOurs = process.getuid === undefined || found.uid === process.getuid();
  if (!found.isDirectory() || !isOurs || (found.mode & 0o022) !== 0) {
    throw new Error(`${folder} must be a folder that belongs to this user and that nobody else can write to`);
  }
}

/** The first of `candidates` that can be had as {@link createOwnFolder} wants it. Throws the last refusal. */
export async function firstOwnFolder(candidates: readonly string[]): Promise<string> {
  let refusal: unknown = new Error("no folder to try");
  for (const folder of candidates) {
    try {
      await createOwnFolder(folder);
      return folder;
    } catch (error) {
      refusal = error;
    }
  }
  throw refusal;
}
