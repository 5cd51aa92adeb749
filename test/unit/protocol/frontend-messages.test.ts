/** The password of a login that cannot be relayed as it is. */
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { decodePassword, encodeMd5Response, hashMd5Password } from "../../../src/protocol/frontend-messages.ts";
import { bytes, cstring, message } from "../../support/bytes.ts";
import { sqlstateOf } from "../../support/proxy-error-of.ts";

describe("a PasswordMessage", () => {
  it("is one terminated string of any bytes", () => {
    expect(decodePassword(bytes(0x70, 0xff, 0))).toEqual(Buffer.of(0x70, 0xff));
    expect(decodePassword(cstring(""))).toEqual(Buffer.alloc(0));
  });

  it.each([
    ["empty", Buffer.alloc(0)],
    ["not terminated", Buffer.from("secret")],
    ["two strings", bytes(cstring("a"), cstring("b"))],
    ["followed by a byte", bytes(cstring("a"), "b")],
  ])("that is %s is refused with 08P01", (_name, body) => {
    expect(sqlstateOf(() => decodePassword(body))).toBe("08P01");
  });
});

describe("the answer to an MD5 request", () => {
  it("hashes password and login role, then that and the salt", () => {
    const md5 = (...parts: (string | Buffer)[]): string =>
      createHash("md5")
        .update(bytes(...parts))
        .digest("hex");
    const salt = Buffer.of(1, 2, 0xff, 0);
    const expected = `md5${md5(md5("secret", "app_user"), salt)}`;
    expect(encodeMd5Response(hashMd5Password(Buffer.from("secret"), "app_user"), salt)).toEqual(
      message("p", cstring(expected)),
    );
  });
});
