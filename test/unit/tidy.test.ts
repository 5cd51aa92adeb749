/** The rules of the house, read off the source: who may import whom, and what is done in one place only. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { renderStates } from "../support/render-states.ts";
import { readSource, SOURCE_FOLDER, type SourceFile } from "../support/source-files.ts";

const files = readSource();

/** From the bottom up: a file imports from lower layers and from its own folder. */
const LAYERS: readonly (readonly string[])[] = [
  ["lib"],
  ["errors"],
  ["protocol", "config"],
  ["observe"],
  ["proxy/client-connection.ts", "proxy/message-stream.ts", "proxy/session-state.ts", "proxy/socket"],
  [
    "proxy/listen",
    "proxy/client",
    "proxy/tenant",
    "proxy/auth",
    "proxy/admit",
    "proxy/upstream",
    "proxy/context",
    "proxy/pool",
    "proxy/forward",
  ],
  ["proxy/services.ts"],
  ["proxy/session.ts"],
  ["check"],
  ["admin"],
  ["runtime"],
  ["doctor"],
  ["index.ts"],
  ["demo"],
  ["cli"],
  ["main.ts"],
];

/** Stages meet in session.ts, but for these. */
const STAGES_THAT_USE_ANOTHER = [
  "proxy/auth -> proxy/upstream",
  "proxy/context -> proxy/upstream",
  "proxy/pool -> proxy/upstream",
  "proxy/forward -> proxy/pool",
  "proxy/forward -> proxy/upstream",
];

/** Types that other stages, or one below, may name: an identity is what the stages hand on. */
const SHARED_TYPES = ["proxy/tenant/identity.ts"];

/** The layer's number and the name of the room in it: `proxy/auth`, `lib`. */
function roomOf(file: string): { layer: number; room: string } {
  const layer = LAYERS.findIndex((rooms) => rooms.some((room) => file === room || file.startsWith(`${room}/`)));
  const room = LAYERS[layer]?.find((name) => file === name || file.startsWith(`${name}/`)) ?? file;
  return { layer, room };
}

/** `path:line` of each match in code that is no comment. */
function matches(pattern: RegExp, isAllowed: (file: SourceFile) => boolean): string[] {
  return files.filter((file) => pattern.test(file.code) && !isAllowed(file)).map((file) => file.path);
}

const isIn =
  (...rooms: string[]) =>
  (file: SourceFile): boolean =>
    rooms.some((room) => file.path === room || file.path.startsWith(`${room}/`));

describe("imports", () => {
  it("every file has its layer", () => {
    expect(files.filter((file) => roomOf(file.path).layer === -1).map((file) => file.path)).toEqual([]);
  });

  it("point downward, and stages meet only in session.ts", () => {
    const wrong = files.flatMap((file) =>
      file.imports
        .filter(({ from, isTypeOnly }) => {
          if (!from.endsWith(".ts")) return false;
          const [own, other] = [roomOf(file.path), roomOf(from)];
          if (own.room === other.room || other.layer < own.layer) return false;
          if (STAGES_THAT_USE_ANOTHER.includes(`${own.room} -> ${other.room}`)) return false;
          return !(isTypeOnly && own.layer === other.layer && SHARED_TYPES.includes(from));
        })
        .map(({ from }) => `${file.path} -> ${from}`),
    );
    expect(wrong).toEqual([]);
  });

  it("have no cycles", () => {
    const edges = new Map(
      files.map((file) => [file.path, file.imports.filter((one) => !one.isTypeOnly).map(({ from }) => from)]),
    );
    const done = new Set<string>();
    const visit = (file: string, way: readonly string[]): void => {
      expect(way.includes(file) ? [...way, file].join(" -> ") : "no cycle").toBe("no cycle");
      if (done.has(file)) return;
      for (const next of edges.get(file) ?? []) visit(next, [...way, file]);
      done.add(file);
    };
    for (const file of files) visit(file.path, []);
  });

  it("of files name them with their ending", () => {
    const wrong = files.flatMap((file) =>
      file.imports.filter(({ from }) => from.startsWith("proxy/") && !from.endsWith(".ts")).map(({ from }) => from),
    );
    expect(wrong).toEqual([]);
  });
});

describe("done in one place only", () => {
  it("reading the environment: config", () => {
    expect(matches(/\bprocess\.env\b/, isIn("config"))).toEqual([]);
  });

  it("ending the process: main.ts", () => {
    expect(matches(/\bprocess\.(exit|abort|kill)\(/, isIn("main.ts", "demo"))).toEqual([]);
    expect(matches(/\bprocess\.exit\(/, isIn("main.ts"))).toEqual([]);
  });

  it("time: lib/clock.ts", () => {
    const time =
      /\b(setTimeout|setInterval)\(|\bDate\.now\(|\bnew Date\(|\bperformance\.now\(|\bprocess\.hrtime\b|node:timers/;
    expect(matches(time, isIn("lib/clock.ts", "demo", "cli"))).toEqual([]);
  });

  it("opening sockets: listen, upstream, demo, admin, access, and the check of direct reads", () => {
    const network = /^node:(net|tls|http|https|http2|dgram)$/;
    // What else these modules have opens nothing: TLSSocket and createSecureContext work on what is open.
    const opening = /^(?!isIP|BlockList$|TLSSocket$|createSecureContext$)/;
    const isAllowed = isIn(
      "proxy/listen",
      "proxy/upstream",
      "demo",
      "admin",
      "access",
      "proxy/socket/direct-read-check.ts",
    );
    // A Socket around a handle that is open already.
    const isMover = isIn("proxy/socket/direct-read.ts");
    const wrong = files
      .filter((file) => !isAllowed(file) && !isMover(file))
      .flatMap((file) =>
        file.imports
          .filter(({ from, values }) => network.test(from) && values.some((value) => opening.test(value)))
          .map(({ from, values }) => `${file.path}: ${values.join(", ")} from ${from}`),
      );
    expect(wrong).toEqual([]);
    expect(matches(/\b(createServer|connect|createConnection)\(/, (file) => !isMover(file))).toEqual([]);
  });

  it("writing to the console: nowhere in the data plane", () => {
    expect(matches(/\bconsole\./, isIn("demo", "cli"))).toEqual([]);
  });
});

describe("every file", () => {
  it("opens with a block comment that says its job", () => {
    const wrong = files.filter(({ text }) => !/^(#!.*\n)?\/\*\*/.test(text)).map((file) => file.path);
    expect(wrong).toEqual([]);
  });

  it("exports by name: no default, no star", () => {
    expect(matches(/^export (default\b|\*)/m, () => false)).toEqual([]);
  });

  it("has no enum, and no TODO", () => {
    expect(matches(/^\s*(export )?(const )?enum /m, () => false)).toEqual([]);
    expect(files.filter(({ text }) => /\b(TODO|FIXME|XXX)\b/.test(text)).map((file) => file.path)).toEqual([]);
  });

  it("has a name in small letters and hyphens that says what it holds", () => {
    const wrong = files
      .map((file) => path.basename(file.path, ".ts"))
      .filter((name) => !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(name) || /^(utils?|helpers?|common|misc|manager)$/.test(name));
    expect(wrong).toEqual([]);
  });
});

describe("ARCHITECTURE.md", () => {
  it("shows the table of session states as it is", () => {
    const page = readFileSync(path.join(SOURCE_FOLDER, "../ARCHITECTURE.md"), "utf8");
    const shown = /<!-- states:begin -->\n([^]*?)<!-- states:end -->/.exec(page)?.[1]?.trim();
    const rendered = renderStates();
    expect(shown, `put this between the markers of ARCHITECTURE.md:\n\n${rendered}\n`).toBe(rendered);
  });
});
