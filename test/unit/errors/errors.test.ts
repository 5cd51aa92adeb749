/** The catalogue of errors: what of an error goes to the client, and the page that lists them all. */
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { catalogue, type ErrorCode, type ErrorDefinition } from "../../../src/errors/catalogue.ts";
import { ProxyError } from "../../../src/errors/proxy-error.ts";
import { encodeErrorResponse } from "../../../src/protocol/backend-messages.ts";
import { cstring, errorFields, message } from "../../support/bytes.ts";
import { renderErrors } from "../../support/render-errors.ts";

const PAGE = path.join(import.meta.dirname, "../../../docs/errors.md");
const definitions = Object.entries(catalogue) as [ErrorCode, ErrorDefinition][];

describe("the catalogue", () => {
  it.each(definitions)("%s has a SQLSTATE, a text and a code of the usual form", (code, definition) => {
    expect(code).toMatch(/^[a-z0-9]+(_[a-z0-9]+)*$/);
    expect(definition.sqlstate).toMatch(/^[0-9A-Z]{5}$/);
    expect(definition.text).not.toBe("");
    expect(definition.hint ?? "x").toMatch(/^.*[^\s]$/);
  });

  it("is what docs/errors.md lists", () => {
    if (process.env["PGVPD_WRITE_DOCS"] !== undefined) writeFileSync(PAGE, renderErrors());
    const page = readFileSync(PAGE, "utf8");
    expect(page, "docs/errors.md is behind: run PGVPD_WRITE_DOCS=1 npx vitest run test/unit/errors").toBe(
      renderErrors(),
    );
  });
});

describe("an ErrorResponse of ours", () => {
  it("has severity, code, text and hint, each field terminated, and a terminator", () => {
    const error = new ProxyError("login_role", { params: { role: "é" }, detail: "for the log" });
    expect(encodeErrorResponse(error)).toEqual(
      message(
        "E",
        cstring("SFATAL"),
        cstring("VFATAL"),
        cstring("C28000"),
        cstring('Mrole "é" may not be used by a tenant'),
        cstring("HThe setting login_roles lists the roles that may."),
        0,
      ),
    );
  });

  it("without a hint has none", () => {
    expect(errorFields(encodeErrorResponse(new ProxyError("message_length")).subarray(5))).toEqual({
      S: "FATAL",
      V: "FATAL",
      C: "08P01",
      M: "invalid message length",
    });
  });

  it("never carries detail or cause", () => {
    for (const [code] of definitions) {
      const error = new ProxyError(code, { detail: "secret detail", cause: new Error("secret cause") });
      expect(encodeErrorResponse(error).includes("secret")).toBe(false);
    }
  });

  it("drops a NUL of a parameter, which would begin a field of the client's choice", () => {
    const error = new ProxyError("parameter_protected", { params: { name: "x\0C00000\0" } });
    const fields = errorFields(encodeErrorResponse(error).subarray(5));
    expect(fields["C"]).toBe("42501");
    expect(fields["M"]).toBe('parameter "xC00000" may not be set');
  });

  it("fills a placeholder once: what a parameter holds is not filled again", () => {
    const error = new ProxyError("unsafe_role", { params: { role: "{reason}", reason: "$& $1 {role}" } });
    expect(error.message).toBe('role "{reason}" is not safe for a tenant: $& $1 {role}');
  });

  it("leaves a placeholder that has no value as it is", () => {
    expect(new ProxyError("unsafe_role").message).toContain("{role}");
  });
});
