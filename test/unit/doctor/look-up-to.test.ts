/** A look that reaches its limit says so. */
import { describe, expect, it } from "vitest";
import type { Catalog } from "../../../src/doctor/catalog.ts";
import { lookUpTo } from "../../../src/doctor/look-up-to.ts";

/** Has rows without end, and gives as many as LIMIT says, or fewer. */
const catalog = (count: number): Catalog => ({
  query: async (sql: string) => {
    const limit = Number(/LIMIT (\d+)$/.exec(sql)?.[1]);
    return { rows: Array.from({ length: Math.min(count, limit) }, (_, id) => ({ id })) as never[] };
  },
});

const look = async (count: number) => {
  const seen: unknown[] = [];
  const { notChecked } = await lookUpTo(3, catalog(count), "policies", "SELECT 1", [], (rows) => {
    seen.push(...rows);
    return [];
  });
  return { seen: seen.length, notChecked };
};

describe("a look at so many rows", () => {
  it("is complete up to its limit", async () => {
    expect(await look(3)).toEqual({ seen: 3, notChecked: [] });
  });

  it("says that there are more", async () => {
    const reason = "there are more than 3, and only the first 3 were looked at";
    expect(await look(4)).toEqual({ seen: 3, notChecked: [{ what: "policies", reason }] });
  });
});
