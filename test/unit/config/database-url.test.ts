/** What `sslmode` in a URL of --database-url means for a client of our own, and for pgvpd's settings. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readDatabaseUrl } from "../../../src/config/database-url.ts";

let folder = "";
const file = (name: string): string => path.join(folder, name);
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "pgvpd-url-"));
  for (const name of ["ca", "cert", "key"]) writeFileSync(file(name), `the ${name}`);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const read = (parameters: string): ReturnType<typeof readDatabaseUrl> =>
  readDatabaseUrl(`postgres://u:p@db.example:5432/shop${parameters}`, "/nonexistent");

describe("sslmode", () => {
  it("that is missing, or disable, is no TLS", () => {
    expect(read("")).toMatchObject({ ssl: undefined, settings: {} });
    expect(read("?sslmode=disable")).toMatchObject({ ssl: false, settings: {} });
  });

  it("require does not verify, unless there is a CA", () => {
    expect(read("?sslmode=require")).toMatchObject({
      ssl: { host: "db.example", rejectUnauthorized: false },
      settings: { upstream_tls: true, upstream_tls_verify: false },
    });
    expect(read(`?sslmode=require&sslrootcert=${file("ca")}`)).toMatchObject({
      ssl: { rejectUnauthorized: true, ca: Buffer.from("the ca") },
      settings: { upstream_tls: true, upstream_tls_verify: true, upstream_tls_ca: file("ca") },
    });
  });

  it.each(["verify-ca", "verify-full"])(
    "%s verifies, with the CA of sslrootcert or those that Node.js knows",
    (mode) => {
      for (const more of ["", "&sslrootcert=system"]) {
        const { ssl, settings } = read(`?sslmode=${mode}${more}`);
        expect(ssl).toEqual({ host: "db.example", rejectUnauthorized: true });
        expect(settings).toEqual({ upstream_tls: true, upstream_tls_verify: true });
      }
      expect(read(`?sslmode=${mode}&sslrootcert=${file("ca")}`).settings["upstream_tls_ca"]).toBe(file("ca"));
    },
  );

  it("finds the CA where libpq does", () => {
    const root = path.join(folder, ".postgresql/root.crt");
    mkdirSync(path.dirname(root));
    writeFileSync(root, "the root");
    for (const mode of ["require", "verify-full"]) {
      const { ssl, settings } = readDatabaseUrl(`postgres://u@h/d?sslmode=${mode}`, folder);
      expect(ssl).toMatchObject({ rejectUnauthorized: true, ca: Buffer.from("the root") });
      expect(settings["upstream_tls_ca"]).toBe(root);
    }
  });

  it("and ssl=true, as drivers have it, verifies", () => {
    expect(read("?ssl=true").settings).toEqual({ upstream_tls: true, upstream_tls_verify: true });
  });

  it("comes with a client's certificate, where the URL names one", () => {
    const { ssl, settings } = read(`?sslmode=require&sslcert=${file("cert")}&sslkey=${file("key")}`);
    expect(ssl).toMatchObject({ cert: Buffer.from("the cert"), key: Buffer.from("the key") });
    expect(settings).toMatchObject({ upstream_tls_cert: file("cert"), upstream_tls_key: file("key") });
  });

  it("means nothing to a Unix-domain socket", () => {
    for (const url of [
      "postgres:///shop?host=/run/postgresql",
      "postgres://%2Frun%2Fpostgresql/shop",
      "postgres:///shop",
    ]) {
      const { ssl, settings } = readDatabaseUrl(`${url}${url.includes("?") ? "&" : "?"}sslmode=verify-full`);
      expect({ ssl, settings }).toEqual({ ssl: false, settings: {} });
    }
  });

  it.each(["prefer", "allow", "no-verify", "REQUIRE", "x"])(
    "%s is refused: pgvpd does not fall back to plain text",
    (mode) => {
      expect(() => read(`?sslmode=${mode}`)).toThrow(
        `sslmode is one of disable, require, verify-ca, verify-full, not "${mode}"`,
      );
    },
  );
});

describe("the URL", () => {
  it("keeps its other parameters, and loses those of TLS", () => {
    const { connectionString } = read(`?sslmode=require&application_name=x&sslrootcert=${file("ca")}`);
    expect(connectionString).toBe("postgres://u:p@db.example:5432/shop?application_name=x");
  });

  it("names an address as the certificate does", () => {
    expect(readDatabaseUrl("postgres://u@[::1]:5432/d?sslmode=require").ssl).toMatchObject({ host: "::1" });
  });

  it.each(["mysql://u@h/d", "host=h user=u", "postgres://u@h:port/d", ""])(
    "%j is none, and is not repeated",
    (text) => {
      expect(() => readDatabaseUrl(text)).toThrow(/^expected postgres:\/\/USER@HOST:PORT\/DATABASE$/);
    },
  );

  it("names a file that is not there", () => {
    expect(() => read("?sslmode=require&sslrootcert=/nowhere")).toThrow("/nowhere: there is no such file");
  });
});
