/** Random `options` against a transcription of PostgreSQL's pg_split_opts, getopt and ParseLongOption. */
import { expect, it } from "vitest";
import { ProxyError } from "../../src/errors/proxy-error.ts";
import { parseStartupOptions } from "../../src/protocol/startup-options.ts";
import { FUZZ_RUNS, fuzz, type SeededRandom } from "../support/seeded-random.ts";

const RUNS = Math.ceil(FUZZ_RUNS * 0.25);

const WORDS = [
  "-c",
  "-c a=b",
  "-ca=b",
  "--a-b=c",
  "--",
  "-c=",
  "=",
  "\\",
  "\\ ",
  " ",
  "\t",
  "\\\\",
  "-",
  "-e",
  "a",
  "é",
  "-c A.b-C=\\'x",
];

function randomOptions(random: SeededRandom): Buffer {
  if (random.oneIn(10)) return random.bytes(random.below(40));
  const parts: string[] = [];
  for (let count = random.below(8); count > 0; count--) parts.push(random.pick(WORDS), random.oneIn(2) ? " " : "");
  const text = Buffer.from(parts.join(""));
  return random.oneIn(3) ? random.mutate(text) : text;
}

/** pg_split_opts: characters one by one, as the C code goes. */
function split(options: string): string[] {
  const words: string[] = [];
  let at = 0;
  while (at < options.length) {
    while (at < options.length && " \t\n\v\f\r".includes(options[at] ?? "")) at++;
    if (at === options.length) break;
    let word = "";
    let lastWasEscape = false;
    for (; at < options.length; at++) {
      const character = options[at] ?? "";
      if (" \t\n\v\f\r".includes(character) && !lastWasEscape) break;
      if (!lastWasEscape && character === "\\") lastWasEscape = true;
      else {
        lastWasEscape = false;
        word += character;
      }
    }
    words.push(word);
  }
  return words;
}

/** What PostgreSQL would set, or undefined where it gives an error or something else than a setting is asked for. */
function expected(options: string): [string, string][] | undefined {
  const settings: [string, string][] = [];
  const words = split(options);
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? "";
    let assignment: string | undefined;
    if (word.startsWith("--") && word !== "--") assignment = word.slice(2);
    else if (word === "-c") assignment = words[++i];
    else if (word.startsWith("-c")) assignment = word.slice(2);
    const equals = assignment?.indexOf("=") ?? -1;
    if (assignment === undefined || equals < 1) return undefined;
    settings.push([assignment.slice(0, equals).replaceAll("-", "_"), assignment.slice(equals + 1)]);
  }
  return settings;
}

it(
  `reads ${RUNS.toLocaleString("en")} random options as PostgreSQL does, or refuses them`,
  { timeout: 600_000 },
  () => {
    let accepted = 0;
    fuzz(RUNS, (random) => {
      const options = randomOptions(random);
      const wanted = expected(options.toString("latin1"));
      let found: [string, string][] | undefined;
      try {
        found = parseStartupOptions(options).map(({ name, value }) => [name, value.toString("latin1")]);
      } catch (error) {
        if (!(error instanceof ProxyError)) throw error;
      }
      if (JSON.stringify(found) !== JSON.stringify(wanted)) {
        throw new Error(
          `${JSON.stringify(options.toString("latin1"))} gave ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`,
        );
      }
      if (found !== undefined && found.length > 0) accepted++;
    });
    if (RUNS >= 10_000) expect(accepted).toBeGreaterThan(RUNS / 20);
  },
);
