/** How an expression of a policy is read, as PostgreSQL prints it, and how it is mended. */
import { describe, expect, it } from "vitest";
import {
  findContextReads,
  readsVariable,
  rewriteReads,
  testsNotNull,
  testsNull,
} from "../../../src/doctor/policy-expression.ts";

const WRAPPED = "(tenant_id = ( SELECT public.current_tenant_id() AS current_tenant_id))";

describe("a read of the context", () => {
  it("is found with its arguments, wrapped or bare", () => {
    expect(findContextReads(WRAPPED)).toMatchObject([{ text: "public.current_tenant_id()", isWrapped: true }]);
    expect(findContextReads("(tenant_id = public.current_tenant_id())")).toMatchObject([{ isWrapped: false }]);
    expect(findContextReads("(t = (public.pgvpd_context('a''(.b'::text))::uuid)")).toMatchObject([
      {
        text: "public.pgvpd_context('a''(.b'::text)",
        name: "pgvpd_context",
        argument: "'a''(.b'::text",
        isConstant: true,
      },
    ]);
  });

  it("is one where others stand in the same SELECT, and in one around it", () => {
    expect(
      findContextReads(
        "((a, b) IN ( SELECT x.a, (public.current_tenant_id())::uuid FROM x WHERE (x.b = current_setting('c.d'::text))))",
      ),
    ).toMatchObject([{ isWrapped: true }, { isWrapped: true }]);
  });

  it("is not taken for wrapped because a SELECT stands before it", () => {
    expect(findContextReads("((a = ( SELECT 1)) AND (b = public.current_tenant_id()))")).toMatchObject([
      { isWrapped: false },
    ]);
  });

  it("is not constant where it depends on the row", () => {
    expect(findContextReads("public.pgvpd_context_contains('app.ids'::text, id)")).toMatchObject([
      { isConstant: false, argument: "" },
    ]);
  });

  it("is not found in quotes, nor in a longer name", () => {
    expect(findContextReads("(a = 'current_tenant_id()'::text)")).toEqual([]);
    expect(findContextReads('(a = "current_tenant_id("())')).toEqual([]);
    expect(findContextReads("(a = my_current_setting('x'))")).toEqual([]);
  });

  it("is replaced where it stands, and nothing else is", () => {
    const wrap = (expression: string): string =>
      rewriteReads(expression, ({ text, isWrapped }) => (isWrapped ? text : `(SELECT ${text})`));
    expect(wrap("((a = public.current_tenant_id()) OR (b = 'public.current_tenant_id()'::text))")).toBe(
      "((a = (SELECT public.current_tenant_id())) OR (b = 'public.current_tenant_id()'::text))",
    );
    expect(wrap(WRAPPED)).toBe(WRAPPED);
  });

  it("is of a variable where it names one", () => {
    expect(findContextReads("current_setting('app.x'::text, true)").map(readsVariable)).toEqual([true]);
    expect(findContextReads("current_setting(name)").map(readsVariable)).toEqual([false]);
    expect(findContextReads(WRAPPED).map(readsVariable)).toEqual([false]);
  });
});

describe("a test for NULL", () => {
  const bare = "(current_setting('app.x'::text, true) IS NOT NULL)";
  const wrapped = "(( SELECT current_setting('app.x'::text, true) AS current_setting) IS NOT NULL)";

  it.each([bare, wrapped])("IS NOT NULL of a variable is found and mended: %s", (expression) => {
    expect(testsNotNull.is(expression)).toBe(true);
    const mended = testsNotNull.mend(expression);
    expect(mended).toBe("((SELECT NULLIF(current_setting('app.x'::text, true), '')) IS NOT NULL)");
    expect(testsNotNull.is(mended)).toBe(false);
  });

  it("IS NOT NULL of what makes NULL of the empty string is none", () => {
    expect(testsNotNull.is("(( SELECT public.current_tenant_id() AS current_tenant_id) IS NOT NULL)")).toBe(false);
  });

  it("IS NULL of any read is found and mended", () => {
    const open = `(${WRAPPED} OR (( SELECT public.current_tenant_id() AS current_tenant_id) IS NULL))`;
    expect(testsNull.is(open)).toBe(true);
    expect(testsNull.mend(open)).toBe(`(${WRAPPED} OR (false))`);
    expect(testsNull.is("(current_setting('app.x'::text, true) IS NULL)")).toBe(true);
    expect(testsNull.is(`(${WRAPPED} AND (deleted_at IS NULL))`)).toBe(false);
  });
});
