/**
 * The attacks of seal-attack-table.ts once more, as somebody at a psql prompt would try them, where psql shows what
 * node-postgres does not: the rows of COPY, and errors with all their context.
 */
import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { describeWithTools } from "../support/describe-with-tools.ts";
import { availableVersions } from "../support/postgres.ts";
import { PASSWORD } from "../support/tenant-fixture.ts";
import { ATTACK_SCHEMA, attacksFor, isForeign, leftBy, LOOK, OWN, type Attack } from "./seal-attack-table.ts";
import { kindsOf, startSealFixture, type Kind, type SealFixture } from "./seal-fixture.ts";

/** Between what one attack shows and the next; and before what it sees in the end. */
const BEGIN = "@@attack";
const END = "@@end";

/** Runs in a subtransaction of psql's own making; nothing of it is committed. */
const changesRows = ({ sql }: Attack): boolean => sql.some((one) => /\b(INSERT|UPDATE|DELETE|MERGE|COPY)\b/.test(one));

describeWithTools(["psql"], "psql", (psql = "") => {
  describe.each(availableVersions())("PostgreSQL %s", (version) => {
    let fixture: SealFixture;
    const ports = new Map<boolean, number>();
    beforeAll(async () => {
      fixture = await startSealFixture({ version, auth: "trust", schema: ATTACK_SCHEMA });
      ports.set(false, (await fixture.proxyWith({})).port);
      const seal = { context_seal: "require", context_key_file: fixture.keyFile };
      ports.set(true, (await fixture.proxyWith(seal)).port);
    });
    afterAll(() => fixture?.[Symbol.asyncDispose]());

    it.each(kindsOf(version))(
      "no foreign row where it is sealed, and those of the table where not: %s",
      async (kind) => {
        const attacks = attacksFor(version).filter((attack) => !isFedByPsql(attack));
        const shown = await play(attacks, kind);
        expect(shown).toHaveLength(attacks.length);
        const outcomes = attacks.map((attack, index) => ({
          name: attack.name,
          ...judge(shown[index] ?? "", leftBy(attack, kind, "startup")),
        }));
        const expected = attacks.map((attack) => {
          const left = leftBy(attack, kind, "startup");
          return { name: attack.name, foreign: left === "foreign", left: left === "own" ? OWN : [] };
        });
        expect(outcomes).toEqual(expected);
        const rows = await fixture.asSuperuser(LOOK, kind);
        expect(rows.map(({ body }) => body)).toEqual([...OWN, "g1", "g2", "g3", "g4"]);
      },
    );

    /** One psql that connects anew for each attack; what it wrote for each, standard error included. */
    async function play(attacks: readonly Attack[], database: Kind): Promise<string[]> {
      const port = ports.get(database !== "plain") ?? 0;
      const script = attacks.map((attack) =>
        [
          `\\connect "host=127.0.0.1 port=${port} user=app_user.acme dbname=${database} sslmode=disable"`,
          `\\echo ${BEGIN}`,
          // Who changes rows has to be in a transaction, and stays in it after an error.
          ...(changesRows(attack) ? ["\\set ON_ERROR_ROLLBACK on", "BEGIN;"] : ["\\set ON_ERROR_ROLLBACK off"]),
          ...attack.sql.map((statement) => `${statement};`),
          `\\echo ${END}`,
          `${LOOK};`,
        ].join("\n"),
      );
      const env = { PATH: process.env["PATH"] ?? "", PGPASSWORD: PASSWORD, LC_ALL: "C.UTF-8" };
      // One pipe for both, so that an error stands where it occurred.
      const shell = spawn("/bin/sh", ["-c", 'exec "$0" -X -q -A -t "$1" 2>&1', psql, fixture.server.url("postgres")], {
        env,
      });
      shell.stdin.end(script.join("\n"));
      return (await text(shell.stdout)).split(BEGIN).slice(1);
    }
  });
});

/** COPY FROM takes what follows it as rows. */
function isFedByPsql({ sql }: Attack): boolean {
  return sql.some((statement) => /FROM STDIN/.test(statement));
}

function judge(shown: string, expected: string): { foreign: boolean; left: string[] } {
  const [, end = ""] = shown.split(END);
  const left = end.split("\n").filter((line) => OWN.includes(line));
  const foreign = isForeign(shown);
  return { foreign, left: expected === "foreign" ? [] : left };
}
