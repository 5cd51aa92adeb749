/** A client of a pool and one session, byte by byte, where a real server would not send them in such pieces. */
import { Duplex } from "node:stream";
import { describe, expect, it } from "vitest";
import type { Activity } from "../../../src/proxy/forward/activity.ts";
import { PooledForwarding, type PooledForwardServices } from "../../../src/proxy/forward/pooled-forwarding.ts";
import type { Borrower } from "../../../src/proxy/pool/borrower.ts";
import type { PooledSession } from "../../../src/proxy/pool/pooled-session.ts";
import { PreparedStatements } from "../../../src/proxy/pool/prepared.ts";
import { SqlReader } from "../../../src/proxy/pool/sql-effects.ts";
import { bytes, client as frontend, cstring, int32, message, readMessages, server } from "../../support/bytes.ts";
import { FakeClock } from "../../support/fake-clock.ts";

const { bind, copyData, copyDone, flush, parse, query, sync } = frontend;
const COPY_IN = message("G", 0, 0, 0);
const ready = server.readyForQuery();

/** What is written to it is there at once; of a full one the writes are not done. */
class Socket extends Duplex {
  readonly written: Buffer[] = [];
  isFull = false;

  constructor() {
    super({ highWaterMark: 16 });
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.written.push(chunk);
    if (!this.isFull) done();
  }

  /** Types of what was written. */
  get types(): string {
    const { messages, rest } = readMessages(Buffer.concat(this.written));
    return messages.map(({ type }) => type).join("") + (rest.length > 0 ? "..." : "");
  }
}

interface Scene {
  readonly client: Socket;
  readonly upstream: Socket;
  /** What the pool was asked to do, in order. */
  readonly asked: string[];
  readonly state: () => Activity["state"];
  readonly fromClient: (...parts: Buffer[]) => void;
  readonly fromServer: (...parts: Buffer[]) => void;
}

function openScene(config: Partial<PooledForwardServices["config"]> = {}): Scene {
  const [client, upstream] = [new Socket(), new Socket()];
  const asked: string[] = [];
  const reader = new SqlReader([], ["search_path"]);
  const session = {
    stream: { socket: upstream },
    isOpen: true,
    parameters: new Map(),
    reported: "",
    applied: new Map(),
    statements: new Map(),
    hasLeftovers: false,
    lendTo: () => Buffer.alloc(0),
    takeBack: () => {},
  } as unknown as PooledSession;
  const note =
    (what: string) =>
    (_session: unknown, _borrower: unknown, isTainted: unknown): void =>
      void asked.push(isTainted === true ? `${what} tainted` : what);
  const pool = {
    reader,
    statements: new PreparedStatements(reader),
    hasWaiters: () => false,
    take: () => session,
    release: note("release"),
    reclaim: note("reclaim"),
    destroy: note("destroy"),
    restore: () => {
      asked.push("restore");
      return Promise.resolve();
    },
  };
  const borrower = { settings: new Map(), resetSetting: () => {}, learn: () => false } as unknown as Borrower;
  const forwarding = new PooledForwarding(
    client,
    session,
    borrower,
    {
      config: {
        poolMode: "transaction",
        sessionState: "follow",
        maxPreparedStatements: 100,
        queryWaitNotifyMs: 0,
        ...config,
      },
      clock: new FakeClock(),
      pool: pool as unknown as PooledForwardServices["pool"],
      directRead: false,
      countPin: (reason) => void asked.push(`pin ${reason}`),
    },
    { onHalfClosed: () => {}, onClosing: (error) => void asked.push(`closing ${error?.code}`) },
  );
  forwarding.start(Buffer.alloc(0));
  asked.length = 0;
  client.written.length = 0;
  return {
    client,
    upstream,
    asked,
    state: () => forwarding.activity.state,
    fromClient: (...parts) => void client.emit("data", bytes(...parts)),
    fromServer: (...parts) => void forwarding.onUpstreamBytes(bytes(...parts)),
  };
}

describe("a client of a pool", () => {
  it("is read on when the COPY that it sends has failed, and its session is gone before that has taken all", () => {
    const { client, upstream, asked, fromClient, fromServer } = openScene();
    fromClient(query("COPY plain FROM STDIN"));
    fromServer(COPY_IN);
    upstream.isFull = true;
    fromClient(copyData("no number\n".repeat(9)));
    expect(client.isPaused()).toBe(true);
    fromServer(server.error("22P02", "no number", "ERROR"), ready);
    expect(asked).toEqual(["release"]);
    expect(client.isPaused()).toBe(false);
  });

  it("gets its context back behind a RESET when the message that it is in has gone to its end", async () => {
    const { upstream, asked, fromClient, fromServer } = openScene();
    const late = copyData("of no COPY");
    fromClient(query("RESET ALL"), late.subarray(0, 9));
    fromServer(server.commandComplete("RESET"), ready);
    expect(asked).toEqual([]);
    fromClient(late.subarray(9));
    expect(asked).toEqual(["restore"]);
    fromClient(copyData("later"), query("SELECT 1"));
    expect(upstream.types).toBe("Qd");
    await Promise.resolve();
    await Promise.resolve();
    expect(asked).toEqual(["restore", "release tainted"]);
    expect(upstream.types).toBe("QdQ");
  });

  it("prepares under names of its own when answers cannot be told apart any more", () => {
    const { upstream, asked, fromClient, fromServer } = openScene();
    fromClient(parse("SELECT 1", "before"), sync);
    fromServer(server.parseComplete, ready);
    fromClient(query("COPY plain FROM STDIN"), query("SELECT 1"));
    fromServer(COPY_IN);
    upstream.written.length = 0;
    const more = bytes(copyDone, parse("SELECT 1", "s"), bind("", "s"), sync);
    fromClient(more);
    expect(Buffer.concat(upstream.written)).toEqual(more);
    fromClient(parse("SELECT 2", "before"));
    expect(asked).toEqual(["release", "pin copy", "closing copy_ambiguous", "reclaim"]);
  });

  it("is refused a statement that is too long to be kept as any other", () => {
    const { upstream, asked, fromClient } = openScene({ sessionState: "refuse" });
    const long = parse(`LISTEN news -- ${"x".repeat(70_000)}`, "s");
    fromClient(long.subarray(0, 66_000));
    fromClient(long.subarray(66_000), sync);
    expect(upstream.types).toBe("PS");
    expect(Buffer.concat(upstream.written).includes("session state is refused")).toBe(true);
    expect(asked).toEqual([]);
  });

  it("may keep the server waiting when a Query has come between its last Flush and what it sends now", () => {
    const { state, fromClient, fromServer } = openScene();
    fromClient(parse("SELECT 1"), flush, query("BEGIN"));
    fromServer(server.parseComplete, server.commandComplete("BEGIN"), server.readyForQuery("T"));
    fromClient(parse("SELECT 1"));
    expect(state()).toBe("unclear");
    fromClient(flush);
    expect(state()).toBe("busy");
  });

  it("keeps its session when of several SETs one has failed, and another may have worked", () => {
    const { asked, fromClient, fromServer } = openScene();
    const failed = server.error("22023", "no", "ERROR");
    fromClient(query("SET search_path = one, two"));
    fromServer(failed, ready);
    expect(asked).toEqual(["release tainted"]);
    fromClient(query("SET search_path = one"), query("SET search_path = two"));
    fromServer(failed, ready, server.commandComplete("SET"), ready);
    expect(asked).toEqual(["release tainted", "pin set"]);
  });

  it("has no more than a MiB of statements remembered in session mode", async () => {
    const { asked, fromClient, fromServer } = openScene({ poolMode: "session" });
    const reset = `RESET ALL -- ${"x".repeat(60_000)}`;
    const run = async (...parts: Buffer[]): Promise<string[]> => {
      asked.length = 0;
      fromClient(...parts, sync);
      fromServer(...parts.map(([type]) => (type === 0x50 ? server.parseComplete : server.bindComplete)), ready);
      await Promise.resolve();
      await Promise.resolve();
      return [...asked];
    };
    for (let number = 0; number < 18; number += 1) {
      expect(await run(parse(reset, `s${number}`))).toEqual(["restore"]);
    }
    expect(await run(bind("", "s0"))).toEqual(["restore"]);
    expect(await run(bind("", "s17"))).toEqual([]);
  });

  it("gets nothing of a notification for somebody else, however it is split", () => {
    const notification = message("A", int32(1), cstring("news"), cstring("of globex"));
    const wanted = bytes(server.commandComplete("SELECT 1"), ready);
    for (let at = 0; at <= notification.length; at += 1) {
      const { client, fromClient, fromServer } = openScene();
      fromClient(query("SELECT 1"));
      fromServer(notification.subarray(0, at));
      fromServer(notification.subarray(at), wanted);
      expect(Buffer.concat(client.written), `split at ${at}`).toEqual(wanted);
    }
  });
});
