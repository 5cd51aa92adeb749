/**
 * The launcher of the embedded PostgreSQL where things do not go smoothly: a taken port, a server that was left behind, a
 * setting that does not exist, a package without its links below a closed folder.
 */
import { lstatSync } from "node:fs";
import { chmod, cp, mkdtemp, readdir, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createCluster, startServer, type ServerOptions } from "../../../src/demo/embedded-postgres.ts";
import { findEmbeddedPostgres, prepareBinaries } from "../../../src/demo/postgres-binaries.ts";
import { serverAccount } from "../../../src/demo/server-account.ts";
import { isListening } from "./demo-process.ts";

let folder: string;
let options: ServerOptions;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "pgvpd-embedded-test-"));
  await chmod(folder, 0o711);
  const account = await serverAccount();
  const binaries = await findEmbeddedPostgres(account);
  const dataDir = path.join(folder, "data");
  await createCluster({ binaries, account, dataDir, auth: "trust", password: "x" });
  options = { binaries, account, dataDir, logFile: path.join(folder, "log"), settings: { fsync: "off" } };
});
afterAll(() => rm(folder, { recursive: true, force: true }));

test("leaves no password file behind", async () => {
  expect(await readdir(folder)).toEqual(["data"]);
});

test("stops the server that an earlier run left in the same data folder", async () => {
  const left = await startServer(options);
  const server = await startServer(options);
  await left.ended;
  expect(await isListening(left.port)).toBe(false);
  expect(await isListening(server.port)).toBe(true);
  await server.stop();
  await server.stop();
  expect(await isListening(server.port)).toBe(false);
});

test("rejects with PostgreSQL's own words when a given port is taken, or a setting is unknown", async () => {
  await using server = await startServer(options);
  const { dataDir } = options;
  const copy = `${dataDir}.copy`;
  await createCluster({ ...options, dataDir: copy, auth: "trust", password: "x" });
  await expect(startServer({ ...options, dataDir: copy, port: server.port })).rejects.toThrow(
    /did not start on port \d+:[^]*could not create any TCP\/IP sockets/,
  );
  await expect(startServer({ ...options, dataDir: copy, settings: { no_such_setting: "1" } })).rejects.toThrow(
    "no_such_setting",
  );
});

test("makes the package's links, and copies it where the server's account cannot reach it", async () => {
  const closed = await mkdtemp(path.join(folder, "closed-")); // mode 700
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  const original = path.join(path.dirname(createRequire(import.meta.url).resolve(name)), "..");
  await cp(original, path.join(closed, "package"), {
    recursive: true,
    filter: (source) => !lstatSync(source).isSymbolicLink(),
  });
  await expect(prepareBinaries(path.join(closed, "package/native"), options.account)).resolves.toMatchObject({
    version: options.binaries.version,
  });
});
