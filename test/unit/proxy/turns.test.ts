/** Whose turn it is, after each message, wherever the stream is cut. */
import { describe, expect, it } from "vitest";
import { BoundaryScanner } from "../../../src/protocol/boundary-scanner.ts";
import { Turns } from "../../../src/proxy/forward/turns.ts";
import { bytes, client, message, server } from "../../support/bytes.ts";

const COPY_IN = message("G", Buffer.from([0, 0, 0]));
const Z = server.readyForQuery();
const ROW = server.dataRow("Z\0\0\0\u0005I");

/** What the two sides say, in turns, and the state after each. `<` is the client, `>` the server. */
type Step = readonly ["<" | ">", Buffer, string];

function play(steps: readonly Step[], cut: (chunk: Buffer) => Buffer[]): string[] {
  const reads = { client: 0, upstream: 0 };
  const turns = new Turns(() => reads);
  const scanners = { "<": new BoundaryScanner(turns.fromClient), ">": new BoundaryScanner(turns.fromUpstream) };
  return steps.map(([side, chunk]) => {
    for (const piece of cut(chunk)) {
      reads[side === "<" ? "client" : "upstream"] += 1;
      scanners[side].advance(piece, piece.length);
    }
    return turns.activity.state;
  });
}

const query = client.query("select 1");
const extended = bytes(client.parse("select 1"), client.bind(), client.execute());

const conversations: Readonly<Record<string, readonly Step[]>> = {
  "a query": [
    ["<", query, "busy"],
    [">", ROW, "busy"],
    [">", bytes(server.commandComplete("SELECT 1"), Z), "idle"],
    [">", server.notice("to whom it may concern"), "idle"],
  ],
  "a ReadyForQuery with something behind it": [
    ["<", query, "busy"],
    [">", bytes(ROW, server.readyForQuery("T"), server.notice("x")), "held"],
    ["<", query, "busy"],
    [">", bytes(server.error("22012", "division by zero", "ERROR"), server.readyForQuery("E")), "held"],
    ["<", query, "busy"],
    [">", Z, "idle"],
  ],
  "two queries in one piece": [
    ["<", bytes(query, query), "busy"],
    [">", Z, "busy"],
    [">", Z, "idle"],
  ],
  "the extended protocol": [
    ["<", bytes(extended, client.sync), "busy"],
    [">", bytes(server.parseComplete, server.bindComplete, Z), "idle"],
  ],
  "an Execute behind which no Sync comes": [
    ["<", bytes(extended, client.flush), "busy"],
    [">", bytes(server.parseComplete, server.bindComplete, server.notice("soon")), "busy"],
    [">", server.commandComplete("SELECT 1"), "held"],
    ["<", client.flush, "held"],
    ["<", bytes(client.execute(), client.flush), "busy"],
    [">", server.commandComplete("SELECT 1"), "held"],
    ["<", client.sync, "busy"],
    [">", Z, "idle"],
    ["<", client.flush, "idle"],
  ],
  "an Execute without a Flush": [
    ["<", extended, "unclear"],
    [">", server.notice("soon"), "unclear"],
    ["<", client.sync, "busy"],
    [">", bytes(server.commandComplete("SELECT 1"), Z), "idle"],
  ],
  "messages that the server drops, up to the next Sync": [
    ["<", bytes(extended, client.flush), "busy"],
    [">", server.error("42601", "syntax error", "ERROR"), "held"],
    ["<", bytes(query, extended, client.flush), "held"],
    ["<", client.sync, "busy"],
    [">", Z, "idle"],
    ["<", query, "busy"],
    [">", Z, "idle"],
  ],
  "a Query that the server may have dropped": [
    ["<", bytes(extended, query, client.sync), "busy"],
    [">", bytes(server.error("42601", "syntax error", "ERROR"), Z), "unclear"],
    ["<", query, "unclear"],
    [">", Z, "unclear"],
  ],
  "a Query behind statements that work": [
    ["<", bytes(extended, query), "busy"],
    [">", bytes(server.commandComplete("SELECT 1"), Z), "idle"],
  ],
  "COPY, with a Query in place of its data": [
    ["<", query, "busy"],
    [">", COPY_IN, "held"],
    ["<", query, "unclear"],
    [">", bytes(server.error("08P01", "unexpected message", "ERROR"), Z), "unclear"],
  ],
  "COPY whose data were sent before the server asked for them, and a query behind": [
    ["<", bytes(query, client.copyDone, query), "busy"],
    [">", bytes(COPY_IN, server.commandComplete("COPY 0"), Z), "unclear"],
  ],
  "COPY by a query": [
    ["<", query, "busy"],
    [">", COPY_IN, "held"],
    ["<", client.copyData("1\n"), "held"],
    ["<", client.copyDone, "busy"],
    [">", bytes(server.commandComplete("COPY 1"), Z), "idle"],
  ],
  "COPY by a query, with another one behind its data": [
    ["<", query, "busy"],
    [">", COPY_IN, "held"],
    ["<", bytes(client.copyDone, query), "busy"],
    [">", Z, "busy"],
    [">", Z, "idle"],
  ],
  "COPY as libpq does it by the extended protocol: the first Sync is dropped": [
    ["<", bytes(extended, client.sync), "busy"],
    [">", bytes(server.parseComplete, server.bindComplete, COPY_IN), "held"],
    ["<", bytes(client.copyData("1\n"), client.copyDone, client.sync), "busy"],
    [">", bytes(server.commandComplete("COPY 1"), Z), "idle"],
    ["<", query, "busy"],
    [">", Z, "idle"],
  ],
  "COPY that the server ends": [
    ["<", query, "busy"],
    [">", COPY_IN, "held"],
    [">", bytes(server.error("22P02", "invalid input", "ERROR"), Z), "idle"],
    ["<", bytes(client.copyData("2\n"), client.copyDone), "idle"],
    ["<", query, "busy"],
    [">", Z, "idle"],
  ],
};

describe.each(Object.entries(conversations))("%s", (_name, steps) => {
  const expected = steps.map(([, , state]) => state);

  it("in whole pieces", () => {
    expect(play(steps, (chunk) => [chunk])).toEqual(expected);
  });

  it("byte by byte", () => {
    expect(play(steps, (chunk) => [...chunk].map((byte) => Buffer.of(byte)))).toEqual(expected);
  });

  it("cut in two, anywhere", () => {
    for (let at = 1; at < 40; at += 1) {
      expect(play(steps, (chunk) => [chunk.subarray(0, at), chunk.subarray(at)])).toEqual(expected);
    }
  });
});
