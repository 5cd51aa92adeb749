/** The functions that read the context: what is unset, what lists look like, and what happens to values that do not fit. */
import { beforeAll, describe, expect, test } from "vitest";
import {
  column,
  createInstalledDatabase,
  failure,
  onEveryVersion,
  type Installer,
  type TestDatabase,
} from "./database.ts";

const u1 = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
const u2 = "b1ffcd00-0d1c-4ef9-8c7e-7cc0ce491b22";

/** Text of a variable and the list that is read from it. */
const lists: readonly (readonly [text: string, list: string[] | null])[] = [
  ["a", ["a"]],
  ["a,b,c", ["a", "b", "c"]],
  [" a , b ,  c ", ["a", "b", "c"]],
  ["b,a,b", ["b", "a", "b"]],
  ["a,,b,", ["a", "b"]],
  ["two words,x", ["two words", "x"]],
  ["a'b,c\\d", ["a'b", "c\\d"]],
  ["{a,b}", ["a", "b"]],
  [' {a,"b,c"} ', ["a", "b,c"]],
  ['{"a \\"quoted\\" one", two words ,NULL,""}', ['a "quoted" one', "two words"]],
  ['{" kept "}', [" kept "]],
  ["{{a,b},{c,d}}", ["a", "b", "c", "d"]],
  ["[1:2]={a,b}", ["[1:2]={a", "b}"]],
  ["", null],
  ["  ", null],
  [",", null],
  [" , ,", null],
  ["{}", null],
  ["{NULL}", null],
  ['{""}', null],
];

onEveryVersion((server) => {
  describe.each<Installer>(["superuser", "owner"])("installed by %s", (installer) => {
    let db: TestDatabase;
    beforeAll(async () => {
      db = await createInstalledDatabase(server(), installer);
      return () => db[Symbol.asyncDispose]();
    });

    /** The value of an expression in a new session in which app.v is set, or not. */
    const evaluate = (expression: string, variable?: string): Promise<unknown> =>
      db.as(undefined, async (session) => {
        if (variable !== undefined) await session.query("SELECT set_config('app.v', $1, false)", [variable]);
        return (await column(session, `SELECT ${expression}`))[0];
      });

    test("a variable that is unset, empty or unknown is NULL, and one that is set is its text", async () => {
      expect(await evaluate("pgvpd_context('app.v')")).toBeNull();
      expect(await evaluate("pgvpd_context('app.v')", "")).toBeNull();
      expect(await evaluate("pgvpd_context('no such name')")).toBeNull();
      expect(await evaluate("pgvpd_context(NULL)")).toBeNull();
      expect(await evaluate("pgvpd_context('app.v')", " x'y\\z ")).toBe(" x'y\\z ");
    });

    test("the tenant is the variable app.current_tenant_id", async () => {
      expect(await db.as("acme", (s) => column(s, "SELECT current_tenant_id()"))).toEqual(["acme"]);
      expect(await db.as("", (s) => column(s, "SELECT current_tenant_id()"))).toEqual([null]);
      expect(await db.as(undefined, (s) => column(s, "SELECT current_tenant_id()"))).toEqual([null]);
    });

    test.each(lists)("the list %j is read as %j", async (text, list) => {
      expect(await evaluate("pgvpd_context_array('app.v')", text)).toEqual(list);
    });

    test("a list that is unset is NULL, so neither = ANY nor its opposite gives a row", async () => {
      for (const text of [undefined, "", "{}", ","]) {
        expect(await evaluate("pgvpd_context_array('app.v')", text)).toBeNull();
        expect(await evaluate("pgvpd_context_uuid_array('app.v')", text)).toBeNull();
        const seen = `(SELECT count(*)::int FROM unnest(ARRAY['a', 'b']) AS x WHERE`;
        expect(await evaluate(`${seen} x = ANY (pgvpd_context_array('app.v')))`, text)).toBe(0);
        expect(await evaluate(`${seen} x <> ALL (pgvpd_context_array('app.v')))`, text)).toBe(0);
        expect(await evaluate("pgvpd_context_contains('app.v', gen_random_uuid())", text)).toBe(false);
        expect(await evaluate("pgvpd_context_text_contains('app.v', '')", text)).toBe(false);
      }
    });

    test("a list of uuid is read in both forms and in any spelling of a uuid", async () => {
      for (const text of [`${u1},${u2}`, ` ${u1} , ${u2}`, `{${u1},${u2}}`, `{"${u1}",${u2.toUpperCase()}}`]) {
        expect(await evaluate("pgvpd_context_uuid_array('app.v')::text[]", text)).toEqual([u1, u2]);
        expect(await evaluate(`pgvpd_context_contains('app.v', '${u2}')`, text)).toBe(true);
        expect(await evaluate("pgvpd_context_contains('app.v', gen_random_uuid())", text)).toBe(false);
        expect(await evaluate("pgvpd_context_contains('app.v', NULL)", text)).toBe(false);
      }
    });

    test.each([`${u1},acme`, `{${u1},NULL,x}`, "acme", `${u1} OR true`])(
      "a list of uuid with another text in it is error 22P02: %j",
      async (text) => {
        expect((await failure(evaluate("pgvpd_context_uuid_array('app.v')", text))).code).toBe("22P02");
        expect((await failure(evaluate(`pgvpd_context_contains('app.v', '${u1}')`, text))).code).toBe("22P02");
      },
    );

    test.each(["{a,b", "{a}x", '{"a}', "{{a},b}"])(
      "text that starts like an array and is none is error 22P02: %j",
      async (text) => {
        expect((await failure(evaluate("pgvpd_context_array('app.v')", text))).code).toBe("22P02");
      },
    );

    test("a text is in the list only as a whole", async () => {
      expect(await evaluate("pgvpd_context_text_contains('app.v', 'b')", "a, b")).toBe(true);
      expect(await evaluate("pgvpd_context_text_contains('app.v', 'B')", "a, b")).toBe(false);
      expect(await evaluate("pgvpd_context_text_contains('app.v', 'a, b')", "a, b")).toBe(false);
      expect(await evaluate("pgvpd_context_text_contains('app.v', 'a,b')", '{"a,b"}')).toBe(true);
      expect(await evaluate("pgvpd_context_text_contains('app.v', '')", "a,,b")).toBe(false);
      expect(await evaluate("pgvpd_context_text_contains('app.v', NULL)", "a")).toBe(false);
    });

    test("the session's search_path and its temporary objects change no answer", async () => {
      await db.admin.query("GRANT CREATE ON SCHEMA public TO PUBLIC");
      const session = await db.connect("app_user");
      await session.query(`
        SET app.v = 'a,b'; SET app.current_tenant_id = 'acme';
        CREATE FUNCTION pg_temp.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'globex'::text $$;
        CREATE FUNCTION public.btrim(text, text) RETURNS text LANGUAGE sql AS $$ SELECT 'globex'::text $$;
        CREATE FUNCTION public.never(text, text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
        CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.never);
        SET search_path = pg_temp, public, pg_catalog`);
      expect(await column(session, "SELECT public.current_tenant_id()")).toEqual(["acme"]);
      expect(await column(session, "SELECT public.pgvpd_context_array('app.v')")).toEqual([["a", "b"]]);
      expect(await column(session, "SELECT public.pgvpd_context_text_contains('app.v', 'c')")).toEqual([false]);
      await session.query("DROP OPERATOR public.= (text, text); DROP FUNCTION public.never, public.btrim");
      await db.admin.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    });

    test("every function that policies call is STABLE, PARALLEL SAFE, pinned, and PUBLIC may execute it", async () => {
      const { rows } = await db.owner.query<{
        name: string;
        provolatile: string;
        proparallel: string;
        proconfig: string[];
        all: boolean;
      }>(`
        SELECT proname AS name, provolatile, proparallel, proconfig, has_function_privilege('public', oid, 'EXECUTE') AS all
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND (proname = 'current_tenant_id' OR proname LIKE 'pgvpd_context%')`);
      expect(rows.map((row) => row.name).sort()).toEqual([
        "current_tenant_id",
        "pgvpd_context",
        "pgvpd_context_array",
        "pgvpd_context_contains",
        "pgvpd_context_text_contains",
        "pgvpd_context_uuid_array",
      ]);
      for (const row of rows) {
        expect(row).toMatchObject({
          provolatile: "s",
          proparallel: "s",
          proconfig: ["search_path=pg_catalog, pg_temp"],
          all: true,
        });
      }
    });

    test("every function of ours has a pinned search_path and none is SECURITY DEFINER", async () => {
      const loose = await column(
        db.owner,
        `SELECT oid::regprocedure::text FROM pg_proc
         WHERE (pronamespace = 'pgvpd'::regnamespace OR pronamespace = 'public'::regnamespace AND proname ~ 'pgvpd|current_tenant')
           AND (prosecdef OR proconfig IS DISTINCT FROM ARRAY['search_path=pg_catalog, pg_temp'])`,
      );
      expect(loose).toEqual([]);
    });
  });
});
