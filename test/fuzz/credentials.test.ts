/** Random lines of credentials_file against a second reading of the rules, and patterns of tenants against a table. */
import { expect, it } from "vitest";
import { ConfigError } from "../../src/config/config-error.ts";
import { formatVerifier } from "../../src/protocol/scram/verifier.ts";
import { parseCredentialsFile } from "../../src/proxy/auth/credentials-file.ts";
import { LineError, parseCredentialsLine } from "../../src/proxy/auth/credentials-line.ts";
import { TenantPattern } from "../../src/config/tenant-pattern.ts";
import { FUZZ_RUNS, fuzz, type SeededRandom } from "../support/seeded-random.ts";

const RUNS = Math.ceil(FUZZ_RUNS * 0.1);

const VERIFIER = formatVerifier({
  iterations: 4_096,
  salt: Buffer.alloc(16, 1),
  storedKey: Buffer.alloc(32, 2),
  serverKey: Buffer.alloc(32, 3),
});

const PIECES = [
  '"app"',
  '"a""b"',
  `"${VERIFIER}"`,
  '""',
  '"',
  "tenants=",
  "tenants=a,b*",
  'tenants="a b"*c',
  "tenant",
  "=",
  ",",
  "*",
  "#",
  ";",
  "x",
  "é",
  "\n",
  "\r",
  "\0",
];

function randomText(random: SeededRandom): string {
  const parts: string[] = random.oneIn(2) ? ['"app"', " ", `"${VERIFIER}"`, " "] : [];
  for (let count = random.below(10); count > 0; count--) {
    parts.push(random.pick(PIECES), random.oneIn(2) ? random.pick([" ", "\t"]) : "");
  }
  return parts.join("");
}

/** The line in one expression for each kind of field, where the parser goes by character. */
function expected(text: string): { name: string; secret: string; tenants: string[][] | undefined } | undefined | "bad" {
  const quotes = '"((?:[^"]|"")*)"(?!")';
  const spaces = "[ \\t\\v\\f]";
  if (new RegExp(`^${spaces}*([;#]|$)`).test(text)) return undefined;
  const head = new RegExp(`^${spaces}*${quotes}${spaces}*${quotes}`).exec(text);
  if (head === null) return "bad";
  const [whole, name = "", secret = ""] = head.map((part) => part.replaceAll('""', '"'));
  let rest = text.slice(head[0].length);
  let tenants: string[][] | undefined;
  for (;;) {
    rest = rest.replace(new RegExp(`^${spaces}+`), "");
    if (rest === "" || /^[;#]/.test(rest)) break;
    const field = new RegExp(`^(?:${quotes}|[^" \\t\\v\\f])+`).exec(rest)?.[0];
    if (field === undefined || rest.startsWith('"', field.length)) return "bad";
    rest = rest.slice(field.length);
    const bare = field.replace(new RegExp(quotes, "g"), (quoted) => `"${"_".repeat(quoted.length - 2)}"`);
    if (!field.startsWith("tenants=")) {
      if (bare.includes("=") || /^tenant/i.test(field)) return "bad";
      continue;
    }
    if (tenants !== undefined) return "bad";
    tenants = [];
    const values = field.slice(8).match(new RegExp(`(?:${quotes}|[^",])+|,`, "g")) ?? [];
    if (values.length % 2 === 0) return "bad";
    for (const [index, value] of values.entries()) {
      if ((index % 2 === 1) !== (value === ",")) return "bad";
      if (value === ",") continue;
      const pieces = [...value.matchAll(new RegExp(`${quotes}|\\*|[^"*]+`, "g"))];
      const marked = pieces.map(([piece, inner]) =>
        piece === "*" ? "\u{10ffff}" : inner === undefined ? piece : inner.replaceAll('""', '"'),
      );
      const parts = marked.join("").split(/\u{10ffff}+/u);
      if (parts.length === 1 && parts[0] === "") return "bad";
      tenants.push(parts);
    }
  }
  return whole === undefined ? "bad" : { name, secret, tenants };
}

it(`reads ${RUNS.toLocaleString("en")} random lines as the rules say, or refuses them`, { timeout: 600_000 }, () => {
  let accepted = 0;
  let bound = 0;
  fuzz(RUNS, (random) => {
    const text = randomText(random).replaceAll(/[\r\n]/g, "");
    let read: ReturnType<typeof expected>;
    try {
      const line = parseCredentialsLine(text);
      read = line && { ...line, tenants: line.tenants?.map(({ parts }) => [...parts]) };
    } catch (error) {
      if (!(error instanceof LineError)) throw error;
      read = "bad";
    }
    const wanted = expected(text);
    if (JSON.stringify(read) !== JSON.stringify(wanted)) {
      throw new Error(`${JSON.stringify(text)} gave ${JSON.stringify(read)}, not ${JSON.stringify(wanted)}`);
    }
    if (typeof read === "object") accepted++;
    if (typeof read === "object" && read.tenants !== undefined) bound++;
  });
  if (RUNS >= 10_000) {
    expect(accepted).toBeGreaterThan(RUNS / 20);
    expect(bound).toBeGreaterThan(RUNS / 50);
  }
});

it("takes any text for a file, or refuses it by a ConfigError", { timeout: 600_000 }, () => {
  fuzz(RUNS, (random) => {
    const text = random.mutate(Buffer.from(randomText(random))).toString();
    try {
      parseCredentialsFile(text, new Set(["app"]), "users").find("app", "a");
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
    }
  });
});

/** Whether the pattern matches, by a table of every prefix with every prefix. */
function matchesByTable(pattern: string, tenant: string): boolean {
  let row = [true, ...Array.from(tenant, () => false)];
  for (const wanted of pattern) {
    const next: boolean[] = [];
    for (let i = 0; i <= tenant.length; i++) {
      if (wanted === "*") next.push(row[i] === true || (i > 0 && next[i - 1] === true));
      else next.push(i > 0 && row[i - 1] === true && tenant[i - 1] === wanted);
    }
    row = next;
  }
  return row.at(-1) === true;
}

it(`matches ${RUNS.toLocaleString("en")} patterns as a table does`, { timeout: 600_000 }, () => {
  let matched = 0;
  fuzz(RUNS, (random) => {
    const word = (letters: string, length: number): string =>
      Array.from({ length: random.below(length) }, () => random.pick([...letters])).join("");
    const [pattern, tenant] = [word("aab**", 8), word("aab", 12)];
    const isMatch = new TenantPattern(pattern.split("*")).matches(tenant);
    if (isMatch !== matchesByTable(pattern, tenant)) throw new Error(`${pattern} and ${tenant}: ${isMatch}`);
    if (isMatch) matched++;
  });
  if (RUNS >= 10_000) expect(matched).toBeGreaterThan(RUNS / 20);
});

/** A text that counts how many characters are searched. */
class CountedText extends String {
  searched = 0;

  override indexOf(part: string, from = 0): number {
    const found = super.indexOf(part, from);
    this.searched += (found === -1 ? this.length : found + part.length) - from;
    return found;
  }
}

it.each([10, 100])("searches each character of a tenant once for a pattern, with %i * too", (stars) => {
  const tenant = new CountedText("a".repeat(5_000));
  const pattern = new TenantPattern(["", ...Array.from({ length: stars }, () => "a"), "b", ""]);
  expect(pattern.matches(tenant as unknown as string)).toBe(false);
  expect(tenant.searched).toBe(tenant.length);
});
