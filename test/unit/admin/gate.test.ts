/** The order in which the gate decides, for every listener; test/integration/admin has it over HTTP. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { judge, type Access, type Exposure, type GateOptions } from "../../../src/admin/gate.ts";
import { AdminTokens, parseAdminTokens } from "../../../src/config/admin-tokens.ts";

const hash = createHash("sha256").update("secret").digest("hex");
const some = parseAdminTokens(`reader:read:${hash}`, "file");
const none = new AdminTokens();

const statusOf = (
  access: Access,
  { exposure = "loopback", tokens = some }: { exposure?: Exposure; tokens?: AdminTokens } = {},
  headers: Record<string, string> = {},
  method = "GET",
): number => {
  const options: GateOptions = { exposure, serverNames: ["Own.Example"], tokens: () => tokens };
  const verdict = judge({ method, headers: { host: "127.0.0.1:9090", ...headers }, access }, options);
  return "status" in verdict ? verdict.status : 200;
};

const authorization = "Bearer secret";
const READ: Access = { scope: "read" };
const OPERATE: Access = { scope: "operate" };
const LEGACY: Access = { scope: "read", legacy: true };

describe("a host", () => {
  it.each(["127.0.0.1", "localhost", "LOCALHOST:1", "[::1]", "[::1]:1", "10.1.2.3", "own.example:443"])(
    "%s is own",
    (host) => {
      expect(statusOf({ open: true }, {}, { host })).toBe(200);
    },
  );

  it.each([
    "",
    "evil.example",
    "[evil.example]",
    "127.0.0.1.evil.example",
    "127.1:80:80",
    "localhost.",
    "own.example.evil",
    "a@localhost",
  ])("%j is not", (host) => {
    expect(statusOf({ open: true }, {}, { host })).toBe(421);
    expect(statusOf({ open: true }, { exposure: "socket" }, { host })).toBe(200);
  });
});

describe("an origin", () => {
  it.each([
    ["http://127.0.0.1:9090", 200],
    ["http://127.0.0.1:9091", 403],
    ["https://evil.example", 403],
    ["null", 403],
    ["", 403],
  ])("%j: a change gets %d", (origin, status) => {
    expect(
      statusOf(OPERATE, { tokens: parseAdminTokens(`o:operate:${hash}`, "file") }, { origin, authorization }, "POST"),
    ).toBe(status);
    expect(statusOf(READ, {}, { origin, authorization })).toBe(200);
  });

  it("that is another's ends a change before its token is looked at", () => {
    expect(statusOf(OPERATE, {}, { origin: "https://evil.example" }, "POST")).toBe(403);
    expect(statusOf(OPERATE, {}, { "sec-fetch-site": "cross-site", authorization }, "POST")).toBe(403);
    expect(statusOf({ open: true }, {}, { origin: "https://evil.example" }, "DELETE")).toBe(403);
  });
});

describe("a token", () => {
  it("is needed, and has to have the scope", () => {
    expect(statusOf(READ)).toBe(401);
    expect(statusOf(LEGACY)).toBe(401);
    expect(statusOf(READ, {}, { authorization })).toBe(200);
    expect(statusOf(OPERATE, {}, { authorization }, "POST")).toBe(403);
    for (const wrong of [
      "secret",
      "Basic secret",
      "Bearer",
      "Bearer ",
      "Bearer secre",
      "Bearer secret x",
      "Bearer\tsecret",
    ]) {
      expect(statusOf(READ, {}, { authorization: wrong }), wrong).toBe(401);
    }
  });

  it("is no help where none is configured; what pgvpd 1.0 had open is open on this machine", () => {
    for (const exposure of ["loopback", "socket"] as const) {
      expect(statusOf(LEGACY, { exposure, tokens: none })).toBe(200);
      expect(statusOf(READ, { exposure, tokens: none }, { authorization })).toBe(401);
    }
    expect(statusOf(LEGACY, { exposure: "encrypted", tokens: none })).toBe(401);
  });

  it("goes over no network in plain text but for metrics", () => {
    const tokens = parseAdminTokens(`all:metrics,read,operate:${hash}`, "file");
    expect(statusOf(READ, { exposure: "exposed", tokens }, { authorization })).toBe(403);
    expect(statusOf(LEGACY, { exposure: "exposed", tokens: none })).toBe(403);
    expect(statusOf({ scope: "metrics", legacy: true }, { exposure: "exposed", tokens }, { authorization })).toBe(200);
    expect(statusOf({ scope: "metrics", legacy: true }, { exposure: "exposed", tokens: none })).toBe(401);
    expect(statusOf({ open: true }, { exposure: "exposed", tokens })).toBe(200);
  });
});
