/**
 * What changes in the database reaches every instance at once, and where it cannot be heard of nothing old is used: the
 * listening connection ended, cut, or stalled without a word. Sessions end when, and only when, their context is another.
 */
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { Client } from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { availableVersions } from "../../support/postgres.ts";
import { chain, org, startStage, user, type ProxyOptions, type ResolverProxy, type Stage } from "./stage.ts";

/** The newest alone: what is tested here is pgvpd's more than the server's. */
const versions = availableVersions().slice(-1);

const LISTENERS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgvpd resolvers, listening'";

describe.each(versions)("PostgreSQL %s", (version) => {
  let stage: Stage;
  beforeAll(async () => {
    stage = await startStage({ version });
  });
  afterAll(() => stage[Symbol.asyncDispose]());
  beforeEach(() => stage.reset());

  async function proxyOf(more: string, settings: ProxyOptions["settings"] = {}): Promise<ResolverProxy> {
    const proxy = await stage.proxy({ place: "dedicated", toml: chain(`cache_ttl = 86400\n${more}`), settings });
    onTestFinished(() => proxy.stop());
    return proxy;
  }

  const orgSeen = async (proxy: ResolverProxy, of = user(1)): Promise<unknown> =>
    (await proxy.ask(of, "SELECT pgvpd_context('app.org_id')"))[0];

  const executions = (proxy: ResolverProxy): Promise<number> =>
    proxy.metric("pgvpd_resolver_executions_total", { resolver: "org" });

  /** Resolves when answers are kept: a second login of a user asks nothing. */
  async function untilKept(proxy: ResolverProxy, of = user(1)): Promise<void> {
    const asks = async (): Promise<number> => {
      const before = await executions(proxy);
      await orgSeen(proxy, of);
      return (await executions(proxy)) - before;
    };
    await expect.poll(asks, { timeout: 15_000 }).toBe(0);
  }

  const move = (of: string, to: string): Promise<unknown> =>
    stage.sql("UPDATE org_members SET org_id = $2 WHERE user_id = $1", [of, to]);

  it("a grant that is withdrawn is seen by two instances, and asked for once more by each", async () => {
    const [one, two] = [await proxyOf(""), await proxyOf("")];
    for (const proxy of [one, two]) await untilKept(proxy);
    const before = [await executions(one), await executions(two)];
    await stage.sql("DELETE FROM org_members WHERE user_id = $1", [user(1)]);
    for (const proxy of [one, two]) await expect.poll(() => orgSeen(proxy), { timeout: 5_000 }).toBeNull();
    expect([await executions(one), await executions(two)]).toEqual(before.map((count) => count + 1));
  });

  it("a change of one user leaves what is kept for others", async () => {
    const proxy = await proxyOf("");
    await untilKept(proxy, user(1));
    await untilKept(proxy, user(3));
    await move(user(1), org(2));
    await expect.poll(() => orgSeen(proxy), { timeout: 5_000 }).toBe(org(2));
    const before = await executions(proxy);
    await orgSeen(proxy, user(3));
    expect(await executions(proxy)).toBe(before);
  });

  it.each([user(1).toUpperCase(), `{${user(1)}}`, user(1).replaceAll("-", "")])(
    "who wrote the user as %s is reached by the change too",
    async (written) => {
      const proxy = await proxyOf("");
      await untilKept(proxy, written);
      expect(await orgSeen(proxy, written)).toBe(org(1));
      await stage.sql("DELETE FROM org_members WHERE user_id = $1", [user(1)]);
      await expect.poll(() => orgSeen(proxy, written), { timeout: 5_000 }).toBeNull();
    },
  );

  it("a transaction that is open for long is seen when it commits, and holds nothing up", async () => {
    const proxy = await proxyOf("");
    await untilKept(proxy);
    await untilKept(proxy, user(3));
    const slow = await proxyless();
    await slow.query("BEGIN");
    await slow.query("UPDATE org_members SET org_id = $1 WHERE user_id = $2", [org(0), user(1)]);
    for (const to of [org(0), org(1), org(2)]) {
      await move(user(3), to);
      await expect.poll(() => orgSeen(proxy, user(3)), { timeout: 5_000 }).toBe(to);
    }
    expect(await orgSeen(proxy)).toBe(org(1));
    await slow.query("COMMIT");
    await expect.poll(() => orgSeen(proxy), { timeout: 5_000 }).toBe(org(0));
  });

  /** A session that does not come through pgvpd. */
  async function proxyless(): Promise<Client> {
    const client = new Client({ connectionString: stage.server.url("plain") });
    await client.connect();
    onTestFinished(() => client.end());
    return client;
  }

  it("more changes at once than are told one by one all arrive", async () => {
    const proxy = await proxyOf("");
    await untilKept(proxy);
    await stage.sql(
      `INSERT INTO org_members SELECT md5(n::text)::uuid, '${org(0)}' FROM generate_series(1, 5000) AS n`,
    );
    await stage.sql(`UPDATE org_members SET org_id = '${org(2)}'`);
    await expect.poll(() => orgSeen(proxy), { timeout: 5_000 }).toBe(org(2));
  });

  it("with the listening connection ended again and again nothing old is used", async () => {
    const proxy = await proxyOf("");
    for (let round = 0; round < 5; round++) {
      await untilKept(proxy);
      // In one statement the listener is ended and the change is made: no moment in between to hear of it.
      await stage.sql(`WITH ended AS (SELECT pg_terminate_backend(pid) FROM (${LISTENERS}) AS l)
        UPDATE org_members SET org_id = '${org(round % 3)}' WHERE user_id = '${user(1)}' AND (SELECT count(*) FROM ended) >= 0`);
      await expect.poll(() => orgSeen(proxy), { timeout: 5_000 }).toBe(org(round % 3));
    }
    expect(proxy.log.some(({ msg }) => String(msg).startsWith("changes cannot be heard of"))).toBe(true);
  });

  it("while the listener cannot come back nothing is kept", async () => {
    const proxy = await proxyOf("");
    await untilKept(proxy);
    await stage.sql("REVOKE SELECT ON pgvpd.invalidations FROM resolver");
    onTestFinished(async () => {
      await stage.sql("GRANT SELECT ON pgvpd.invalidations TO resolver");
    });
    await expect
      .poll(() => proxy.log.filter(({ cause }) => String(cause).includes("permission denied")).length, {
        timeout: 5_000,
      })
      .toBe(1);
    for (const to of [org(0), org(2)]) {
      await move(user(1), to);
      expect(await orgSeen(proxy)).toBe(to);
    }
    await stage.sql("GRANT SELECT ON pgvpd.invalidations TO resolver");
    await untilKept(proxy);
  });

  /** A way to the server that can be cut, or stop without a word for the connection that listens. */
  async function tunnel(): Promise<{ port: number; stallListener(): void; cut(): void }> {
    const pairs = new Set<[Socket, Socket]>();
    const listeners = new Set<Socket>();
    let isStalled = false;
    const listening = createServer((near) => {
      const far = connect(stage.server.port, stage.server.host);
      const pair: [Socket, Socket] = [near, far];
      pairs.add(pair);
      near.once("data", (startup: Buffer) => {
        if (startup.includes("pgvpd resolvers, listening")) listeners.add(near).add(far);
      });
      for (const [from, to] of [pair, pair.toReversed() as [Socket, Socket]]) {
        from.on("data", (chunk: Buffer) => {
          if (!isStalled || !listeners.has(from)) to.write(chunk);
        });
        from.on("error", () => {});
        from.on("close", () => {
          pairs.delete(pair);
          to.destroy();
        });
      }
    });
    listening.listen(0, "127.0.0.1");
    await once(listening, "listening");
    const cut = (): void => {
      for (const pair of pairs) for (const socket of pair) socket.destroy();
    };
    onTestFinished(() => {
      cut();
      listening.close();
    });
    return {
      port: (listening.address() as AddressInfo).port,
      stallListener: () => (isStalled = true),
      cut,
    };
  }

  it("with a listening connection that is dead without a word nothing old is used", async () => {
    const way = await tunnel();
    const proxy = await proxyOf("", { upstream_port: way.port });
    await untilKept(proxy);
    way.stallListener();
    await stage.sql("DELETE FROM org_members WHERE user_id = $1", [user(1)]);
    await expect.poll(() => orgSeen(proxy), { timeout: 5_000 }).toBeNull();
    for (const to of [org(0), org(1), org(2)]) {
      await stage.sql("INSERT INTO org_members VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET org_id = $2", [
        user(1),
        to,
      ]);
      expect(await orgSeen(proxy)).toBe(to);
    }
  });

  it("with the way to the server cut, a change meanwhile is seen when it is back", async () => {
    const way = await tunnel();
    const proxy = await proxyOf("", { upstream_port: way.port });
    await untilKept(proxy);
    for (let round = 0; round < 3; round++) {
      way.cut();
      await move(user(1), org(round));
      expect(await orgSeen(proxy)).toBe(org(round));
    }
    await untilKept(proxy);
  });

  it("after a crash of the server, which ends every connection, logins work again and see what is there then", async () => {
    const proxy = await proxyOf("");
    for (const to of [org(0), org(2)]) {
      await untilKept(proxy);
      const [backend] = await stage.sql(LISTENERS);
      process.kill(Number(backend?.["pid"]), "SIGKILL");
      await expect
        .poll(
          () =>
            move(user(1), to).then(
              () => true,
              () => false,
            ),
          { timeout: 20_000 },
        )
        .toBe(true);
      await expect.poll(() => orgSeen(proxy).catch(() => "refused"), { timeout: 20_000 }).toBe(to);
    }
    await untilKept(proxy);
  });

  describe("on_change = terminate", () => {
    const TERMINATE = 'on_change = "terminate"';

    interface Watched {
      readonly client: Client;
      /** What it heard at its end. */
      readonly ended: Promise<string>;
      readonly isOpen: () => boolean;
    }

    async function watch(proxy: ResolverProxy, of: string): Promise<Watched> {
      const client = await proxy.connect(of);
      let isOpen = true;
      const ended = new Promise<string>((resolve) => {
        client.on("error", (error: Error & { code?: string }) => {
          if (error.code !== undefined) resolve(`${error.code} ${error.message}`);
        });
        client.on("end", () => (isOpen = false));
      });
      return { client, ended, isOpen: () => isOpen };
    }

    const END = "57P01 terminating connection: what its context was derived from has changed";

    it("ends exactly the sessions whose context is another now", async () => {
      const proxy = await proxyOf(TERMINATE);
      const changed = [await watch(proxy, user(1)), await watch(proxy, user(1).toUpperCase())];
      const same = [await watch(proxy, user(2)), await watch(proxy, user(3)), await watch(proxy, user(9))];
      await untilKept(proxy);
      await move(user(1), org(2));
      expect(await Promise.all(changed.map(({ ended }) => ended))).toEqual([END, END]);
      // A change that comes to nothing, for all of them.
      await stage.sql(
        "UPDATE org_members SET role = role; UPDATE team_members SET team = team; UPDATE case_grants SET team = team",
      );
      await stage.sql("SELECT pgvpd.invalidate('org'), pgvpd.invalidate('teams'), pgvpd.invalidate('cases')");
      await move(user(2), org(2));
      await expect.poll(() => same[0]?.isOpen(), { timeout: 5_000 }).toBe(false);
      for (const { client, isOpen } of same.slice(1)) {
        expect(isOpen()).toBe(true);
        await client.query("SELECT 1");
      }
    });

    it("ends a session whose grants at the end of the chain change, and leaves one with on_change = keep", async () => {
      const [ending, keeping] = [await proxyOf(TERMINATE), await proxyOf("")];
      const [one, two] = [await watch(ending, user(1)), await watch(keeping, user(1))];
      await untilKept(ending);
      await untilKept(keeping);
      await stage.sql("INSERT INTO case_grants VALUES ('red', 33)");
      expect(await one.ended).toBe(END);
      await expect
        .poll(() => keeping.ask(user(1), "SELECT id FROM cases WHERE id = 33"), { timeout: 5_000 })
        .toEqual([33]);
      expect((await two.client.query("SELECT FROM cases WHERE id = 33")).rowCount).toBe(0);
    });

    it("looks at a whole resolver when it is told fewer values than that has", async () => {
      const proxy = await proxyOf(TERMINATE);
      const { ended } = await watch(proxy, user(1));
      await untilKept(proxy);
      await stage.sql(
        `ALTER TABLE team_members DISABLE TRIGGER USER; DELETE FROM team_members; ALTER TABLE team_members ENABLE TRIGGER USER;
         SELECT pgvpd.invalidate('teams', '${user(1)}')`,
      );
      expect(await ended).toBe(END);
    });

    it("ends a session of the first login, whose change came before anybody listened", async () => {
      // The listener may not read yet: the change is made while nothing can be heard of.
      await stage.sql("REVOKE SELECT ON pgvpd.invalidations FROM resolver");
      const proxy = await proxyOf(TERMINATE);
      const [changed, same] = [await watch(proxy, user(1)), await watch(proxy, user(3))];
      await move(user(1), org(0));
      await stage.sql("TRUNCATE pgvpd.invalidations; GRANT SELECT ON pgvpd.invalidations TO resolver");
      expect(await changed.ended).toBe(END);
      await same.client.query("SELECT 1");
    });

    it("ends a session whose change came while the listener was lost, and no other", async () => {
      const watching = await proxyOf(TERMINATE);
      await untilKept(watching);
      const [changed, same] = [await watch(watching, user(1)), await watch(watching, user(3))];
      await stage.sql(`WITH ended AS (SELECT pg_terminate_backend(pid) FROM (${LISTENERS}) AS l)
        UPDATE org_members SET org_id = '${org(0)}' WHERE user_id = '${user(1)}' AND (SELECT count(*) FROM ended) >= 0`);
      expect(await changed.ended).toBe(END);
      await same.client.query("SELECT 1");
    });

    it("ends nothing while the resolver cannot be asked, and does when it can again", async () => {
      const proxy = await proxyOf(`${TERMINATE}\ntimeout = 0.3`);
      const [changed, same] = [await watch(proxy, user(1)), await watch(proxy, user(3))];
      await untilKept(proxy);
      const blocker = await proxyless();
      await move(user(1), org(0));
      await blocker.query("BEGIN; LOCK TABLE org_members IN ACCESS EXCLUSIVE MODE");
      await stage.sql("SELECT pgvpd.invalidate('org')");
      await expect
        .poll(() => proxy.log.some(({ msg }) => String(msg).startsWith("a resolver could not be run again")), {
          timeout: 5_000,
        })
        .toBe(true);
      await same.client.query("SELECT 1");
      await blocker.query("ROLLBACK");
      expect(await changed.ended).toBe(END);
      await same.client.query("SELECT 1");
    });
  });

  it("1,000 logins of 50 users at once ask as often as there are users", async () => {
    await stage.sql(
      `INSERT INTO org_members SELECT ('0000abcd-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '${org(1)}' FROM generate_series(100, 149) AS n`,
    );
    const proxy = await proxyOf("");
    await untilKept(proxy);
    const before = await executions(proxy);
    const users = Array.from({ length: 1_000 }, (_, n) => user(100 + (n % 50)));
    const seen: unknown[] = [];
    const worker = async (): Promise<void> => {
      for (let of = users.pop(); of !== undefined; of = users.pop()) seen.push(await orgSeen(proxy, of));
    };
    // As many at once as the server has room for.
    await Promise.all(Array.from({ length: 60 }, worker));
    expect(seen).toHaveLength(1_000);
    expect(new Set(seen)).toEqual(new Set([org(1)]));
    expect((await executions(proxy)) - before).toBe(50);
  }, 120_000);
});
