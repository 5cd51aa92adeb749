/** Clients that send what no driver sends, in an order that no driver uses: the session behind them stays what it was. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bytes, client as frontend, cstring, int32, message } from "../../support/bytes.ts";
import { startPooledProxy, type PooledProxy } from "../../support/pooled-proxy.ts";
import type { RawClient } from "../../support/raw-client.ts";
import { startTenantFixture, type TenantFixture } from "../../support/tenant-fixture.ts";

const { bind, describeStatement, execute, flush, parse, query, sync } = frontend;
const TAKEN_WHOLE = 64 * 1024;

let fixture: TenantFixture;
let follow: PooledProxy;
let refuse: PooledProxy;

beforeAll(async () => {
  fixture = await startTenantFixture({ version: "18" });
  follow = await startPooledProxy(fixture, { pool_size: 9 });
  refuse = await startPooledProxy(fixture, { pool_size: 9, session_state: "refuse" });
});

afterAll(() => fixture[Symbol.asyncDispose]());

/** Types of what answers `parts`, up to the next ReadyForQuery. */
async function ask(client: RawClient, ...parts: Buffer[]): Promise<string> {
  client.send(...parts);
  const messages = await client.readUntil("Z");
  return messages.map(({ type }) => type).join("");
}

describe("a client of a pool that behaves oddly", { timeout: 15_000 }, () => {
  it("may send thousands of messages before a Sync", async () => {
    using client = await follow.logIn("acme");
    const often = Array.from({ length: 6_000 }, () => bytes(bind("", "s"), execute()));
    const types = await ask(client, parse("SELECT 1", "s"), ...often, sync);
    expect(types).toBe(`1${"2DC".repeat(6_000)}Z`);
  });

  it("resets all while the server skips to the next Sync", async () => {
    using client = await follow.logIn("acme");
    client.send(parse("selec"), flush);
    await client.readUntil("E");
    expect(await ask(client, query("RESET ALL"), sync)).toBe("Z");
    expect(await ask(client, parse("selec"), query("RESET ALL"), sync)).toBe("EZ");
    expect(await ask(client, query("SELECT 1"))).toBe("TDCZ");
  });

  it("hides messages in the end of a statement that is refused", async () => {
    using client = await refuse.logIn("acme");
    const text = "SET work_mem = '1MB' --";
    const hidden = query("SELECT 'hidden'");
    const padding = "x".repeat(TAKEN_WHOLE - 5 - text.length);
    const whole = message("Q", text, padding, hidden, cstring(""));
    expect(await ask(client, whole.subarray(0, TAKEN_WHOLE))).toBe("EZ");
    client.send(whole.subarray(TAKEN_WHOLE));
    expect(await ask(client, query("SELECT 1"), sync)).toBe("TDCZ");
    client.send(sync);
    expect(await client.readUntil("Z")).toHaveLength(1);
    expect(client.received.includes("hidden")).toBe(false);
  });

  it("gets the answer to a statement that is known behind one whose columns come in parts", async () => {
    using client = await follow.logIn("acme");
    const columns = Array.from({ length: 1_600 }, (_, index) => `1 AS ${`column_${index}_`.padEnd(60, "x")}`);
    const wide = parse(`SELECT ${columns.join(", ")} LIMIT 0`, "wide");
    expect(await ask(client, parse("SELECT 1", "a"), wide, sync)).toBe("11Z");
    expect(await ask(client, describeStatement("wide"), parse("SELECT 1", "b"), sync)).toBe("tT1Z");
  });

  it("leaves a message half sent, with something wrong behind it", async () => {
    using client = await follow.logIn("acme");
    client.send(query("SELECT 1"), bytes("d", int32(200_004), Buffer.alloc(150_000)));
    await client.readUntil("Z");
    client.send(Buffer.alloc(50_000), bytes("d", int32(3)));
    await client.untilClosed();
    using next = await follow.logIn("acme");
    expect(await ask(next, query("SELECT 1"))).toBe("TDCZ");
  });

  it("keeps its unnamed statement when its context is given back", async () => {
    using client = await follow.logIn("acme");
    const run = bytes(bind(""), execute(), sync);
    expect(await ask(client, parse("RESET work_mem"), run)).toBe("12CZ");
    expect(await ask(client, run)).toBe("2CZ");
  });

  it("prepares what is known where the server skips it", async () => {
    using client = await follow.logIn("acme");
    expect(await ask(client, parse("SELECT 41", "a"), sync)).toBe("1Z");
    await ask(client, query("BEGIN"));
    await ask(client, query("SELECT 1/0"));
    expect(await ask(client, parse("selec"), parse("SELECT 41", "b"), sync)).toBe("EZ");
    await ask(client, query("ROLLBACK"));
    expect(await ask(client, parse("SELECT 41", "c"), sync)).toBe("1Z");
  });
});
