/**
 * Runs the examples of docs/orms.md against a real PostgreSQL server behind pgvpd, and checks that the document shows
 * what was run. Not part of `npm test`: it installs much.
 *
 *     npm ci --prefix test/orm && npx tsx test/orm/run.ts [name ...]
 *
 * PGVPD_ORM_PG=15 chooses the server's version, PGVPD_ORM_POOL=transaction (or session) a pool of two. Other languages run where these are set, and are skipped otherwise:
 * PGVPD_ORM_PYTHON (an interpreter with python/requirements.txt), PGVPD_ORM_JDBC (the driver's jar), PGVPD_ORM_GO=1.
 */
import { execFile, spawnSync } from "node:child_process";
import { cp, mkdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import { setStage } from "./stage.ts";
import { oddTenant } from "./tenant-url.ts";

const folder = import.meta.dirname;
const prismaFolder = path.join(folder, "node_modules/.pgvpd"); // out of sight for lint and format
const LIMIT_MS = 300_000;

interface Example {
  /** The file that holds the part that the document shows. */
  readonly file: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly folder?: string;
  /** Why it cannot run here. */
  readonly missing?: string | undefined;
}

const tsx = (file: string): Example => ({ file, command: process.execPath, args: ["--import", "tsx", file] });
const python = process.env["PGVPD_ORM_PYTHON"];
const driver = process.env["PGVPD_ORM_JDBC"];
const inPython = (file: string): Example => ({
  file,
  command: python ?? "",
  args: [file],
  missing: python === undefined ? "PGVPD_ORM_PYTHON is not set" : undefined,
});

const poolMode = process.env["PGVPD_ORM_POOL"];
/** What shows how a connection of one's own behaves. */
const inPassthrough = (file: string): Example => ({
  ...tsx(file),
  missing: poolMode === undefined ? undefined : "it is about a connection of one's own",
});

const examples: Readonly<Record<string, Example>> = {
  psql: {
    file: "psql.sh",
    command: "sh",
    args: ["psql.sh"],
    missing: spawnSync("psql", ["--version"]).status === 0 ? undefined : "psql is not installed",
  },
  pg: tsx("pg.mjs"),
  "postgres-js": tsx("postgres-js.mjs"),
  drizzle: tsx("drizzle.mjs"),
  prisma: { ...tsx("prisma/prisma.mjs"), folder: prismaFolder },
  typeorm: tsx("typeorm.mjs"),
  kysely: tsx("kysely.mjs"),
  knex: tsx("knex.mjs"),
  sequelize: tsx("sequelize.mjs"),
  "mikro-orm": tsx("mikro-orm.mjs"),
  "sqlalchemy-psycopg": inPython("python/sqlalchemy_psycopg.py"),
  "sqlalchemy-asyncpg": inPython("python/sqlalchemy_asyncpg.py"),
  jdbc: {
    file: "jdbc/Contacts.java",
    command: "java",
    args: ["-cp", driver ?? "", "jdbc/Contacts.java"],
    missing: driver === undefined ? "PGVPD_ORM_JDBC is not set" : undefined,
  },
  pgx: {
    file: "pgx/main.go",
    command: "go",
    args: ["run", "."],
    folder: path.join(folder, "pgx"),
    missing: process.env["PGVPD_ORM_GO"] === undefined ? "PGVPD_ORM_GO is not set" : undefined,
  },
  "tenant-url": tsx("tenant-url.ts"),
  "tenant-pools": { ...inPassthrough("tenant-pools-check.ts"), file: "tenant-pools.ts" },
  "drizzle-pools": tsx("drizzle-pools.ts"),
  migrations: tsx("migrations.mjs"),
  resets: inPassthrough("resets.mjs"),
  refusals: inPassthrough("refusals.mjs"),
};

const chosen = process.argv.slice(2);
const unknown = chosen.filter((name) => examples[name] === undefined);
if (unknown.length > 0) throw new Error(`no such example: ${unknown.join(", ")} (${Object.keys(examples).join(", ")})`);

await using stage = await setStage(process.env["PGVPD_ORM_PG"], poolMode);
const url = await stage.addProxy({});
const admin = new URL(url);
Object.assign(admin, { username: stage.server.superuser, password: encodeURIComponent(stage.server.password) });
const environment = {
  ...process.env,
  LC_ALL: "C.UTF-8",
  DATABASE_URL: url,
  ADMIN_URL: admin.href,
  ODD_TENANT: oddTenant,
  SET_ROLE_URL: await stage.addProxy({ set_role: "authenticated" }),
  QUERY_URL: await stage.addProxy({ context_injection: "query" }),
  QUERY_SET_ROLE_URL: await stage.addProxy({ context_injection: "query", set_role: "authenticated" }),
  TWO_VALUES_URL: await stage.addProxy({ context_variables: "app.current_tenant_id,app.current_user_id" }),
  ANY_ROLE_URL: await stage.addProxy({ login_roles: "" }),
  FEW_PARAMETERS_URL: await stage.addProxy({ client_parameters: "client_encoding,application_name" }),
};
if (chosen.length === 0 || chosen.includes("prisma")) await generatePrismaClient();

const document = squeeze(await readFile(path.join(folder, "../../docs/orms.md"), "utf8"));
const count = { passed: 0, failed: 0, skipped: 0 };
for (const [name, example] of Object.entries(examples)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  if (example.missing !== undefined) {
    count.skipped += 1;
    say(`skipped  ${name}: ${example.missing}`);
    continue;
  }
  const problem = (await run(example)) ?? (await notShown(example));
  count[problem === undefined ? "passed" : "failed"] += 1;
  say(problem === undefined ? `passed   ${name}` : `FAILED   ${name}\n${problem}`);
}
await rm(prismaFolder, { recursive: true, force: true });
say(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped (PostgreSQL ${stage.server.version})`);
process.exitCode = count.failed === 0 ? 0 : 1;

/** Runs an example. What it prints on stdout must stand in the document. */
function run(example: Example): Promise<string | undefined> {
  return new Promise((resolve) => {
    const options = { cwd: example.folder ?? folder, env: environment, timeout: LIMIT_MS };
    execFile(example.command, [...example.args], options, (error, stdout, stderr) => {
      if (error !== null) return resolve(`${error.message}\n${stdout}${stderr}`);
      const output = stdout.split("\n").map(squeeze);
      const strange = output.find((line) => line !== "" && !document.includes(line));
      resolve(strange === undefined ? undefined : `docs/orms.md does not show the output ${strange}`);
    });
  });
}

/** A file's lines between `region docs` and `endregion` must stand in the document, whatever their indentation. */
async function notShown({ file }: Example): Promise<string | undefined> {
  const lines = (await readFile(path.join(folder, file), "utf8")).split("\n");
  const start = lines.findIndex((line) => /region docs/.test(line));
  if (start === -1) return undefined;
  const end = lines.findIndex((line) => /endregion/.test(line));
  const region = squeeze(lines.slice(start + 1, end).join("\n")).replace(/;$/, "");
  return document.includes(region) ? undefined : `docs/orms.md does not show the code of ${file}`;
}

/** `prisma generate` alone needs no engine: it is told of one that does nothing, else it would download one. */
async function generatePrismaClient(): Promise<void> {
  await mkdir(prismaFolder, { recursive: true });
  for (const name of ["prisma", "isolation.ts", "tenant-url.ts"]) {
    await cp(path.join(folder, name), path.join(prismaFolder, name), { recursive: true });
  }
  const prisma = path.join(folder, "node_modules/prisma/build/index.js");
  const { status, stderr } = spawnSync(process.execPath, [prisma, "generate", "--schema", "prisma/schema.prisma"], {
    cwd: prismaFolder,
    env: { ...process.env, PRISMA_SCHEMA_ENGINE_BINARY: "/bin/true", CHECKPOINT_DISABLE: "1" },
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`prisma generate failed: ${stderr}`);
}

function squeeze(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
