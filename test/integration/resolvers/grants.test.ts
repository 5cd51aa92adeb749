/**
 * A chain org -> teams -> cases: users see exactly the rows that one query says which knows nothing of resolvers, before
 * and after each grant changes; in both places where resolvers run, with the seal and without.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import {
  chain,
  org,
  startStage,
  user,
  type DatabaseName,
  type Place,
  type ResolverProxy,
  type Stage,
} from "./stage.ts";

const versions = availableVersions().filter((version) => version === "15" || version === "18");
const users = [user(0), user(1), user(2), user(3), user(99)];

/** Names that a list of text could take for something else. */
const ODD = [`a,b`, `say "hi"`, `back\\slash`, `{x}`, `NULL`, `it's`, ` x `, `$1`, `' OR 1=1 --`, `é\n`];

const CHANGES = [
  `INSERT INTO org_members VALUES ('${user(0)}', '${org(0)}')`,
  `UPDATE org_members SET role = 'admin' WHERE user_id = '${user(0)}'`,
  `UPDATE org_members SET org_id = '${org(2)}' WHERE user_id = '${user(1)}'`,
  `INSERT INTO case_grants VALUES ('blue', 30), ('blue', 31)`,
  `UPDATE org_members SET role = 'member' WHERE user_id = '${user(2)}'`,
  `DELETE FROM team_members WHERE user_id = '${user(1)}' AND team = 'blue'`,
  ...ODD.flatMap((team, n) => {
    const text = `'${team.replaceAll("'", "''")}'`;
    return [
      `INSERT INTO team_members VALUES ('${user(1)}', '${org(2)}', ${text}); INSERT INTO case_grants VALUES (${text}, ${40 + n})`,
    ];
  }),
  `UPDATE case_grants SET case_id = case_id - 20 WHERE case_id >= 40`,
  `DELETE FROM org_members WHERE user_id = '${user(3)}'`,
  `TRUNCATE case_grants`,
  `TRUNCATE org_members`,
];

const combinations = (["dedicated", "session"] as const).flatMap((place) =>
  (["plain", "sealed"] as const).map((database): [Place, DatabaseName] => [place, database]),
);

describe.each(versions)("PostgreSQL %s", (version) => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await startStage({ version });
  });
  afterAll(() => stage[Symbol.asyncDispose]());
  beforeEach(() => stage.reset());

  describe.each(combinations)("resolvers %s, %s", (place, database) => {
    /** Kept as long as they can be: what is seen must change all the same, where pgvpd hears of it. */
    const isCached = place === "dedicated";
    let proxy: ResolverProxy;
    beforeAll(async () => {
      proxy = await stage.proxy({ place, database, toml: chain(isCached ? "cache_ttl = 86400" : "") });
    });
    afterAll(() => proxy.stop());

    const seen = async (): Promise<unknown[][]> => {
      const rows: unknown[][] = [];
      for (const one of users) rows.push(await proxy.ask(one, "SELECT id FROM cases ORDER BY id"));
      return rows;
    };
    const allowed = (): Promise<unknown[][]> => Promise.all(users.map((one) => stage.truth(one, database)));

    it("shows what one query says, after each change", async () => {
      await expect.poll(seen, { timeout: 10_000 }).toEqual(await allowed());
      const before = JSON.stringify(await allowed());
      for (const change of CHANGES) {
        await stage.sql(change, undefined, database);
        await expect.poll(seen, { timeout: 10_000, message: change }).toEqual(await allowed());
      }
      expect(JSON.stringify(await allowed())).not.toBe(before);
    }, 180_000);

    it("writes only where one may read", async () => {
      await expect.poll(seen, { timeout: 10_000 }).toEqual(await allowed());
      const admin = await proxy.connect(user(2));
      const insert = (id: number, of: string): Promise<unknown> =>
        admin.query("INSERT INTO cases VALUES ($1, $2, $3)", [id, of, user(5)]);
      await admin.query("BEGIN");
      await insert(1_000, org(1));
      await expect(insert(1_001, org(2))).rejects.toMatchObject({ code: "42501" });
      await admin.query("ROLLBACK");
    });
  });
});
