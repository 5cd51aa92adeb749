/**
 * Another key while clients come and go: the built program, SIGHUP, and the commands in the order of `pgvpd help key`.
 * No login and no query fails, and the old key is refused afterwards.
 */
import { execFile } from "node:child_process";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readSealKeys, type SealKey } from "../../src/config/seal-keys.ts";
import { startProxyProcess, type ProxyProcess } from "../support/proxy-process.ts";
import { errorOf } from "../support/tenant-fixture.ts";
import { carriersOf, enter, startSealFixture, type Carrier, type SealFixture } from "./seal-fixture.ts";

const version = "18";
const program = path.join(import.meta.dirname, "../../dist/main.js");

let fixture: SealFixture;
let proxy: ProxyProcess;
beforeAll(async () => {
  fixture = await startSealFixture({ version, auth: "trust" });
  proxy = await start(fixture.keyFile);
});
afterAll(async () => {
  await proxy?.kill();
  await fixture?.[Symbol.asyncDispose]();
});

const start = (keyFile: string): Promise<ProxyProcess> =>
  startProxyProcess({
    settings: {
      upstream_host: fixture.server.host,
      upstream_port: fixture.server.port,
      context_seal: "require",
      context_key_file: keyFile,
    },
  });

/** What `pgvpd key` prints. */
async function key(action: string): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, [program, "key", action, "--file", fixture.keyFile]);
  return stdout;
}

const install = async (sql: string): Promise<void> => {
  for (const carrier of carriersOf(version)) await fixture.asSuperuser(sql, carrier);
};

/** SIGHUP, and the line that says what came of it. */
async function reload(): Promise<string> {
  const before = proxy.log.length;
  process.kill(proxy.pid, "SIGHUP");
  const isAnswer = (line: Readonly<Record<string, unknown>>): boolean => /reload/.test(String(line["msg"]));
  const line = await proxy.waitForLog((one) => proxy.log.indexOf(one) >= before && isAnswer(one));
  return String(line["msg"]);
}

async function connect(carrier: Carrier, tenant: string, port = proxy.port): Promise<Client> {
  const client = new Client({ host: "127.0.0.1", port, user: `app_user.${tenant}`, database: carrier });
  client.on("error", () => {});
  await client.connect();
  return client;
}

const rowsOf = async (client: Client): Promise<string> => {
  const { rows } = await client.query<{ body: string }>("SELECT body FROM notes ORDER BY body");
  return rows.map(({ body }) => body).join();
};
const OWN: Readonly<Record<string, string>> = { acme: "a1,a2", globex: "g1,g2,g3" };

/** Clients that log in, ask and leave, until they are told to stop. */
class Load {
  readonly wrong: string[] = [];
  #logins = 0;
  #mustStop = false;
  readonly #loops: Promise<void>[];

  constructor(carriers: readonly Carrier[]) {
    this.#loops = carriers.flatMap((carrier) => ["acme", "globex"].map((tenant) => this.#loop(carrier, tenant)));
  }

  /** Resolves when `count` more logins were made. */
  async more(count: number): Promise<void> {
    const wanted = this.#logins + count;
    while (this.#logins < wanted) await new Promise((resolve) => setImmediate(resolve));
  }

  async stop(): Promise<void> {
    this.#mustStop = true;
    await Promise.all(this.#loops);
  }

  async #loop(carrier: Carrier, tenant: string): Promise<void> {
    while (!this.#mustStop) {
      try {
        const client = await connect(carrier, tenant);
        for (let query = 0; query < 3; query++) {
          const rows = await rowsOf(client);
          if (rows !== OWN[tenant]) this.wrong.push(`${carrier} ${tenant} saw ${rows}`);
        }
        await client.end();
      } catch (error) {
        this.wrong.push(`${carrier} ${tenant}: ${(error as Error).message}`);
      }
      this.#logins += 1;
    }
  }
}

describe("a key is rotated under load", () => {
  it("no login and no query fails, and the old key is refused afterwards", { timeout: 120_000 }, async () => {
    const carriers = carriersOf(version);
    const [old] = readSealKeys(fixture.keyFile) as [SealKey];
    const copy = `${fixture.keyFile}.old`;
    copyFileSync(fixture.keyFile, copy);
    const kept = await connect("slot", "acme");
    const load = new Load(carriers);
    await load.more(20);

    await key("rotate");
    await load.more(20); // pgvpd has not read it yet
    await install(await key("install"));
    await load.more(20); // both keys are good
    expect(await reload()).toMatch(/^reloaded/);
    await load.more(40);
    await key("retire");
    await install(await key("install"));
    await load.more(20);
    expect(await reload()).toMatch(/^reloaded/);
    await load.more(20);
    await load.stop();

    expect(load.wrong).toEqual([]);
    expect(await rowsOf(kept)).toBe("a1,a2"); // a session of the slot outlives its key
    await kept.end();

    const [next, ...more] = readSealKeys(fixture.keyFile);
    expect(more).toEqual([]);
    expect(next?.kid).toBe(2);
    for (const carrier of carriers) {
      const direct = await fixture.direct(carrier);
      expect(await errorOf(enter(direct, old, "acme"))).toMatchObject({ code: "28000" });
      await enter(direct, next as SealKey, "acme");
      expect(await rowsOf(direct)).toBe("a1,a2");
    }
    await using behind = await start(copy);
    for (const carrier of carriers) {
      expect(await errorOf(connect(carrier, "acme", behind.port))).toMatchObject({ code: "28000" });
    }
  });

  it("a file that cannot be read leaves the key in use as it was", async () => {
    const text = readFileSync(fixture.keyFile);
    for (const broken of ["", "1 short\n", `${text.toString()}2 x\n`]) {
      writeFileSync(fixture.keyFile, broken);
      expect(await reload()).toMatch(/^could not reload, everything stays as it was: .*context\.key/);
      const client = await connect("slot", "acme");
      expect(await rowsOf(client)).toBe("a1,a2");
      await client.end();
    }
    writeFileSync(fixture.keyFile, text);
    expect(await reload()).toMatch(/^reloaded/);
  });

  it("no line of the log holds a key", () => {
    const log = proxy.log.map((line) => JSON.stringify(line)).join("\n") + proxy.stderr();
    for (const { bytes } of readSealKeys(fixture.keyFile)) {
      expect(log).not.toContain(bytes.toString("base64").slice(0, 12));
      expect(log).not.toContain(bytes.toString("hex").slice(0, 12));
    }
  });
});
