/** Sessions that pgvpd keeps for itself: how many there are, who waits, and what becomes of those that die. */
import type { Socket } from "node:net";
import { describe, expect, it } from "vitest";
import { ProxyError } from "../../../../src/errors/proxy-error.ts";
import { ask } from "../../../../src/proxy/upstream/own-session.ts";
import { KeyCache } from "../../../../src/proxy/upstream/key-cache.ts";
import type { OpeningUpstream } from "../../../../src/proxy/upstream/open-upstream.ts";
import { OwnSessions } from "../../../../src/proxy/upstream/own-sessions.ts";
import { duplexPair, type MemorySocket } from "../../../support/duplex-pair.ts";
import { ScriptedUpstream } from "../../../support/scripted-upstream.ts";
import { testConfig } from "../../../support/test-config.ts";
import { settled } from "./resolver-calls.ts";

const MOST = 3;

class Bench {
  readonly servers: MemorySocket[] = [];
  readonly sessions: OwnSessions;
  /** Of a task that nobody gives up. */
  get signal(): AbortSignal {
    return new AbortController().signal;
  }

  running = 0;
  mostAtOnce = 0;

  constructor() {
    const login = { role: "resolver", secrets: {}, applicationName: "test" };
    this.sessions = new OwnSessions(login, MOST, {
      config: testConfig(),
      keyCache: new KeyCache(),
      dial: () => {
        const [near, far] = duplexPair();
        this.servers.push(far);
        void new ScriptedUpstream(far, {}).run();
        return Promise.resolve({ socket: near as unknown as Socket, address: { host: "upstream", port: 1 } });
      },
    });
  }

  get openServers(): number {
    return this.servers.filter(({ destroyed, writableEnded }) => !destroyed && !writableEnded).length;
  }

  /** A task that takes a round trip, and counts how many there are at once. */
  task(database = "shop", signal: AbortSignal = this.signal): Promise<void> {
    return this.sessions.use(database, (session) => this.#work(session), signal);
  }

  async #work(session: OpeningUpstream): Promise<void> {
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.running);
    try {
      await ask(session, { sql: "SELECT 1", values: [] }, this.signal);
    } finally {
      this.running--;
    }
  }
}

describe("sessions of pgvpd's own", () => {
  it("are used again, and never more than they may be, whoever comes while others wait", async () => {
    const bench = new Bench();
    const tasks: Promise<void>[] = [];
    for (let n = 0; n < 50; n++) {
      // Each that ends makes place for one that waits; a newcomer of the same moment must not take it as well.
      tasks.push(bench.task().then(() => bench.task()));
      if (n % 10 === 0) await settled();
    }
    await Promise.all(tasks);
    expect(bench.mostAtOnce).toBe(MOST);
    expect(bench.servers).toHaveLength(MOST);
    bench.sessions.close();
  });

  it("are apart for each database", async () => {
    const bench = new Bench();
    await Promise.all(Array.from({ length: 12 }, (_, n) => bench.task(`db${n % 2}`)));
    expect(bench.servers).toHaveLength(2 * MOST);
    bench.sessions.close();
  });

  it("that have died while idle are replaced without a word", async () => {
    const bench = new Bench();
    await Promise.all([bench.task(), bench.task(), bench.task()]);
    for (const server of bench.servers) server.destroy();
    await settled();
    await Promise.all([bench.task(), bench.task(), bench.task()]);
    expect(bench.servers).toHaveLength(2 * MOST);
    bench.sessions.close();
  });

  it("are closed where a task has failed", async () => {
    const bench = new Bench();
    const failing = bench.sessions.use("shop", () => Promise.reject(new Error("no")), bench.signal);
    await expect(failing).rejects.toThrow("no");
    await settled();
    expect(bench.openServers).toBe(0);
    await bench.task();
    expect(bench.servers).toHaveLength(2);
    bench.sessions.close();
  });

  it("go to the next where one that waits has given up, also at the last moment", async () => {
    const bench = new Bench();
    let release = (): void => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const holders = Array.from({ length: MOST }, () => bench.sessions.use("shop", () => held, bench.signal));
    const impatient = Array.from({ length: 5 }, () => new AbortController());
    const given = impatient.map(({ signal }) => bench.task("shop", signal).catch((error: Error) => error.message));
    const patient = [bench.task(), bench.task()];
    await settled();
    impatient[0]?.abort(new Error("too late"));
    release();
    // The turns are given in the same moment as these give up.
    for (const one of impatient.slice(1)) queueMicrotask(() => one.abort(new Error("too late")));
    await Promise.all([...holders, ...patient, ...given]);
    expect(await given[0]).toBe("too late");
    await bench.task();
    expect(bench.mostAtOnce).toBeLessThanOrEqual(MOST);
    bench.sessions.close();
  });

  it("keep 5,000 waiting, and no more", async () => {
    const bench = new Bench();
    const holders = Array.from({ length: MOST }, () =>
      bench.sessions.use("shop", () => new Promise(() => {}), bench.signal),
    );
    const leaving = Array.from({ length: 5_000 }, () => new AbortController());
    const waiting = leaving.map(({ signal }) => bench.task("shop", signal).catch(() => "left"));
    await expect(bench.task()).rejects.toThrow(ProxyError);
    for (const one of leaving) one.abort(new Error("left"));
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(["left"]));
    void holders;
  });

  it("are closed with the rest, those in use when their task is done", async () => {
    const bench = new Bench();
    await bench.task();
    const last = bench.task();
    bench.sessions.close();
    await last;
    await settled();
    expect(bench.openServers).toBe(0);
  });
});
