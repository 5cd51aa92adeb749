/** How an expression of a policy is read, as PostgreSQL prints it, and how it is mended. */
import { describe, expect, it } from "vitest";
import {
  findContextReads,
  isBound,
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
      { isConstant: false, argument: "'app.ids'::text" },
    ]);
  });

  it("is not found in quotes, nor in a longer name", () => {
    expect(findContextReads("(a = 'current_tenant_id()'::text)")).toEqual([]);
    expect(findContextReads('(a = "current_tenant_id("())')).toEqual([]);
    expect(findContextReads("(a = my_current_setting('x'))")).toEqual([]);
  });

  it("is none where the function is another schema's", () => {
    for (const schema of ["app.", '"my public".', "x_public.", "pgvpd."])
      expect(findContextReads(`(a = ${schema}current_tenant_id())`)).toEqual([]);
    expect(findContextReads("(a = pgvpd.context_value('x.y'::text))")).toMatchObject([{ name: "context_value" }]);
  });

  it("is replaced where it stands, and nothing else is", () => {
    const wrap = (expression: string): string =>
      rewriteReads(expression, ({ text, isWrapped }) => (isWrapped ? text : `(SELECT ${text})`));
    expect(wrap("((a = public.current_tenant_id()) OR (b = 'public.current_tenant_id()'::text))")).toBe(
      "((a = (SELECT public.current_tenant_id())) OR (b = 'public.current_tenant_id()'::text))",
    );
    expect(wrap(WRAPPED)).toBe(WRAPPED);
  });

  it("is of a variable where it names one, or makes the name", () => {
    expect(findContextReads("current_setting('app.x'::text, true)").map(readsVariable)).toEqual([true]);
    const made = "current_setting(('app.'::text || lower('A,B'::text)), true)";
    expect(findContextReads(made).map((read) => [readsVariable(read), read.argument])).toEqual([
      [true, "('app.'::text || lower('A,B'::text))"],
    ]);
    expect(findContextReads(WRAPPED).map(readsVariable)).toEqual([false]);
  });
});

describe("a policy", () => {
  const LIST = "( SELECT public.pgvpd_context_array('app.ids'::text) AS pgvpd_context_array)";
  const TENANT = "( SELECT public.current_tenant_id() AS current_tenant_id)";
  const reads = (part: string): boolean => findContextReads(part).length > 0;

  it.each([
    WRAPPED,
    `(${WRAPPED} OR (owner = ANY (${LIST}::text[])))`,
    `(${WRAPPED} AND ((id > 5) OR (body <> ' OR '::text)))`,
    `((tenant_id)::text = (${TENANT})::text)`,
    "(id = (public.pgvpd_context('app.id'::text))::uuid)",
    `(${WRAPPED} OR (false))`,
    `(${TENANT} = "Tenant")`,
    `(tags @> ${LIST})`,
    `(tenant_id OPERATOR(public.=) ${TENANT})`,
    "public.pgvpd_context_contains('app.ids'::text, id)",
    `(id IN ( SELECT m.id FROM public.m WHERE (m.tenant_id = ${TENANT})))`,
    `(EXISTS ( SELECT 1 FROM public.m WHERE (m.tenant_id = ${TENANT})))`,
    `(tenant_id = COALESCE(${TENANT}, ''::text))`,
  ])("is bound to the context: %s", (expression) => {
    expect(isBound(expression, reads)).toBe(true);
  });

  it.each([
    `(${WRAPPED} OR (body IS NOT NULL))`,
    `((id > 5) AND (${WRAPPED} OR (shared AND true)))`,
    `(tenant_id <> COALESCE(${TENANT}, ''::text))`,
    `(NOT ${WRAPPED})`,
    `(${WRAPPED} IS NOT TRUE)`,
    `(tenant_id >= ${TENANT})`,
    `(${WRAPPED} OR (${TENANT} = 'root'::text))`,
    `(tenant_id = COALESCE(${TENANT}, tenant_id))`,
    "(public.pgvpd_context_contains('app.ids'::text, id) = false)",
    "(public.pgvpd_context_contains('app.ids'::text, id) IS NOT TRUE)",
    `CASE WHEN (tenant_id = ${TENANT}) THEN true ELSE (id = 1) END`,
    `(tenant_id <> ALL (${LIST}))`,
    "(tenant_id = 'x'::text)",
  ])("may not be: %s", (expression) => {
    expect(isBound(expression, reads)).toBe(false);
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
