/** The packets that open a connection, byte by byte: what is taken, what is refused, and as early as it can be. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  decodeStartupPacket,
  encodeStartupMessage,
  startupPacketLength,
  type StartupMessage,
} from "../../../src/protocol/startup.ts";
import {
  bytes,
  cancelRequest,
  cstring,
  GSSENC_REQUEST,
  int32,
  PROTOCOL_3_0,
  SSL_REQUEST,
  startupMessage,
  startupPacket,
} from "../../support/bytes.ts";
import { proxyErrorOf, sqlstateOf } from "../../support/proxy-error-of.ts";

const decodeMessage = (packet: Buffer): StartupMessage => {
  const decoded = decodeStartupPacket(packet);
  if (decoded.kind !== "startup") throw new Error(`a ${decoded.kind}`);
  return decoded;
};

describe("the length field of a startup packet", () => {
  it.each([
    ["4: nothing behind it", 4],
    ["0", 0],
    ["-1", -1],
    ["7", 7],
    ["10,001", 10_001],
    ["2^31-1", 0x7fff_ffff],
    ["-2^31", -0x8000_0000],
    ["'GET ', the start of an HTTP request", 0x47455420],
    ["a TLS ClientHello", 0x16030102],
  ])("%s is refused with 08P01", (_name, length) => {
    expect(sqlstateOf(() => startupPacketLength(int32(length)))).toBe("08P01");
  });

  it.each([8, 9, 10_000])("%i is accepted", (length) => {
    expect(startupPacketLength(int32(length))).toBe(length);
  });
});

describe("a StartupMessage", () => {
  it("gives its parameters in order, with the bytes that the client sent", () => {
    const packet = bytes(
      int32(4 + 4 + 5 + 4 + 9 + 3 + 1), // length, itself included
      int32(196_608), // protocol 3.0
      cstring("user"),
      bytes(0x61, 0xff, 0x62, 0), // a value that is no UTF-8
      cstring("database"),
      cstring("db"),
      0, // no more parameters
    );
    const { kind, minor, parameters, packet: kept } = decodeMessage(packet);
    expect(kind).toBe("startup");
    expect(minor).toBe(0);
    expect(parameters).toEqual([
      { name: "user", value: Buffer.of(0x61, 0xff, 0x62) },
      { name: "database", value: Buffer.from("db") },
    ]);
    expect(kept).toBe(packet);
  });

  it.each([0, 1, 2, 7, 9999])("of protocol 3.%i is decoded, whatever pgvpd speaks", (minor) => {
    expect(decodeMessage(startupMessage({ user: "u" }, minor)).minor).toBe(minor);
  });

  it("without any parameter is decoded", () => {
    expect(decodeMessage(startupPacket(PROTOCOL_3_0, 0)).parameters).toEqual([]);
  });

  it("takes an empty value", () => {
    expect(decodeMessage(startupMessage({ user: "" })).parameters).toEqual([{ name: "user", value: Buffer.alloc(0) }]);
  });

  it.each([
    ["2.0", 2 << 16],
    ["4.0", 4 << 16],
    ["0.0", 0],
    ["1234.5681", 80_877_105], // one above GSSENCRequest
    ["32768.0", 0x8000_0000],
  ])("of protocol %s is refused with 0A000, which names the version", (version, code) => {
    const error = proxyErrorOf(() => decodeStartupPacket(startupPacket(int32(code), cstring("user"), cstring("u"), 0)));
    expect(error.definition.sqlstate).toBe("0A000");
    expect(error.message).toContain(version);
  });

  const malformed: [string, Buffer][] = [
    ["with nothing behind the version", startupPacket(PROTOCOL_3_0)],
    ["without the list's terminator", startupPacket(PROTOCOL_3_0, cstring("user"), cstring("u"))],
    ["with a name that does not end", startupPacket(PROTOCOL_3_0, "user")],
    ["with a value that does not end", startupPacket(PROTOCOL_3_0, cstring("user"), "u")],
    ["with a name and no value", startupPacket(PROTOCOL_3_0, cstring("user"))],
    ["with a byte behind the terminator", startupPacket(PROTOCOL_3_0, cstring("user"), cstring("u"), 0, 0)],
    [
      "with a second list",
      startupPacket(PROTOCOL_3_0, cstring("user"), cstring("u"), 0, cstring("a"), cstring("b"), 0),
    ],
    [
      "with the same key twice",
      startupPacket(PROTOCOL_3_0, cstring("user"), cstring("a"), cstring("user"), cstring("b"), 0),
    ],
    [
      "with the same key in another case",
      startupPacket(PROTOCOL_3_0, cstring("TimeZone"), cstring("a"), cstring("timezone"), cstring("a"), 0),
    ],
  ];
  it.each(malformed)("%s is refused with 08P01 invalid startup packet layout", (_name, packet) => {
    const error = proxyErrorOf(() => decodeStartupPacket(packet));
    expect(error.definition.sqlstate).toBe("08P01");
    expect(error.message).toBe("invalid startup packet layout");
  });

  it("of 10,000 bytes with as many parameters as fit is decoded", () => {
    const names = Array.from({ length: 1_600 }, (_, index) => index.toString(36).padStart(4, "_"));
    const packet = startupMessage(Object.fromEntries(names.map((name) => [name, ""])));
    expect(packet.length).toBeLessThanOrEqual(10_000);
    expect(decodeMessage(packet).parameters).toHaveLength(1_600);
  });
});

describe("SSLRequest and GSSENCRequest", () => {
  it("are told apart", () => {
    expect(decodeStartupPacket(SSL_REQUEST)).toEqual({ kind: "ssl" });
    expect(decodeStartupPacket(GSSENC_REQUEST)).toEqual({ kind: "gssenc" });
  });

  it.each([80_877_103, 80_877_104])("with bytes behind code %i are refused with 08P01", (code) => {
    expect(sqlstateOf(() => decodeStartupPacket(startupPacket(int32(code), 0)))).toBe("08P01");
  });
});

describe("a CancelRequest", () => {
  it.each([4, 5, 32, 256])("with a secret of %i bytes is decoded", (length) => {
    const secret = Buffer.alloc(length, 0xab);
    const packet = bytes(
      int32(12 + length), // length, itself included
      int32(80_877_102), // CancelRequest
      int32(-7), // process id, signed on the wire
      secret,
    );
    expect(decodeStartupPacket(packet)).toEqual({ kind: "cancel", processId: -7, secret, packet });
  });

  it.each([0, 1, 3, 257, 9_000])("with a secret of %i bytes is refused with 08P01", (length) => {
    expect(sqlstateOf(() => decodeStartupPacket(cancelRequest(1, Buffer.alloc(length))))).toBe("08P01");
  });

  it.each([0, 1, 3])("cut off %i bytes behind its code is refused with 08P01", (length) => {
    expect(sqlstateOf(() => decodeStartupPacket(startupPacket(int32(80_877_102), Buffer.alloc(length))))).toBe("08P01");
  });
});

describe("encodeStartupMessage", () => {
  it("writes length, version, pairs and terminator", () => {
    expect(
      encodeStartupMessage(2, [
        { name: "user", value: "é" },
        { name: "x", value: Buffer.of(0xff) },
      ]),
    ).toEqual(
      bytes(
        int32(4 + 4 + 5 + 3 + 2 + 2 + 1), // length
        int32(196_610), // protocol 3.2
        cstring("user"),
        bytes(0xc3, 0xa9, 0), // text goes out as UTF-8
        cstring("x"),
        bytes(0xff, 0), // bytes go out as they are
        0,
      ),
    );
  });

  it.each([
    [{ name: "user", value: "a\0role\0b" }],
    [{ name: "user", value: Buffer.of(0x61, 0) }],
    [{ name: "us\0er", value: "a" }],
  ])("refuses a NUL, which would begin a parameter of its own: %j", (parameter) => {
    expect(() => encodeStartupMessage(0, [parameter])).toThrow();
  });

  it("and decodeStartupPacket are each other's inverse, for any bytes without NUL", () => {
    const value = fc.uint8Array({ min: 1, max: 255, maxLength: 40 }).map((array) => Buffer.from(array));
    const name = fc.string({ minLength: 1, maxLength: 20, unit: fc.integer({ min: 1, max: 255 }).map(latin1) });
    const parameters = fc.uniqueArray(fc.record({ name, value }), {
      selector: (parameter) => parameter.name.toLowerCase(),
      maxLength: 8,
    });
    fc.assert(
      fc.property(fc.nat({ max: 0xffff }), parameters, (minor, list) => {
        const decoded = decodeMessage(encodeStartupMessage(minor, list));
        expect({ minor: decoded.minor, parameters: decoded.parameters }).toEqual({ minor, parameters: list });
      }),
    );
  });
});

const latin1 = (code: number): string => String.fromCharCode(code);
