/** The backend messages that pgvpd reads itself: a server that sends something else is refused, never misread. */
import { describe, expect, it } from "vitest";
import {
  assertIdle,
  decodeAuthentication,
  decodeBackendKeyData,
  decodeDataRow,
  decodeNegotiateProtocolVersion,
  decodeParameterStatus,
  describeErrorResponse,
  encodeCleartextPasswordRequest,
  encodeNegotiateProtocolVersion,
} from "../../../src/protocol/backend-messages.ts";
import { bytes, cstring, int16, int32, message, server } from "../../support/bytes.ts";
import { proxyErrorOf } from "../../support/proxy-error-of.ts";

const isRefused = (work: () => unknown): void => expect(proxyErrorOf(work).code).toBe("upstream_protocol");

describe("BackendKeyData", () => {
  const body = (length: number): Buffer => bytes(int32(-2), Buffer.alloc(length, 0xee));

  it("in protocol 3.0 has a secret of exactly 4 bytes", () => {
    expect(decodeBackendKeyData(body(4), 0)).toEqual({ processId: -2, secret: Buffer.alloc(4, 0xee) });
    for (const length of [0, 3, 5, 32, 256]) isRefused(() => decodeBackendKeyData(body(length), 0));
  });

  it("in protocol 3.2 has a secret of 4 to 256 bytes", () => {
    for (const length of [4, 32, 256]) expect(decodeBackendKeyData(body(length), 2).secret).toHaveLength(length);
    for (const length of [0, 3, 257, 4_000]) isRefused(() => decodeBackendKeyData(body(length), 2));
  });

  it("without a whole process id is refused", () => {
    for (const length of [0, 3]) isRefused(() => decodeBackendKeyData(Buffer.alloc(length), 2));
  });
});

describe("NegotiateProtocolVersion", () => {
  it("carries the whole version number and the names of the unknown options", () => {
    expect(encodeNegotiateProtocolVersion({ minor: 2, unknownOptions: ["_pq_.a", "_pq_.b"] })).toEqual(
      bytes(
        "v",
        int32(4 + 4 + 4 + 7 + 7), // length
        int32(196_610), // 3.2, the whole number
        int32(2), // names
        cstring("_pq_.a"),
        cstring("_pq_.b"),
      ),
    );
  });

  it.each([
    [196_608, 0],
    [196_610, 2],
    [2, 2], // the documentation says "minor version", and some servers believe it
  ])("of version %i is minor %i", (version, minor) => {
    expect(decodeNegotiateProtocolVersion(bytes(int32(version), int32(0)))).toEqual({ minor, unknownOptions: [] });
  });

  it.each([
    ["without a body", Buffer.alloc(0)],
    ["without a count", int32(196_608)],
    ["of protocol 4", bytes(int32(4 << 16), int32(0))],
    ["of a negative version", bytes(int32(-1), int32(0))],
    ["with fewer names than its count", bytes(int32(196_608), int32(2), cstring("a"))],
    ["with more names than its count", bytes(int32(196_608), int32(0), cstring("a"))],
    ["with a negative count", bytes(int32(196_608), int32(-1))],
    ["with a name that does not end", bytes(int32(196_608), int32(1), "a")],
  ])("%s is refused", (_name, body) => {
    isRefused(() => decodeNegotiateProtocolVersion(body));
  });
});

describe("DataRow", () => {
  const body = (...values: (string | null)[]): Buffer => server.dataRow(...values).subarray(5);

  it("gives text, empty text and NULL apart", () => {
    expect(decodeDataRow(body("a", "", null, "é"))).toEqual(["a", "", null, "é"]);
    expect(decodeDataRow(body())).toEqual([]);
  });

  it("cut off anywhere is refused", () => {
    const whole = body("abc", null, "");
    for (let length = 0; length < whole.length; length++) isRefused(() => decodeDataRow(whole.subarray(0, length)));
  });

  it.each([
    ["a value longer than the message", bytes(int16(1), int32(5), "abcd")],
    ["a value of 2^31-1 bytes", bytes(int16(1), int32(0x7fff_ffff), "abcd")],
    ["a value of length -2", bytes(int16(1), int32(-2), "abcd")],
    ["32,767 columns and nothing in them", int16(32_767)],
  ])("with %s is refused", (_name, content) => {
    isRefused(() => decodeDataRow(content));
  });
});

describe("ParameterStatus", () => {
  it("is a name and a value", () => {
    expect(decodeParameterStatus(bytes(cstring("is_superuser"), cstring("off")))).toEqual({
      name: "is_superuser",
      value: "off",
    });
  });

  it.each([
    ["no string", Buffer.alloc(0)],
    ["one string", cstring("a")],
    ["a value that does not end", bytes(cstring("a"), "b")],
    ["three strings", bytes(cstring("a"), cstring("b"), cstring("c"))],
    ["a byte behind it", bytes(cstring("a"), cstring("b"), "c")],
  ])("of %s is refused", (_name, body) => {
    isRefused(() => decodeParameterStatus(body));
  });
});

describe("the rest", () => {
  it("an Authentication message is its kind; one without is refused", () => {
    expect(decodeAuthentication(bytes(int32(10), "SCRAM"))).toBe(10);
    for (const length of [0, 3]) isRefused(() => decodeAuthentication(Buffer.alloc(length)));
  });

  it("a session begins in the state idle, and in no other", () => {
    expect(() => assertIdle(Buffer.from("I"))).not.toThrow();
    for (const body of ["T", "E", "", "II", "\0"]) isRefused(() => assertIdle(Buffer.from(body)));
  });

  it("the request for a clear-text password is R with the number 3", () => {
    expect(encodeCleartextPasswordRequest()).toEqual(message("R", int32(3)));
  });

  it("an ErrorResponse becomes a line for the log, whatever it lacks", () => {
    expect(describeErrorResponse(server.error("28P01", "no").subarray(5))).toBe("FATAL 28P01: no");
    expect(describeErrorResponse(bytes(cstring("SPANIC"), cstring("Mboom"), 0))).toBe("PANIC XX000: boom");
    for (const body of [Buffer.alloc(0), Buffer.alloc(1), Buffer.from("M"), Buffer.alloc(9, 0xff)]) {
      expect(describeErrorResponse(body)).toContain("XX000");
    }
  });
});
