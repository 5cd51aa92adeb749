/**
 * A log that nobody takes any more does not keep the program from ending. Once, when the reader of stdout was gone, the
 * exit tried for ever to write the last lines, and the program outlived every SIGTERM.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import path from "node:path";
import { expect, it } from "vitest";

const program = path.join(import.meta.dirname, "../../../dist/main.js");

it.each([0, 3])("SIGTERM ends a program whose log's reader is gone, and %i lines came since", async (lines) => {
  const child = spawn(process.execPath, [program, "serve", "--port", "0", "--log-format", "json"], {
    cwd: "/",
    env: { PATH: process.env["PATH"] ?? "" },
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    const [first] = (await once(child.stdout, "data")) as [Buffer];
    const { port } = JSON.parse(first.toString().split("\n")[0] ?? "") as { port: number };
    child.stdout.destroy();
    for (let line = 0; line < lines; line++) {
      const client = connect(port, "127.0.0.1").resume();
      client.write("GET / HTTP/1.1\r\n\r\n");
      await once(client, "close");
    }
    const exit = once(child, "exit", { signal: AbortSignal.timeout(10_000) });
    child.kill("SIGTERM");
    expect(await exit).toEqual([0, null]);
  } finally {
    child.kill("SIGKILL");
  }
});
