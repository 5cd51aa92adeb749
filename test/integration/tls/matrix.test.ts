/**
 * Every way of logging in, with every client, on PostgreSQL 15 and 18: each cell works or fails with the error that
 * rule.ts says. The table in docs/authentication.md is made of what was seen; PGVPD_WRITE_DOCS=1 writes it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { canSay, CLIENTS, describeLogin, logins, type Client, type Login } from "./matrix/cells.ts";
import { findClient } from "./matrix/clients.ts";
import { expectedOutcome, outcomeOf } from "./matrix/rule.ts";
import { startStage, type Stage } from "./matrix/stage.ts";
import { renderMatrix } from "./matrix/table.ts";

const PAGE = path.join(import.meta.dirname, "../../../docs/authentication.md");
const VERSIONS = ["15", "18"];
/** Logins at once: psql is a process, and PostgreSQL takes a hundred connections. */
const AT_ONCE = 6;

const seen = new Map<string, string>();
const nameOf = (client: Client, version: string, login: Login): string =>
  `${client} on PostgreSQL ${version}: ${describeLogin(login)}`;

describe.each(VERSIONS)("a login on PostgreSQL %s", (version) => {
  if (!availableVersions().includes(version)) {
    it.skip(`skipped: there is no PostgreSQL ${version} on this machine`, () => {});
    return;
  }
  let stage: Stage;
  beforeAll(async () => {
    stage = await startStage(version);
  });
  afterAll(() => stage?.[Symbol.asyncDispose]());

  for (const client of CLIENTS) {
    const logIn = findClient(client);
    if (logIn === undefined) {
      it.skip(`with ${client} (skipped: it is not on this machine)`, () => {});
      continue;
    }
    it(`with ${client} does what the rule says`, async () => {
      const own = logins.filter((login) => canSay(client, login));
      const queue = own.values();
      const workers = Array.from({ length: AT_ONCE }, async () => {
        for (const login of queue) {
          seen.set(nameOf(client, version, login), outcomeOf(await logIn(stage, login), login));
        }
      });
      await Promise.all(workers);
      const pairs = (outcome: (login: Login) => string | undefined): object =>
        Object.fromEntries(own.map((login) => [describeLogin(login), outcome(login)]));
      expect(pairs((login) => seen.get(nameOf(client, version, login)))).toEqual(
        pairs((login) => expectedOutcome(client, login)),
      );
    });
  }
});

describe("the table in docs/authentication.md", () => {
  const BETWEEN = /(?<=<!-- matrix:begin -->\n)[^]*(?=\n<!-- matrix:end -->)/;

  it("is what was seen, and what the rule says where a client or a server was missing", () => {
    const table = renderMatrix(
      VERSIONS,
      (client, version, login) => seen.get(nameOf(client, version, login)) ?? expectedOutcome(client, login),
    );
    if (process.env["PGVPD_WRITE_DOCS"] !== undefined) {
      const page = readFileSync(PAGE, "utf8");
      writeFileSync(
        PAGE,
        page.replace(BETWEEN, () => table),
      );
    }
    const [written] = BETWEEN.exec(readFileSync(PAGE, "utf8")) ?? [];
    expect(written, "it is behind: run PGVPD_WRITE_DOCS=1 npx vitest run test/integration/tls/matrix.test.ts").toBe(
      table,
    );
  });
});
